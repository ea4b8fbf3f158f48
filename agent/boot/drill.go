// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"bufio"
	"context"
	"io"
	"strings"

	"golang.org/x/sys/unix"
)

// maxDrill is the longest line of a drill taken, in bytes.
const maxDrill = 256

// Drills are how an image of the form dev, whose key no production firmware holds, is broken on purpose: one line each, by the port of
// its events.
const (
	drillKill  = "kill " // and a role
	drillPanic = "panic" // PID 1 ends
	drillHang  = "hang"  // PID 1's loop stands still
	drillStop  = "stop " // and a role, which stands still
)

// hearDrills hands the loop what comes by the port, until ctx ends.
func (m *machine) hearDrills(ctx context.Context, port io.Reader) {
	lines := bufio.NewScanner(port)
	lines.Buffer(nil, maxDrill)
	for lines.Scan() {
		select {
		case m.drills <- lines.Text():
		case <-ctx.Done():
			return
		}
	}
}

// drill does one.
func (m *machine) drill(line string) {
	m.log.Warn("drill", "what", line)
	if role, is := strings.CutPrefix(line, drillKill); is {
		m.signal(Role(role), unix.SIGKILL)
		return
	}
	if role, is := strings.CutPrefix(line, drillStop); is {
		m.signal(Role(role), unix.SIGSTOP)
		return
	}
	switch line {
	case drillPanic:
		panic("boot: a drill")
	case drillHang:
		select {}
	}
}

func (m *machine) signal(role Role, s unix.Signal) {
	if c := m.running[role]; c != nil {
		m.nursery.end(c, s)
	}
}

// SPDX-License-Identifier: Apache-2.0

package keys

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

// retryAfter is how long a source waits before it looks again for what it lost.
const retryAfter = 500 * time.Millisecond

// Source is where raw input comes from.
type Source interface {
	// Run sends what keyboards and mice do to out, in order, until ctx ends; it returns when everything it started has
	// ended. Devices come and go; after each that went it sends Lost(). An error means that it cannot go on.
	Run(ctx context.Context, out chan<- Raw) error
	// Light lights the lights of every keyboard, and puts out the others. It may be called from any goroutine.
	Light(Lights)
}

// Open returns the source a configuration names: "evdev" for the machine's own devices, "unix:PATH" for a socket.
func Open(spec string) (Source, error) {
	if spec == "evdev" {
		return Evdev("/dev/input"), nil
	}
	if path, found := strings.CutPrefix(spec, "unix:"); found && path != "" {
		return Unix(path), nil
	}
	return nil, fmt.Errorf("keys %.60q: want evdev or unix:PATH", spec)
}

// Unix returns a source that dials the Unix socket at path, again whenever it closes, and reads struct input_event from
// it: a keyboard and mouse in software, which is told of its lights by the same structure.
func Unix(path string) Source { return &unixSource{path, newLamps()} }

type unixSource struct {
	path string
	*lamps
}

func (u *unixSource) Run(ctx context.Context, out chan<- Raw) error {
	for ctx.Err() == nil {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", u.path)
		if err == nil {
			lights := impatient{conn}
			u.add(lights)
			pump(ctx, conn, out)
			u.remove(lights)
		}
		wait(ctx, retryAfter)
	}
	return nil
}

// impatient is a connection whose other end may not read: what it does not take at once is dropped.
type impatient struct{ net.Conn }

func (c impatient) Write(b []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}

// pump sends the events of one device to out until it ends, then Lost. It closes r.
func pump(ctx context.Context, r io.ReadCloser, out chan<- Raw) error {
	stop := context.AfterFunc(ctx, func() { r.Close() }) // unblocks Read
	err := readRaws(r, func(raw Raw) bool { return send(ctx, out, raw) })
	if stop() {
		r.Close()
	}
	send(ctx, out, Lost())
	if errors.Is(err, io.EOF) || ctx.Err() != nil {
		return nil
	}
	return err
}

func send(ctx context.Context, out chan<- Raw, r Raw) bool {
	select {
	case out <- r:
		return true
	case <-ctx.Done():
		return false
	}
}

// wait returns after d or when ctx ends.
func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

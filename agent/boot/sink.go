// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"bufio"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// Where events may go.
const (
	eventsConsole = "console"
	portPrefix    = "port:"
)

// Limits of the log (implementation).
const (
	maxLine  = 8 << 10 // bytes of one line; a longer one is cut
	maxLines = 512     // kept until somebody takes them; the oldest go first
)

// sink takes the log lines of PID 1 and its children and never makes one of them wait: it keeps the newest lines until where they go
// takes them.
type sink struct {
	mu    sync.Mutex
	ready *sync.Cond
	lines [][]byte // guarded by mu
	lost  int      // guarded by mu: lines that were dropped since the last one taken
	ended bool     // guarded by mu
	done  sync.WaitGroup
}

func newSink() *sink {
	s := &sink{}
	s.ready = sync.NewCond(&s.mu)
	return s
}

// Write implements io.Writer for slog: one call is one line.
func (s *sink) Write(line []byte) (int, error) {
	kept := append([]byte(nil), line[:min(len(line), maxLine)]...)
	if n := len(kept); n == 0 || kept[n-1] != '\n' {
		kept = append(kept, '\n')
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.lines) == maxLines {
		s.lines = s.lines[1:]
		s.lost++
	}
	s.lines = append(s.lines, kept)
	s.ready.Signal()
	return len(line), nil
}

// drain writes lines to out as they come, until close. A second call is not meant.
func (s *sink) drain(out io.Writer) {
	s.done.Go(func() {
		for {
			line, ok := s.next()
			if !ok {
				return
			}
			_, _ = out.Write(line) // a log that cannot be written has nobody to say it to
		}
	})
}

func (s *sink) next() ([]byte, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.lines) == 0 {
		if s.ended {
			return nil, false
		}
		s.ready.Wait()
	}
	line := s.lines[0]
	s.lines = s.lines[1:]
	return line, true
}

// close lets what waits be written, then ends drain.
func (s *sink) close() {
	s.mu.Lock()
	s.ended = true
	s.ready.Broadcast()
	s.mu.Unlock()
	s.done.Wait()
}

// follow takes what a child writes to its standard error, line by line, until it ends. A child's line is bounded; what is over is
// dropped.
func (s *sink) follow(r io.Reader) {
	lines := bufio.NewReaderSize(r, maxLine)
	for {
		line, err := lines.ReadSlice('\n')
		for full := err; full == bufio.ErrBufferFull; {
			_, full = lines.ReadSlice('\n')
			err = nil
		}
		if len(line) > 0 {
			_, _ = s.Write(line)
		}
		if err != nil {
			return
		}
	}
}

// FindPort returns the device node of the virtio-serial port of a name, under sys and dev (normally /sys and /dev).
func FindPort(sys, dev, name string) (string, error) {
	ports, err := filepath.Glob(filepath.Join(sys, "class/virtio-ports/vport*"))
	if err != nil {
		return "", err
	}
	for _, p := range ports {
		text, err := os.ReadFile(filepath.Join(p, "name"))
		if err == nil && strings.TrimSpace(string(text)) == name {
			return filepath.Join(dev, filepath.Base(p)), nil
		}
	}
	return "", &os.PathError{Op: "find port", Path: name, Err: os.ErrNotExist}
}

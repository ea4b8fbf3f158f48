// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
)

// Limits of what a guest may write, ours.
const (
	maxLine  = 65536
	maxLines = 100_000  // kept in memory; later ones push out the oldest
	maxFile  = 64 << 20 // bytes of a log file; what follows is not kept there
)

// errEnded says that no more lines will come.
var errEnded = errors.New("the machine wrote its last line")

// Log is what a machine writes, line by line: kept in memory for Await and appended to a file for people. Its methods may be called
// from any goroutine.
type Log struct {
	path string

	mu    sync.Mutex
	lines []string      // guarded by mu
	first int           // number of lines[0]; guarded by mu
	news  chan struct{} // closed and replaced with each line; guarded by mu
	ended bool          // guarded by mu
}

func newLog(path string) *Log { return &Log{path: path, news: make(chan struct{})} }

// Path is the file the lines are appended to.
func (l *Log) Path() string { return l.path }

// Mark is the number of lines so far: Await from here sees only later ones.
func (l *Log) Mark() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.first + len(l.lines)
}

// Await returns the first line, counted from number from on, that is the right one, and the number of the line after it. It waits
// for one that is not there yet until ctx ends, or the machine does.
func (l *Log) Await(ctx context.Context, from int, right func(line string) bool) (line string, next int, err error) {
	for {
		l.mu.Lock()
		lines, first, news, ended := l.lines, l.first, l.news, l.ended
		l.mu.Unlock()
		for from = max(from, first); from < first+len(lines); from++ {
			if right(lines[from-first]) {
				return lines[from-first], from + 1, nil
			}
		}
		if ended {
			return "", from, fmt.Errorf("%s: %w: %s", l.path, errEnded, l.last())
		}
		select {
		case <-news:
		case <-ctx.Done():
			return "", from, fmt.Errorf("%s: not the right line: %w; the last was %s", l.path, ctx.Err(), l.last())
		}
	}
}

// AwaitText waits for a line, of all there are and will be, that contains the text.
func (l *Log) AwaitText(ctx context.Context, text string) error {
	_, _, err := l.Await(ctx, 0, func(line string) bool { return strings.Contains(line, text) })
	if err != nil {
		return fmt.Errorf("wait for %q: %w", text, err)
	}
	return nil
}

// Lines returns all lines that are still in memory.
func (l *Log) Lines() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lines[:len(l.lines):len(l.lines)]
}

func (l *Log) last() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.lines) == 0 {
		return "(no line)"
	}
	return fmt.Sprintf("%.200q", l.lines[len(l.lines)-1])
}

func (l *Log) add(line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.lines) == maxLines {
		l.lines, l.first = append([]string(nil), l.lines[maxLines/2:]...), l.first+maxLines/2
	}
	l.lines = append(l.lines, line)
	close(l.news)
	l.news = make(chan struct{})
}

func (l *Log) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.ended {
		l.ended = true
		close(l.news)
		l.news = make(chan struct{})
	}
}

// read takes lines until the writer is gone. A line that is too long is cut into several: a guest that writes no line end fills no memory.
func (l *Log) read(r io.Reader) (err error) {
	defer l.end()
	file, err := os.OpenFile(l.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	in := bufio.NewReaderSize(r, maxLine)
	for kept := 0; ; {
		line, readErr := in.ReadSlice('\n')
		if kept += len(line); kept <= maxFile {
			if _, err := file.Write(line); err != nil {
				return err
			}
		}
		if len(line) > 0 {
			l.add(strings.TrimRight(string(line), "\r\n"))
		}
		if readErr != nil && !errors.Is(readErr, bufio.ErrBufferFull) {
			return nil // QEMU closes its end when the machine ends
		}
	}
}

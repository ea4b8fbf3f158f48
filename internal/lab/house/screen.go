// SPDX-License-Identifier: Apache-2.0

package house

import (
	"context"
	"fmt"
	"time"

	"sdbox/agent/screen"
)

// Watcher looks at a box's screen as a person does: it sees what the agent has flushed, and nothing else of the agent. It is
// owned by one goroutine.
type Watcher struct {
	Image *screen.Image // the picture last seen; the next Next overwrites it

	reader *screen.Reader
	seen   uint64
	period time.Duration
}

// Watch maps a screen file. Period is how often Next looks whether the screen has changed.
func Watch(path string, period time.Duration) (*Watcher, error) {
	r, err := screen.MapFile(path)
	if err != nil {
		return nil, err
	}
	return &Watcher{Image: screen.NewImage(r.Size()), reader: r, period: period}, nil
}

// Close lets the screen go.
func (w *Watcher) Close() error { return w.reader.Close() }

// Sequence counts the flushes of the screen up to Image.
func (w *Watcher) Sequence() uint64 { return w.seen }

// Stale says whether the screen has changed since Image was copied.
func (w *Watcher) Stale() bool { return w.reader.Sequence() != w.seen }

// Now copies the present picture into Image, a whole one.
func (w *Watcher) Now(ctx context.Context) error {
	for ctx.Err() == nil {
		sequence, whole := w.reader.Read(w.Image)
		if whole {
			w.seen = sequence
			return nil
		}
	}
	return ctx.Err()
}

// Next waits until the screen has changed since the last call of Now, Next or Until, and copies it.
func (w *Watcher) Next(ctx context.Context) error {
	if !w.Stale() {
		tick := time.NewTicker(w.period)
		defer tick.Stop()
		for !w.Stale() {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-tick.C:
			}
		}
	}
	return w.Now(ctx)
}

// Until looks at the present picture and every later one until right says yes, and returns when that was seen.
func (w *Watcher) Until(ctx context.Context, right func(*screen.Image) bool) (time.Time, error) {
	err := w.Now(ctx)
	for err == nil {
		seen := time.Now()
		if right(w.Image) {
			return seen, nil
		}
		err = w.Next(ctx)
	}
	return time.Time{}, fmt.Errorf("wait for a picture: %w", err)
}

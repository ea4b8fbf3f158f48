// SPDX-License-Identifier: Apache-2.0

package pcsc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/ebfe/scard"
)

// Event is one card coming to or leaving one reader.
type Event struct {
	Reader  string
	Present bool
	ATR     []byte    // the card's answer to reset; empty if it left or does not answer
	Count   uint16    // the reader's counter of insertions and removals, so that a quick swap is two different cards
	At      time.Time // when this program learnt of it
}

// plugAndPlay is the reader name that stands for "a reader came or went" (pcsc-lite, SCardGetStatusChange).
const plugAndPlay = `\\?PnP?\Notification`

// Implementation limits.
const (
	waitAtMost = time.Second            // a Cancel that comes just before the wait is lost: this ends the wait all the same
	redial     = 250 * time.Millisecond // between tries to reach the PC/SC daemon
	maxReaders = 16
)

// Watcher follows all readers of the machine. The daemon may start late, stop and come back; readers may be plugged and
// unplugged. One process has one watcher: the PC/SC binding keeps one buffer for each reader name.
type Watcher struct {
	log    *slog.Logger
	events chan Event
	known  map[string]slot // owned by Run
	down   bool            // the daemon's absence was logged; owned by Run
	here   atomic.Int32    // readers there are now
}

// slot is what was last said of a reader.
type slot struct {
	state   scard.StateFlag // as PC/SC wants it back
	present bool
	count   uint16
}

// NewWatcher makes a watcher; Run makes it work.
func NewWatcher(log *slog.Logger) *Watcher {
	return &Watcher{log: log, events: make(chan Event, 16), known: map[string]slot{}}
}

// Events delivers what changes, oldest first, beginning with the cards present when Run starts. When the daemon or a reader
// goes away, the cards in it leave. The channel is never closed; Run waits while it is full.
func (w *Watcher) Events() <-chan Event { return w.events }

// Readers is how many readers there are now; none while the daemon is away.
func (w *Watcher) Readers() int { return int(w.here.Load()) }

// Run watches until ctx ends and returns its cause. It is called once.
func (w *Watcher) Run(ctx context.Context) error {
	for {
		err := w.follow(ctx)
		w.forget(ctx)
		if ctx.Err() != nil {
			return fmt.Errorf("watch card readers: %w", context.Cause(ctx))
		}
		if !w.down {
			w.log.Warn("PC/SC daemon is not there, waiting for it", "err", err)
			w.down = true
		}
		select {
		case <-ctx.Done():
		case <-time.After(redial):
		}
	}
}

// follow reports changes until the daemon fails or ctx ends.
func (w *Watcher) follow(ctx context.Context) error {
	sc, err := scard.EstablishContext()
	if err != nil {
		return err
	}
	cancelled := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(cancelled)
		_ = sc.Cancel() // fails only where there is no daemon, and so no wait
	})
	defer func() {
		if !stop() {
			<-cancelled
		}
		_ = sc.Release() // a context of a dead daemon cannot be released there; here it is
	}()
	readers := scard.StateFlag(0) // count of readers in the upper half, as PC/SC wants it back
	for ctx.Err() == nil {
		states, err := w.states(ctx, sc)
		if err != nil {
			return err
		}
		if w.down {
			w.log.Info("PC/SC daemon is back")
			w.down = false
		}
		states = append(states, scard.ReaderState{Reader: plugAndPlay, CurrentState: readers})
		err = sc.GetStatusChange(states, waitAtMost)
		switch {
		case errors.Is(err, scard.ErrTimeout), errors.Is(err, scard.ErrUnknownReader):
			continue // nothing new, or a reader went between the list and the wait
		case err != nil:
			return err
		}
		last := len(states) - 1
		readers = states[last].EventState &^ scard.StateChanged
		for _, s := range states[:last] {
			w.compare(ctx, s)
		}
	}
	return ctx.Err()
}

// states lists the readers with what was last known of each, and lets go of those that went.
func (w *Watcher) states(ctx context.Context, sc *scard.Context) ([]scard.ReaderState, error) {
	names, err := sc.ListReaders()
	if err != nil && !errors.Is(err, scard.ErrNoReadersAvailable) {
		return nil, err
	}
	names = names[:min(len(names), maxReaders)]
	w.here.Store(int32(len(names)))
	here := map[string]bool{}
	states := make([]scard.ReaderState, 0, len(names)+1)
	for _, name := range names {
		here[name] = true
		states = append(states, scard.ReaderState{Reader: name, CurrentState: w.known[name].state})
	}
	for name, s := range w.known {
		if here[name] {
			continue
		}
		w.log.Info("card reader went", "reader", name)
		delete(w.known, name)
		if s.present {
			w.send(ctx, Event{Reader: name, Count: s.count})
		}
	}
	return states, nil
}

// compare turns the new state of one reader into events: a card left, a card came, or both.
func (w *Watcher) compare(ctx context.Context, s scard.ReaderState) {
	old, known := w.known[s.Reader]
	if !known {
		w.log.Info("card reader came", "reader", s.Reader)
	}
	now := slot{
		state:   s.EventState &^ scard.StateChanged,
		present: s.EventState&scard.StatePresent != 0,
		count:   uint16(s.EventState >> 16),
	}
	w.known[s.Reader] = now
	swapped := old.present && now.present && old.count != now.count
	if old.present && (!now.present || swapped) {
		w.send(ctx, Event{Reader: s.Reader, Count: old.count})
	}
	if now.present && (!old.present || swapped) {
		w.send(ctx, Event{Reader: s.Reader, Present: true, ATR: s.Atr, Count: now.count})
	}
}

// forget reports that all cards left.
func (w *Watcher) forget(ctx context.Context) {
	w.here.Store(0)
	for name, s := range w.known {
		if s.present {
			w.send(ctx, Event{Reader: name, Count: s.count})
		}
	}
	clear(w.known)
}

func (w *Watcher) send(ctx context.Context, e Event) {
	e.At = time.Now()
	select {
	case w.events <- e:
	case <-ctx.Done():
	}
}

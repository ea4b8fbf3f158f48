// SPDX-License-Identifier: Apache-2.0

// Package pcsc brings cards from the readers of this machine: it watches them through the PC/SC daemon and opens a
// card.Transport on one. It is the only door to the PC/SC library and the only card package that needs cgo.
package pcsc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"sdbox/internal/card"

	"github.com/ebfe/scard"
)

// What a caller of Connect branches on, beside card.ErrRemoved.
var (
	ErrInUse = errors.New("another program holds the card")
	ErrMute  = errors.New("the card does not answer: is it the right way round?")
)

// errClosed is a use of Conn after Close.
var errClosed = errors.New("connection to the card is closed")

// Conn is a card in a reader, held alone: one transaction from Connect to Close. It implements card.Transport and may be
// closed from another goroutine.
type Conn struct {
	limits card.Limits
	atr    []byte

	mu     sync.Mutex     // one command at a time, and none after Close
	ctx    *scard.Context // guarded by mu
	handle *scard.Card    // nil once closed; guarded by mu
}

var _ card.Transport = (*Conn)(nil)

// Connect powers the card in a reader and holds it until Close; no other program can use it in between. The error wraps
// card.ErrRemoved when there is no card, ErrMute when it gives no answer, ErrInUse when another program holds it.
func (w *Watcher) Connect(reader string) (*Conn, error) {
	ctx, err := scard.EstablishContext()
	if err != nil {
		return nil, fmt.Errorf("connect to card: %w", explain(err))
	}
	handle, err := ctx.Connect(reader, scard.ShareExclusive, scard.ProtocolAny)
	if err != nil {
		return nil, fmt.Errorf("connect to card: %w", errors.Join(explain(err), release(ctx)))
	}
	c := &Conn{ctx: ctx, handle: handle}
	if err := c.begin(); err != nil {
		return nil, fmt.Errorf("connect to card: %w", errors.Join(explain(err), c.Close()))
	}
	return c, nil
}

// begin opens the one transaction and learns what can be sent.
func (c *Conn) begin() error {
	if err := c.handle.BeginTransaction(); err != nil {
		return err
	}
	status, err := c.handle.Status()
	if err != nil {
		return err
	}
	c.atr = status.Atr
	c.limits = card.LimitsOf(c.atr, c.handle.ActiveProtocol() == scard.ProtocolT0, c.readerMax())
	return nil
}

// Limits says what reader and card can carry, for card.Select.
func (c *Conn) Limits() card.Limits { return c.limits }

// ATR is the card's answer to reset.
func (c *Conn) ATR() []byte { return c.atr }

// Transmit implements card.Transport. A card that stops answering counts as removed: the reader cannot tell either.
func (c *Conn) Transmit(apdu []byte) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.handle == nil {
		return nil, errClosed
	}
	if len(apdu) == 0 {
		return nil, errors.New("empty command") // the binding would panic
	}
	answer, err := c.handle.Transmit(apdu)
	if err != nil {
		return nil, explain(err)
	}
	if len(answer) < 2 {
		// No card sends less than its status: it left in the middle of the command, and the daemon has not noticed yet.
		return nil, fmt.Errorf("response of %d bytes: %w", len(answer), card.ErrRemoved)
	}
	return answer, nil
}

// Close resets the card, so that no verified finger outlives the connection, and lets go of it. It may be called twice,
// and for a card that is gone.
func (c *Conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.handle == nil {
		return nil
	}
	// The first error counts; a card that was pulled out or a daemon that died has nothing left to reset.
	err := c.handle.EndTransaction(scard.ResetCard)
	if e := c.handle.Disconnect(scard.ResetCard); err == nil {
		err = e
	}
	err = errors.Join(err, release(c.ctx))
	c.handle, c.ctx = nil, nil
	if gone := explain(err); err == nil || errors.Is(gone, card.ErrRemoved) {
		return nil
	}
	return fmt.Errorf("close card: %w", err)
}

// release frees a context. After the daemon's death there is nothing to free.
func release(ctx *scard.Context) error {
	err := ctx.Release()
	if err != nil && errors.Is(explain(err), card.ErrRemoved) {
		return nil
	}
	return err
}

// explain adds the error a caller branches on.
func explain(err error) error {
	var code scard.Error
	if !errors.As(err, &code) {
		return err
	}
	switch code {
	case scard.ErrNoSmartcard, scard.ErrRemovedCard, scard.ErrUnknownReader, scard.ErrReaderUnavailable, scard.ErrNotTransacted,
		scard.ErrCommError, scard.ErrCommDataLost, scard.ErrNoReadersAvailable, scard.ErrResetCard, scard.ErrInvalidHandle,
		scard.ErrNoService, scard.ErrServiceStopped:
		return fmt.Errorf("%w (%w)", card.ErrRemoved, err)
	case scard.ErrUnresponsiveCard, scard.ErrUnpoweredCard, scard.ErrUnsupportedCard, scard.ErrProtoMismatch:
		return fmt.Errorf("%w (%w)", ErrMute, err)
	case scard.ErrSharingViolation:
		return fmt.Errorf("%w (%w)", ErrInUse, err)
	default:
		return err
	}
}

// Reader features and properties (PC/SC Specification Part 10, 2.2 and 2.6.14).
const (
	getFeatures       = 3400
	featureProperties = 0x12
	propertyMaxAPDU   = 0x0A
)

// readerMax asks the reader for the longest command APDU it carries; 0 if it does not say.
func (c *Conn) readerMax() int {
	features, err := c.handle.Control(scard.CtlCode(getFeatures), nil)
	if err != nil {
		return 0
	}
	code := feature(features, featureProperties)
	if code == 0 {
		return 0
	}
	properties, err := c.handle.Control(code, nil)
	if err != nil {
		return 0
	}
	return maxAPDU(properties)
}

// feature finds the control code of a feature in a list of tag, length 4, big-endian code.
func feature(list []byte, tag byte) uint32 {
	for ; len(list) >= 6 && list[1] == 4; list = list[6:] {
		if list[0] == tag {
			return binary.BigEndian.Uint32(list[2:])
		}
	}
	return 0
}

// maxAPDU finds dwMaxAPDUDataSize in a list of tag, length, little-endian value; 0 without one.
func maxAPDU(list []byte) int {
	for len(list) >= 2 {
		n := int(list[1])
		if len(list) < 2+n {
			return 0
		}
		if list[0] == propertyMaxAPDU && n == 4 {
			return int(min(binary.LittleEndian.Uint32(list[2:]), 1<<16))
		}
		list = list[2+n:]
	}
	return 0
}

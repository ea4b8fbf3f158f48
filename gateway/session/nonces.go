// SPDX-License-Identifier: Apache-2.0

package session

import (
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"time"
)

// nonceLife is how long a nonce may be used; while a finger is asked a fresh one is sent after half of it, so that there is
// always one with half its life left and the one before, which may be under a card's signature at that moment.
const (
	nonceLife    = 60 * time.Second
	nonceRefresh = nonceLife / 2
)

var errNonce = errors.New("nonce is not open here: used, older than 60 s, or of another purpose")

// nonces are those open for one purpose, the newest last; at most two. They are owned by the line's loop.
type nonces struct {
	open []openNonce
}

type openNonce struct {
	value [32]byte
	until time.Time
}

// draw opens a fresh nonce for nonceLife.
func (n *nonces) draw(now time.Time) []byte { return n.drawFor(now, nonceLife) }

// drawFor opens a fresh nonce and lets the oldest of three go. That of a grant's renewal lives as long as the grant.
func (n *nonces) drawFor(now time.Time, life time.Duration) []byte {
	o := openNonce{until: now.Add(life)}
	rand.Read(o.value[:])
	n.open = append(n.open, o)
	if len(n.open) > 2 {
		n.open = n.open[1:]
	}
	return append([]byte(nil), o.value[:]...)
}

// take uses a nonce up; whoever fails after it needs another one. All that were drawn before it die with it.
func (n *nonces) take(value []byte, now time.Time) error {
	for i, o := range n.open {
		if subtle.ConstantTimeCompare(o.value[:], value) == 1 {
			n.open = append([]openNonce(nil), n.open[i+1:]...)
			if !now.Before(o.until) {
				return errNonce
			}
			return nil
		}
	}
	return errNonce
}

func (n *nonces) clear() { n.open = nil }

// SPDX-License-Identifier: Apache-2.0

package frontdoor

import (
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"time"
)

// nonceLife is how long a nonce may be used, as wire.Nonce promises.
const nonceLife = 60 * time.Second

// errNonce says that a statement was not made for the nonce that is open on this connection.
var errNonce = errors.New("nonce is not open here: used, older than 60 s, or of another connection")

// nonce is the one nonce open on a connection; the zero value is none. It is owned by the connection's goroutine.
type nonce struct {
	value [32]byte
	until time.Time
}

// draw opens a fresh nonce; the one before is dead.
func (n *nonce) draw(now time.Time) []byte {
	rand.Read(n.value[:])
	n.until = now.Add(nonceLife)
	return append([]byte(nil), n.value[:]...)
}

// take uses the open nonce up and returns it, whatever the caller then finds.
func (n *nonce) take(now time.Time) ([]byte, error) {
	value, until := n.value, n.until
	*n = nonce{}
	if until.IsZero() || !now.Before(until) || subtle.ConstantTimeCompare(value[:], make([]byte, len(value))) == 1 {
		return nil, errNonce
	}
	return value[:], nil
}

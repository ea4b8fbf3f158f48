// SPDX-License-Identifier: Apache-2.0

package card

import (
	"errors"
	"fmt"
)

// ErrATR is an answer to reset that cannot be read.
var ErrATR = errors.New("answer to reset is malformed")

// ATR is what a card says of itself when it gets power (ISO/IEC 7816-3, 8.2), as far as this package needs it.
type ATR struct {
	T0, T1     bool   // protocols offered
	Historical []byte // historical bytes (ISO/IEC 7816-4, 8.1.1)
}

// maxATR is the longest answer to reset (ISO/IEC 7816-3, 8.2.1).
const maxATR = 33

// ParseATR reads an answer to reset: TS, T0, interface bytes, historical bytes and, when another protocol than T=0 is
// offered, the check byte.
func ParseATR(b []byte) (ATR, error) {
	if len(b) < 2 || len(b) > maxATR || b[0] != 0x3B && b[0] != 0x3F {
		return ATR{}, fmt.Errorf("%w: %d bytes", ErrATR, len(b))
	}
	var atr ATR
	n, more, i := int(b[1]&0x0F), b[1]>>4, 2
	for first := true; ; first = false {
		for bit := range 3 { // TA, TB, TC
			if more>>bit&1 == 1 {
				i++
			}
		}
		if more&8 == 0 {
			atr.T0 = atr.T0 || first // without TD1 only T=0 is offered
			break
		}
		if i >= len(b) {
			return ATR{}, fmt.Errorf("%w: interface bytes cut off", ErrATR)
		}
		switch b[i] & 0x0F { // TD
		case 0:
			atr.T0 = true
		case 1:
			atr.T1 = true
		}
		more = b[i] >> 4
		i++
	}
	check := 0
	if atr.T1 || !atr.T0 {
		check = 1
	}
	if i+n+check > len(b) {
		return ATR{}, fmt.Errorf("%w: historical bytes cut off", ErrATR)
	}
	atr.Historical = b[i : i+n : i+n]
	return atr, nil
}

// ExtendedLength says whether the historical bytes claim extended Lc and Le: third software function byte of the card
// capabilities, compact-TLV tag 7 (ISO/IEC 7816-4, 8.1.1.2.7).
func (a ATR) ExtendedLength() bool {
	h := a.Historical
	if len(h) == 0 || h[0] != 0x80 && h[0] != 0x00 {
		return false
	}
	for h = h[1:]; len(h) > 0; {
		tag, n := h[0]>>4, int(h[0]&0x0F)
		h = h[1:]
		if n > len(h) {
			return false
		}
		if tag == 7 && n == 3 {
			return h[2]&0x40 != 0
		}
		h = h[n:]
	}
	return false
}

// SPDX-License-Identifier: Apache-2.0

package cardsim

import (
	"fmt"

	"sdbox/internal/card"
)

// profile is what makes one kind of card differ from another.
type profile struct {
	atr                      string
	label                    string // tag 50 of the SELECT answer
	fingerTries, pinTries    int
	minMinutiae, maxMinutiae int
	slots                    []card.Slot
}

// atrOCC offers T=1 alone. Historical bytes: card capabilities 7 (selection by full and partial name; data coding;
// chaining and extended length), pre-issuing data 6 "sdbox" (ISO/IEC 7816-4, 8.1.1); the last byte is the check.
const atrOCC = "\x3B\x8B\x01\x80\x73\xC0\x21\xC0\x65sdbox\x5F"

func profileNamed(name string) (profile, error) {
	switch name {
	case NISTOCC:
		return profile{
			atr: atrOCC, label: "sdbox nist-occ",
			fingerTries: 3, pinTries: 5,
			minMinutiae: 12, maxMinutiae: 60,
			slots: []card.Slot{card.Slot9A, card.Slot9E},
		}, nil
	default:
		return profile{}, fmt.Errorf("card profile %.40q: want %s", name, NISTOCC)
	}
}

func (p profile) hasSlot(s card.Slot) bool {
	for _, have := range p.slots {
		if have == s {
			return true
		}
	}
	return false
}

// takes says whether a list of minutiae has a length the card accepts.
func (p profile) takes(minutiae []byte) bool {
	n := len(minutiae) / 3
	return len(minutiae)%3 == 0 && n >= p.minMinutiae && n <= p.maxMinutiae
}

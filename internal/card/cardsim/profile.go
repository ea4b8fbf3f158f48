// SPDX-License-Identifier: Apache-2.0

package cardsim

import (
	"fmt"
	"slices"

	"sdbox/internal/card"
)

// profile is what makes one kind of card differ from another.
type profile struct {
	atr                      string
	label                    string // tag 50 of the SELECT answer; none if empty
	pinTries, pukTries       int
	maxTries                 int // the most a counter may be set to
	fingerTries              int
	minMinutiae, maxMinutiae int // no finger is compared where maxMinutiae is 0
	slots                    []card.Slot
	memory                   int  // bytes of all data objects together
	maxObject                int  // bytes of one
	digitsOnly               bool // a PIN is 6 to 8 digits (SP 800-73-5 Part 1, 3.1); else 6 to 8 bytes
	noPIV                    bool // SELECT finds nothing
	yubico                   bool // management key, PUK, and the commands of Yubico's extensions
}

// The slots this package knows by their use (SP 800-73-5 Part 1, Table 4).
const (
	slot9C card.Slot = 0x9C // digital signature
	slot9D card.Slot = 0x9D // key management
	slotF9 card.Slot = 0xF9 // attestation (Yubico)
)

// atrOCC offers T=1 alone. Historical bytes: card capabilities 7 (selection by full and partial name; data coding;
// chaining and extended length), pre-issuing data 6 "sdbox" (ISO/IEC 7816-4, 8.1.1); the last byte is the check.
const atrOCC = "\x3B\x8B\x01\x80\x73\xC0\x21\xC0\x65sdbox\x5F"

// atrPlain offers T=1 and says nothing of the card (ISO/IEC 7816-3, 8.2); the last byte is the check.
const atrPlain = "\x3B\x80\x01\x81"

// atrYubiKey is that of a YubiKey 5 over USB (OpenSC knows the model by it): T=1, card capabilities 7 as above, "YubiKey".
const atrYubiKey = "\x3B\xFD\x13\x00\x00\x81\x31\xFE\x15\x80\x73\xC0\x21\xC0\x57YubiKey\x40"

func profileNamed(name string) (profile, error) {
	switch name {
	case NISTOCC:
		return profile{
			atr: atrOCC, label: "sdbox nist-occ",
			fingerTries: 3, pinTries: 5, maxTries: 10,
			minMinutiae: 12, maxMinutiae: 60,
			slots:  []card.Slot{card.Slot9A, card.Slot9E},
			memory: 32 << 10, maxObject: maxObject, digitsOnly: true,
		}, nil
	case NoPIV:
		return profile{atr: atrPlain, pinTries: 3, maxTries: 3, noPIV: true, digitsOnly: true}, nil
	case YubiKey57:
		slots := []card.Slot{card.Slot9A, slot9C, slot9D, card.Slot9E}
		for s := card.Slot82; s < card.Slot82+20; s++ {
			slots = append(slots, s)
		}
		return profile{
			atr:      atrYubiKey,
			pinTries: 3, pukTries: 3, maxTries: 255,
			slots:  slots,
			memory: 51200, maxObject: 3052, yubico: true,
		}, nil
	default:
		return profile{}, fmt.Errorf("card profile %.40q: want %s, %s or %s", name, NISTOCC, YubiKey57, NoPIV)
	}
}

func (p profile) hasSlot(s card.Slot) bool { return slices.Contains(p.slots, s) }

// takes says whether a list of minutiae has a length the card accepts.
func (p profile) takes(minutiae []byte) bool {
	n := len(minutiae) / 3
	return n > 0 && len(minutiae)%3 == 0 && n >= p.minMinutiae && n <= p.maxMinutiae
}

// pinBlock checks a PIN or PUK, padded with FF or not, and pads it to 8 bytes (SP 800-73-5 Part 1, 3.1).
func (p profile) pinBlock(pin []byte) ([]byte, bool) {
	n := 0
	for n < len(pin) && pin[n] != 0xFF && (!p.digitsOnly || pin[n] >= '0' && pin[n] <= '9') {
		n++
	}
	if len(pin) > 8 || n < 6 {
		return nil, false
	}
	block := append([]byte(nil), pin[:n]...)
	for _, c := range pin[n:] {
		if c != 0xFF {
			return nil, false
		}
	}
	for len(block) < 8 {
		block = append(block, 0xFF)
	}
	return block, true
}

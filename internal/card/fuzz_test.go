// SPDX-License-Identifier: Apache-2.0

package card_test

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"testing"

	"sdbox/internal/card"
	"sdbox/internal/card/cardsim"
)

// commandsAtMost is more than a hostile card can make the box send for one of its calls.
const commandsAtMost = 2000

// replay is a card that gives the fuzzer's bytes, each answer after its 16-bit length, and is then removed.
type replay struct {
	rest  []byte
	count int
}

func (r *replay) Transmit(apdu []byte) ([]byte, error) {
	if len(apdu) < 4 {
		panic("command of less than four bytes")
	}
	if r.count++; r.count > commandsAtMost {
		panic("a card keeps the box busy for ever")
	}
	if len(r.rest) < 2 {
		return nil, card.ErrRemoved
	}
	n := min(int(binary.BigEndian.Uint16(r.rest)), len(r.rest)-2)
	answer := r.rest[2 : 2+n]
	r.rest = r.rest[2+n:]
	return answer, nil
}

// everything makes every call of the box, and goes on after errors.
func everything(t testing.TB, line card.Transport, limits card.Limits, minutiae []byte) {
	c, err := card.Select(line, limits)
	if err != nil {
		return
	}
	_ = c.Label()
	if der, err := c.Certificate(card.Slot9A); err == nil && (len(der) == 0 || len(der) > 1<<14) {
		t.Fatalf("certificate of %d bytes", len(der))
	}
	digest := sha256.Sum256(minutiae)
	if s, err := c.Signer(card.Slot9E, nil).Sign(nil, digest[:], crypto.SHA256); err == nil && (len(s) == 0 || len(s) > 72) {
		t.Fatalf("signature of %d bytes", len(s))
	}
	err = c.VerifyFinger(card.RefFinger, minutiae)
	var pin *card.PINError
	if errors.As(err, &pin) && (pin.Left < 0 || pin.Left > 15 || pin.Error() == "") {
		t.Fatalf("%d tries left", pin.Left)
	}
	_, _ = c.GUID()
	_, _, _ = c.Tries(card.RefFinger)
	_ = c.VerifyPIN("000000")
	_ = c.LogOut(card.RefFinger)
	_, _ = c.Certificate(card.Slot9E)
	_ = c.Authenticate([]byte(cardsim.FactoryManagementKey))
	if pub, err := c.Generate(card.Slot82); err == nil {
		if _, err := pub.Bytes(); err != nil {
			t.Fatalf("a key that is none: %v", err)
		}
	}
	_ = c.PutObject(0x5FC10D, minutiae)
	if content, err := c.Object(0x5FC10D); err == nil && len(content) > 1<<14 {
		t.Fatalf("object of %d bytes", len(content))
	}
}

// recorder keeps a card's answers as replay wants them.
type recorder struct {
	card.Transport
	answers []byte
}

func (r *recorder) Transmit(apdu []byte) ([]byte, error) {
	answer, err := r.Transport.Transmit(apdu)
	r.answers = append(binary.BigEndian.AppendUint16(r.answers, uint16(len(answer))), answer...)
	return answer, err
}

// FuzzAnswers plays a hostile card through every call of the box. Its seeds are what a good card said.
func FuzzAnswers(f *testing.F) {
	p := issue(f, 600)
	long := append(p.impression(1), bytes.Repeat([]byte{250, 250, 0x40}, card.MaxMinutiae)...)[:3*card.MaxMinutiae]
	for kind := range byte(4) {
		r := &recorder{Transport: p}
		everything(f, r, limitsOf(kind), long)
		f.Add(r.answers, kind)
	}
	for kind := range byte(2) { // a card that can be written to
		r := &recorder{Transport: newYubiKey(f)}
		everything(f, r, limitsOf(kind), long)
		f.Add(r.answers, kind)
	}
	f.Add([]byte("\x00\x02\x6A\x82"), byte(0))
	f.Add([]byte("\x00\x02\x61\x00\x00\x03\x01\x61\x01\x00\x02\x6C\x10\x00\x02\x90\x00"), byte(0))
	f.Add([]byte("\x00\x02\x90\x00\x00\x02\x67\x00\x00\x02\x6C\x10\x00\x06\x53\x02\x70\x00\x90\x00\x00\x02\x69\x82\x00\x02\x69\x83"), byte(1))
	f.Add([]byte("\x00\x02\x90\x00\x00\x0C\x53\x08\x70\x01\x00\x71\x01\x01\xFE\x00\x90\x00\x00\x05\x5F\xC1\x05\x90\x00\x00\x04\x53\x85\x90\x00"), byte(0))
	f.Fuzz(func(t *testing.T, answers []byte, kind byte) {
		everything(t, &replay{rest: answers}, limitsOf(kind), long)
	})
}

func limitsOf(kind byte) card.Limits { return card.Limits{Extended: kind&1 == 1, T0: kind&2 == 2} }

// FuzzATR reads any answer to reset.
func FuzzATR(f *testing.F) {
	f.Add([]byte("\x3B\x8B\x01\x80\x73\xC0\x21\xC0\x65sdbox\x5F"))
	f.Add([]byte("\x3B\xD6\x96\x00\x81\xB1\xFE\x45\x1F\x87\x80\x31\xC1\x52\x41\x1A\x2A"))
	f.Add([]byte("\x3B\x65\x00\x00\x01\x02\x03\x04\x05"))
	f.Add([]byte("\x3F\xFF"))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := card.ParseATR(b)
		if err != nil {
			return
		}
		if len(a.Historical) > 15 {
			t.Fatalf("%+v of % X", a, b)
		}
		_ = a.ExtendedLength()
		_ = card.LimitsOf(b, false, 0)
	})
}

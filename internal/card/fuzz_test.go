// SPDX-License-Identifier: Apache-2.0

package card

import (
	"crypto"
	"crypto/sha256"
	"errors"
	"testing"
)

// replay is a card that gives the fuzzer's bytes, cut at each length byte, and is then removed.
type replay struct {
	rest  []byte
	count int
}

func (r *replay) Transmit(apdu []byte) ([]byte, error) {
	if len(apdu) < 4 {
		panic("command of less than four bytes")
	}
	if r.count++; r.count > 10*maxParts {
		panic("a card keeps the box busy for ever")
	}
	if len(r.rest) == 0 {
		return nil, ErrRemoved
	}
	n := min(int(r.rest[0]), len(r.rest)-1)
	answer := r.rest[1 : 1+n]
	r.rest = r.rest[1+n:]
	return answer, nil
}

// FuzzAnswers plays a hostile card through all commands of the box.
func FuzzAnswers(f *testing.F) {
	f.Add([]byte("\x02\x90\x00\x0A\x53\x06\x70\x04abcd\x90\x00\x0A\x7C\x06\x82\x04\x30\x02\x05\x00\x90\x00\x02\x90\x00"), true)
	f.Add([]byte("\x02\x6A\x82"), false)
	f.Add([]byte("\x02\x61\x00\x03\x01\x61\x01\x02\x6C\x10\x02\x90\x00"), false)
	f.Add([]byte("\x02\x90\x00\x02\x90\x00\x02\x90\x00\x02\x6A\x80\x18\x7F\x61\x13\x02\x01\x01\x7F\x60\x0D\x83\x01\x96\xB1\x08\x81\x02\x0C\x3C\x82\x01\x00\x90\x00\x90\x00\x02\x63\xC2"), true)
	f.Add([]byte("\x13\x61\x0F\x4F\x01\xA0\x50\x06nist-o\x79\x00\x5F\x50\x00\x90\x00\x20\x53\x1C\x30\x00\x34\x100123456789abcdef\x35\x00\xFE\x00\x90\x00"), false)
	f.Fuzz(func(t *testing.T, answers []byte, extended bool) {
		r := &replay{rest: answers}
		c, err := Select(r, Limits{Extended: extended})
		if err != nil {
			return
		}
		der, err := c.Certificate(Slot9A)
		if err == nil && (len(der) == 0 || len(der) > maxAnswer) {
			t.Fatalf("certificate of %d bytes", len(der))
		}
		digest := sha256.Sum256(answers)
		signature, err := c.Signer(Slot9E, nil).Sign(nil, digest[:], crypto.SHA256)
		if err == nil && (len(signature) == 0 || len(signature) > maxSignature) {
			t.Fatalf("signature of %d bytes", len(signature))
		}
		err = c.VerifyFinger(RefFinger, make([]byte, 3*MaxMinutiae))
		var pin *PINError
		if errors.As(err, &pin) && (pin.Left < 0 || pin.Left > 15) {
			t.Fatalf("%d tries left", pin.Left)
		}
		_, _ = c.GUID()
		_, _, _ = c.Tries(RefFinger)
	})
}

// FuzzATR reads any answer to reset.
func FuzzATR(f *testing.F) {
	f.Add([]byte("\x3B\x8B\x01\x80\x73\xC0\x21\xC0\x65sdbox\x5F"))
	f.Add([]byte("\x3B\xD6\x96\x00\x81\xB1\xFE\x45\x1F\x87\x80\x31\xC1\x52\x41\x1A\x2A"))
	f.Add([]byte("\x3B\x65\x00\x00\x01\x02\x03\x04\x05"))
	f.Add([]byte("\x3F\xFF"))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := ParseATR(b)
		if err != nil {
			return
		}
		if len(a.Historical) > 15 || !a.T0 && !a.T1 && len(b) < 3 {
			t.Fatalf("%+v of % X", a, b)
		}
		_ = a.ExtendedLength()
		_ = LimitsOf(b, false, 0)
	})
}

// SPDX-License-Identifier: Apache-2.0

// Package card speaks to a PIV smart card (NIST SP 800-73-5) that compares fingerprints itself. It is pure Go over a
// Transport: package card/pcsc brings a reader, card/cardsim a card in software.
//
// A login costs five commands where extended length works: Select, Certificate and one signature by key 9E before the
// finger, so that the person's own slowness hides them; VerifyFinger and one signature by key 9A after it.
package card

import (
	"errors"
	"fmt"

	"sdbox/internal/ident"
)

// Transport exchanges one command APDU for one response: data, then the two status bytes SW1 SW2 (ISO/IEC 7816-4, 5.1).
// An implementation returns an error wrapping ErrRemoved when the card is gone, and never a response of less than two bytes.
type Transport interface {
	Transmit(apdu []byte) ([]byte, error)
}

// Limits says what the way to a card can carry. The zero value is a T=1 card that takes short commands only.
type Limits struct {
	Extended bool // extended Lc and Le work in reader and card (ISO/IEC 7816-4, 5.1)
	T0       bool // the protocol is T=0: command APDUs with data go without Le, the answer is fetched by GET RESPONSE
}

// Slot is a key reference of the card (SP 800-73-5 Part 1, Table 4).
type Slot byte

// The slots a login uses, and the one where a new key waits while a card is renewed. The other retired slots are Slot82+1 to
// Slot82+19.
const (
	Slot9A Slot = 0x9A // PIV authentication: signs after a finger or PIN
	Slot9E Slot = 0x9E // card authentication: signs without asking
	Slot82 Slot = 0x82 // first retired key management slot
)

// The key references of VERIFY (SP 800-73-5 Part 2, 3.2.1).
const (
	RefPIN     byte = 0x80 // PIV card application PIN
	RefFinger  byte = 0x96 // primary finger
	RefFinger2 byte = 0x97 // secondary finger
)

// MaxMinutiae is the longest list of minutiae VerifyFinger takes: 255 bytes, what one short command carries.
const MaxMinutiae = 85

// What a caller branches on.
var (
	ErrNoApplet    = errors.New("the card has no PIV application")
	ErrRemoved     = errors.New("the card was removed")
	ErrBlocked     = errors.New("the card refuses further tries: its counter is at zero")
	ErrNotVerified = errors.New("the card wants a finger, PIN or management key first")
	ErrNoObject    = errors.New("the card does not hold this object")
	ErrBadCard     = errors.New("the card answers against its standard")
)

// PINError is a finger or PIN the card compared and refused (status 63CX).
type PINError struct {
	Left int // tries left before the card blocks
}

// Error says how many tries are left.
func (e *PINError) Error() string { return fmt.Sprintf("does not match, %d tries left", e.Left) }

// Is makes the last wrong try ErrBlocked too: no other will be compared.
func (e *PINError) Is(target error) bool { return target == ErrBlocked && e.Left == 0 }

// StatusError is any other status that is not success.
type StatusError struct {
	SW uint16 // SW1 SW2
}

// Error names the status word.
func (e *StatusError) Error() string { return fmt.Sprintf("card status %04X", e.SW) }

// Card is a selected PIV application. It is used from one goroutine at a time, and only inside one transaction of its
// transport: another program in between could select another application or use the verified state.
type Card struct {
	t      Transport
	limits Limits
	label  string
}

// applicationID is the full AID of the PIV card application (SP 800-73-5 Part 1, 2.2).
const applicationID = "\xA0\x00\x00\x03\x08\x00\x00\x10\x00\x01\x00"

// Select selects the PIV application of the card behind t: one command. It returns ErrNoApplet for a card that has none.
func Select(t Transport, l Limits) (*Card, error) {
	c := &Card{t: t, limits: l}
	answer, err := c.exchange(command{ins: insSelect, p1: 0x04, data: []byte(applicationID), answers: true})
	var status *StatusError
	if errors.Is(err, ErrNoObject) || errors.As(err, &status) {
		return nil, fmt.Errorf("select PIV: %w (%v)", ErrNoApplet, err)
	}
	if err != nil {
		return nil, fmt.Errorf("select PIV: %w", err)
	}
	c.label = applicationLabel(answer)
	return c, nil
}

// Label is the application label the card gave in its answer to SELECT (tag 50), or empty. It is for logs: printable
// ASCII, at most 32 bytes.
func (c *Card) Label() string { return c.label }

// certificateObject is where the certificate of a slot lies (SP 800-73-5 Part 1, Table 3).
func certificateObject(s Slot) (uint32, error) {
	switch {
	case s == Slot9A:
		return 0x5FC105, nil
	case s == Slot9E:
		return 0x5FC101, nil
	case s >= Slot82 && s <= Slot82+19:
		return 0x5FC10D + uint32(s-Slot82), nil
	default:
		return 0, fmt.Errorf("slot %02X is not used here", byte(s))
	}
}

// Certificate reads the X.509 DER of a slot's certificate object: one command with extended length, one per 256 bytes
// without. A compressed certificate is refused: nothing the box parses before a login may grow when unpacked.
func (c *Card) Certificate(s Slot) ([]byte, error) {
	object, err := certificateObject(s)
	if err != nil {
		return nil, err
	}
	content, err := c.object(object)
	if err != nil {
		return nil, fmt.Errorf("read certificate of slot %02X: %w", byte(s), err)
	}
	der, err := parseCertificateObject(content)
	if err != nil {
		return nil, fmt.Errorf("read certificate of slot %02X: %w", byte(s), err)
	}
	return der, nil
}

// GUID reads the card's identifier from its CHUID (SP 800-73-5 Part 1, 3.1.2). A login does not need it: the certificate
// names it too. It is for the card desk and the tray of the lab.
func (c *Card) GUID() (ident.GUID, error) {
	content, err := c.object(0x5FC102)
	if err != nil {
		return ident.GUID{}, fmt.Errorf("read CHUID: %w", err)
	}
	guid, err := parseCHUID(content)
	if err != nil {
		return ident.GUID{}, fmt.Errorf("read CHUID: %w", err)
	}
	return guid, nil
}

// object reads one data object by its three-byte tag and strips the outer tag 53.
func (c *Card) object(tag uint32) ([]byte, error) {
	data := []byte{0x5C, 3, byte(tag >> 16), byte(tag >> 8), byte(tag)}
	answer, err := c.exchange(command{ins: insGetData, p1: 0x3F, p2: 0xFF, data: data, answers: true, long: true})
	if err != nil {
		return nil, err
	}
	return only(answer, 0x53)
}

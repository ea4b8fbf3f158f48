// SPDX-License-Identifier: Apache-2.0

package card

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"io"
)

// VerifyFinger sends the minutiae of a finger (compact card format, 3 bytes each, 1 to MaxMinutiae, best first) for
// comparison against the reference ref: RefFinger or RefFinger2 (SP 800-73-5 Part 2, 3.2.1). One command. Nil means the
// card is verified until its next reset; *PINError that the finger does not match; ErrBlocked that the counter is at zero.
//
// A card that takes fewer minutiae refuses the length without spending a try: then its biometric information template is
// read and the best ones are sent again.
func (c *Card) VerifyFinger(ref byte, minutiae []byte) error {
	if ref != RefFinger && ref != RefFinger2 {
		return fmt.Errorf("verify finger: reference %02X is no finger", ref)
	}
	if n := len(minutiae); n == 0 || n%3 != 0 || n > 3*MaxMinutiae {
		return fmt.Errorf("verify finger: %d bytes: want 1 to %d minutiae of 3 bytes", n, MaxMinutiae)
	}
	_, err := c.exchange(command{ins: insVerify, p2: ref, data: minutiae})
	var status *StatusError
	if errors.As(err, &status) && status.SW == 0x6A80 {
		err = c.verifyShorter(ref, minutiae, err)
	}
	if err != nil {
		return fmt.Errorf("verify finger: %w", err)
	}
	return nil
}

// verifyShorter sends as many minutiae as the card says it takes, if that is less than it refused.
func (c *Card) verifyShorter(ref byte, minutiae []byte, refused error) error {
	group, err := c.exchange(command{ins: insGetData, p1: 0x3F, p2: 0xFF, data: []byte{0x5C, 2, 0x7F, 0x61}, answers: true})
	if err != nil {
		return errors.Join(refused, fmt.Errorf("read biometric information: %w", err))
	}
	least, most, err := parseBIT(group, ref)
	if err != nil {
		return errors.Join(refused, fmt.Errorf("read biometric information: %w", err))
	}
	n := len(minutiae) / 3
	if n < least || n <= most {
		return fmt.Errorf("%d minutiae, the card takes %d to %d: %w", n, least, most, refused)
	}
	_, err = c.exchange(command{ins: insVerify, p2: ref, data: minutiae[:3*most]})
	return err
}

// parseBIT returns how many minutiae a reference takes: group template 7F61 of biometric information templates 7F60, each
// with the reference (83) and the limits (81 in B1) (SP 800-76-2, Table 7; ISO/IEC 19785-3).
func parseBIT(group []byte, ref byte) (least, most int, err error) {
	templates, err := only(group, 0x7F61)
	if err != nil {
		return 0, 0, err
	}
	err = each(templates, func(tag uint16, template []byte) error {
		if tag != 0x7F60 {
			return nil
		}
		var forRef byte
		var limits []byte
		err := each(template, func(tag uint16, value []byte) error {
			switch {
			case tag == 0x83 && len(value) == 1:
				forRef = value[0]
			case tag == 0xB1:
				return each(value, func(tag uint16, value []byte) error {
					if tag == 0x81 && len(value) == 2 {
						limits = value
					}
					return nil
				})
			}
			return nil
		})
		if err == nil && forRef == ref && limits != nil {
			least, most = int(limits[0]), int(limits[1])
		}
		return err
	})
	if err == nil && (most == 0 || most > MaxMinutiae || least > most) {
		err = fmt.Errorf("reference %02X takes %d to %d minutiae: %w", ref, least, most, ErrBadCard)
	}
	return least, most, err
}

// VerifyPIN sends a PIN of 6 to 8 digits (SP 800-73-5 Part 1, 3.1). The box never asks for one where the card matches
// fingers; the card desk does. Errors as VerifyFinger.
func (c *Card) VerifyPIN(pin string) error {
	if len(pin) < 6 || len(pin) > 8 {
		return errors.New("verify PIN: want 6 to 8 digits")
	}
	padded := append([]byte(pin), bytes.Repeat([]byte{0xFF}, 8-len(pin))...)
	defer clear(padded)
	if _, err := c.exchange(command{ins: insVerify, p2: RefPIN, data: padded}); err != nil {
		return fmt.Errorf("verify PIN: %w", err)
	}
	return nil
}

// Tries asks how many tries a reference has left, without spending one (SP 800-73-5 Part 2, 3.2.1). A login does not ask:
// the answer to VERIFY carries it. It is 0 for a blocked one; verified is true if nothing needs to be sent.
func (c *Card) Tries(ref byte) (left int, verified bool, err error) {
	_, err = c.exchange(command{ins: insVerify, p2: ref})
	var pin *PINError
	switch {
	case err == nil:
		return 0, true, nil
	case errors.As(err, &pin):
		return pin.Left, false, nil
	case errors.Is(err, ErrBlocked):
		return 0, false, nil
	}
	return 0, false, fmt.Errorf("read tries of %02X: %w", ref, err)
}

// LogOut takes back what a finger or PIN opened, without a reset (SP 800-73-5 Part 2, 3.2.1: P1 = FF). One command, for
// after the login's signature is on its way: the card stays for presence signatures, key 9A does not.
func (c *Card) LogOut(ref byte) error {
	if _, err := c.exchange(command{ins: insVerify, p1: 0xFF, p2: ref}); err != nil {
		return fmt.Errorf("log out of %02X: %w", ref, err)
	}
	return nil
}

// signer is a key of the card as crypto.Signer.
type signer struct {
	card *Card
	slot Slot
	pub  *ecdsa.PublicKey
}

// Signer returns a slot's P-256 key. It signs SHA-256 digests only, one command each, and answers ASN.1 DER; without the
// finger or PIN a slot wants, Sign returns ErrNotVerified. When pub is given, a signature that does not verify with it is
// ErrBadCard: a card with another person's certificate is found out in the box. With nil the signature is returned as the
// card gave it, for the reader that holds the key to check.
func (c *Card) Signer(s Slot, pub *ecdsa.PublicKey) crypto.Signer {
	return &signer{card: c, slot: s, pub: pub}
}

// Public returns the *ecdsa.PublicKey the signer was made with, or nil.
func (s *signer) Public() crypto.PublicKey {
	if s.pub == nil {
		return nil
	}
	return s.pub
}

// Sign implements crypto.Signer by GENERAL AUTHENTICATE (SP 800-73-5 Part 2, 3.2.4). The first argument is not used: the
// card draws its own randomness.
func (s *signer) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if opts.HashFunc() != crypto.SHA256 || len(digest) != crypto.SHA256.Size() {
		return nil, fmt.Errorf("sign with slot %02X: want a SHA-256 digest", byte(s.slot))
	}
	data := append([]byte{0x7C, 0x24, 0x82, 0x00, 0x81, 0x20}, digest...)
	answer, err := s.card.exchange(command{ins: insAuthenticate, p1: algP256, p2: byte(s.slot), data: data, answers: true})
	if err != nil {
		return nil, fmt.Errorf("sign with slot %02X: %w", byte(s.slot), err)
	}
	signature, err := parseSignature(answer)
	if err != nil {
		return nil, fmt.Errorf("sign with slot %02X: %w", byte(s.slot), err)
	}
	if s.pub != nil && !ecdsa.VerifyASN1(s.pub, digest, signature) {
		return nil, fmt.Errorf("sign with slot %02X: the key is not the certificate's: %w", byte(s.slot), ErrBadCard)
	}
	return signature, nil
}

// algP256 is the algorithm identifier of ECDSA on P-256 (SP 800-78-5, Table 10).
const algP256 = 0x11

// maxSignature is an ECDSA-Sig-Value of P-256 in DER: two integers of at most 33 bytes.
const maxSignature = 72

// parseSignature returns the response (82) of a dynamic authentication template (7C).
func parseSignature(answer []byte) ([]byte, error) {
	template, err := only(answer, 0x7C)
	if err != nil {
		return nil, err
	}
	signature, err := only(template, 0x82)
	if err != nil {
		return nil, err
	}
	if len(signature) == 0 || len(signature) > maxSignature {
		return nil, fmt.Errorf("signature of %d bytes: %w", len(signature), ErrBadCard)
	}
	return signature, nil
}

// SPDX-License-Identifier: Apache-2.0

package card

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/subtle"
	"crypto/x509"
	"errors"
	"fmt"
)

// ErrManagementKey is a management key that is not the card's.
var ErrManagementKey = errors.New("the management key is not this card's")

// slotManagement is the key reference of the card management key (SP 800-73-5 Part 1, Table 4).
const slotManagement = 0x9B

// Algorithm identifiers of the management key (SP 800-78-5, Table 10). Triple DES (03) is not spoken: it has the length of
// AES-192, and a card that still asks for it refuses the algorithm without spending anything.
const (
	algAES192 = 0x0A
	algAES256 = 0x0C
)

// Authenticate proves the management key 9B, AES-192 (24 bytes) or AES-256 (32 bytes), to the card and the card's knowledge
// of it to us: mutual authentication by GENERAL AUTHENTICATE (SP 800-73-5 Part 2, Appendix A.1). Two commands. It opens
// Generate and PutObject until the next reset, on some cards until the next Select. A wrong key is ErrManagementKey; a card that
// takes the key and cannot prove it, ErrBadCard.
func (c *Card) Authenticate(key []byte) error {
	block, alg, err := managementCipher(key)
	if err != nil {
		return fmt.Errorf("authenticate with management key: %w", err)
	}
	witness, err := c.management(alg, tagged(nil, 0x80, nil), 0x80)
	if err != nil {
		return fmt.Errorf("authenticate with management key: read witness: %w", err)
	}
	proof, challenge, want := make([]byte, aes.BlockSize), make([]byte, aes.BlockSize), make([]byte, aes.BlockSize)
	block.Decrypt(proof, witness)
	rand.Read(challenge)
	block.Encrypt(want, challenge)
	answer, err := c.management(alg, tagged(tagged(nil, 0x80, proof), 0x81, challenge), 0x82)
	var status *StatusError
	switch {
	case errors.Is(err, ErrNotVerified), errors.As(err, &status) && status.SW == 0x6A80, errors.As(err, &status) && status.SW == 0x6300:
		return fmt.Errorf("authenticate with management key: %w (%w)", ErrManagementKey, err)
	case err != nil:
		return fmt.Errorf("authenticate with management key: %w", err)
	}
	if subtle.ConstantTimeCompare(answer, want) != 1 {
		return fmt.Errorf("authenticate with management key: the card does not know it: %w", ErrBadCard)
	}
	return nil
}

func managementCipher(key []byte) (cipher.Block, byte, error) {
	alg := map[int]byte{24: algAES192, 32: algAES256}[len(key)]
	if alg == 0 {
		return nil, 0, fmt.Errorf("key of %d bytes: want 24 (AES-192) or 32 (AES-256)", len(key))
	}
	block, err := aes.NewCipher(key)
	return block, alg, err
}

// management sends one step of the mutual authentication and returns the one block the card answers under tag want.
func (c *Card) management(alg byte, step []byte, want uint16) ([]byte, error) {
	answer, err := c.exchange(command{ins: insAuthenticate, p1: alg, p2: slotManagement, data: tagged(nil, 0x7C, step), answers: true})
	if err != nil {
		return nil, err
	}
	template, err := only(answer, 0x7C)
	if err != nil {
		return nil, err
	}
	value, err := only(template, want)
	if err == nil && len(value) != aes.BlockSize {
		err = fmt.Errorf("block of %d bytes: %w", len(value), ErrBadCard)
	}
	return value, err
}

// Generate makes a new P-256 key in a slot and returns its public half: GENERATE ASYMMETRIC KEY PAIR (SP 800-73-5 Part 2,
// 3.3.2). The slot's old key is destroyed at once, whatever becomes of the answer. It wants Authenticate first, or returns
// ErrNotVerified.
func (c *Card) Generate(s Slot) (*ecdsa.PublicKey, error) {
	data := []byte{0xAC, 0x03, 0x80, 0x01, algP256}
	answer, err := c.exchange(command{ins: insGenerate, p2: byte(s), data: data, answers: true})
	if err != nil {
		return nil, fmt.Errorf("generate key in slot %02X: %w", byte(s), err)
	}
	template, err := only(answer, 0x7F49)
	if err != nil {
		return nil, fmt.Errorf("generate key in slot %02X: %w", byte(s), err)
	}
	point, err := only(template, 0x86)
	if err != nil {
		return nil, fmt.Errorf("generate key in slot %02X: %w", byte(s), err)
	}
	pub, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
	if err != nil {
		return nil, fmt.Errorf("generate key in slot %02X: %w: %w", byte(s), ErrBadCard, err)
	}
	return pub, nil
}

// PutCertificate writes a slot's certificate, X.509 DER, uncompressed (SP 800-73-5 Part 1, Table 10), as PutObject does.
func (c *Card) PutCertificate(s Slot, der []byte) error {
	object, err := certificateObject(s)
	if err != nil {
		return fmt.Errorf("write certificate: %w", err)
	}
	if _, err := x509.ParseCertificate(der); err != nil {
		return fmt.Errorf("write certificate of slot %02X: %w", byte(s), err)
	}
	content := tagged(tagged(tagged(nil, 0x70, der), 0x71, []byte{0}), 0xFE, nil)
	if err := c.PutObject(object, content); err != nil {
		return fmt.Errorf("write certificate of slot %02X: %w", byte(s), err)
	}
	return nil
}

// Object reads a data object by its three-byte tag, as 0x5FC105, and strips the outer tag 53 (SP 800-73-5 Part 2, 3.1.2).
// ErrNoObject where there is none, ErrNotVerified where a finger or PIN is wanted.
func (c *Card) Object(tag uint32) ([]byte, error) {
	content, err := c.object(tag)
	if err != nil {
		return nil, fmt.Errorf("read object %06X: %w", tag, err)
	}
	return content, nil
}

// PutObject writes a whole data object, without the outer tag 53; empty content deletes it (SP 800-73-5 Part 2, 3.3.1). It
// wants Authenticate first, or returns ErrNotVerified. Up to 255 bytes go in one command, more in a chain or with extended
// length. A write cut off in the middle is not undone on every card: read back what matters.
func (c *Card) PutObject(tag uint32, content []byte) error {
	if len(content) > maxAnswer {
		return fmt.Errorf("write object %06X: %d bytes, want at most %d", tag, len(content), maxAnswer)
	}
	data := tagged([]byte{0x5C, 3, byte(tag >> 16), byte(tag >> 8), byte(tag)}, 0x53, content)
	if _, err := c.exchange(command{ins: insPutData, p1: 0x3F, p2: 0xFF, data: data}); err != nil {
		return fmt.Errorf("write object %06X: %w", tag, err)
	}
	return nil
}

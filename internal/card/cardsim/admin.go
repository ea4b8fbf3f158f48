// SPDX-License-Identifier: Apache-2.0

package cardsim

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/des"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/subtle"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"

	"sdbox/internal/card"
)

// slot9B is the key reference of the card management key (SP 800-73-5 Part 1, Table 4).
const slot9B = 0x9B

// management is the card management key 9B.
type management struct {
	Alg byte   `json:"alg"` // SP 800-78-5, Table 10
	Key []byte `json:"key"`
}

// cipher returns the key as a block cipher. Triple DES is deprecated (SP 800-78-5, 3.1), and still what old tools speak.
func (m management) cipher() (cipher.Block, error) {
	if want := map[byte]int{0x03: 24, 0x08: 16, 0x0A: 24, 0x0C: 32}[m.Alg]; want == 0 || want != len(m.Key) {
		return nil, fmt.Errorf("management key of algorithm %02X and %d bytes", m.Alg, len(m.Key))
	}
	if m.Alg == 0x03 {
		return des.NewTripleDESCipher(m.Key)
	}
	return aes.NewCipher(m.Key)
}

// When a key asks for its PIN (Yubico's PIN policy).
const (
	pinNever  = 1
	pinOnce   = 2
	pinAlways = 3
)

// slotKey is one asymmetric key.
type slotKey struct {
	Private  []byte `json:"private"` // PKCS #8, P-256
	PIN      byte   `json:"pin"`     // pinNever, pinOnce or pinAlways
	Imported bool   `json:"imported,omitempty"`
}

// usualPIN is when a slot's key asks unless it was made otherwise (SP 800-73-5 Part 1, Table 4).
func usualPIN(s card.Slot) byte {
	switch s {
	case card.Slot9E, slotF9:
		return pinNever
	case slot9C:
		return pinAlways
	}
	return pinOnce
}

func newKey(key *ecdsa.PrivateKey, pin byte) (*slotKey, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	return &slotKey{Private: der, PIN: pin}, err
}

// private parses the key.
func (k *slotKey) private() (*ecdsa.PrivateKey, error) {
	key, err := x509.ParsePKCS8PrivateKey(k.Private)
	if err != nil {
		return nil, err
	}
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok || ec.Curve != elliptic.P256() {
		return nil, errors.New("key is not on P-256")
	}
	return ec, nil
}

// field is one BER-TLV of a command.
type field struct {
	tag   byte
	value []byte
}

// fields cuts command data into BER-TLV objects with one-byte tags and lengths up to 65,535.
func fields(b []byte) ([]field, bool) {
	var list []field
	for len(b) > 0 {
		if len(b) < 2 {
			return nil, false
		}
		f := field{tag: b[0]}
		n, head := int(b[1]), 2
		switch {
		case b[1] == 0x81 && len(b) >= 3:
			n, head = int(b[2]), 3
		case b[1] == 0x82 && len(b) >= 4:
			n, head = int(binary.BigEndian.Uint16(b[2:])), 4
		case b[1] >= 0x80:
			return nil, false
		}
		if len(b) < head+n {
			return nil, false
		}
		f.value, b = b[head:head+n], b[head+n:]
		list = append(list, f)
	}
	return list, true
}

// template returns the fields within the one outer field of a tag.
func template(data []byte, tag byte) ([]field, bool) {
	outer, ok := fields(data)
	if !ok || len(outer) != 1 || outer[0].tag != tag {
		return nil, false
	}
	return fields(outer[0].value)
}

// manageLocked is mutual authentication with 9B (SP 800-73-5 Part 2, Appendix A.1): first a witness is asked for, then it
// comes back in the clear with a challenge for the card.
func (s *Sim) manageLocked(c command) ([]byte, status) {
	witness := s.ram.witness
	s.ram.witness = nil
	m := s.nvm.Management
	if m == nil || c.p1 != m.Alg {
		return nil, swBadParameter
	}
	block, err := m.cipher()
	if err != nil {
		return nil, swMemory
	}
	f, ok := template(c.data, 0x7C)
	switch n := block.BlockSize(); {
	case ok && len(f) == 1 && f[0].tag == 0x80 && len(f[0].value) == 0:
		s.ram.witness = make([]byte, n)
		rand.Read(s.ram.witness)
		out := make([]byte, n)
		block.Encrypt(out, s.ram.witness)
		return tlv("\x7C", tlv("\x80", out)), swOK
	case ok && len(f) == 2 && f[0].tag == 0x80 && f[1].tag == 0x81 && len(f[1].value) == n && witness != nil:
		s.ram.managed = subtle.ConstantTimeCompare(f[0].value, witness) == 1
		if !s.ram.managed {
			return nil, swNotVerified
		}
		out := make([]byte, n)
		block.Encrypt(out, f[1].value)
		return tlv("\x7C", tlv("\x82", out)), swOK
	}
	return nil, swBadData
}

// putDataLocked: SP 800-73-5 Part 2, 3.3.1: 5C tag, 53 content; empty content deletes. Discovery and BIT group cannot be
// written: the card makes them.
func (s *Sim) putDataLocked(c command) status {
	if c.p1 != 0x3F || c.p2 != 0xFF {
		return swBadParameter
	}
	if !s.ram.managed {
		return swNotVerified
	}
	f, ok := fields(c.data)
	if !ok || len(f) != 2 || f[0].tag != 0x5C || f[1].tag != 0x53 {
		return swBadData
	}
	tag, ok := writable(f[0].value)
	switch content := f[1].value; {
	case !ok:
		return swBadData
	case len(content) > s.profile.maxObject || s.usedLocked(tag)+len(content) > s.profile.memory:
		return swNoSpace
	case s.tears && s.changeLocked(func(n *nvm) { n.put(tag, content[:len(content)/2]) }) != nil:
		return swMemory
	case s.changeLocked(func(n *nvm) { n.put(tag, content) }) != nil:
		return swMemory
	}
	return swOK
}

// tearLocked writes what came in so far of a chained PUT DATA.
func (s *Sim) tearLocked(c command) status {
	if c.ins != 0xDB || !s.tears || !s.ram.managed || len(c.data) < 9 || c.data[0] != 0x5C || c.data[1] != 3 || c.data[5] != 0x53 {
		return swOK // nothing to write, or not yet: the last part says what is wrong
	}
	tag, ok := writable(c.data[2:5])
	head := map[byte]int{0x81: 8, 0x82: 9}[c.data[6]]
	if !ok || head == 0 || len(c.data)-head > s.profile.maxObject || s.usedLocked(tag)+len(c.data)-head > s.profile.memory {
		return swOK
	}
	if s.changeLocked(func(n *nvm) { n.put(tag, c.data[head:]) }) != nil {
		return swMemory
	}
	return swOK
}

// writable names the data objects of the standard (5FC1xx) and of Yubico (5FFFxx).
func writable(tag []byte) (string, bool) {
	return fmt.Sprintf("%X", tag), len(tag) == 3 && tag[0] == 0x5F && (tag[1] == 0xC1 || tag[1] == 0xFF)
}

// usedLocked is the memory that the objects beside one take.
func (s *Sim) usedLocked(beside string) int {
	used := 0
	for tag, content := range s.nvm.Objects {
		if tag != beside {
			used += len(content)
		}
	}
	return used
}

func (n *nvm) put(tag string, content []byte) {
	if len(content) == 0 {
		delete(n.Objects, tag)
		return
	}
	n.Objects[tag] = bytes.Clone(content)
}

// generateLocked: SP 800-73-5 Part 2, 3.3.2, with Yubico's PIN policy (AA) and touch policy (AB).
func (s *Sim) generateLocked(c command) ([]byte, status) {
	slot := card.Slot(c.p2)
	if !s.ram.managed {
		return nil, swNotVerified
	}
	if c.p1 != 0 || !s.profile.hasSlot(slot) && !(s.profile.yubico && slot == slotF9) {
		return nil, swBadParameter
	}
	f, ok := template(c.data, 0xAC)
	if !ok || len(f) == 0 || f[0].tag != 0x80 || !bytes.Equal(f[0].value, []byte{0x11}) {
		return nil, swBadData // the only algorithm is P-256
	}
	pin, ok := s.profile.policy(slot, f[1:])
	if !ok {
		return nil, swBadData
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, swMemory
	}
	stored, err := newKey(key, pin)
	if err != nil || s.changeLocked(func(n *nvm) { n.Keys[slotName(slot)] = stored }) != nil {
		return nil, swMemory
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		return nil, swMemory
	}
	return tlv("\x7F\x49", tlv("\x86", point)), swOK
}

// policy reads Yubico's policies: 0 is the slot's own. Nobody can touch this card, so a key that wants it is refused.
func (p profile) policy(slot card.Slot, list []field) (pin byte, ok bool) {
	pin = usualPIN(slot)
	for _, f := range list {
		switch {
		case !p.yubico || len(f.value) != 1:
			return 0, false
		case f.tag == 0xAA && f.value[0] <= pinAlways:
			if f.value[0] != 0 {
				pin = f.value[0]
			}
		case f.tag == 0xAB && f.value[0] <= 1:
		default:
			return 0, false
		}
	}
	return pin, true
}

// signLocked signs a SHA-256 digest: GENERAL AUTHENTICATE with 7C{82 empty, 81 digest}, in either order (SP 800-73-5 Part 2,
// 3.2.4).
func (s *Sim) signLocked(c command) ([]byte, status) {
	stored := s.nvm.Keys[slotName(card.Slot(c.p2))]
	if c.p1 != 0x11 || stored == nil || !s.profile.hasSlot(card.Slot(c.p2)) {
		return nil, swBadParameter
	}
	if stored.PIN == pinOnce && !s.openLocked() || stored.PIN == pinAlways && !s.ram.fresh {
		return nil, swNotVerified
	}
	f, ok := template(c.data, 0x7C)
	if ok && len(f) == 2 && f[0].tag == 0x81 {
		f[0], f[1] = f[1], f[0]
	}
	if !ok || len(f) != 2 || f[0].tag != 0x82 || len(f[0].value) != 0 || f[1].tag != 0x81 || len(f[1].value) != 32 {
		return nil, swBadData
	}
	key, err := stored.private()
	if err != nil {
		return nil, swMemory
	}
	signature, err := ecdsa.SignASN1(rand.Reader, key, f[1].value)
	if err != nil {
		return nil, swMemory
	}
	if stored.PIN == pinAlways {
		s.ram.fresh = false // each use wants its own PIN
	}
	return tlv("\x7C", tlv("\x82", signature)), swOK
}

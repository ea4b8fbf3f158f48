// SPDX-License-Identifier: Apache-2.0

package cardsim

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"fmt"
	"maps"
	"math/big"
	"time"

	"sdbox/internal/card"
	"sdbox/internal/ident"
)

// YubiKey57 is the profile of a YubiKey with firmware 5.7 as it leaves the factory, with the identity objects of its person:
// no finger, PIN FactoryPIN, PUK FactoryPUK, management key FactoryManagementKey (AES-192), slots 9A, 9C, 9D, 9E and 82 to
// 95, P-256 keys only, attestation by a root of its own making. Nobody can touch it.
const YubiKey57 = "yubikey-5.7"

// What Yubico ships, and everybody knows (YubiKey technical manual, PIV).
const (
	FactoryPIN           = "123456"
	FactoryPUK           = "12345678"
	FactoryManagementKey = "\x01\x02\x03\x04\x05\x06\x07\x08\x01\x02\x03\x04\x05\x06\x07\x08\x01\x02\x03\x04\x05\x06\x07\x08"
)

// firmware is the version FD answers.
const firmware = "\x05\x07\x04"

// tagAttestation is where the certificate of the attestation key F9 lies.
const tagAttestation = "5FFF01"

// yubicoLocked serves the commands that Yubico adds (developers.yubico.com, PIV, "Yubico extensions").
func (s *Sim) yubicoLocked(c command) ([]byte, status) {
	switch c.ins {
	case 0xFD:
		return []byte(firmware), swOK
	case 0xF8:
		return binary.BigEndian.AppendUint32(nil, s.serialLocked()), swOK
	case 0xF7:
		return s.metadataLocked(c.p2)
	case 0xF9:
		return s.attestLocked(card.Slot(c.p1))
	case 0xFB:
		return nil, s.factoryLocked()
	}
	if !s.ram.managed {
		switch c.ins {
		case 0xF6, 0xFA, 0xFE, 0xFF:
			return nil, swNotVerified
		}
		return nil, swUnknownIns
	}
	switch c.ins {
	case 0xF6:
		return nil, s.moveLocked(card.Slot(c.p2), card.Slot(c.p1))
	case 0xFA:
		return nil, s.setTriesLocked(int(c.p1), int(c.p2))
	case 0xFE:
		return nil, s.importLocked(c)
	case 0xFF:
		return nil, s.setManagementLocked(c)
	}
	return nil, swUnknownIns
}

// serialLocked is the number printed on the token.
func (s *Sim) serialLocked() uint32 {
	sum := sha256.Sum256([]byte(s.nvm.GUID))
	return binary.BigEndian.Uint32(sum[:]) & 0x7FFFFFFF
}

// metadataLocked: F7. Tags: 01 algorithm, 02 PIN and touch policy, 03 origin, 04 public key, 05 still the factory's, 06 tries
// in all and left.
func (s *Sim) metadataLocked(of byte) ([]byte, status) {
	isDefault := func(same bool) []byte { return tlv("\x05", []byte{map[bool]byte{true: 1}[same]}) }
	switch of {
	case card.RefPIN, refPUK:
		r := s.nvm.References[refName(of)]
		factory, _ := s.profile.pinBlock([]byte(map[byte]string{card.RefPIN: FactoryPIN, refPUK: FactoryPUK}[of]))
		return join(tlv("\x01", []byte{0xFF}), isDefault(bytes.Equal(r.Value, factory)), tlv("\x06", []byte{byte(r.Max), byte(r.Left)})), swOK
	case slot9B:
		m := s.nvm.Management
		factory := m.Alg == 0x0A && string(m.Key) == FactoryManagementKey
		return join(tlv("\x01", []byte{m.Alg}), tlv("\x02", []byte{0, 1}), isDefault(factory)), swOK
	}
	stored := s.nvm.Keys[slotName(card.Slot(of))]
	if stored == nil {
		return nil, swNoReference
	}
	key, err := stored.private()
	if err != nil {
		return nil, swMemory
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		return nil, swMemory
	}
	origin := byte(1)
	if stored.Imported {
		origin = 2
	}
	return join(tlv("\x01", []byte{0x11}), tlv("\x02", []byte{stored.PIN, 1}), tlv("\x03", []byte{origin}), tlv("\x04", tlv("\x86", point))), swOK
}

// moveLocked: F6. The key leaves its slot; its certificate stays where it lies. To FF deletes it.
func (s *Sim) moveLocked(from, to card.Slot) status {
	if !s.profile.hasSlot(from) || to != 0xFF && !s.profile.hasSlot(to) {
		return swBadParameter
	}
	key := s.nvm.Keys[slotName(from)]
	switch {
	case key == nil:
		return swNoReference
	case to != 0xFF && s.nvm.Keys[slotName(to)] != nil:
		return swNotNow // it never overwrites
	}
	err := s.changeLocked(func(n *nvm) {
		delete(n.Keys, slotName(from))
		if to != 0xFF {
			n.Keys[slotName(to)] = key
		}
	})
	if err != nil {
		return swMemory
	}
	return swOK
}

// setTriesLocked: FA. It wants the PIN too, and makes PIN and PUK the factory's again.
func (s *Sim) setTriesLocked(pin, puk int) status {
	if !s.ram.verified[card.RefPIN] {
		return swNotVerified
	}
	if pin < 1 || puk < 1 {
		return swBadData
	}
	if s.changeLocked(func(n *nvm) { s.profile.factoryReferences(n, pin, puk) }) != nil {
		return swMemory
	}
	delete(s.ram.verified, card.RefPIN)
	return swOK
}

// importLocked: FE, a private key from outside: 06 and 32 bytes, then policies as in GENERATE.
func (s *Sim) importLocked(c command) status {
	slot := card.Slot(c.p2)
	if c.p1 != 0x11 || !s.profile.hasSlot(slot) {
		return swBadParameter
	}
	f, ok := fields(c.data)
	if !ok || len(f) == 0 || f[0].tag != 0x06 {
		return swBadData
	}
	pin, ok := s.profile.policy(slot, f[1:])
	if !ok {
		return swBadData
	}
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), f[0].value)
	if err != nil {
		return swBadData
	}
	stored, err := newKey(key, pin)
	if err != nil {
		return swMemory
	}
	stored.Imported = true
	if s.changeLocked(func(n *nvm) { n.Keys[slotName(slot)] = stored }) != nil {
		return swMemory
	}
	return swOK
}

// setManagementLocked: FF with algorithm, 9B, length, key. P2 FE would want touch.
func (s *Sim) setManagementLocked(c command) status {
	if c.p1 != 0xFF || c.p2 != 0xFF {
		return swBadParameter
	}
	if len(c.data) < 3 || c.data[1] != slot9B || int(c.data[2]) != len(c.data)-3 {
		return swBadData
	}
	m := &management{Alg: c.data[0], Key: bytes.Clone(c.data[3:])}
	if _, err := m.cipher(); err != nil {
		return swBadData
	}
	if s.changeLocked(func(n *nvm) { n.Management = m }) != nil {
		return swMemory
	}
	return swOK
}

// factoryLocked: FB. Only a card whose PIN and PUK are both blocked can be made new; it keeps its attestation key.
func (s *Sim) factoryLocked() status {
	if s.nvm.References[refName(card.RefPIN)].Left > 0 || s.nvm.References[refName(refPUK)].Left > 0 {
		return swNotNow
	}
	err := s.changeLocked(func(n *nvm) {
		maps.DeleteFunc(n.Objects, func(tag string, _ []byte) bool { return tag != tagAttestation })
		maps.DeleteFunc(n.Keys, func(slot string, _ *slotKey) bool { return slot != slotName(slotF9) })
		s.profile.factoryReferences(n, s.profile.pinTries, s.profile.pukTries)
		n.Management = factoryManagement()
	})
	if err != nil {
		return swMemory
	}
	s.ram = ram{selected: true, verified: map[byte]bool{}}
	return swOK
}

func factoryManagement() *management {
	return &management{Alg: 0x0A, Key: []byte(FactoryManagementKey)}
}

// factoryReferences sets the PIN and PUK of the factory.
func (p profile) factoryReferences(n *nvm, pinTries, pukTries int) {
	pin, _ := p.pinBlock([]byte(FactoryPIN))
	puk, _ := p.pinBlock([]byte(FactoryPUK))
	n.References[refName(card.RefPIN)] = &reference{Value: pin, Left: pinTries, Max: pinTries}
	n.References[refName(refPUK)] = &reference{Value: puk, Left: pukTries, Max: pukTries}
}

// manufacture gives a card what the factory does: its secrets and its attestation key, with a certificate that signs itself
// where Yubico's root would sign.
func (p profile) manufacture(n *nvm) error {
	p.factoryReferences(n, p.pinTries, p.pukTries)
	n.Management = factoryManagement()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	stored, err := newKey(key, pinNever)
	if err != nil {
		return err
	}
	t := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "sdbox simulated attestation " + n.GUID[:8]},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(10, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	if err != nil {
		return err
	}
	n.Keys[slotName(slotF9)], n.Objects[tagAttestation] = stored, certificateObject(der)
	return nil
}

// yubicoExtension is 1.3.6.1.4.1.41482.3.N of an attestation (developers.yubico.com, "PIV attestation").
func yubicoExtension(n int, value []byte) pkix.Extension {
	return pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 41482, 3, n}, Value: value}
}

// attestLocked: F9, a certificate that says a slot's key was made in this card: firmware (3), serial (7), PIN and touch
// policy (8), form factor (9). An imported key has none.
func (s *Sim) attestLocked(slot card.Slot) ([]byte, status) {
	stored, signer := s.nvm.Keys[slotName(slot)], s.nvm.Keys[slotName(slotF9)]
	if stored == nil || stored.Imported || !s.profile.hasSlot(slot) || signer == nil {
		return nil, swBadData
	}
	der, err := s.attestation(slot, stored, signer)
	if err != nil {
		return nil, swBadData // the attestation key or its certificate was replaced by something else
	}
	return der, swOK
}

func (s *Sim) attestation(slot card.Slot, stored, signer *slotKey) ([]byte, error) {
	key, err := stored.private()
	if err != nil {
		return nil, err
	}
	by, err := signer.private()
	if err != nil {
		return nil, err
	}
	object, ok := fields(s.nvm.Objects[tagAttestation])
	if !ok || len(object) == 0 {
		return nil, fmt.Errorf("no certificate of slot F9")
	}
	issuer, err := x509.ParseCertificate(object[0].value)
	if err != nil {
		return nil, err
	}
	serial, err := asn1.Marshal(int(s.serialLocked()))
	if err != nil {
		return nil, err
	}
	number := ident.NewID()
	t := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(number[:]), Subject: pkix.Name{CommonName: fmt.Sprintf("YubiKey PIV Attestation %x", byte(slot))},
		NotBefore: issuer.NotBefore, NotAfter: issuer.NotAfter,
		ExtraExtensions: []pkix.Extension{
			yubicoExtension(3, []byte(firmware)), yubicoExtension(7, serial), yubicoExtension(8, []byte{stored.PIN, 1}), yubicoExtension(9, []byte{1}),
		},
	}
	return x509.CreateCertificate(rand.Reader, t, issuer, &key.PublicKey, by)
}

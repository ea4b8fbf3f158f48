// SPDX-License-Identifier: Apache-2.0

// Package attest is how a gateway comes to know a box: both halves of enrolment by credential activation, and both halves of a
// quote that is bound to one connection. What the box makes and what the gateway checks stand side by side, so that a round trip
// is one test.
//
//	enrolment                                           attestation
//	box      NewEnrolment -> EnrolRequest               box      Make  -> Evidence
//	gateway  Challenge    -> EnrolChallenge             gateway  Check -> Facts, or a Reason
//	box      Answer       -> EnrolAnswer
//	gateway  Enrolment.Check
//
// The gateway's half is pure Go over bytes it takes from anyone; it needs no TPM and no C.
package attest

import (
	"crypto/sha256"
	"fmt"

	"sdbox/firmware/eventlog"
	"sdbox/internal/tpm"
	"sdbox/internal/wire"
)

// maxLog is the longest event log of an evidence, in bytes: the rest of the message needs less than 2 KiB.
const maxLog = 60 << 10

// sizes of what a binding is made of, in bytes.
const (
	nonceSize    = 32
	exporterSize = 32
	hashSize     = sha256.Size
)

// Registers returns the registers every quote covers, in rising order: those of the firmware and boot (0-7), of what a boot
// loader, the kernel's inputs and the image's sections add (8, 9, 11), of what anyone may slip in beside the image (12, 13) and of a
// shim (14). A list without 9, 12 and 13 misses files on the unsigned boot partition.
func Registers() []uint8 { return []uint8{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14} }

// EKHash is the name under which a machine is registered: SHA-256 over its endorsement key's SubjectPublicKeyInfo. ekPublic is a
// TPMT_PUBLIC, from anyone.
func EKHash(ekPublic []byte) ([32]byte, error) { return tpm.EKHash(ekPublic) }

// Binding is what a quote is for, and for nothing else.
type Binding struct {
	Nonce       []byte   // 32 bytes of the gateway, used once
	DeviceSPKI  []byte   // SubjectPublicKeyInfo of the device key: the client end of the connection
	GatewaySPKI []byte   // SubjectPublicKeyInfo of the gateway's certificate: the server end
	TunnelKey   wire.Key // X25519, the box's
	Exporter    []byte   // 32 bytes exported from the TLS connection, label wire.ExporterLabel
}

// Digest is the quote's qualifying data: SHA-256 over the deterministic CBOR of wire.AttestationBinding.
func (b Binding) Digest() ([32]byte, error) {
	if len(b.Nonce) != nonceSize || len(b.Exporter) != exporterSize {
		return [32]byte{}, fmt.Errorf("binding: nonce of %d bytes and exporter of %d, want %d and %d", len(b.Nonce), len(b.Exporter), nonceSize, exporterSize)
	}
	if len(b.DeviceSPKI) == 0 || len(b.GatewaySPKI) == 0 {
		return [32]byte{}, fmt.Errorf("binding: the key of an end is missing")
	}
	device, gateway := sha256.Sum256(b.DeviceSPKI), sha256.Sum256(b.GatewaySPKI)
	digest, err := wire.Digest(wire.AttestationBinding{
		Context:   wire.AttestContext,
		Nonce:     b.Nonce,
		Device:    device[:],
		Gateway:   gateway[:],
		TunnelKey: b.TunnelKey,
		Exporter:  b.Exporter,
	})
	if err != nil {
		return [32]byte{}, fmt.Errorf("binding: %w", err)
	}
	return digest, nil
}

// Make has the TPM quote its registers for one connection. b.DeviceSPKI may be left empty: it is the TPM's own device key.
// previous is the SHA-256 of the attestation result this evidence follows, empty at boot. log is what this boot measured; nil where
// the machine kept none.
func Make(t *tpm.TPM, b Binding, previous []byte, log *eventlog.Log) (*wire.Evidence, error) {
	device, err := t.DevicePublic()
	if err != nil {
		return nil, fmt.Errorf("make evidence: %w", err)
	}
	b.DeviceSPKI = device.SPKI
	digest, err := b.Digest()
	if err != nil {
		return nil, fmt.Errorf("make evidence: %w", err)
	}
	quote, err := t.Quote(Registers(), digest)
	if err != nil {
		return nil, fmt.Errorf("make evidence: %w", err)
	}
	ev := &wire.Evidence{
		Quote:     quote.Attest,
		Signature: quote.Signature,
		PCRs:      make([]wire.PCR, len(quote.PCRs)),
		AKPublic:  quote.AK.Raw,
		TunnelKey: b.TunnelKey,
		Previous:  previous,
	}
	if log != nil {
		if ev.Log = log.Encode(); len(ev.Log) > maxLog {
			return nil, fmt.Errorf("make evidence: event log of %d bytes, limit %d", len(ev.Log), maxLog)
		}
	}
	for i, p := range quote.PCRs {
		ev.PCRs[i] = wire.PCR{Index: p.Index, Digest: p.Digest[:]}
	}
	return ev, nil
}

// SPDX-License-Identifier: Apache-2.0

package attest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/big"

	"sdbox/firmware/eventlog"
	"sdbox/internal/tpm"
	"sdbox/internal/wire"

	"github.com/google/go-tpm/tpm2"
)

// Limits of what a box sends, ours, in bytes. Seen: quote 145, certify 173, signature 72.
const (
	maxAttest    = 1024
	maxSignature = 256
)

// lastOfFirmware is the last register that the firmware extends for itself (TCG PFP 1.05, 3.3.4).
const lastOfFirmware = 7

// Expectations are what the gateway knows by itself of the connection the evidence came over, and of the box.
type Expectations struct {
	Nonce       []byte
	DeviceSPKI  []byte   // of the TLS client certificate
	GatewaySPKI []byte   // of the gateway's own certificate
	TunnelKey   wire.Key // zero at boot, when the box brings a fresh one; later the key of its lease
	Exporter    []byte   // of this TLS connection
	AKName      []byte   // of the device certificate

	// Earlier are bindings this box has used, as the gateway remembers them; may be empty. They change no verdict: they only say
	// what a quote that is not bound to this connection was made for.
	Earlier []Binding
}

func (w Expectations) binding(tunnel wire.Key) Binding {
	return Binding{Nonce: w.Nonce, DeviceSPKI: w.DeviceSPKI, GatewaySPKI: w.GatewaySPKI, TunnelKey: tunnel, Exporter: w.Exporter}
}

// Facts are what a good quote proves. Whether the registers' values are good ones is the appraisal's to say.
type Facts struct {
	AKName       []byte
	PCRs         []wire.PCR    // exactly Registers, in order
	Log          *eventlog.Log // it gives the values of registers 0 to 7; nil if none was sent
	TunnelKey    wire.Key
	Binding      [32]byte // Binding.Digest
	ResetCount   uint32   // power cycles since the TPM was last cleared
	RestartCount uint32   // resumes since the last power cycle
	Clock        uint64   // ms the TPM has been powered
	Firmware     uint64   // the TPM's own, vendor-specific
	Previous     []byte   // SHA-256 of the attestation result it follows, as the box says; empty at boot
}

// Check verifies evidence: signed by the device certificate's attestation key, over exactly the registers asked, for exactly this
// nonce, device key, gateway, tunnel key and connection; and an event log explains them, where one was sent. Each refusal wraps its Reason. The evidence may come from anyone.
func Check(ev *wire.Evidence, want Expectations) (*Facts, error) {
	facts, err := check(ev, want)
	if err != nil {
		return nil, fmt.Errorf("check evidence: %w", err)
	}
	return facts, nil
}

func check(ev *wire.Evidence, want Expectations) (*Facts, error) {
	if n := len(ev.Previous); n != 0 && n != hashSize {
		return nil, fmt.Errorf("%w: hash of the previous result has %d bytes", Malformed, n)
	}
	ak, err := tpm.ParseAK(ev.AKPublic)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", Malformed, err)
	}
	if !bytes.Equal(ak.Name, want.AKName) {
		return nil, fmt.Errorf("%w: %x, the certificate says %x", OtherAK, ak.Name, want.AKName)
	}
	attest, err := open(ak, ev.Quote, ev.Signature, tpm2.TPMSTAttestQuote)
	if err != nil {
		return nil, err
	}
	if err := checkRegisters(attest, ev.PCRs); err != nil {
		return nil, err
	}
	log, err := checkLog(ev)
	if err != nil {
		return nil, err
	}
	binding, err := checkBinding(attest.ExtraData.Buffer, ev.TunnelKey, want)
	if err != nil {
		return nil, err
	}
	return &Facts{
		AKName:       ak.Name,
		PCRs:         ev.PCRs,
		Log:          log,
		TunnelKey:    ev.TunnelKey,
		Binding:      binding,
		ResetCount:   attest.ClockInfo.ResetCount,
		RestartCount: attest.ClockInfo.RestartCount,
		Clock:        attest.ClockInfo.Clock,
		Firmware:     attest.FirmwareVersion,
		Previous:     ev.Previous,
	}, nil
}

// open verifies a statement of an attestation key and reads it. The kind is looked at after the signature: bytes nobody vouches
// for are not parsed.
func open(ak tpm.Public, statement, signature []byte, kind tpm2.TPMST) (*tpm2.TPMSAttest, error) {
	if len(statement) > maxAttest || len(signature) > maxSignature {
		return nil, fmt.Errorf("%w: statement of %d bytes, signature of %d, limits %d and %d", Malformed, len(statement), len(signature), maxAttest, maxSignature)
	}
	if err := verify(ak.EC, statement, signature); err != nil {
		return nil, err
	}
	// TPM_GENERATED_VALUE, then the type (TPM 2.0 Part 2, 10.12.12): a restricted key signs nothing from outside that begins so.
	if len(statement) < 6 || binary.BigEndian.Uint32(statement) != uint32(tpm2.TPMGeneratedValue) {
		return nil, fmt.Errorf("%w: it was not made by a TPM", NotAQuote)
	}
	if got := tpm2.TPMST(binary.BigEndian.Uint16(statement[4:])); got != kind {
		return nil, fmt.Errorf("%w: statement of type %#x, want %#x", NotAQuote, uint16(got), uint16(kind))
	}
	attest, err := tpm2.Unmarshal[tpm2.TPMSAttest](statement)
	if err != nil {
		return nil, fmt.Errorf("%w: statement: %w", Malformed, err)
	}
	if !bytes.Equal(tpm2.Marshal(attest), statement) {
		return nil, fmt.Errorf("%w: statement: more or other bytes than its structure has", Malformed)
	}
	return attest, nil
}

func verify(key *ecdsa.PublicKey, statement, signature []byte) error {
	sig, err := tpm2.Unmarshal[tpm2.TPMTSignature](signature)
	if err != nil {
		return fmt.Errorf("%w: signature: %w", Malformed, err)
	}
	if !bytes.Equal(tpm2.Marshal(sig), signature) {
		return fmt.Errorf("%w: signature: more or other bytes than its structure has", Malformed)
	}
	if sig.SigAlg != tpm2.TPMAlgECDSA {
		return fmt.Errorf("%w: signature algorithm %#x, want ECDSA", BadSignature, uint16(sig.SigAlg))
	}
	ec, err := sig.Signature.ECDSA()
	if err != nil {
		return fmt.Errorf("%w: signature: %w", Malformed, err)
	}
	if ec.Hash != tpm2.TPMAlgSHA256 {
		return fmt.Errorf("%w: signature hash %#x, want SHA-256", BadSignature, uint16(ec.Hash))
	}
	digest := sha256.Sum256(statement)
	r, s := new(big.Int).SetBytes(ec.SignatureR.Buffer), new(big.Int).SetBytes(ec.SignatureS.Buffer)
	if !ecdsa.Verify(key, digest[:], r, s) {
		return BadSignature
	}
	return nil
}

// checkRegisters wants one bank, SHA-256, and exactly the registers asked, and the values sent to be those quoted.
func checkRegisters(attest *tpm2.TPMSAttest, values []wire.PCR) error {
	quote, err := attest.Attested.Quote()
	if err != nil {
		return fmt.Errorf("%w: %w", Malformed, err)
	}
	registers := Registers()
	var mask [3]byte
	for _, r := range registers {
		mask[r/8] |= 1 << (r % 8)
	}
	banks := quote.PCRSelect.PCRSelections
	if len(banks) != 1 || banks[0].Hash != tpm2.TPMAlgSHA256 || !bytes.Equal(banks[0].PCRSelect, mask[:]) {
		return OtherRegisters
	}
	if len(values) != len(registers) {
		return fmt.Errorf("%w: %d values for %d registers", OtherRegisters, len(values), len(registers))
	}
	quoted := make([]tpm.PCR, len(values))
	for i, v := range values {
		if v.Index != registers[i] {
			return fmt.Errorf("%w: value of register %d in place of %d", OtherRegisters, v.Index, registers[i])
		}
		if len(v.Digest) != hashSize {
			return fmt.Errorf("%w: value of register %d has %d bytes", Malformed, v.Index, len(v.Digest))
		}
		quoted[i] = tpm.PCR{Index: v.Index, Digest: [32]byte(v.Digest)}
	}
	if digest := tpm.DigestPCRs(quoted); !bytes.Equal(quote.PCRDigest.Buffer, digest[:]) {
		return OtherValues
	}
	return nil
}

// checkLog wants the log to be what made the registers that the firmware extends. Later ones may hold more than the firmware saw. The
// values sent are those quoted.
func checkLog(ev *wire.Evidence) (*eventlog.Log, error) {
	if len(ev.Log) == 0 {
		return nil, nil
	}
	if len(ev.Log) > maxLog {
		return nil, fmt.Errorf("%w: event log of %d bytes, limit %d", Malformed, len(ev.Log), maxLog)
	}
	log, err := eventlog.Parse(ev.Log)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", Malformed, err)
	}
	values := log.Replay()
	for _, p := range ev.PCRs {
		if p.Index <= lastOfFirmware && !bytes.Equal(values[p.Index][:], p.Digest) {
			return nil, fmt.Errorf("%w: register %d is %x, by the log it would be %x", OtherLog, p.Index, p.Digest, values[p.Index])
		}
	}
	return log, nil
}

func checkBinding(qualifying []byte, tunnel wire.Key, want Expectations) ([32]byte, error) {
	if tunnel == (wire.Key{}) {
		return [32]byte{}, fmt.Errorf("%w: no tunnel key", Malformed)
	}
	if want.TunnelKey != (wire.Key{}) && tunnel != want.TunnelKey {
		return [32]byte{}, fmt.Errorf("%w: the lease is for another one", OtherTunnelKey)
	}
	binding := want.binding(tunnel)
	digest, err := binding.Digest()
	if err != nil {
		return [32]byte{}, err
	}
	if bytes.Equal(qualifying, digest[:]) {
		return digest, nil
	}
	return [32]byte{}, explain(qualifying, binding, want.Earlier)
}

// explain looks for the one thing that was exchanged, among what the gateway remembers. A whole earlier quote sent again differs in
// more than one; it is called what it is, a replay.
func explain(qualifying []byte, now Binding, earlier []Binding) error {
	made := func(b Binding) bool {
		digest, err := b.Digest()
		return err == nil && bytes.Equal(qualifying, digest[:])
	}
	for _, e := range earlier {
		b := now
		if b.Nonce = e.Nonce; made(b) {
			return OtherNonce
		}
		b = now
		if b.DeviceSPKI = e.DeviceSPKI; made(b) {
			return OtherDevice
		}
		b = now
		if b.GatewaySPKI = e.GatewaySPKI; made(b) {
			return OtherGateway
		}
		b = now
		if b.TunnelKey = e.TunnelKey; made(b) {
			return OtherTunnelKey
		}
		b = now
		if b.Exporter = e.Exporter; made(b) {
			return OtherChannel
		}
		if made(e) {
			return OtherNonce
		}
	}
	return NotBound
}

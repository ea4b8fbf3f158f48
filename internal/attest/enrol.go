// SPDX-License-Identifier: Apache-2.0

package attest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/subtle"
	"fmt"

	"sdbox/internal/tpm"
	"sdbox/internal/wire"

	"github.com/google/go-tpm/tpm2"
)

// secretSize is ours: as long as the credential may be, the hash of the endorsement key's name algorithm (TPM 2.0 Part 1, 24.4).
const secretSize = 32

// NewEnrolment is the box's first word: its endorsement key and certificate, its attestation key, and its device key certified by
// the latter. It makes the device key if the TPM holds none.
func NewEnrolment(t *tpm.TPM) (*wire.EnrolRequest, error) {
	req, err := newEnrolment(t)
	if err != nil {
		return nil, fmt.Errorf("enrol: %w", err)
	}
	return req, nil
}

func newEnrolment(t *tpm.TPM) (*wire.EnrolRequest, error) {
	if err := t.EnsureDeviceKey(); err != nil {
		return nil, err
	}
	ek, err := t.EndorsementKey()
	if err != nil {
		return nil, err
	}
	certificate, err := t.EKCertificate()
	if err != nil {
		return nil, err
	}
	ak, err := t.AttestationKey()
	if err != nil {
		return nil, err
	}
	device, err := t.DevicePublic()
	if err != nil {
		return nil, err
	}
	certify, signature, err := t.CertifyDeviceKey(nil)
	if err != nil {
		return nil, err
	}
	return &wire.EnrolRequest{
		EKPublic:      ek.Raw,
		EKCertificate: certificate,
		AKPublic:      ak.Raw,
		DevicePublic:  device.Raw,
		Certify:       certify,
		CertifySig:    signature,
	}, nil
}

// Answer opens a challenge with the box's TPM. It fails if the challenge was made for another machine.
func Answer(t *tpm.TPM, c *wire.EnrolChallenge) (*wire.EnrolAnswer, error) {
	secret, err := t.ActivateCredential(c.Credential, c.Secret)
	if err != nil {
		return nil, fmt.Errorf("answer enrolment challenge: %w", err)
	}
	return &wire.EnrolAnswer{Secret: secret}, nil
}

// Enrolment is the gateway's side of one enrolment. Nothing in it is proven until Check has passed. It belongs to one connection
// and one goroutine.
type Enrolment struct {
	EKHash        [32]byte // to be found in the registry before the challenge is sent
	EKPublic      []byte
	EKCertificate []byte // unchecked, see EKRoots; may be empty
	AKName        []byte // goes into the device certificate
	AKPublic      []byte
	Device        *ecdsa.PublicKey // goes into the device certificate

	secret [secretSize]byte
	asked  bool
}

// Challenge checks that a request is whole (keys of the right kind, the device key certified by the attestation key) and makes a
// credential that only the TPM holding both endorsement and attestation key can open. The request may come from anyone.
func Challenge(req *wire.EnrolRequest) (*Enrolment, *wire.EnrolChallenge, error) {
	e, challenge, err := challenge(req)
	if err != nil {
		return nil, nil, fmt.Errorf("challenge box: %w", err)
	}
	return e, challenge, nil
}

func challenge(req *wire.EnrolRequest) (*Enrolment, *wire.EnrolChallenge, error) {
	hash, err := EKHash(req.EKPublic)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", BadEK, err)
	}
	ak, err := tpm.ParseAK(req.AKPublic)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", Malformed, err)
	}
	device, err := tpm.ParseDeviceKey(req.DevicePublic)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", NotCertified, err)
	}
	attest, err := open(ak, req.Certify, req.CertifySig, tpm2.TPMSTAttestCertify)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", NotCertified, err)
	}
	certified, err := attest.Attested.Certify()
	if err != nil || !bytes.Equal(certified.Name.Buffer, device.Name) {
		return nil, nil, fmt.Errorf("%w: the statement is about another key", NotCertified)
	}
	e := &Enrolment{
		EKHash:        hash,
		EKPublic:      req.EKPublic,
		EKCertificate: req.EKCertificate,
		AKName:        ak.Name,
		AKPublic:      ak.Raw,
		Device:        device.EC,
		asked:         true,
	}
	rand.Read(e.secret[:])
	ek, err := tpm2.Unmarshal[tpm2.TPMTPublic](req.EKPublic)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", BadEK, err)
	}
	kem, err := tpm2.ImportEncapsulationKey(ek)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", BadEK, err)
	}
	credential, secret, err := tpm2.CreateCredential(rand.Reader, kem, ak.Name, e.secret[:])
	if err != nil {
		return nil, nil, fmt.Errorf("make credential: %w", err)
	}
	return e, &wire.EnrolChallenge{Credential: credential, Secret: secret}, nil
}

// Check says whether the box opened the credential. An enrolment has one try: a second call fails whatever the answer.
func (e *Enrolment) Check(a *wire.EnrolAnswer) error {
	asked := e.asked
	e.asked = false
	if !asked || subtle.ConstantTimeCompare(a.Secret, e.secret[:]) != 1 {
		return fmt.Errorf("check enrolment answer: %w", BadCredential)
	}
	return nil
}

// SPDX-License-Identifier: Apache-2.0

package attest

import (
	"bytes"
	"encoding/pem"
	"testing"
	"time"

	"sdbox/internal/ident"
	"sdbox/internal/tpm"
	"sdbox/internal/wire"

	"github.com/google/go-tpm/tpm2"
	"github.com/stretchr/testify/require"
)

// FuzzCheck feeds evidence as it comes off the line.
func FuzzCheck(f *testing.F) {
	q := newSoftAK(f).forge(f, func(*tpm2.TPMSAttest) {})
	codec, err := wire.NewCodec()
	require.NoError(f, err)
	seed, err := codec.Encode(q.ev)
	require.NoError(f, err)
	f.Add(seed)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := codec.Decode(b, wire.FromBox)
		if err != nil {
			return
		}
		ev, isEvidence := m.(*wire.Evidence)
		if !isEvidence {
			return
		}
		if _, err := Check(ev, q.want); err != nil {
			_, found := ReasonOf(err)
			require.True(t, found, "a refusal without reason: %v", err)
		}
	})
}

// FuzzOpenStatement signs whatever comes: the parser behind the signature must hold even against a broken TPM.
func FuzzOpenStatement(f *testing.F) {
	a := newSoftAK(f)
	q := a.forge(f, func(*tpm2.TPMSAttest) {})
	f.Add(q.ev.Quote)
	f.Add(tpm2.Marshal(&tpm2.TPMSAttest{Magic: tpm2.TPMGeneratedValue, Type: tpm2.TPMSTAttestCertify,
		Attested: tpm2.NewTPMUAttest(tpm2.TPMSTAttestCertify, &tpm2.TPMSCertifyInfo{})}))
	f.Add([]byte{0xff, 0x54, 0x43, 0x47, 0x80, 0x18, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, statement []byte) {
		if len(statement) > maxAttest {
			statement = statement[:maxAttest]
		}
		signature := a.sign(t, statement, tpm2.TPMAlgECDSA, tpm2.TPMAlgSHA256)
		for _, kind := range []tpm2.TPMST{tpm2.TPMSTAttestQuote, tpm2.TPMSTAttestCertify} {
			attest, err := open(a.public, statement, signature, kind)
			if err != nil {
				continue
			}
			if kind == tpm2.TPMSTAttestQuote && checkRegisters(attest, q.ev.PCRs) == nil {
				require.True(t, bytes.HasSuffix(statement, q.ev.Quote[len(q.ev.Quote)-32:]), "it passes for other values than it is over")
			}
		}
	})
}

// FuzzSignature holds the signature parser against anyone.
func FuzzSignature(f *testing.F) {
	a := newSoftAK(f)
	statement := []byte("statement")
	f.Add(a.sign(f, statement, tpm2.TPMAlgECDSA, tpm2.TPMAlgSHA256))
	f.Add([]byte{0, 0x14, 0, 0x0b, 0xff, 0xff})
	f.Add([]byte{0, 5, 0, 0x0b})
	f.Fuzz(func(_ *testing.T, signature []byte) {
		_, _ = open(a.public, statement, signature, tpm2.TPMSTAttestQuote)
	})
}

// FuzzChallenge feeds enrolment requests as they come off the line.
func FuzzChallenge(f *testing.F) {
	m, a := newMaker(f), newSoftAK(f)
	codec, err := wire.NewCodec()
	require.NoError(f, err)
	seed, err := codec.Encode(&wire.EnrolRequest{EKPublic: m.raw, AKPublic: a.public.Raw, DevicePublic: a.public.Raw})
	require.NoError(f, err)
	f.Add(seed)
	f.Fuzz(func(t *testing.T, b []byte) {
		msg, err := codec.Decode(b, wire.FromBox)
		if err != nil {
			return
		}
		if req, isRequest := msg.(*wire.EnrolRequest); isRequest {
			e, challenge, err := Challenge(req)
			require.True(t, (err == nil) == (e != nil && challenge != nil))
		}
	})
}

// FuzzEndorsementCertificate feeds the certificate of an enrolment request.
func FuzzEndorsementCertificate(f *testing.F) {
	m := newMaker(f)
	roots, err := NewEKRoots(ident.Lab, m.roots)
	require.NoError(f, err)
	good := m.issue(f, "SLB9670", []int{2, 23, 133, 8, 1})
	f.Add(good)
	f.Add([]byte{0x30, 0})
	f.Fuzz(func(t *testing.T, der []byte) {
		if _, err := roots.Check(der, m.raw, time.Now()); err == nil {
			require.Equal(t, good, der)
		}
		_, _ = tpm.EKHash(der)
	})
}

func FuzzEKRoots(f *testing.F) {
	m := newMaker(f)
	f.Add(m.roots)
	f.Add(bytes.ReplaceAll(m.roots, []byte("CERTIFICATE"), []byte("PUBLIC KEY")))
	f.Add(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: m.issue(f, "SLB9670", []int{2, 23, 133, 8, 1})}))
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))
	f.Add(make([]byte, maxEKRoots+1))
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, domain := range []ident.Domain{ident.Lab, "sd.example.org"} {
			roots, err := NewEKRoots(domain, text)
			require.True(t, (roots == nil) == (err != nil))
		}
	})
}

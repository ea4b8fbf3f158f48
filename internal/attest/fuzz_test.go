// SPDX-License-Identifier: Apache-2.0

package attest

import (
	"bytes"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"slices"
	"testing"
	"time"

	"sdbox/firmware/eventlog"
	"sdbox/internal/ident"
	"sdbox/internal/tpm"
	"sdbox/internal/wire"

	"github.com/google/go-tpm/tpm2"
	"github.com/stretchr/testify/require"
)

// FuzzCheck feeds evidence as it comes off the line.
func FuzzCheck(f *testing.F) {
	a := newSoftAK(f)
	q := a.forge(f, func(*tpm2.TPMSAttest) {})
	earlier := a.forge(f, func(*tpm2.TPMSAttest) {}).binding()
	q.want.Earlier = []Binding{earlier}
	codec, err := wire.NewCodec()
	require.NoError(f, err)
	add := func(change func(*wire.Evidence)) {
		ev := *q.ev
		ev.PCRs = slices.Clone(ev.PCRs)
		change(&ev)
		seed, err := codec.Encode(&ev)
		require.NoError(f, err)
		f.Add(seed)
	}
	for _, change := range []func(*wire.Evidence){
		func(*wire.Evidence) {},
		func(ev *wire.Evidence) { ev.Previous = []byte{1} },
		func(ev *wire.Evidence) { ev.AKPublic = ev.AKPublic[1:] },
		func(ev *wire.Evidence) { ev.AKPublic = newSoftAK(f).public.Raw },
		func(ev *wire.Evidence) { ev.Quote = []byte("no quote") },
		func(ev *wire.Evidence) { ev.TunnelKey = wire.Key{} },
		func(ev *wire.Evidence) { ev.Log = []byte("no log") },
		func(ev *wire.Evidence) { ev.Log = (&eventlog.Log{Events: []eventlog.Event{{PCR: 0}}}).Encode() },
		func(ev *wire.Evidence) { ev.Log = make([]byte, maxLog+1) },
		func(ev *wire.Evidence) { ev.PCRs = ev.PCRs[1:] },
		func(ev *wire.Evidence) { ev.PCRs[3].Index = 20 },
		func(ev *wire.Evidence) { ev.PCRs[3].Digest = []byte{1} },
		func(ev *wire.Evidence) { ev.PCRs[3].Digest = bytes.Repeat([]byte{1}, 32) },
	} {
		add(change)
	}
	// Signed by the right key, and for another moment, machine, gateway, tunnel or connection.
	for _, change := range []func(*Binding){
		func(b *Binding) { b.Nonce = earlier.Nonce },
		func(b *Binding) { b.DeviceSPKI = earlier.DeviceSPKI },
		func(b *Binding) { b.GatewaySPKI = earlier.GatewaySPKI },
		func(b *Binding) { b.TunnelKey = earlier.TunnelKey },
		func(b *Binding) { b.Exporter = earlier.Exporter },
		func(b *Binding) { *b = earlier },
		func(b *Binding) { b.Nonce = random(f) },
	} {
		b := q.binding()
		change(&b)
		digest, err := b.Digest()
		require.NoError(f, err)
		signed := a.forge(f, func(s *tpm2.TPMSAttest) { s.ExtraData.Buffer = digest[:] })
		add(func(ev *wire.Evidence) { ev.Quote, ev.Signature = signed.ev.Quote, signed.ev.Signature })
	}
	for _, change := range []func(*tpm2.TPMSAttest){
		func(s *tpm2.TPMSAttest) { s.Magic = 1 },
		func(s *tpm2.TPMSAttest) {
			s.Attested = tpm2.NewTPMUAttest(tpm2.TPMSTAttestQuote, &tpm2.TPMSQuoteInfo{})
		},
	} {
		signed := a.forge(f, change)
		add(func(ev *wire.Evidence) { ev.Quote, ev.Signature = signed.ev.Quote, signed.ev.Signature })
	}
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
	f.Add(append(bytes.Clone(q.ev.Quote), 0))
	f.Add([]byte("no statement"))
	f.Add(make([]byte, maxAttest+1))
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
	f.Add([]byte{0, 0x10})
	f.Add(a.sign(f, statement, tpm2.TPMAlgECDSA, tpm2.TPMAlgSHA1))
	f.Add(a.sign(f, []byte("another"), tpm2.TPMAlgECDSA, tpm2.TPMAlgSHA256))
	f.Add(append(a.sign(f, statement, tpm2.TPMAlgECDSA, tpm2.TPMAlgSHA256), 0))
	f.Fuzz(func(_ *testing.T, signature []byte) {
		_, _ = open(a.public, statement, signature, tpm2.TPMSTAttestQuote)
	})
}

// FuzzChallenge feeds enrolment requests as they come off the line.
func FuzzChallenge(f *testing.F) {
	m, a, b := newMaker(f), newSoftAK(f), newBox(f)
	good, err := NewEnrolment(b.tpm)
	require.NoError(f, err)
	quote := b.quote(f).ev
	codec, err := wire.NewCodec()
	require.NoError(f, err)
	for _, change := range []func(*wire.EnrolRequest){
		func(*wire.EnrolRequest) {},
		func(r *wire.EnrolRequest) { r.EKPublic, r.EKCertificate = m.raw, nil },
		func(r *wire.EnrolRequest) { r.EKPublic = r.AKPublic },
		func(r *wire.EnrolRequest) { r.AKPublic = r.DevicePublic },
		func(r *wire.EnrolRequest) { r.AKPublic = a.public.Raw },
		func(r *wire.EnrolRequest) { r.DevicePublic = r.AKPublic },
		func(r *wire.EnrolRequest) { r.Certify, r.CertifySig = quote.Quote, quote.Signature },
		func(r *wire.EnrolRequest) { *r = wire.EnrolRequest{} },
	} {
		req := *good
		change(&req)
		seed, err := codec.Encode(&req)
		require.NoError(f, err)
		f.Add(seed)
	}
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
	roots, err := NewEKRoots("sd.example.org", m.roots)
	require.NoError(f, err)
	use := asn1.ObjectIdentifier{2, 23, 133, 8, 1}
	good := m.issue(f, "SLB9670", use)
	f.Add(good)
	f.Add([]byte{0x30, 0})
	f.Add([]byte{})
	f.Add(m.issue(f, "swtpm", use))
	f.Add(m.issue(f, "", use))
	f.Add(m.issue(f, "SLB9670", asn1.ObjectIdentifier{2, 23, 133, 8, 3}))
	f.Add(m.issue(f, "SLB9670", use, pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}}))
	f.Add(newMaker(f).issue(f, "SLB9670", use))
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

// SPDX-License-Identifier: Apache-2.0

package attest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"testing"
	"time"

	"sdbox/internal/ident"
	"sdbox/internal/wire"

	"github.com/google/go-tpm/tpm2"
	"github.com/stretchr/testify/require"
)

func TestOnlyTheChallengedMachineOpensItsCredential(t *testing.T) {
	b, other := newBox(t), newBox(t)
	req, err := NewEnrolment(b.tpm)
	require.NoError(t, err)
	theirs, err := NewEnrolment(other.tpm)
	require.NoError(t, err)

	_, challenge, err := Challenge(req)
	require.NoError(t, err)
	_, err = Answer(other.tpm, challenge)
	require.Error(t, err, "another machine")

	// A box that claims another's endorsement key, to get into the registry under its name.
	liar := *theirs
	liar.EKPublic, liar.EKCertificate = req.EKPublic, req.EKCertificate
	e, challenge, err := Challenge(&liar)
	require.NoError(t, err, "it is not known yet that it lies")
	require.Equal(t, b.sim.EKHash(), e.EKHash)
	_, err = Answer(other.tpm, challenge)
	require.Error(t, err)
	_, err = Answer(b.tpm, challenge)
	require.Error(t, err, "nor does the true machine open it for a stranger's attestation key")
	for _, guess := range [][]byte{nil, make([]byte, 32), make([]byte, 31)} {
		e.asked = true
		requireReason(t, BadCredential, e.Check(&wire.EnrolAnswer{Secret: guess}), "a guess")
	}

	e, challenge, err = Challenge(req)
	require.NoError(t, err)
	answer, err := Answer(b.tpm, challenge)
	require.NoError(t, err)
	requireReason(t, BadCredential, e.Check(&wire.EnrolAnswer{Secret: bytes.Repeat([]byte{1}, 32)}), "wrong")
	requireReason(t, BadCredential, e.Check(answer), "right, but there is one try")
}

func TestEnrolmentOfKeysOutsideTheMachineIsRefused(t *testing.T) {
	b, other := newBox(t), newBox(t)
	good, err := NewEnrolment(b.tpm)
	require.NoError(t, err)
	theirs, err := NewEnrolment(other.tpm)
	require.NoError(t, err)
	q := b.quote(t)
	soft := newSoftAK(t)
	for name, c := range map[string]struct {
		reason Reason
		change func(*wire.EnrolRequest)
	}{
		"another machine's device key": {NotCertified, func(r *wire.EnrolRequest) { r.DevicePublic = theirs.DevicePublic }},
		"certified elsewhere": {NotCertified, func(r *wire.EnrolRequest) {
			r.DevicePublic, r.Certify, r.CertifySig = theirs.DevicePublic, theirs.Certify, theirs.CertifySig
		}},
		"another attestation key":     {NotCertified, func(r *wire.EnrolRequest) { r.AKPublic = theirs.AKPublic }},
		"attestation key in software": {NotCertified, func(r *wire.EnrolRequest) { r.AKPublic = soft.public.Raw }},
		"device key as AK":            {Malformed, func(r *wire.EnrolRequest) { r.AKPublic = r.DevicePublic }},
		"AK as device key":            {NotCertified, func(r *wire.EnrolRequest) { r.DevicePublic = r.AKPublic }},
		"a quote for a certificate":   {NotCertified, func(r *wire.EnrolRequest) { r.Certify, r.CertifySig = q.ev.Quote, q.ev.Signature }},
		"AK as endorsement key":       {BadEK, func(r *wire.EnrolRequest) { r.EKPublic = r.AKPublic }},
		"no endorsement key":          {BadEK, func(r *wire.EnrolRequest) { r.EKPublic = nil }},
		"cut endorsement key":         {BadEK, func(r *wire.EnrolRequest) { r.EKPublic = r.EKPublic[:100] }},
		"nothing":                     {BadEK, func(r *wire.EnrolRequest) { *r = wire.EnrolRequest{} }},
	} {
		req := *good
		c.change(&req)
		_, _, err := Challenge(&req)
		requireReason(t, c.reason, err, name)
	}
}

func TestEndorsementCertificateIsItsMakersForThisKey(t *testing.T) {
	b, other := newBox(t), newBox(t)
	req, err := NewEnrolment(b.tpm)
	require.NoError(t, err)
	theirs, err := NewEnrolment(other.tpm)
	require.NoError(t, err)
	roots, err := NewEKRoots(ident.Lab, b.sim.EKRoots())
	require.NoError(t, err)
	_, err = roots.Check(req.EKCertificate, req.EKPublic, time.Now())
	require.NoError(t, err)
	for name, c := range map[string]struct {
		reason                Reason
		certificate, ekPublic []byte
		now                   time.Time
	}{
		"another machine's certificate": {BadEKCert, theirs.EKCertificate, req.EKPublic, time.Now()},
		"another maker":                 {BadEKCert, theirs.EKCertificate, theirs.EKPublic, time.Now()},
		"before its time":               {BadEKCert, req.EKCertificate, req.EKPublic, time.Now().AddDate(-1, 0, 0)},
		"none":                          {BadEKCert, nil, req.EKPublic, time.Now()},
		"too long":                      {BadEKCert, make([]byte, maxEKCert+1), req.EKPublic, time.Now()},
		"cut":                           {BadEKCert, req.EKCertificate[:200], req.EKPublic, time.Now()},
		"another kind of key":           {BadEK, req.EKCertificate, req.AKPublic, time.Now()},
	} {
		_, err := roots.Check(c.certificate, c.ekPublic, c.now)
		requireReason(t, c.reason, err, name)
	}
	flipped := bytes.Clone(req.EKCertificate)
	flipped[len(flipped)-1] ^= 1
	_, err = roots.Check(flipped, req.EKPublic, time.Now())
	requireReason(t, BadEKCert, err, "flipped signature")

	_, err = NewEKRoots("sd.example.org", b.sim.EKRoots())
	requireReason(t, SimulatedTPM, err, "the simulator's maker outside the lab")
	for _, bad := range [][]byte{nil, []byte("x"), make([]byte, maxEKRoots+1), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte{1}}),
		bytes.Replace(b.sim.EKRoots(), []byte("CERTIFICATE"), []byte("PUBLIC KEY."), 2)} {
		_, err := NewEKRoots(ident.Lab, bad)
		require.Error(t, err)
	}
}

// maker is a TPM manufacturer in software, to make the certificates no maker makes.
type maker struct {
	key   *ecdsa.PrivateKey
	cert  *x509.Certificate
	roots []byte
	ek    *rsa.PrivateKey
	raw   []byte // TPMT_PUBLIC
}

func newMaker(t testing.TB) *maker {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Maker"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	ek, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	public := tpm2.RSAEKTemplate
	public.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: ek.N.Bytes()})
	return &maker{key: key, cert: cert, ek: ek, raw: tpm2.Marshal(&public), roots: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

func (m *maker) issue(t testing.TB, model string, use asn1.ObjectIdentifier, extra ...pkix.Extension) []byte {
	t.Helper()
	rdn, err := asn1.Marshal(pkix.RDNSequence{
		{{Type: asn1.ObjectIdentifier{2, 23, 133, 2, 1}, Value: "id:494E5443"}},
		{{Type: asn1.ObjectIdentifier{2, 23, 133, 2, 2}, Value: model}},
		{{Type: asn1.ObjectIdentifier{2, 23, 133, 2, 3}, Value: "id:0001"}},
	})
	require.NoError(t, err)
	san, err := asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: 4, IsCompound: true, Bytes: rdn}})
	require.NoError(t, err)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		UnknownExtKeyUsage: []asn1.ObjectIdentifier{use},
		ExtraExtensions:    append([]pkix.Extension{{Id: oidSAN(), Critical: true, Value: san}}, extra...),
	}, m.cert, m.ek.Public(), m.key)
	require.NoError(t, err)
	return der
}

func TestEndorsementCertificateIsForgivenItsNameOnly(t *testing.T) {
	m := newMaker(t)
	roots, err := NewEKRoots("sd.example.org", m.roots)
	require.NoError(t, err)
	use := asn1.ObjectIdentifier{2, 23, 133, 8, 1}
	model, err := roots.Check(m.issue(t, "SLB9670", use), m.raw, time.Now())
	require.NoError(t, err)
	require.Equal(t, Model{Manufacturer: "id:494E5443", Model: "SLB9670", Version: "id:0001"}, model)

	_, err = roots.Check(m.issue(t, "swtpm", use), m.raw, time.Now())
	requireReason(t, SimulatedTPM, err, "a simulated TPM under a trusted root")
	_, err = roots.Check(m.issue(t, "SLB9670", asn1.ObjectIdentifier{2, 23, 133, 8, 3}), m.raw, time.Now())
	requireReason(t, BadEKCert, err, "another use")
	_, err = roots.Check(m.issue(t, "SLB9670", use, pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}}), m.raw, time.Now())
	requireReason(t, BadEKCert, err, "another critical extension")
	_, err = roots.Check(m.issue(t, "", use), m.raw, time.Now())
	requireReason(t, BadEKCert, err, "no model")
}

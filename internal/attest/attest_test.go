// SPDX-License-Identifier: Apache-2.0

package attest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"path/filepath"
	"testing"
	"time"

	"sdbox/firmware/eventlog"
	"sdbox/internal/ident"
	"sdbox/internal/tpm"
	"sdbox/internal/tpm/tpmsim"
	"sdbox/internal/wire"

	"github.com/google/go-tpm/tpm2"
	"github.com/stretchr/testify/require"
)

// box is a simulated machine that went through the recorded boot.
type box struct {
	sim *tpmsim.Sim
	tpm *tpm.TPM
	log *eventlog.Log
}

func newBox(t testing.TB) *box {
	t.Helper()
	dir := t.TempDir()
	socket := filepath.Join(dir, "s")
	sim, err := tpmsim.Start(t.Context(), tpmsim.Config{Dir: dir, Socket: socket})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, sim.Stop()) })
	boot, err := tpmsim.RecordedBoot()
	require.NoError(t, err)
	require.NoError(t, tpmsim.Boot(socket, boot))
	dev, err := tpm.Open(sim.Spec())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, dev.Close()) })
	return &box{sim: sim, tpm: dev, log: boot}
}

// gateway is a software key and the authority that certifies it and the boxes.
type gateway struct {
	ca   *x509.Certificate
	key  *ecdsa.PrivateKey
	cert tls.Certificate
	spki []byte
}

func newGateway(t testing.TB) *gateway {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	g := &gateway{key: key}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "gw1.lab"}, DNSNames: []string{"gw1.lab"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	g.ca, err = x509.ParseCertificate(der)
	require.NoError(t, err)
	g.cert = tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	g.spki = g.ca.RawSubjectPublicKeyInfo
	return g
}

func (g *gateway) certify(t testing.TB, e *Enrolment) []byte {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "box"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, g.ca, e.Device, g.key)
	require.NoError(t, err)
	return der
}

// carry takes a message over the wire: within its limits, and nothing of it lost.
func carry[M wire.Message](t testing.TB, from wire.Origin, m M) M {
	t.Helper()
	codec, err := wire.NewCodec()
	require.NoError(t, err)
	b, err := codec.Encode(m)
	require.NoError(t, err)
	out, err := codec.Decode(b, from)
	require.NoError(t, err)
	return out.(M)
}

func (b *box) enrol(t testing.TB, g *gateway) *Enrolment {
	t.Helper()
	req, err := NewEnrolment(b.tpm)
	require.NoError(t, err)
	e, challenge, err := Challenge(carry(t, wire.FromBox, req))
	require.NoError(t, err)
	require.Equal(t, b.sim.EKHash(), e.EKHash)
	answer, err := Answer(b.tpm, carry(t, wire.FromGateway, challenge))
	require.NoError(t, err)
	require.NoError(t, e.Check(carry(t, wire.FromBox, answer)))
	require.NoError(t, b.tpm.StoreCertificate(g.certify(t, e)))
	return e
}

// connect is a mutual TLS 1.3 connection in memory: the two ends' views of it.
func connect(t testing.TB, b *box, g *gateway) (boxEnd, gatewayEnd tls.ConnectionState) {
	t.Helper()
	key, err := b.tpm.DeviceKey()
	require.NoError(t, err)
	der, err := b.tpm.Certificate()
	require.NoError(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(g.ca)
	near, far := net.Pipe()
	for _, end := range []net.Conn{near, far} {
		require.NoError(t, end.SetDeadline(time.Now().Add(20*time.Second)))
		defer end.Close()
	}
	client := tls.Client(near, &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool, ServerName: "gw1.lab",
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}})
	server := tls.Server(far, &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{g.cert}, ClientCAs: pool,
		ClientAuth: tls.RequireAndVerifyClientCert, SessionTicketsDisabled: true})
	served := make(chan error, 1)
	go func() { served <- server.HandshakeContext(t.Context()) }()
	require.NoError(t, client.HandshakeContext(t.Context()))
	require.NoError(t, <-served)
	return client.ConnectionState(), server.ConnectionState()
}

func random(t testing.TB) []byte {
	t.Helper()
	b := make([]byte, 32)
	_, err := rand.Read(b)
	require.NoError(t, err)
	return b
}

// TestBoxEnrolsAndAttestsOverItsConnection is the whole of the package between a TPM and a gateway that share nothing else.
func TestBoxEnrolsAndAttestsOverItsConnection(t *testing.T) {
	b, g := newBox(t), newGateway(t)
	e := b.enrol(t, g)
	roots, err := NewEKRoots(ident.Lab, b.sim.EKRoots())
	require.NoError(t, err)
	model, err := roots.Check(e.EKCertificate, e.EKPublic, time.Now())
	require.NoError(t, err)
	require.Equal(t, Model{Manufacturer: "id:00001014", Model: "swtpm", Version: "id:20191023"}, model)

	boxEnd, gatewayEnd := connect(t, b, g)
	nonce, tunnel, previous := random(t), wire.Key(random(t)), random(t)
	exported, err := boxEnd.ExportKeyingMaterial(wire.ExporterLabel, nil, 32)
	require.NoError(t, err)
	ev, err := Make(b.tpm, Binding{Nonce: nonce, GatewaySPKI: boxEnd.PeerCertificates[0].RawSubjectPublicKeyInfo, TunnelKey: tunnel, Exporter: exported}, previous, b.log)
	require.NoError(t, err)

	exported, err = gatewayEnd.ExportKeyingMaterial(wire.ExporterLabel, nil, 32)
	require.NoError(t, err)
	facts, err := Check(carry(t, wire.FromBox, ev), Expectations{
		Nonce: nonce, DeviceSPKI: gatewayEnd.PeerCertificates[0].RawSubjectPublicKeyInfo, GatewaySPKI: g.spki, Exporter: exported, AKName: e.AKName,
	})
	require.NoError(t, err)
	require.Equal(t, tunnel, facts.TunnelKey)
	require.Equal(t, previous, facts.Previous)
	require.Equal(t, e.AKName, facts.AKName)
	require.Equal(t, b.log, facts.Log)
	predicted := b.log.Replay()
	require.Len(t, facts.PCRs, len(Registers()))
	for _, p := range facts.PCRs {
		want := predicted[p.Index]
		require.Equal(t, want[:], p.Digest, "register %d", p.Index)
	}
}

// quoted is evidence, and all a gateway knows about it.
type quoted struct {
	ev   *wire.Evidence
	want Expectations
}

func (q quoted) binding() Binding { return q.want.binding(q.ev.TunnelKey) }

func (b *box) quote(t testing.TB) quoted {
	t.Helper()
	require.NoError(t, b.tpm.EnsureDeviceKey())
	device, err := b.tpm.DevicePublic()
	require.NoError(t, err)
	ak, err := b.tpm.AttestationKey()
	require.NoError(t, err)
	want := Expectations{Nonce: random(t), DeviceSPKI: device.SPKI, GatewaySPKI: newGateway(t).spki, Exporter: random(t), AKName: ak.Name}
	ev, err := Make(b.tpm, want.binding(wire.Key(random(t))), nil, b.log)
	require.NoError(t, err)
	_, err = Check(ev, want)
	require.NoError(t, err)
	return quoted{ev: ev, want: want}
}

func requireReason(t testing.TB, want Reason, err error, about string) {
	t.Helper()
	got, found := ReasonOf(err)
	require.True(t, found, "%s: %v", about, err)
	require.Equal(t, want, got, "%s: %v", about, err)
}

func TestQuoteMadeForAnythingElseIsRefusedAndNamed(t *testing.T) {
	b := newBox(t)
	q := b.quote(t)
	made := q.binding()
	earlierQuote := b.quote(t)
	for name, c := range map[string]struct {
		reason Reason
		change func(ev *wire.Evidence, want *Expectations)
	}{
		"foreign nonce":  {NotBound, func(_ *wire.Evidence, want *Expectations) { want.Nonce = random(t) }},
		"replayed nonce": {OtherNonce, func(_ *wire.Evidence, want *Expectations) { want.Nonce, want.Earlier = random(t), []Binding{made} }},
		"replayed on another line": {OtherNonce, func(_ *wire.Evidence, want *Expectations) {
			want.Nonce, want.Exporter, want.Earlier = random(t), random(t), []Binding{made}
		}},
		"whole evidence replayed": {OtherNonce, func(ev *wire.Evidence, want *Expectations) {
			*ev, want.Earlier = *earlierQuote.ev, []Binding{made, earlierQuote.binding()}
		}},
		"other device key": {OtherDevice, func(_ *wire.Evidence, want *Expectations) { want.DeviceSPKI, want.Earlier = random(t), []Binding{made} }},
		"other gateway": {OtherGateway, func(_ *wire.Evidence, want *Expectations) {
			want.GatewaySPKI, want.Earlier = random(t), []Binding{made}
		}},
		"other channel": {OtherChannel, func(_ *wire.Evidence, want *Expectations) { want.Exporter, want.Earlier = random(t), []Binding{made} }},
		"tunnel key exchanged": {OtherTunnelKey, func(ev *wire.Evidence, want *Expectations) {
			ev.TunnelKey, want.Earlier = wire.Key(random(t)), []Binding{made}
		}},
		"tunnel key nobody knows":   {NotBound, func(ev *wire.Evidence, _ *Expectations) { ev.TunnelKey = wire.Key(random(t)) }},
		"not the lease's tunnel":    {OtherTunnelKey, func(_ *wire.Evidence, want *Expectations) { want.TunnelKey = wire.Key(random(t)) }},
		"no tunnel key":             {Malformed, func(ev *wire.Evidence, _ *Expectations) { ev.TunnelKey = wire.Key{} }},
		"hash of previous too long": {Malformed, func(ev *wire.Evidence, _ *Expectations) { ev.Previous = make([]byte, 33) }},
	} {
		ev, want := *q.ev, q.want
		c.change(&ev, &want)
		_, err := Check(&ev, want)
		requireReason(t, c.reason, err, name)
	}
	for _, bad := range []Binding{{}, {Nonce: make([]byte, 31), Exporter: make([]byte, 32), DeviceSPKI: []byte{1}, GatewaySPKI: []byte{1}}, {Nonce: make([]byte, 32), Exporter: make([]byte, 32)}} {
		_, err := bad.Digest()
		require.Error(t, err)
	}
}

func TestQuoteOfAnotherMachineIsRefused(t *testing.T) {
	b, other := newBox(t), newBox(t)
	q, foreign := b.quote(t), other.quote(t)
	_, err := Check(foreign.ev, q.want)
	requireReason(t, OtherAK, err, "another machine's attestation key")

	ev := *q.ev
	ev.Quote, ev.Signature = foreign.ev.Quote, foreign.ev.Signature
	_, err = Check(&ev, q.want)
	requireReason(t, BadSignature, err, "another machine's quote under our key's name")

	lying := q.want
	lying.AKName = foreign.want.AKName
	_, err = Check(q.ev, lying)
	requireReason(t, OtherAK, err, "a certificate that names another attestation key")
}

func TestRegistersAreExactlyThoseAskedAndQuoted(t *testing.T) {
	b := newBox(t)
	q := b.quote(t)
	digest, err := q.binding().Digest()
	require.NoError(t, err)
	without := append([]uint8{}, Registers()[:12]...)
	fewer, err := b.tpm.Quote(without, digest)
	require.NoError(t, err)
	more, err := b.tpm.Quote(append(Registers(), 15), digest)
	require.NoError(t, err)
	certify, signature, err := b.tpm.CertifyDeviceKey(digest[:])
	require.NoError(t, err)
	for name, c := range map[string]struct {
		reason Reason
		change func(ev *wire.Evidence)
	}{
		"two registers left out": {OtherRegisters, func(ev *wire.Evidence) { ev.Quote, ev.Signature, ev.PCRs = fewer.Attest, fewer.Signature, ev.PCRs[:12] }},
		"left out, values sent":  {OtherRegisters, func(ev *wire.Evidence) { ev.Quote, ev.Signature = fewer.Attest, fewer.Signature }},
		"one more":               {OtherRegisters, func(ev *wire.Evidence) { ev.Quote, ev.Signature = more.Attest, more.Signature }},
		"a value missing":        {OtherRegisters, func(ev *wire.Evidence) { ev.PCRs = ev.PCRs[:13] }},
		"two values exchanged":   {OtherRegisters, func(ev *wire.Evidence) { ev.PCRs[2], ev.PCRs[4] = ev.PCRs[4], ev.PCRs[2] }},
		"a register twice":       {OtherRegisters, func(ev *wire.Evidence) { ev.PCRs[5] = ev.PCRs[4] }},
		"a value changed":        {OtherValues, func(ev *wire.Evidence) { ev.PCRs[9].Digest = make([]byte, 32) }},
		"a short value":          {Malformed, func(ev *wire.Evidence) { ev.PCRs[9].Digest = ev.PCRs[9].Digest[:31] }},
		"no values":              {OtherRegisters, func(ev *wire.Evidence) { ev.PCRs = nil }},
		"another statement":      {NotAQuote, func(ev *wire.Evidence) { ev.Quote, ev.Signature = certify, signature }},
	} {
		ev := *q.ev
		ev.PCRs = append([]wire.PCR{}, q.ev.PCRs...)
		c.change(&ev)
		_, err := Check(&ev, q.want)
		requireReason(t, c.reason, err, name)
	}
}

func TestEveryBitOfQuoteAndSignatureCounts(t *testing.T) {
	q := newBox(t).quote(t)
	for _, part := range []func(*wire.Evidence) *[]byte{
		func(ev *wire.Evidence) *[]byte { return &ev.Quote },
		func(ev *wire.Evidence) *[]byte { return &ev.Signature },
		func(ev *wire.Evidence) *[]byte { return &ev.AKPublic },
	} {
		whole := *part(q.ev)
		for at := range whole {
			for _, bad := range [][]byte{append(append(bytes.Clone(whole[:at]), whole[at]^1), whole[at+1:]...), whole[:at]} {
				ev := *q.ev
				*part(&ev) = bad
				_, err := Check(&ev, q.want)
				require.Error(t, err, "byte %d", at)
				_, found := ReasonOf(err)
				require.True(t, found)
			}
		}
		ev := *q.ev
		*part(&ev) = append(bytes.Clone(whole), 0)
		_, err := Check(&ev, q.want)
		require.Error(t, err, "a trailing byte")
	}
}

// softAK is an attestation key outside any TPM: it signs whatever it is asked to, as no TPM does.
type softAK struct {
	key    *ecdsa.PrivateKey
	public tpm.Public
}

func newSoftAK(t testing.TB) *softAK {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	sec1, err := key.PublicKey.Bytes()
	require.NoError(t, err)
	raw := tpm2.Marshal(&tpm2.TPMTPublic{
		Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, NoDA: true, Restricted: true, SignEncrypt: true},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			Scheme: tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgECDSA,
				Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256})},
			CurveID: tpm2.TPMECCNistP256,
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{X: tpm2.TPM2BECCParameter{Buffer: sec1[1:33]}, Y: tpm2.TPM2BECCParameter{Buffer: sec1[33:]}}),
	})
	public, err := tpm.ParseAK(raw)
	require.NoError(t, err)
	return &softAK{key: key, public: public}
}

func (a *softAK) sign(t testing.TB, statement []byte, alg, hash tpm2.TPMAlgID) []byte {
	t.Helper()
	digest := sha256.Sum256(statement)
	r, s, err := ecdsa.Sign(rand.Reader, a.key, digest[:])
	require.NoError(t, err)
	return tpm2.Marshal(&tpm2.TPMTSignature{SigAlg: alg, Signature: tpm2.NewTPMUSignature(alg, &tpm2.TPMSSignatureECC{
		Hash: hash, SignatureR: tpm2.TPM2BECCParameter{Buffer: r.Bytes()}, SignatureS: tpm2.TPM2BECCParameter{Buffer: s.Bytes()},
	})})
}

// forge makes evidence that is good but for the changes.
func (a *softAK) forge(t testing.TB, change func(*tpm2.TPMSAttest)) quoted {
	t.Helper()
	q := quoted{
		want: Expectations{Nonce: random(t), DeviceSPKI: random(t), GatewaySPKI: random(t), Exporter: random(t), AKName: a.public.Name},
		ev:   &wire.Evidence{AKPublic: a.public.Raw, TunnelKey: wire.Key(random(t))},
	}
	values := make([]tpm.PCR, len(Registers()))
	for i, r := range Registers() {
		values[i] = tpm.PCR{Index: r}
		q.ev.PCRs = append(q.ev.PCRs, wire.PCR{Index: r, Digest: make([]byte, 32)})
	}
	binding, err := q.binding().Digest()
	require.NoError(t, err)
	digest := tpm.DigestPCRs(values)
	statement := &tpm2.TPMSAttest{
		Magic: tpm2.TPMGeneratedValue, Type: tpm2.TPMSTAttestQuote, ExtraData: tpm2.TPM2BData{Buffer: binding[:]},
		Attested: tpm2.NewTPMUAttest(tpm2.TPMSTAttestQuote, &tpm2.TPMSQuoteInfo{
			PCRSelect: tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA256, PCRSelect: []byte{0xff, 0x7b, 0}}}},
			PCRDigest: tpm2.TPM2BDigest{Buffer: digest[:]},
		}),
	}
	change(statement)
	q.ev.Quote = tpm2.Marshal(statement)
	q.ev.Signature = a.sign(t, q.ev.Quote, tpm2.TPMAlgECDSA, tpm2.TPMAlgSHA256)
	return q
}

func TestSignedStatementThatIsNoQuoteIsRefused(t *testing.T) {
	a := newSoftAK(t)
	selection := func(s *tpm2.TPMSAttest) *tpm2.TPMLPCRSelection {
		quote, err := s.Attested.Quote()
		require.NoError(t, err)
		return &quote.PCRSelect
	}
	for name, c := range map[string]struct {
		reason Reason
		change func(*tpm2.TPMSAttest)
	}{
		"good":        {"", func(*tpm2.TPMSAttest) {}},
		"wrong magic": {NotAQuote, func(s *tpm2.TPMSAttest) { s.Magic = 0xff544346 }},
		"time": {NotAQuote, func(s *tpm2.TPMSAttest) {
			s.Type, s.Attested = tpm2.TPMSTAttestTime, tpm2.NewTPMUAttest(tpm2.TPMSTAttestTime, &tpm2.TPMSTimeAttestInfo{})
		}},
		"no qualifying data": {NotBound, func(s *tpm2.TPMSAttest) { s.ExtraData.Buffer = nil }},
		"other bank":         {OtherRegisters, func(s *tpm2.TPMSAttest) { selection(s).PCRSelections[0].Hash = tpm2.TPMAlgSHA1 }},
		"two banks": {OtherRegisters, func(s *tpm2.TPMSAttest) {
			selection(s).PCRSelections = append(selection(s).PCRSelections, tpm2.TPMSPCRSelection{Hash: tpm2.TPMAlgSHA1, PCRSelect: []byte{0, 0, 0}})
		}},
		"no bank":      {OtherRegisters, func(s *tpm2.TPMSAttest) { selection(s).PCRSelections = nil }},
		"wider choice": {OtherRegisters, func(s *tpm2.TPMSAttest) { selection(s).PCRSelections[0].PCRSelect = []byte{0xff, 0x7b, 0, 0} }},
	} {
		q := a.forge(t, c.change)
		_, err := Check(q.ev, q.want)
		if c.reason == "" {
			require.NoError(t, err)
			continue
		}
		requireReason(t, c.reason, err, name)
	}
}

func TestQuoteOrSignatureOfAnotherShapeIsRefused(t *testing.T) {
	a := newSoftAK(t)
	q := a.forge(t, func(*tpm2.TPMSAttest) {})
	for name, c := range map[string]struct {
		reason             Reason
		quote, signature   []byte
		signatureAlgorithm tpm2.TPMAlgID
	}{
		"too long":           {Malformed, make([]byte, maxAttest+1), nil, tpm2.TPMAlgECDSA},
		"long signature":     {Malformed, q.ev.Quote, make([]byte, maxSignature+1), tpm2.TPMAlgECDSA},
		"empty":              {NotAQuote, []byte{}, nil, tpm2.TPMAlgECDSA},
		"cut":                {Malformed, q.ev.Quote[:20], nil, tpm2.TPMAlgECDSA},
		"trailing byte":      {Malformed, append(bytes.Clone(q.ev.Quote), 0), nil, tpm2.TPMAlgECDSA},
		"another algorithm":  {BadSignature, q.ev.Quote, nil, tpm2.TPMAlgECDAA},
		"no signature":       {Malformed, q.ev.Quote, []byte{}, tpm2.TPMAlgECDSA},
		"null signature":     {BadSignature, q.ev.Quote, []byte{0, 0x10}, tpm2.TPMAlgECDSA},
		"unknown algorithm":  {Malformed, q.ev.Quote, []byte{0x12, 0x34, 0, 0}, tpm2.TPMAlgECDSA},
		"signature of zeros": {BadSignature, q.ev.Quote, []byte{0, 0x18, 0, 0x0b, 0, 0, 0, 0}, tpm2.TPMAlgECDSA},
	} {
		ev := *q.ev
		ev.Quote, ev.Signature = c.quote, c.signature
		if c.signature == nil {
			hash := tpm2.TPMAlgSHA256
			ev.Signature = a.sign(t, c.quote, c.signatureAlgorithm, hash)
		}
		_, err := Check(&ev, q.want)
		requireReason(t, c.reason, err, name)
	}
	ev := *q.ev
	ev.Signature = a.sign(t, ev.Quote, tpm2.TPMAlgECDSA, tpm2.TPMAlgSHA1)
	_, err := Check(&ev, q.want)
	requireReason(t, BadSignature, err, "signature said to be over another hash")
}

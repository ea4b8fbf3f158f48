// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"maps"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"sdbox/firmware/eventlog"
	"sdbox/firmware/reference"
	"sdbox/gateway/appraise"
	"sdbox/gateway/store"
	"sdbox/internal/attest"
	"sdbox/internal/ident"
	"sdbox/internal/seal"
	"sdbox/internal/tpm"
	"sdbox/internal/tpm/tpmsim"
	"sdbox/internal/wire"
	"sdbox/pki/ca"
	"sdbox/pki/profile"

	"github.com/stretchr/testify/require"
)

// machine is a simulated TPM with the recorded boot, certified as a box.
type machine struct {
	chip        *tpm.TPM
	ak          []byte
	certificate []byte
	spki        []byte
	tunnel      wire.Key
	log         *eventlog.Log
}

// card is a person's card.
type card struct {
	guid        ident.GUID
	person      ident.ID
	auth, here  *ecdsa.PrivateKey
	certificate []byte
}

// past is everything that makes the evidence of sessions: real certificates, a real quote, real signatures.
type past struct {
	t        testing.TB
	roots    Roots
	verifier *appraise.Verifier
	note     []byte
	gateways *ca.Authority
	cards    *ca.Authority
	devices  *ca.Authority
	gateway  *ca.Issued
	key      *ecdsa.PrivateKey
	signer   *seal.Signer
	tunnel   wire.Key
	release  string
	public   string // release key
}

func newECKey(t testing.TB) *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	return key
}

func newPast(t testing.TB) *past {
	p := &past{t: t, key: newECKey(t)}
	pki := filepath.Join(t.TempDir(), "pki")
	require.NoError(t, ca.Init(pki, "lab", "", time.Now()))
	for name, into := range map[profile.Issuer]**ca.Authority{profile.Gateways: &p.gateways, profile.Cards: &p.cards, profile.Devices: &p.devices} {
		var err error
		*into, err = ca.Open(pki, name, "")
		require.NoError(t, err)
	}
	gateway, err := p.gateways.Issue(profile.Gateway{Name: "gw1", Key: p.key.Public()})
	require.NoError(t, err)
	p.gateway = &gateway
	p.signer, err = seal.NewSigner(p.key, "gw1.lab")
	require.NoError(t, err)
	rand.Read(p.tunnel[:])
	boot, err := tpmsim.RecordedBoot()
	require.NoError(t, err)
	predicted := boot.Replay()
	values := reference.Values{Name: "lab", Version: "1"}
	for _, r := range attest.Registers() {
		values.PCRs = append(values.PCRs, reference.PCR{Index: r, Digest: predicted[r]})
	}
	secret, public, err := reference.GenerateKey("release-1.lab")
	require.NoError(t, err)
	p.release, p.public = secret, public
	p.note, err = reference.Sign(values, secret)
	require.NoError(t, err)
	notes, err := reference.NewTrust(1, public)
	require.NoError(t, err)
	p.verifier = appraise.New(notes, "sdbox", "gw1")
	require.NoError(t, p.verifier.Use(p.note))
	p.roots = Roots{Trust: p.gateways.Trust(), Notes: notes}
	return p
}

func (p *past) machine(serial string) *machine {
	dir := p.t.TempDir()
	sim, err := tpmsim.Start(context.Background(), tpmsim.Config{Dir: dir, Socket: filepath.Join(dir, "s")})
	require.NoError(p.t, err)
	p.t.Cleanup(func() { require.NoError(p.t, sim.Stop()) })
	boot, err := tpmsim.RecordedBoot()
	require.NoError(p.t, err)
	require.NoError(p.t, tpmsim.Boot(filepath.Join(dir, "s"), boot))
	m := &machine{log: boot}
	m.chip, err = tpm.Open(sim.Spec())
	require.NoError(p.t, err)
	p.t.Cleanup(func() { require.NoError(p.t, m.chip.Close()) })
	request, err := attest.NewEnrolment(m.chip)
	require.NoError(p.t, err)
	enrolment, _, err := attest.Challenge(request)
	require.NoError(p.t, err)
	issued, err := p.devices.Issue(profile.Device{Serial: serial, AKName: enrolment.AKName, Key: enrolment.Device})
	require.NoError(p.t, err)
	m.ak, m.certificate, m.spki = enrolment.AKName, issued.Chain[0], issued.Certificate.RawSubjectPublicKeyInfo
	rand.Read(m.tunnel[:])
	return m
}

func (p *past) card(name string) *card {
	c := &card{auth: newECKey(p.t), here: newECKey(p.t), person: ident.NewID()}
	rand.Read(c.guid[:])
	issued, err := p.cards.Issue(profile.CardAuth{GUID: c.guid, Name: name, Method: profile.FingerOnCard, Key: c.auth.Public()})
	require.NoError(p.t, err)
	c.certificate = issued.Chain[0]
	return c
}

func digits(b []byte) string { return hex.EncodeToString(b) }

func sum(b []byte) []byte {
	s := sha256.Sum256(b)
	return s[:]
}

// attestation is a box.attested row as the front door writes it, and what was sealed in it.
func (p *past) attestation(m *machine, serial string, follows *appraise.Previous) (store.Entry, appraise.Previous) {
	nonce, exporter := make([]byte, 32), make([]byte, 32)
	rand.Read(nonce)
	rand.Read(exporter)
	var previous []byte
	if follows != nil {
		previous = sum(follows.Statement)
	}
	spki := p.gateway.Certificate.RawSubjectPublicKeyInfo
	ev, err := attest.Make(m.chip, attest.Binding{Nonce: nonce, GatewaySPKI: spki, TunnelKey: m.tunnel, Exporter: exporter}, previous, m.log)
	require.NoError(p.t, err)
	result, err := p.verifier.Appraise(ev, attest.Expectations{Nonce: nonce, DeviceSPKI: m.spki, GatewaySPKI: spki, Exporter: exporter, AKName: m.ak}, follows, time.Now())
	require.NoError(p.t, err)
	statement, err := p.signer.Seal(appraise.Type, "lab", time.Minute, result)
	require.NoError(p.t, err)
	log := ev.Log
	ev.Log = nil
	evidence, err := wire.Canonical(ev)
	require.NoError(p.t, err)
	e := store.Entry{Actor: "gateway:gw1", Action: "box.attested", Object: "box:" + serial, Fields: map[string]string{
		"result": digits(statement), "result_sha256": digits(sum(statement)), "evidence": digits(evidence), "nonce": digits(nonce),
		"exporter": digits(exporter), "certificate_sha256": digits(sum(m.certificate)), "log_sha256": digits(sum(log))}}
	if follows == nil {
		e.Fields["certificate"], e.Fields["log"] = digits(m.certificate), digits(log)
	}
	return e, appraise.Previous{Statement: statement, Result: result}
}

// grant seals one for a session.
func (p *past) grant(claims wire.GrantClaims) string {
	statement, err := p.signer.Seal(wire.GrantType, "box:"+claims.Box, 10*time.Minute, claims)
	require.NoError(p.t, err)
	return digits(statement)
}

func (p *past) sign(key *ecdsa.PrivateKey, structure any) string {
	digest, err := wire.Digest(structure)
	require.NoError(p.t, err)
	signature, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
	require.NoError(p.t, err)
	return digits(signature)
}

func (p *past) registered(c *card) store.Entry {
	spki, err := x509.MarshalPKIXPublicKey(c.here.Public())
	require.NoError(p.t, err)
	return store.Entry{Actor: "operator:olga", Action: "card.add", Object: "card:" + c.guid.String(), Fields: map[string]string{
		"person": c.person.String(), "certificate_sha256": digits(sum(c.certificate)), "presence_key": digits(spki)}}
}

// story is the rows of one session.
type story struct {
	id     ident.ID
	rows   []store.Entry
	claims wire.GrantClaims
	signed wire.Transcript
}

// row returns the nth row with an action.
func (s *story) row(action string, n int) *store.Entry {
	for i := range s.rows {
		if s.rows[i].Action == action {
			if n--; n < 0 {
				return &s.rows[i]
			}
		}
	}
	panic("no row " + action)
}

func (s *story) clone() *story {
	again := *s
	again.rows = slices.Clone(s.rows)
	for i := range again.rows {
		again.rows[i].Fields, again.rows[i].Personal = maps.Clone(s.rows[i].Fields), maps.Clone(s.rows[i].Personal)
	}
	return &again
}

// session is what the log holds of a person who logs in, opens epi and, after a renewal and a lost line, econ.
func (p *past) session(m *machine, serial string, c *card) *story {
	boot, first := p.attestation(m, serial, nil)
	again, _ := p.attestation(m, serial, &first)
	id := ident.NewID()
	s := &story{id: id}
	nonce, streams := make([]byte, 32), make([]byte, 64)
	rand.Read(nonce)
	rand.Read(streams)
	s.signed = wire.Transcript{Context: wire.LoginContext, Nonce: nonce, GatewayCertificate: sum(p.gateway.Chain[0]), GatewayTunnelKey: p.tunnel,
		GatewayStream: streams[:32], Result: sum(first.Statement), DeviceCertificate: sum(m.certificate), BoxTunnelKey: m.tunnel, BoxStream: streams[32:],
		PersonCertificate: sum(c.certificate)}
	transcript, err := wire.Digest(s.signed)
	require.NoError(p.t, err)
	until := time.Now().Add(10 * time.Minute).UnixMilli()
	s.claims = wire.GrantClaims{Session: id, Epoch: 1, Person: c.person, Card: c.guid.String(), Box: serial, TunnelKey: m.tunnel, Transcript: transcript[:],
		Method: string(profile.FingerOnCard), Bubbles: []wire.GrantLine{{Bubble: "epi", Until: until}, {Bubble: "econ", Until: until}}}
	epoch := "1"
	step := func(state string, fields map[string]string) store.Entry {
		if fields == nil {
			fields = map[string]string{}
		}
		fields["epoch"] = epoch
		return store.Entry{Actor: "box:" + serial, Action: "session." + state, Object: "session:" + id.String(), Session: id, Fields: fields}
	}
	presence := wire.PresenceStatement{Context: wire.PresenceContext, Nonce: nonce, Session: id[:], TunnelKey: m.tunnel}
	s.rows = []store.Entry{
		{Actor: "operator:olga", Action: "reference.add", Object: "reference:lab 1", Fields: map[string]string{"note": string(p.note), "note_sha256": digits(sum(p.note))}},
		{Actor: "gateway:gw1", Action: "gateway.up", Object: "gateway:gw1", Fields: map[string]string{"certificate": digits(p.gateway.Chain[0]), "tunnel_key": digits(p.tunnel[:])}},
		p.registered(c), boot,
		step("create", map[string]string{"box": serial, "gateway": "gw1", "person": c.person.String(), "card": c.guid.String()}),
		{Actor: "box:" + serial, Action: "login.proved", Object: "person:" + c.person.String(), Session: id, Fields: map[string]string{
			"card": c.guid.String(), "nonce": digits(nonce), "signature": p.sign(c.auth, s.signed), "transcript_sha256": digits(transcript[:]),
			"certificate_sha256": digits(sum(c.certificate)), "tunnel_key": digits(m.tunnel[:]), "gateway_stream": digits(streams[:32]), "box_stream": digits(streams[32:]),
			"gateway_sha256": digits(sum(p.gateway.Chain[0])), "gateway_tunnel_key": digits(p.tunnel[:]),
			"result_sha256": digits(sum(first.Statement)), "device_sha256": digits(sum(m.certificate)),
		}, Personal: map[string]string{"certificate": digits(c.certificate)}},
		step("authorised", map[string]string{"grant": p.grant(s.claims)}),
		step("starting", map[string]string{"bubble": "epi"}), step("active", map[string]string{"bubble": "epi"}), again,
		step("active", map[string]string{"bubble": "epi", "grant": p.grant(s.claims), "presence_nonce": digits(nonce), "presence_signature": p.sign(c.here, presence)}),
		step("suspended", nil),
	}
	back := make([]byte, 32)
	rand.Read(back)
	presence.Nonce = back
	signature := p.sign(c.here, presence)
	epoch, s.claims.Epoch = "2", 2
	s.rows = append(s.rows, step("take", map[string]string{"gateway": "gw1"}),
		store.Entry{Actor: "box:" + serial, Action: "login.resumed", Object: "person:" + c.person.String(), Session: id, Fields: map[string]string{"card": c.guid.String(),
			"nonce": digits(back), "presence": signature, "transcript_sha256": digits(transcript[:]), "certificate_sha256": digits(sum(c.certificate))}},
		step("authorised", map[string]string{"from": "suspended", "grant": p.grant(s.claims), "presence_nonce": digits(back), "presence_signature": signature}),
		step("starting", map[string]string{"bubble": "econ"}), step("active", map[string]string{"bubble": "econ"}), step("suspended", nil))
	s.claims.Epoch = 1
	return s
}

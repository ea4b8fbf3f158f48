// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"sdbox/firmware/reference"
	"sdbox/gateway/appraise"
	"sdbox/gateway/store"
	"sdbox/internal/ident"
	"sdbox/internal/merkle"
	"sdbox/internal/wire"
	"sdbox/pki/profile"

	"github.com/stretchr/testify/require"
)

// stored writes a story's rows into a store and exports its log.
func stored(t *testing.T, s *story) (dir, verifier string) {
	h := newHouse(t)
	for _, e := range s.rows {
		require.NoError(t, h.store.Change(t.Context(), e, func(*store.Tx) error { return nil }))
	}
	return h.export(), h.verifier
}

// sealed writes a story's rows into an export without a store in between: it is the same, and quicker.
func sealed(t *testing.T, s *story) (dir, verifier string) {
	secret, verifier, err := merkle.GenerateKey("gw1.lab/audit")
	require.NoError(t, err)
	dir = t.TempDir()
	log, err := merkle.Open(dir, secret)
	require.NoError(t, err)
	leaves, rows := s.export(t)
	require.NoError(t, log.Append(leaves...))
	require.NoError(t, os.WriteFile(filepath.Join(dir, rowsFile), rows, 0o600))
	return dir, verifier
}

func (s *story) export(t testing.TB) (leaves [][]byte, text []byte) {
	var rows bytes.Buffer
	for i, e := range s.rows {
		l := store.Leaf{Action: e.Action, Actor: e.Actor, At: time.Now().UnixMilli(), Fields: e.Fields, Object: e.Object, Seq: int64(i + 1)}
		if !e.Session.IsZero() {
			l.Session = e.Session.String()
		}
		line := exported{Personal: e.Personal}
		if len(e.Personal) > 0 {
			line.Salt, l.Personal = []byte{1}, map[string]string{}
			for k, v := range e.Personal {
				l.Personal[k] = store.Commit(line.Salt, k, v)
			}
		}
		leaf, err := l.Encode()
		require.NoError(t, err)
		line.Leaf = string(leaf)
		leaves = append(leaves, leaf)
		require.NoError(t, json.NewEncoder(&rows).Encode(line))
	}
	return leaves, rows.Bytes()
}

func TestSessionIsProvedFromTheRootsAlone(t *testing.T) {
	p := newPast(t)
	good := p.session(p.machine("PARIS-1"), "PARIS-1", p.card("Ada Lovelace"))
	dir, verifier := stored(t, good)
	report, err := VerifySession(dir, verifier, good.id, p.roots)
	require.NoError(t, err)
	require.Equal(t, []string{"epi", "econ"}, report.Bubbles)
	require.Equal(t, good.claims.Card, report.Card)
	require.Equal(t, "PARIS-1", report.Box)
	require.Equal(t, "lab 1", report.Reference)
	require.Equal(t, "gw1", report.Gateway)
	require.Equal(t, string(profile.FingerOnCard), report.Method)
	require.Equal(t, 2, report.Attestations)
	require.Equal(t, 3, report.Grants)
	require.Equal(t, 1, report.Resumes)
	ids, err := Sessions(dir)
	require.NoError(t, err)
	require.Equal(t, []ident.ID{good.id}, ids)

	_, err = VerifySession(dir, verifier, ident.NewID(), p.roots)
	require.ErrorIs(t, err, ErrNoSession)
	left := good.clone()
	left.rows = left.rows[:5]
	dir, verifier = sealed(t, left)
	_, err = VerifySession(dir, verifier, good.id, p.roots)
	require.ErrorIs(t, err, ErrNoLogin)
	old := good.clone()
	old.row("login.proved", 0).Personal = nil
	dir, verifier = sealed(t, old)
	_, err = VerifySession(dir, verifier, good.id, p.roots)
	require.ErrorIs(t, err, ErrErased)
	joined := good.clone()
	joined.row("session.active", 2).Fields["bubble"] = "late"
	joined.rows = slices.Insert(joined.rows, 15, store.Entry{Actor: "operator:olga", Action: "membership.add", Object: "person:" + good.claims.Person.String(), Fields: map[string]string{"bubble": "late"}})
	dir, verifier = sealed(t, joined)
	_, err = VerifySession(dir, verifier, good.id, p.roots)
	require.NoError(t, err, "a membership given after the grant")
}

// Each case is a log that is sealed and whole, by a gateway that wrote one thing other than it happened.
// exchange is one way in which a part of a session's evidence is another one, sealed in the log as if it were right.
type exchange struct {
	name     string
	part     Part
	exchange func(s *story)
}

// exchanges are those of a good story, and the past it comes from.
func exchanges(t testing.TB) (*past, *story, []exchange) {
	p := newPast(t)
	ada, eve := p.card("Ada Lovelace"), p.card("Eve")
	m, thief := p.machine("PARIS-1"), p.machine("PARIS-2")
	good, stolen := p.session(m, "PARIS-1", ada), p.session(thief, "PARIS-2", eve)
	foreign := newPast(t)
	random := func() string { b := make([]byte, 32); rand.Read(b); return digits(b) }
	regrant := func(s *story, row *store.Entry, change func(*wire.GrantClaims)) {
		claims := s.claims
		change(&claims)
		row.Fields["grant"] = p.grant(claims)
	}
	evidence := func(row *store.Entry, change func(*wire.Evidence)) {
		raw, err := hex.DecodeString(row.Fields["evidence"])
		require.NoError(t, err)
		var ev wire.Evidence
		require.NoError(t, wire.ReadCanonical(raw, &ev))
		change(&ev)
		raw, err = wire.Canonical(ev)
		require.NoError(t, err)
		row.Fields["evidence"] = digits(raw)
	}
	other := func(row *store.Entry) (ev wire.Evidence) {
		raw, err := hex.DecodeString(row.Fields["evidence"])
		require.NoError(t, err)
		require.NoError(t, wire.ReadCanonical(raw, &ev))
		return ev
	}
	boot := func(s *story) *store.Entry { return s.row("box.attested", 0) }
	login := func(s *story) *store.Entry { return s.row("login.proved", 0) }
	resumed := func(s *story) *store.Entry { return s.row("login.resumed", 0) }
	return p, good, []exchange{
		{"the certificate of another box", Box, func(s *story) {
			boot(s).Fields["certificate"], boot(s).Fields["certificate_sha256"] = digits(thief.certificate), digits(sum(thief.certificate))
		}},
		{"a certificate of another house", Box, func(s *story) {
			issued, err := foreign.devices.Issue(profile.Device{Serial: "PARIS-1", AKName: m.ak, Key: newECKey(t).Public()})
			require.NoError(t, err)
			boot(s).Fields["certificate"], boot(s).Fields["certificate_sha256"] = digits(issued.Chain[0]), digits(sum(issued.Chain[0]))
		}},
		{"a quote of another machine", Box, func(s *story) {
			evidence(boot(s), func(ev *wire.Evidence) {
				ev.Quote, ev.Signature = other(boot(stolen)).Quote, other(boot(stolen)).Signature
			})
		}},
		{"another machine's attestation key", Box, func(s *story) {
			evidence(boot(s), func(ev *wire.Evidence) { ev.AKPublic = other(boot(stolen)).AKPublic })
		}},
		{"another box in the login", Box, func(s *story) { login(s).Fields["device_sha256"] = digits(sum(thief.certificate)) }},
		{"the box of the session", Box, func(s *story) { s.row("session.create", 0).Fields["box"] = "PARIS-2" }},
		{"the box in the grant", Box, func(s *story) {
			regrant(s, s.row("session.active", 1), func(g *wire.GrantClaims) { g.Box = "PARIS-2" })
		}},

		{"a register", State, func(s *story) {
			evidence(boot(s), func(ev *wire.Evidence) { ev.PCRs = slices.Clone(ev.PCRs); ev.PCRs[4].Digest = make([]byte, 32) })
		}},
		{"a register at the renewal", State, func(s *story) {
			evidence(s.row("box.attested", 1), func(ev *wire.Evidence) { ev.PCRs = slices.Clone(ev.PCRs); ev.PCRs[4].Digest = make([]byte, 32) })
		}},
		{"the quote of another moment", State, func(s *story) {
			again := other(s.row("box.attested", 1))
			evidence(boot(s), func(ev *wire.Evidence) { ev.Quote, ev.Signature = again.Quote, again.Signature })
		}},
		{"the reference values", State, func(s *story) {
			values, err := p.roots.Notes.Open(p.note)
			require.NoError(t, err)
			values.PCRs[4].Digest = [32]byte{1}
			note, err := reference.Sign(values, p.release)
			require.NoError(t, err)
			s.row("reference.add", 0).Fields["note"] = string(note)
		}},
		{"the result in the login", State, func(s *story) { login(s).Fields["result_sha256"] = s.row("box.attested", 1).Fields["result_sha256"] }},
		{"a result that no gateway gave", State, func(s *story) {
			result, err := foreign.signer.Seal(appraise.Type, "lab", time.Minute, &appraise.Result{})
			require.NoError(t, err)
			boot(s).Fields["result"] = digits(result)
		}},

		{"the person's certificate", Card, func(s *story) {
			login(s).Personal["certificate"], login(s).Fields["certificate_sha256"] = digits(eve.certificate), digits(sum(eve.certificate))
		}},
		{"the whole person", Card, func(s *story) {
			login(s).Personal["certificate"], login(s).Fields["certificate_sha256"] = digits(eve.certificate), digits(sum(eve.certificate))
			login(s).Fields["card"] = eve.guid.String()
			create := s.row("session.create", 0)
			create.Fields["card"], create.Fields["person"] = eve.guid.String(), eve.person.String()
			s.rows[2] = p.registered(eve)
		}},
		{"the whole person, and her grants", Card, func(s *story) {
			login(s).Personal["certificate"], login(s).Fields["certificate_sha256"] = digits(eve.certificate), digits(sum(eve.certificate))
			login(s).Fields["card"] = eve.guid.String()
			create := s.row("session.create", 0)
			create.Fields["card"], create.Fields["person"] = eve.guid.String(), eve.person.String()
			s.rows[2] = p.registered(eve)
			claimed := s.signed
			claimed.PersonCertificate = sum(eve.certificate)
			digest, err := wire.Digest(claimed)
			require.NoError(t, err)
			s.rows = s.rows[:10]
			regrant(s, s.row("session.authorised", 0), func(g *wire.GrantClaims) { g.Card, g.Person, g.Transcript = eve.guid.String(), eve.person, digest[:] })
		}},
		{"the signature", Card, func(s *story) { login(s).Fields["signature"] = p.sign(eve.auth, s.signed) }},
		{"the registered person", Card, func(s *story) { s.row("card.add", 0).Fields["person"] = eve.person.String() }},
		{"the presence", Card, func(s *story) { s.row("session.active", 1).Fields["presence_signature"] = p.sign(eve.here, "here") }},

		{"the tunnel key in the evidence", Tunnel, func(s *story) { evidence(boot(s), func(ev *wire.Evidence) { ev.TunnelKey = wire.Key{7} }) }},
		{"the channel of the attestation", Tunnel, func(s *story) { boot(s).Fields["exporter"] = random() }},
		{"the tunnel key in the login", Tunnel, func(s *story) { login(s).Fields["tunnel_key"] = random() }},
		{"the gateway's tunnel key", Tunnel, func(s *story) { s.row("gateway.up", 0).Fields["tunnel_key"] = random() }},
		{"the gateway", Tunnel, func(s *story) { s.row("gateway.up", 0).Fields["certificate"] = digits(foreign.gateway.Chain[0]) }},
		{"the stream certificate", Tunnel, func(s *story) { login(s).Fields["box_stream"] = random() }},
		{"the tunnel key in the grant", Tunnel, func(s *story) {
			regrant(s, s.row("session.active", 1), func(g *wire.GrantClaims) { g.TunnelKey = wire.Key{7} })
		}},

		{"the bubble that was opened", Bubble, func(s *story) { s.row("session.active", 2).Fields["bubble"] = "customs" }},
		{"the bubble in the grant", Bubble, func(s *story) {
			regrant(s, s.row("session.authorised", 1), func(g *wire.GrantClaims) { g.Epoch, g.Bubbles = 2, g.Bubbles[:1] })
		}},
		{"the time of the right", Bubble, func(s *story) {
			regrant(s, s.row("session.authorised", 1), func(g *wire.GrantClaims) {
				g.Epoch, g.Bubbles = 2, []wire.GrantLine{g.Bubbles[0], {Bubble: "econ", Until: 1}}
			})
		}},
		{"the grant of another session", Bubble, func(s *story) {
			regrant(s, s.row("session.active", 1), func(g *wire.GrantClaims) { g.Session = stolen.id })
		}},
		{"the grant of another login", Bubble, func(s *story) {
			regrant(s, s.row("session.active", 1), func(g *wire.GrantClaims) { g.Transcript = make([]byte, 32) })
		}},
		{"a grant that no gateway gave", Bubble, func(s *story) {
			statement, err := foreign.signer.Seal(wire.GrantType, "box:PARIS-1", time.Minute, s.claims)
			require.NoError(t, err)
			s.row("session.active", 1).Fields["grant"] = digits(statement)
		}},
		{"the grant of another owner", Bubble, func(s *story) {
			regrant(s, s.row("session.authorised", 1), func(*wire.GrantClaims) {})
		}},

		{"the box it came back at", Box, func(s *story) { resumed(s).Actor = "box:PARIS-2" }},
		{"the person it came back for", Card, func(s *story) { resumed(s).Object = "person:" + eve.person.String() }},
		{"the card it came back with", Card, func(s *story) { resumed(s).Fields["card"] = eve.guid.String() }},
		{"the certificate it came back with", Card, func(s *story) { resumed(s).Fields["certificate_sha256"] = digits(sum(eve.certificate)) }},
		{"the login it came back on", Tunnel, func(s *story) { resumed(s).Fields["transcript_sha256"] = random() }},
		{"the nonce it came back by", Card, func(s *story) { resumed(s).Fields["nonce"] = random() }},
		{"the presence it came back by", Card, func(s *story) { resumed(s).Fields["presence"] = p.sign(eve.here, "here") }},
		{"the presence of a moment before", Card, func(s *story) {
			renewed := s.row("session.active", 1).Fields
			resumed(s).Fields["nonce"], resumed(s).Fields["presence"] = renewed["presence_nonce"], renewed["presence_signature"]
		}},
		{"the presence under the grant", Card, func(s *story) {
			renewed, back := s.row("session.active", 1).Fields, s.row("session.authorised", 1).Fields
			back["presence_nonce"], back["presence_signature"] = renewed["presence_nonce"], renewed["presence_signature"]
		}},
		{"a return that nobody proved", Card, func(s *story) {
			s.rows = slices.DeleteFunc(s.rows, func(e store.Entry) bool { return e.Action == "login.resumed" })
		}},
		{"a return before the login", Card, func(s *story) {
			early := *resumed(s)
			s.rows = slices.Insert(s.rows, 5, early)
		}},
		{"the tunnel it came back through", Tunnel, func(s *story) {
			other := *m
			other.tunnel = wire.Key{7}
			*s.row("box.attested", 1), _ = p.attestation(&other, "PARIS-1", nil)
			nonce, err := hex.DecodeString(resumed(s).Fields["nonce"])
			require.NoError(t, err)
			proof := p.sign(ada.here, wire.PresenceStatement{Context: wire.PresenceContext, Nonce: nonce, Session: s.id[:], TunnelKey: other.tunnel})
			resumed(s).Fields["presence"] = proof
			s.row("session.authorised", 1).Fields["presence_signature"] = proof
		}},
		{"the grants left out", Bubble, func(s *story) {
			delete(s.row("session.authorised", 0).Fields, "grant")
			delete(s.row("session.active", 1).Fields, "grant")
			delete(s.row("session.authorised", 1).Fields, "grant")
		}}}
}

func TestAuditNamesTheExchangedPart(t *testing.T) {
	p, good, list := exchanges(t)
	for _, c := range list {
		t.Run(string(c.part)+": "+c.name, func(t *testing.T) {
			spoilt := good.clone()
			c.exchange(spoilt)
			dir, verifier := sealed(t, spoilt)
			_, err := VerifySession(dir, verifier, good.id, p.roots)
			var exchanged *ExchangedError
			require.ErrorAs(t, err, &exchanged)
			require.Equal(t, c.part, exchanged.Part, err.Error())
		})
	}
}

// FuzzSession is the evidence of a session in a log that anyone may have written: its rows, and the roots it is held to.
func FuzzSession(f *testing.F) {
	p, good, list := exchanges(f)
	add := func(s *story) {
		_, rows := s.export(f)
		f.Add(good.id.String(), p.roots.Trust.PEM(), p.public, rows)
	}
	add(good)
	for _, c := range list {
		spoilt := good.clone()
		c.exchange(spoilt)
		add(spoilt)
	}
	f.Add(good.id.String(), p.roots.Trust.PEM(), p.public, []byte("{}\n"))
	f.Fuzz(func(t *testing.T, session string, anchors []byte, release string, rows []byte) {
		id, err := ident.ParseID(session)
		if err != nil {
			return
		}
		trust, err := profile.ParseTrust("lab", anchors)
		if err != nil {
			return
		}
		notes, err := reference.NewTrust(1, release)
		if err != nil {
			return
		}
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(dir, rowsFile), rows, 0o600))
		evidence, err := collect(dir, id)
		if err != nil {
			return
		}
		evidence.roots, evidence.report = Roots{Trust: trust, Notes: notes}, SessionReport{Session: id}
		if err := evidence.check(); err == nil {
			require.NotEmpty(t, evidence.report.Person)
			require.Positive(t, evidence.report.Attestations)
			require.Positive(t, evidence.report.Grants)
		}
	})
}

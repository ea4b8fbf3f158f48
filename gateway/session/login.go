// SPDX-License-Identifier: Apache-2.0

package session

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"encoding/hex"
	"errors"
	"time"

	"sdbox/gateway/admission"
	"sdbox/gateway/store"
	"sdbox/internal/refusal"
	"sdbox/internal/wire"
)

// maxLogins is how many wrong logins a session survives. A card signs only after the right finger, so that a wrong one is not a
// slip of the person.
const maxLogins = 3

// login verifies the card's one signature. The transcript is made of what the gateway knows by itself: a box that was given other
// keys, another certificate or another person's card has signed another one.
func (l *boxLine) login(ctx context.Context, m *wire.Login) error {
	s := l.s
	if s.moving != nil && bytes.Equal(s.moving.Nonce, m.Nonce) && bytes.Equal(s.moving.Signature, m.Signature) {
		return l.loggedIn(ctx, m, true) // the same login again is the answer yes to "bring it here?"
	}
	s.moving = nil
	if err := s.logins.take(m.Nonce, time.Now()); err != nil {
		return l.wrongLogin(ctx, m, refusal.OurFault, err.Error())
	}
	box, ok := l.srv.conf.Box(l.addr)
	if !ok {
		return errors.New("login: the attestation result has ended")
	}
	if s.media == nil {
		return l.wrongLogin(ctx, m, refusal.OurFault, "login before the media connection")
	}
	own := l.srv.conf.certificate()
	transcript := wire.Transcript{
		Context: wire.LoginContext, Nonce: m.Nonce, GatewayCertificate: own[:], GatewayTunnelKey: l.srv.conf.TunnelKey,
		GatewayStream: s.media.own[:], Result: box.Result[:], DeviceCertificate: box.Certificate[:], BoxTunnelKey: box.TunnelKey,
		BoxStream: s.media.box[:], PersonCertificate: s.hash[:],
	}
	digest, err := wire.Digest(transcript)
	if err != nil {
		return err
	}
	if !ecdsa.VerifyASN1(s.certificate.Key, digest[:], m.Signature) {
		return l.wrongLogin(ctx, m, refusal.CardForeign, "the signature is not of this card over this login")
	}
	s.transcript, s.tunnelKey = digest, box.TunnelKey
	return l.loggedIn(ctx, m, false)
}

// wrongLogin counts, and ends the session at the last.
func (l *boxLine) wrongLogin(ctx context.Context, m wire.Message, code refusal.Code, cause string) error {
	l.s.wrong++
	why := refusal.New(code)
	if err := l.refuse(ctx, m, "", why, cause); err != nil || l.s.wrong < maxLogins {
		return err
	}
	return l.stopped(ctx, stop{id: l.s.id, by: l.srv.actor(), why: why})
}

// loggedIn answers a login that is proved: the list and the grant, unless the person's desktop is still on another screen and she
// has not yet said that it shall come here.
func (l *boxLine) loggedIn(ctx context.Context, m *wire.Login, moves bool) error {
	s := l.s
	others := l.srv.elsewhere(s.person.ID, s.id)
	for _, o := range others {
		if o.State != Suspended && o.State != Requested && o.Box != l.serial && !moves {
			s.moving = m
			return l.refuse(ctx, m, "", refusal.New(refusal.OpenElsewhere, "box", o.Box), "session "+o.ID.String()+" is "+string(o.State))
		}
	}
	if err := l.evidence(ctx, m); err != nil {
		return err
	}
	for _, o := range others {
		if err := l.srv.takeOver(ctx, o, refusal.New(refusal.Moved, "box", l.serial), l.actor()); err != nil {
			return err
		}
	}
	s.moving = nil
	s.logins.clear()
	l.refresh.Stop()
	list, err := l.decideAll(ctx)
	var d *denial
	if errors.As(err, &d) { // the card was locked while the finger was asked
		if err := l.refuse(ctx, m, "", d.why, d.cause); err != nil {
			return err
		}
		return l.stopped(ctx, stop{id: s.id, by: l.srv.actor(), why: d.why})
	}
	if err != nil {
		return err
	}
	grant, err := l.grant(time.Now())
	if err != nil {
		return err
	}
	if err := l.happen(ctx, LoggedIn, change{grant: grant.Statement}); err != nil {
		return err
	}
	return l.sendList(ctx, list, grant)
}

// evidence audits what proves this login, and takes the session's epoch: rising over all sessions of the house, so that a bubble
// can tell the newest login of an account from those before.
func (l *boxLine) evidence(ctx context.Context, m *wire.Login) error {
	s, own := l.s, l.srv.conf.certificate()
	e := store.Entry{Actor: l.actor(), Action: "login.proved", Object: "person:" + s.person.ID.String(), Session: s.id, Fields: map[string]string{
		"card": s.card.GUID.String(), "method": string(s.certificate.Method), "nonce": hex.EncodeToString(m.Nonce), "signature": hex.EncodeToString(m.Signature),
		"transcript_sha256": hex.EncodeToString(s.transcript[:]), "certificate_sha256": hex.EncodeToString(s.hash[:]), "tunnel_key": hex.EncodeToString(s.tunnelKey[:]),
		"gateway_stream": hex.EncodeToString(s.media.own[:]), "box_stream": hex.EncodeToString(s.media.box[:]),
		"gateway_sha256": hex.EncodeToString(own[:]), "gateway_tunnel_key": hex.EncodeToString(l.srv.conf.TunnelKey[:])},
		Personal: map[string]string{"certificate": hex.EncodeToString(s.der)}}
	if box, ok := l.srv.conf.Box(l.addr); ok {
		e.Fields["result_sha256"], e.Fields["device_sha256"] = hex.EncodeToString(box.Result[:]), hex.EncodeToString(box.Certificate[:])
	}
	if err := l.srv.conf.Store.Change(ctx, e, func(*store.Tx) error { return nil }); err != nil {
		return err
	}
	order, err := l.srv.conf.Store.Last(ctx)
	s.order = uint64(order)
	return err
}

// grant seals the right that decideAll found, and opens the nonce of its renewal.
func (l *boxLine) grant(now time.Time) (wire.Grant, error) {
	s := l.s
	claims := wire.GrantClaims{Session: s.id, Epoch: s.epoch, Person: s.person.ID, Card: s.card.GUID.String(), Box: l.serial, TunnelKey: s.tunnelKey,
		Transcript: s.transcript[:], Method: string(s.certificate.Method)}
	for _, p := range s.projects {
		if until, ok := s.rights[p.Bubble.Name]; ok {
			claims.Bubbles = append(claims.Bubbles, wire.GrantLine{Bubble: p.Bubble.Name, Until: until.UnixMilli()})
		}
	}
	left := time.Until(s.grantEnd)
	statement, err := l.srv.conf.Signer.Seal(wire.GrantType, "box:"+l.serial, max(left, time.Second), claims)
	if err != nil {
		return wire.Grant{}, err
	}
	return wire.Grant{Statement: statement, LifeMS: left.Milliseconds(), Nonce: s.presences.drawFor(now, grantLife), Epoch: uint64(s.epoch)}, nil
}

// presence renews the grant: the card is still in this box, and every right is decided anew.
func (l *boxLine) presence(ctx context.Context, m *wire.Presence) error {
	s := l.s
	if m.Session != s.id {
		return l.stray(m)
	}
	box, ok := l.srv.conf.Box(l.addr)
	if !ok {
		return errors.New("presence: the attestation result has ended")
	}
	if err := s.presences.take(m.Nonce, time.Now()); err != nil {
		return l.refuse(ctx, m, "", refusal.New(refusal.OurFault), err.Error())
	}
	statement := wire.PresenceStatement{Context: wire.PresenceContext, Nonce: m.Nonce, Session: s.id[:], TunnelKey: box.TunnelKey}
	if err := checkPresence(s.card.Presence, m.Signature, statement); err != nil {
		why := refusal.New(refusal.CardForeign)
		if err := l.refuse(ctx, m, "", why, err.Error()); err != nil {
			return err
		}
		return l.stopped(ctx, stop{id: s.id, by: l.srv.actor(), why: why})
	}
	if err := l.again(ctx); err != nil || l.s == nil {
		return err
	}
	s.grantEnd = s.loginEnd
	grant, err := l.grant(time.Now())
	if err != nil {
		return err
	}
	if err := l.happen(ctx, Renewed, change{grant: grant.Statement, nonce: m.Nonce, proof: m.Signature}); err != nil {
		return err
	}
	return l.line.Write(&grant)
}

// request is what admission decides on, read from the registry now.
func (l *boxLine) request(ctx context.Context, h *holder, box Box, action admission.Action) (admission.Request, error) {
	reg := l.srv.conf.Registry
	var err error
	if h.card, h.person, err = reg.Holder(ctx, h.certificate.GUID); err != nil {
		return admission.Request{}, err
	}
	row, err := reg.Box(ctx, l.serial)
	if err != nil {
		return admission.Request{}, err
	}
	l.country = row.Country
	r := admission.Request{
		Now: time.Now(), Action: action, Person: &admission.Person{ID: h.person.ID, Name: h.person.Name, Language: h.person.Language},
		Card: admission.Card{GUID: h.card.GUID, State: admission.CardState(h.card.State), Changed: time.UnixMilli(h.card.Changed),
			NotAfter: h.certificate.NotAfter, Method: h.certificate.Method},
		Box: admission.Box{Serial: row.Serial, Country: row.Country, Site: row.Site, Attested: box.Expires, Revoked: row.State != "enrolled"},
	}
	locks, err := reg.LocksOn(ctx, "person:"+h.person.ID.String(), "card:"+h.card.GUID.String(), "box:"+l.serial, "site:"+row.Site, "certificate:"+hex.EncodeToString(h.hash[:]))
	for _, k := range locks {
		r.Locks = append(r.Locks, admission.Lock{Target: k.Target, Message: k.Message, Since: time.UnixMilli(k.Added)})
	}
	return r, err
}

// SPDX-License-Identifier: Apache-2.0

package session

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"sdbox/gateway/admission"
	"sdbox/gateway/registry"
	"sdbox/gateway/store"
	"sdbox/internal/ident"
	"sdbox/internal/refusal"
	"sdbox/internal/wire"
	"sdbox/pki/profile"
)

// holder is whom a card in a box belongs to, as the registry says now.
type holder struct {
	person      registry.Person
	card        registry.Card
	certificate profile.Person
	hash        [32]byte // SHA-256 of the DER of the 9A certificate
	der         []byte   // that certificate
}

// denial is why a card is refused: what the person reads, and what the log says beside it.
type denial struct {
	why   refusal.Refusal
	cause string
}

func (d *denial) Error() string { return d.why.Error() + ": " + d.cause }

func deny(code refusal.Code, cause string, pairs ...string) error {
	return &denial{refusal.New(code, pairs...), cause}
}

// cardIn answers a card: whose it is. Nothing is granted by it.
func (l *boxLine) cardIn(ctx context.Context, m *wire.CardIn) error {
	box, ok := l.srv.conf.Box(l.addr)
	if !ok {
		return fmt.Errorf("card in: the attestation result of %s has ended", l.serial)
	}
	h, err := l.identify(ctx, m, nil, box)
	var d *denial
	if errors.As(err, &d) {
		return l.refuse(ctx, m, "", d.why, d.cause)
	}
	if err != nil {
		return err
	}
	return l.begin(ctx, h)
}

// identify finds the holder of a card, in the order in which a person should read what is wrong with it: is the card of this
// house, is it known, is it the card itself that answers, may it be used, may this person use this box. session is what the card
// signed that it is here for: empty for a new one.
func (l *boxLine) identify(ctx context.Context, m *wire.CardIn, session []byte, box Box) (holder, error) {
	now := time.Now()
	if err := l.cardOf.take(m.Nonce, now); err != nil {
		return holder{}, deny(refusal.OurFault, err.Error())
	}
	h := holder{der: m.Certificate, hash: sha256.Sum256(m.Certificate)}
	var err error
	h.certificate, err = l.srv.conf.Trust.VerifyPerson(m.Certificate, now)
	expired := errors.Is(err, profile.ErrExpired)
	if err != nil && !expired {
		return holder{}, deny(refusal.CardForeign, err.Error())
	}
	h.card, h.person, err = l.srv.conf.Registry.Holder(ctx, h.certificate.GUID)
	if errors.Is(err, store.ErrNotFound) {
		return holder{}, deny(refusal.CardForeign, "no such card in the registry: "+h.certificate.GUID.String())
	}
	if err != nil {
		return holder{}, err
	}
	if err := checkPresence(h.card.Presence, m.Presence, wire.PresenceStatement{Context: wire.PresenceContext, Nonce: m.Nonce, Session: session, TunnelKey: box.TunnelKey}); err != nil {
		return holder{}, deny(refusal.CardForeign, err.Error())
	}
	if h.card.Certificate != h.hash {
		return holder{}, deny(refusal.CardRevoked, "the certificate has been replaced by another one")
	}
	request, err := l.request(ctx, &h, box, admission.Login)
	if err != nil {
		return holder{}, err
	}
	if d := l.srv.conf.Policies.Decide(request); !d.Allowed {
		return holder{}, &denial{d.Refusal, cause(d)}
	}
	if expired {
		return holder{}, deny(refusal.CardEnded, "the certificate is outside its validity", "date", h.certificate.NotAfter.UTC().Format(time.DateOnly))
	}
	return h, nil
}

// checkPresence verifies a signature of key 9E with the key of the card's registry row: a key read from a card says nothing.
func checkPresence(spki, signature []byte, statement wire.PresenceStatement) error {
	parsed, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return fmt.Errorf("presence key: %w", err)
	}
	key, ok := parsed.(*ecdsa.PublicKey)
	if !ok {
		return fmt.Errorf("presence key of type %T", parsed)
	}
	digest, err := wire.Digest(statement)
	if err != nil {
		return err
	}
	if !ecdsa.VerifyASN1(key, digest[:], signature) {
		return errors.New("the presence signature is not of this card")
	}
	return nil
}

func newSession(id ident.ID, h holder, state State, epoch int64, since time.Time) *session {
	return &session{id: id, state: state, epoch: epoch, holder: h, since: since, flow: newFlow(),
		warned: map[string]warned{}, desks: map[string]*desk{}, opening: map[string]wish{}, warm: map[string]Bubble{}, up: map[string]bool{}}
}

// begin makes the session, tells the box whose card it is, and looks where the person's desktops run while she lifts her finger.
func (l *boxLine) begin(ctx context.Context, h holder) error {
	now := time.Now()
	s := newSession(ident.NewID(), h, Requested, 1, now)
	row := store.Session{ID: s.id, Person: h.person.ID, Card: h.card.GUID, Box: l.serial, Gateway: l.srv.conf.Name, Deadline: life(Requested, now, now).UnixMilli()}
	if err := l.srv.conf.Store.CreateSession(ctx, l.actor(), row); err != nil {
		return err
	}
	l.s, l.strays = s, 0
	l.cardOf.clear()
	l.arm()
	l.srv.publish(l.live(), l, store.SessionChange{ID: s.id, Epoch: s.epoch}, time.Time{})
	nonce := s.logins.draw(now)
	l.refresh.Reset(nonceRefresh)
	if err := l.line.Write(&wire.Person{Session: s.id, Name: h.person.Name, Language: refusal.Lang(h.person.Language), Nonce: nonce}); err != nil {
		return err
	}
	return l.lookAhead(ctx)
}

// freshNonce replaces the login nonce while the finger is asked, so that whoever takes a minute is not refused.
func (l *boxLine) freshNonce() error {
	if l.state() != Requested {
		return nil
	}
	l.refresh.Reset(nonceRefresh)
	return l.line.Write(&wire.Nonce{Nonce: l.s.logins.draw(time.Now())})
}

// offer sets up the session's one media connection, behind the finger.
func (l *boxLine) offer(ctx context.Context, m *wire.Offer) error {
	if l.s.media != nil {
		return l.stray(m)
	}
	media, err := openMedia(ctx, l.srv.conf.Mux, m)
	if err != nil {
		return l.refuse(ctx, m, "", refusal.New(refusal.OurFault), err.Error())
	}
	l.s.media = media
	return l.line.Write(&wire.Answer{SDP: media.answer, Fingerprint: media.own[:]})
}

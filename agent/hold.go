// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"

	"sdbox/internal/card"
	"sdbox/internal/card/pcsc"
	"sdbox/internal/finger"
	"sdbox/internal/refusal"
	"sdbox/internal/wire"
)

// Cards is where cards come from: PCSC in the shipped agent, a simulated card in memory in tests.
type Cards interface {
	Events() <-chan pcsc.Event
	Connect(reader string) (Connection, error)
	Readers() int // that are there now
}

// Connection is a card held alone until Close.
type Connection interface {
	card.Transport
	Limits() card.Limits
	Close() error
}

// PCSC brings the cards of this machine's readers. The watcher's Run is the caller's to start.
func PCSC(w *pcsc.Watcher) Cards { return readers{w} }

type readers struct{ *pcsc.Watcher }

func (r readers) Connect(reader string) (Connection, error) {
	c, err := r.Watcher.Connect(reader)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// holdEvent is what a hold tells the loop. The loop drops those of a hold that is no longer its own.
type holdEvent struct {
	hold  *hold
	err   error // with the kind of step that failed
	read  *cardRead
	login *wire.Login
	proof *wire.Presence
}

type cardRead struct {
	certificate *x509.Certificate
	nonce       []byte
	presence    []byte
}

// errReading is wrapped by everything that goes wrong before the card is known.
var errReading = errors.New("read card")

// hold keeps one card, from the moment it is in until it is out. One goroutine speaks to the card: steps run in the order they
// are asked for. The pipeline from SELECT to the login signature is one transaction, so that no other program can slip in.
type hold struct {
	reader string
	cards  Cards
	events chan<- holdEvent
	nonce  chan []byte // capacity 1: for the presence signature at card-in
	steps  chan func() // closed by release
	back   bool        // for a session that comes back: the card says so by prove, not at once
	gone   chan struct{}
	done   chan struct{}

	conn Connection // owned by run from here on
	card *card.Card
	pub  *ecdsa.PublicKey // of 9A
}

func newHold(cards Cards, reader string, tunnelKey wire.Key, events chan<- holdEvent) *hold {
	h := &hold{reader: reader, cards: cards, events: events, nonce: make(chan []byte, 1), steps: make(chan func(), 4), gone: make(chan struct{}), done: make(chan struct{})}
	go h.run(tunnelKey)
	return h
}

// returnHold keeps the card of a session that is to come back.
func returnHold(cards Cards, reader string, events chan<- holdEvent) *hold {
	h := &hold{reader: reader, cards: cards, events: events, back: true, steps: make(chan func(), 4), gone: make(chan struct{}), done: make(chan struct{})}
	go h.run(wire.Key{})
	return h
}

// release lets go of the card and waits until nothing of it is in use. It is called once, by the loop.
func (h *hold) release() {
	close(h.gone)
	close(h.steps)
	<-h.done
}

func (h *hold) run(tunnelKey wire.Key) {
	defer close(h.done)
	read, err := h.open(tunnelKey)
	if err != nil {
		h.tell(holdEvent{err: fmt.Errorf("%w: %w", errReading, err)})
	} else {
		h.tell(holdEvent{read: read})
	}
	for step := range h.steps {
		select {
		case <-h.gone: // the card is out: nothing is asked of it any more
		default:
			step()
		}
	}
	if h.conn != nil {
		_ = h.conn.Close() // resets the card where it is still there; where it is gone there is nobody to tell
	}
}

func (h *hold) tell(e holdEvent) {
	e.hold = h
	select {
	case h.events <- e:
	case <-h.gone:
	}
}

// open reads what a login needs before the finger: SELECT, the certificate of 9A, one signature of 9E.
func (h *hold) open(tunnelKey wire.Key) (*cardRead, error) {
	conn, err := h.cards.Connect(h.reader)
	if err != nil {
		return nil, err
	}
	h.conn = conn
	if h.card, err = card.Select(conn, conn.Limits()); err != nil {
		return nil, err
	}
	der, err := h.card.Certificate(card.Slot9A)
	if err != nil {
		return nil, err
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("certificate of 9a: %w", err)
	}
	pub, ok := certificate.PublicKey.(*ecdsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("certificate of 9a: want a P-256 key, have %T", certificate.PublicKey)
	}
	h.pub = pub
	if h.back {
		return &cardRead{certificate: certificate}, nil
	}
	var nonce []byte
	select {
	case nonce = <-h.nonce:
	case <-h.gone:
		return nil, card.ErrRemoved
	}
	presence, err := h.present(nonce, nil, tunnelKey)
	if err != nil {
		return nil, err
	}
	return &cardRead{certificate: certificate, nonce: nonce, presence: presence}, nil
}

// present signs that the card is here, with key 9E, which asks for no finger.
func (h *hold) present(nonce, session []byte, tunnelKey wire.Key) ([]byte, error) {
	digest, err := wire.Digest(wire.PresenceStatement{Context: wire.PresenceContext, Nonce: nonce, Session: session, TunnelKey: tunnelKey})
	if err != nil {
		return nil, err
	}
	// The gateway checks with the key of its own register: the box holds none to check with.
	return h.card.Signer(card.Slot9E, nil).Sign(rand.Reader, digest[:], crypto.SHA256)
}

// login asks the card to compare a finger and, when it matches, to sign the transcript: exactly two commands.
func (h *hold) login(ref byte, template finger.Template, transcript wire.Transcript) {
	h.steps <- func() {
		login, err := h.verifyAndSign(ref, template, transcript)
		template.Wipe()
		h.tell(holdEvent{login: login, err: err})
		if err == nil { // the finger spoke for this login only; 9E needs none
			if err := h.card.LogOut(ref); err != nil {
				h.tell(holdEvent{err: fmt.Errorf("take the finger back: %w", err)})
			}
		}
	}
}

func (h *hold) verifyAndSign(ref byte, template finger.Template, transcript wire.Transcript) (*wire.Login, error) {
	digest, err := wire.Digest(transcript)
	if err != nil {
		return nil, err
	}
	minutiae := template.Encode()
	defer clear(minutiae)
	if err := h.card.VerifyFinger(ref, minutiae); err != nil {
		return nil, fmt.Errorf("verify finger: %w", err)
	}
	signature, err := h.card.Signer(card.Slot9A, h.pub).Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("sign login: %w", err)
	}
	return &wire.Login{Nonce: transcript.Nonce, Signature: signature}, nil
}

// prove renews a grant: the same card is still in this box.
func (h *hold) prove(p wire.Presence, tunnelKey wire.Key) {
	h.steps <- func() {
		signature, err := h.present(p.Nonce, p.Session[:], tunnelKey)
		p.Signature = signature
		h.tell(holdEvent{proof: &p, err: err})
	}
}

func (a *Agent) onHold(e holdEvent) error {
	if a.visit == nil || e.hold != a.visit.hold {
		return nil
	}
	switch {
	case e.err != nil:
		return a.cardFailed(e.err)
	case e.read != nil:
		a.visit.read = e.read
		return a.fire(CardRead)
	case e.login != nil:
		a.visit.login = e.login
		return a.fire(Signed)
	case e.proof != nil && a.state == Resuming:
		return a.comeBack(e.proof)
	case e.proof != nil:
		return a.send(e.proof)
	}
	return nil
}

// cardFailed turns what the card said into what the person reads. The gateway is told the same code and suffix.
func (a *Agent) cardFailed(err error) error {
	a.log.Info("card", "err", err)
	var wrong *card.PINError
	why, trigger := refusal.New(refusal.CardUnreadable), CardBad
	switch {
	case errors.Is(err, card.ErrRemoved):
		return nil // the watcher says so next, and only it moves the state
	case errors.As(err, &wrong) && wrong.Left > 0:
		why, trigger = refusal.New(refusal.WrongFinger, "left", fmt.Sprint(wrong.Left)), WrongFinger
	case errors.As(err, &wrong), errors.Is(err, card.ErrBlocked):
		why, trigger = refusal.New(refusal.CardLocked), CardBlocked
	}
	a.say(why, "")
	if err := a.send(&wire.Event{Session: a.visit.session(), Refusal: why}); err != nil {
		return err
	}
	return a.fire(trigger)
}

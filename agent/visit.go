// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"sdbox/agent/keys"
	"sdbox/agent/kiosk"
	"sdbox/internal/card"
	"sdbox/internal/finger"
	"sdbox/internal/ident"
	"sdbox/internal/refusal"
	"sdbox/internal/stream"
	"sdbox/internal/wire"
)

// maxAhead is how many events may be on their way before a held key is no longer repeated: what piles up while the link stands
// still must not be typed when it moves again. Eight are a quarter of a second, more than any usable delay.
const maxAhead = 8

// sensorRetry is how long the loop waits before it asks a finger sensor again that failed.
const sensorRetry = 500 * time.Millisecond

// visit is one card in one box, from its coming to its going: everything of a person that this box knows. It belongs to the loop;
// leave forgets it whole.
type visit struct {
	hold   *hold
	ctx    context.Context
	cancel context.CancelFunc // ends the finger's wait and the stream's set-up

	read   *cardRead
	person *wire.Person
	nonce  []byte // for the login; the newest
	login  *wire.Login
	second bool // the second enrolled finger is awaited

	placed       finger.Template // waits for the stream's fingerprint
	media        *stream.Box     // nil until offered
	boxStream    []byte          // fingerprints of both ends
	centreStream []byte

	bubbles  []wire.Bubble
	selected int
	current  string      // the bubble that is open or being opened, "" in the list
	stream   uint16      // of the last Attach
	lights   keys.Lights // what its bubble wants lit on the keyboard

	transcript []byte      // SHA-256 of the login's
	wait       *time.Timer // runs from the loss of the line; nil while nothing is lost
	back       []byte      // the nonce by which the session is asked for again
	lost       *refusal.Refusal

	grant   *wire.Grant
	present *time.Timer // when the card must prove again that it is there
}

type fingerEvent struct {
	visit    *visit
	template finger.Template
	err      error
}

type offerEvent struct {
	visit       *visit
	over        *stream.Mux
	media       *stream.Box
	sdp         string
	fingerprint []byte
	err         error
}

func (v *visit) session() ident.ID {
	if v.person == nil {
		return ident.ID{}
	}
	return v.person.Session
}

func (v *visit) takeNonce(nonce []byte) {
	if v.read != nil {
		v.nonce = nonce
		return
	}
	select {
	case v.hold.nonce <- nonce:
	default: // one is enough; a second was not asked for
	}
}

// reference is which of the card's two fingers is compared (SP 800-73-5 Part 1, key references 96 and 97).
func (v *visit) reference() byte {
	if v.second {
		return card.RefFinger2
	}
	return card.RefFinger
}

// takeGrant sets the next proof of presence to two thirds of the grant's life.
func (v *visit) takeGrant(g *wire.Grant) {
	v.grant = g
	wait := time.Duration(g.LifeMS) * time.Millisecond * 2 / 3
	if v.present == nil {
		v.present = time.NewTimer(wait)
		return
	}
	v.present.Reset(wait)
}

// readCard begins a visit: the card is read while the gateway draws a nonce.
func (a *Agent) readCard() error {
	a.leave()
	ctx, cancel := context.WithCancel(context.Background())
	a.visit = &visit{ctx: ctx, cancel: cancel, hold: newHold(a.cfg.Cards, a.reader, a.up.facts.boxTunnelKey, a.holds)}
	if err := a.send(&wire.NonceRequest{}); err != nil {
		return err
	}
	return a.face.show(kiosk.ReadingCard{})
}

func (a *Agent) sendCard() error {
	r := a.visit.read
	return a.send(&wire.CardIn{Certificate: r.certificate.Raw, Nonce: r.nonce, Presence: r.presence})
}

// askFinger waits for a finger and, behind it, sets up the session's one stream, so that neither login nor switch pays for it.
func (a *Agent) askFinger() error {
	a.offer()
	a.waitForFinger()
	return a.face.show(kiosk.Finger{Name: a.visit.person.Name})
}

// offer sets up a stream beside the loop.
func (a *Agent) offer() {
	v, media := a.visit, a.media
	a.workers.Go(func() error {
		e := offerEvent{visit: v, over: media}
		certificate, err := stream.NewCertificate()
		if err == nil {
			e.fingerprint = certificate.Fingerprint[:]
			e.media, e.sdp, err = media.Offer(v.ctx, certificate)
		}
		e.err = err
		select {
		case a.offers <- e:
		case <-v.ctx.Done():
			if e.media != nil {
				return e.media.Close()
			}
		}
		return nil
	})
}

func (a *Agent) waitForFinger() {
	v := a.visit
	a.workers.Go(func() error {
		template, err := a.cfg.Finger(v.ctx)
		if err != nil && !pause(v.ctx, sensorRetry) { // a sensor that is gone is looked for again, at a pace
			return nil
		}
		select {
		case a.fingers <- fingerEvent{visit: v, template: template, err: err}:
		case <-v.ctx.Done():
			template.Wipe()
		}
		return nil
	})
}

func (a *Agent) onOffer(e offerEvent) error {
	v := a.visit
	if e.visit != v || a.media == nil || e.over != a.media {
		if e.media != nil {
			_ = e.media.Close() // the visit, or the line it was for, is over
		}
		return nil
	}
	if e.err != nil {
		return fmt.Errorf("stream: %w", e.err)
	}
	v.media, v.boxStream = e.media, e.fingerprint
	return a.send(&wire.Offer{SDP: e.sdp, Fingerprint: e.fingerprint})
}

func (a *Agent) onAnswer(m *wire.Answer) error {
	v := a.visit
	if v.media == nil || v.centreStream != nil {
		return nil
	}
	if err := v.media.Accept(m.SDP, m.Fingerprint); err != nil {
		return a.broken(fmt.Errorf("stream answer: %w", err))
	}
	v.centreStream = m.Fingerprint
	switch {
	case a.state == Verifying && v.placed != nil:
		return a.verify()
	case a.state == Resuming:
		return a.returned()
	}
	return nil
}

// broken gives up a line whose other end speaks against the grammar; the link comes up anew.
func (a *Agent) broken(err error) error {
	a.log.Warn("line given up", "err", err)
	if a.up != nil {
		_ = a.up.line.Close()
	}
	return nil
}

func (a *Agent) onFinger(e fingerEvent) error {
	if e.visit != a.visit {
		e.template.Wipe()
		return nil
	}
	if e.err != nil {
		if errors.Is(e.err, context.Canceled) {
			return nil
		}
		a.log.Warn("finger sensor", "err", e.err)
		a.waitForFinger()
		return nil
	}
	a.visit.placed = e.template
	return a.fire(Placed)
}

// verify hands finger and transcript to the card. The stream's fingerprints are part of the transcript: a finger that is faster
// than the stream's set-up waits for it.
func (a *Agent) verify() error {
	v := a.visit
	if v.centreStream != nil {
		template := v.placed
		v.placed = nil
		f := a.up.facts
		transcript := wire.Transcript{
			Context: wire.LoginContext, Nonce: v.nonce,
			GatewayCertificate: f.gatewayCertificate, GatewayTunnelKey: f.gatewayTunnelKey, GatewayStream: v.centreStream,
			Result: f.result, DeviceCertificate: f.deviceCertificate, BoxTunnelKey: f.boxTunnelKey, BoxStream: v.boxStream,
			PersonCertificate: sum(v.read.certificate.Raw),
		}
		digest, err := wire.Digest(transcript)
		if err != nil {
			return err
		}
		v.transcript = digest[:]
		v.hold.login(v.reference(), template, transcript)
	}
	return a.face.show(kiosk.Verifying{Name: v.person.Name})
}

func (a *Agent) askAgain() error {
	a.waitForFinger()
	return a.face.show(kiosk.Finger{Name: a.visit.person.Name, Second: a.visit.second, Refusal: &a.said})
}

// attach wipes the old picture, then asks for the new one; frames of any stream but the new one are dropped from here on.
func (a *Agent) attach() error {
	v := a.visit
	if err := a.releaseKeys(); err != nil {
		return err
	}
	v.stream++
	v.lights = 0
	b := v.bubbles[v.selected]
	v.current = b.Name
	if err := a.keep(); err != nil {
		return err
	}
	if err := a.face.open(v.stream, b, v.person.Name); err != nil {
		return err
	}
	area := a.face.area()
	return a.send(&wire.Attach{
		Session: v.session(), Bubble: b.Name, Stream: v.stream,
		Width: uint16(area.Dx()), Height: uint16(area.Dy()), Layout: a.cfg.Layout,
	})
}

func (a *Agent) backToList() error {
	v := a.visit
	if err := a.releaseKeys(); err != nil {
		return err
	}
	v.stream++ // whatever is still under way is of no stream now
	v.current = ""
	if err := errors.Join(a.keep(), a.face.dark()); err != nil {
		return err
	}
	if err := a.send(&wire.Detach{Session: v.session(), Why: wire.Menu}); err != nil {
		return err
	}
	return a.showList(nil)
}

// cardOut blackens the screen before it does anything else.
func (a *Agent) cardOut() error {
	language := a.face.around.Language // the last words are still hers
	if err := a.face.dark(); err != nil {
		return err
	}
	if v := a.visit; v != nil {
		if err := a.send(&wire.Detach{Session: v.session(), Why: wire.CardOut}); err != nil {
			return err
		}
	}
	a.leave()
	a.quiet.Reset(quietAfter)
	if a.up == nil {
		return a.sayOutage()
	}
	a.face.around.Language = language
	return a.face.show(kiosk.CardOut{})
}

// leave forgets the person: keys up, stream closed, card let go, everything the visit held dropped.
func (a *Agent) leave() {
	v := a.visit
	if v == nil {
		return
	}
	if v.session() != (ident.ID{}) && a.state != Out && a.up != nil {
		_ = a.send(&wire.Detach{Session: v.session(), Why: wire.CardOut})
	}
	_ = a.releaseKeys()
	v.cancel()
	v.placed.Wipe()
	if v.media != nil {
		_ = v.media.Close()
	}
	for _, t := range []*time.Timer{v.present, v.wait} {
		if t != nil {
			t.Stop()
		}
	}
	if v.hold != nil { // else its card was not seen yet
		v.hold.release()
	}
	a.visit, a.expected = nil, nil
	_ = a.cfg.Boot.Keep(nil) // it fails only with PID 1, and so the machine
	a.face.forget()
}

func (a *Agent) presenceDue() <-chan time.Time {
	if a.visit == nil || a.visit.present == nil {
		return nil
	}
	return a.visit.present.C
}

func (a *Agent) renewGrant() error {
	v := a.visit
	v.hold.prove(wire.Presence{Session: v.session(), Nonce: v.grant.Nonce}, a.up.facts.boxTunnelKey)
	return nil
}

func (a *Agent) frames() <-chan stream.Frame {
	if a.visit == nil || a.visit.media == nil {
		return nil
	}
	return a.visit.media.Frames()
}

// onFrame shows a frame of the stream asked for last, and acknowledges every one, so that the gateway knows the pace.
func (a *Agent) onFrame(f stream.Frame) error {
	v := a.visit
	if f.Gap {
		v.media.WantRefresh()
		return nil
	}
	r, err := a.face.frame(f.Data)
	if err != nil {
		return err
	}
	if r.Refresh {
		v.media.WantRefresh()
	}
	if r.Decoded {
		v.media.Ack(r.N)
		v.lights = r.Lights
		a.light()
	}
	if r.Shown {
		return a.fire(Shown)
	}
	return nil
}

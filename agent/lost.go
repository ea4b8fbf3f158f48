// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"slices"
	"time"

	"sdbox/internal/refusal"
	"sdbox/internal/wire"
)

// maxWait is how long a lost line may take to come up again without a finger being asked for. The card stays held meanwhile.
const maxWait = 30 * time.Second

// cover says over what is shown that the centre does not answer. Keys are let go of: what is held down while nobody listens must not
// repeat for ever on the other side.
func (a *Agent) cover() error {
	if a.visit.lost == nil {
		r := refusal.New(refusal.LinkLost)
		a.visit.lost = &r
		a.log.Warn("the centre does not answer", "code", r.Error())
	}
	if err := a.face.cover(*a.visit.lost); err != nil {
		return err
	}
	return a.releaseKeys()
}

// uncover shows again what was covered, and tells the centre what the person read meanwhile.
func (a *Agent) uncover() error {
	if err := a.tellLost(); err != nil {
		return err
	}
	return a.face.uncover()
}

func (a *Agent) tellLost() error {
	v := a.visit
	if v.lost == nil {
		return nil
	}
	e := &wire.Event{Session: v.session(), Refusal: *v.lost}
	v.lost = nil
	return a.send(e)
}

// keepCard is the loss of the line itself. The stream went with it; card, person and choice stay until the wait is over or the card
// leaves.
func (a *Agent) keepCard() error {
	v := a.visit
	if err := a.cover(); err != nil {
		return err
	}
	if v.media != nil {
		_ = v.media.Close()
	}
	v.media, v.boxStream, v.centreStream, v.back = nil, nil, nil, nil
	if v.present != nil {
		v.present.Stop()
	}
	if v.wait == nil {
		v.wait = time.NewTimer(maxWait)
	}
	return nil
}

func (a *Agent) waitOver() <-chan time.Time {
	if a.visit == nil || a.visit.wait == nil {
		return nil
	}
	return a.visit.wait.C
}

// resume asks for the session back: a nonce first, for the card's word that it is still here.
func (a *Agent) resume() error {
	a.face.speak(a.visit.person) // the greeting spoke the site's language
	return a.send(&wire.NonceRequest{})
}

// comeBack names the session with the card's presence for it. A renewal of the grant that was under way when the line broke is of no
// use any more.
func (a *Agent) comeBack(p *wire.Presence) error {
	v := a.visit
	if !slices.Equal(p.Nonce, v.back) {
		return nil
	}
	return a.send(&wire.Resume{
		Session: v.session(), Epoch: v.grant.Epoch, Transcript: v.transcript, Certificate: v.read.certificate.Raw, Nonce: p.Nonce, Presence: p.Signature,
	})
}

// offerAgain sets up a new stream. A session that came back may lose the line again: the wait begins anew then.
func (a *Agent) offerAgain() error {
	v := a.visit
	v.wait.Stop()
	v.wait = nil
	a.offer()
	return a.tellLost()
}

// returned shows what was shown when the line broke: the same bubble if it still opens, else the list.
func (a *Agent) returned() error {
	v := a.visit
	i := slices.IndexFunc(v.bubbles, func(b wire.Bubble) bool { return b.Name == v.current && b.State != wire.Refuses })
	if i < 0 {
		v.current = ""
		return a.fire(Back)
	}
	v.selected = i
	return a.fire(Picked)
}

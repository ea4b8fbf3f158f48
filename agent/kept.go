// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"time"

	"sdbox/agent/kiosk"
	"sdbox/internal/card/pcsc"
	"sdbox/internal/ident"
	"sdbox/internal/refusal"
	"sdbox/internal/wire"
)

// kept is what an agent needs of the one before it, should that have ended in a session: PID 1 holds it in memory from the login to the
// card's going. It lets nobody in: the centre asks the card for its presence in this very session, and the card must not have moved.
type kept struct {
	Session    ident.ID     `json:"session"`
	Epoch      uint64       `json:"epoch"`
	Transcript []byte       `json:"transcript"` // SHA-256 of the login's
	Reader     string       `json:"reader"`
	Count      uint16       `json:"count"` // of the reader's insertions and removals
	Name       string       `json:"name"`
	Language   refusal.Lang `json:"language"`
	Bubble     string       `json:"bubble"` // that was open, "" in the list
}

// keep hands PID 1 the session as it is now.
func (a *Agent) keep() error {
	v := a.visit
	if a.cfg.Boot == nil || v == nil || v.grant == nil {
		return nil
	}
	text, err := json.Marshal(kept{
		Session: v.session(), Epoch: v.grant.Epoch, Transcript: v.transcript, Reader: a.reader, Count: a.count,
		Name: v.person.Name, Language: v.person.Language, Bubble: v.current,
	})
	if err != nil {
		return err
	}
	return a.cfg.Boot.Keep(text)
}

// restore begins where an agent ended that PID 1 kept something of: in a session whose line is lost, without its card yet.
func (a *Agent) restore(text []byte) {
	var k kept
	if len(text) == 0 {
		return
	}
	if err := json.Unmarshal(text, &k); err != nil || k.Session.IsZero() || len(k.Transcript) != sha256.Size {
		a.log.Warn("what was kept of a session is of no use", "err", err)
		return
	}
	a.log.Info("an agent ended in a session", "session", k.Session.String())
	ctx, cancel := context.WithCancel(context.Background())
	lost := refusal.New(refusal.LinkLost)
	a.state, a.expected = Lost, &k
	a.visit = &visit{
		ctx: ctx, cancel: cancel, person: &wire.Person{Session: k.Session, Name: k.Name, Language: k.Language}, grant: &wire.Grant{Epoch: k.Epoch},
		transcript: k.Transcript, current: k.Bubble, wait: time.NewTimer(maxWait), lost: &lost,
	}
	a.face.speak(a.visit.person)
}

// opening is the first thing on the screen: that the box connects, and why if it was at work already.
func (a *Agent) opening() kiosk.View {
	if a.expected == nil {
		return kiosk.Boot{}
	}
	return kiosk.Boot{Refusal: a.visit.lost}
}

// found takes the first card that is seen after a restore. If it is the one that was there, and has not moved, its session may come
// back; any other begins anew.
func (a *Agent) found(e pcsc.Event) error {
	k := a.expected
	if k.Reader != e.Reader || k.Count != e.Count {
		return a.giveUpKept()
	}
	a.expected = nil
	a.visit.hold = returnHold(a.cfg.Cards, e.Reader, a.holds)
	return nil
}

// giveUpKept forgets the session that was kept: its card is not here. The person is asked for her finger.
func (a *Agent) giveUpKept() error {
	a.expected = nil
	a.log.Info("the card of the session is not here any more")
	a.leave()
	a.state = Connecting
	return a.face.show(kiosk.Boot{})
}

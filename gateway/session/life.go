// SPDX-License-Identifier: Apache-2.0

package session

import (
	"context"
	"encoding/hex"
	"errors"
	"time"

	"sdbox/gateway/registry"
	"sdbox/gateway/store"
	"sdbox/internal/ident"
	"sdbox/internal/refusal"
	"sdbox/internal/stream"
	"sdbox/internal/wire"
)

// mediaGrace is how long a broken media connection waits for its cause: a box that closes it because the card is out says so on the
// line, which is slower.
const mediaGrace = time.Second

// deadLine is how long a line in a session says nothing when it is dead: its box beats every half second then.
const deadLine = 2 * time.Second

// session is one login of a person with a card on this box. It belongs to the loop of its line.
type session struct {
	holder
	id    ident.ID
	state State
	epoch int64  // owner epoch of the store's row
	order uint64 // rises over all logins of the house; the epoch of bubble tokens
	since time.Time

	logins    nonces
	presences nonces
	wrong     int
	moving    *wire.Login // proved, and waiting for the answer to "bring it here?"

	media      *media
	mediaLost  bool // it broke; the box has a second to say that the card is out
	flow       *flow
	transcript [32]byte
	tunnelKey  wire.Key // the box's at login

	loginEnd time.Time // until when the login would stand if it were granted now
	grantEnd time.Time // until when it is granted
	projects []registry.Project
	rights   map[string]time.Time // bubble -> until when it may be open

	warm     map[string]Bubble // connections without a desktop, made at card-in
	up       map[string]bool   // whether the person's desktop runs, in the bubbles that said so
	told     []wire.Bubble     // the list as the box has it; nil before the login
	causes   map[string]string // why a bubble of the list is refused, for the log
	desks    map[string]*desk
	opening  map[string]wish // desktops that are being reached for
	attached bool            // there has been an attach
	number   uint16          // stream number of the newest attach
	wish     *wish
	warned   map[string]warned // by bubble
	shown    *desk
	pump     *pump
	watched  bool // the box was told that somebody looks at this session
}

// The channels of the media connection; nil, which never speaks, while there is none.
func (s *session) input() <-chan stream.Input {
	if s == nil || s.media == nil {
		return nil
	}
	return s.media.gateway.Input()
}

func (s *session) acks() <-chan uint32 {
	if s == nil || s.media == nil {
		return nil
	}
	return s.media.gateway.Acks()
}

func (s *session) wanted() <-chan struct{} {
	if s == nil || s.media == nil {
		return nil
	}
	return s.media.gateway.Refresh()
}

// change is what a step writes beside the state.
type change struct {
	by     string // actor; empty = the box
	why    refusal.Refusal
	reason string
	grant  []byte // the statement that this step gives
	nonce  []byte // that of the presence by which the card was there; nil at login, which has its own row
	proof  []byte // its signature
}

// evidence is what the audit row keeps of a grant and of the presence behind it.
func (c *change) evidence() map[string]string {
	if c.grant == nil {
		return nil
	}
	fields := map[string]string{"grant": hex.EncodeToString(c.grant)}
	if c.nonce != nil {
		fields["presence_nonce"], fields["presence_signature"] = hex.EncodeToString(c.nonce), hex.EncodeToString(c.proof)
	}
	return fields
}

// happen takes a step of the table: first the store's row and audit row, then what follows from the new state. An error means that
// the step is not taken.
func (l *boxLine) happen(ctx context.Context, on Happening, c change) error {
	s := l.s
	if s == nil {
		return nil
	}
	to, err := next(s.state, on)
	if err != nil {
		return err
	}
	row := store.SessionChange{ID: s.id, Epoch: s.epoch, State: to, Reason: c.reason, Evidence: c.evidence()}
	if c.why.Code != "" {
		row.Code = c.why.Error()
	}
	if row.Reason == "" {
		row.Reason = string(on)
	}
	if s.wish != nil && (to == Starting || to == Active) {
		row.Bubble = s.wish.project.Bubble.Name
	}
	end := life(to, time.Now(), s.grantEnd)
	if to != Ended {
		row.Deadline = end.UnixMilli()
	}
	if c.by == "" {
		c.by = l.actor()
	}
	if err := l.srv.conf.Store.ChangeSession(ctx, c.by, row); err != nil {
		return err
	}
	s.state = to
	if to == Suspended || to == Ended {
		live := l.live()
		l.release()
		var back time.Time
		if on == LineLost {
			live.Lost = time.Now()
			back = live.Lost.Add(comeBack)
		}
		l.srv.publish(live, nil, row, back)
		return nil
	}
	l.arm()
	l.srv.publish(l.live(), l, row, time.Time{})
	return nil
}

// arm sets the loop's timer to the next moment at which something of the session may end.
func (l *boxLine) arm() {
	s := l.s
	end := life(s.state, time.Now(), s.grantEnd)
	if s.mediaLost {
		end = earlier(end, time.Now().Add(mediaGrace))
	}
	if s.wish != nil {
		if until, ok := s.rights[s.wish.project.Bubble.Name]; ok {
			end = earlier(end, until)
		}
		if at := nextWarning(s.wish.project, time.Now()); s.state == Active && !at.IsZero() {
			end = earlier(end, at)
		}
	}
	l.deadline.Reset(max(time.Until(end), 0) + time.Millisecond)
}

// late is the deadline: of the state, of the grant, or of the right to the bubble on the screen.
func (l *boxLine) late(ctx context.Context) error {
	s := l.s
	if s == nil {
		return nil
	}
	now := time.Now()
	switch {
	case s.mediaLost && time.Since(l.line.Heard()) > deadLine:
		return errors.New("neither the media connection nor the line brings anything") // the session may come back
	case s.mediaLost:
		return l.stopped(ctx, stop{id: s.id, by: l.srv.actor(), why: refusal.New(refusal.OurFault), reason: "the media connection broke"})
	case s.state == Requested:
		return l.stopped(ctx, stop{id: s.id, by: l.srv.actor(), why: refusal.New(refusal.OurFault), reason: "no finger in time"})
	case !now.Before(s.grantEnd): // the card did not prove its presence in time
		return l.stopped(ctx, stop{id: s.id, by: l.srv.actor(), why: refusal.New(refusal.OurFault), reason: "grant not renewed"})
	case s.state == Starting && s.wish != nil && now.Before(s.rights[s.wish.project.Bubble.Name]):
		return l.lose(ctx, s.wish.project.Bubble.Name, errors.New("it did not start in time"))
	}
	return l.again(ctx)
}

// live is the session as operators see it.
func (l *boxLine) live() Live {
	s := l.s
	live := Live{ID: s.id, Person: s.person.Name, PersonID: s.person.ID, Box: l.serial, Country: l.country, State: s.state, Since: s.since}
	if s.wish != nil && (s.state == Starting || s.state == Active) {
		b := s.wish.project.Bubble
		live.Bubble, live.Title, live.Colour = b.Name, b.Title, b.Colour
	}
	return live
}

// release lets go of everything the session held. The desktops go on.
func (l *boxLine) release() {
	s := l.s
	l.cover()
	for _, k := range s.desks {
		l.closeLater(k.desktop)
	}
	for _, b := range s.warm {
		b.Close()
	}
	if s.media != nil {
		l.running.Go(func() { s.media.gateway.Close() })
	}
	l.refresh.Stop()
	l.deadline.Stop()
	l.s, l.strays = nil, 0
}

// detach lets go of the bubble, or of the session.
func (l *boxLine) detach(ctx context.Context, m *wire.Detach) error {
	s := l.s
	switch {
	case s == nil: // the card that left was refused, or its session ended before
		return nil
	case m.Session != s.id:
		return l.stray(m)
	case m.Why == wire.CardOut:
		l.cover()
		return l.happen(ctx, CardLeft, change{})
	case m.Why == wire.Menu && (s.state == Starting || s.state == Active):
		l.cover()
		s.wish = nil
		return l.happen(ctx, BackToList, change{})
	}
	return l.stray(m)
}

// stopped ends the session for someone else than the person: the picture stops, the box reads why, and only then things close.
func (l *boxLine) stopped(ctx context.Context, st stop) error {
	if st.whole {
		return l.dismiss(ctx, st)
	}
	if l.s == nil || l.s.id != st.id {
		if st.done != nil {
			st.done <- ErrGone
		}
		return nil
	}
	var err error
	if st.text != "" {
		err = l.tell(ctx, st)
	} else {
		err = l.stop(ctx, st)
	}
	if st.done != nil {
		st.done <- err
	}
	if errors.Is(err, ErrAway) { // the operator's to know; the line is well
		return nil
	}
	return err
}

func (l *boxLine) stop(ctx context.Context, st stop) error {
	l.cover()
	l.s.wish = nil
	if err := l.happen(ctx, Stopped, change{by: st.by, why: st.why, reason: st.words()}); err != nil {
		return err
	}
	told := l.line.Write(&wire.Ended{Session: st.id, Refusal: st.why, Reason: st.reason})
	return errors.Join(l.happen(ctx, Closed, change{by: st.by, why: st.why, reason: st.words()}), told)
}

var errDismissed = errors.New("the box was told to leave")

// dismiss ends the session, if there is one, and the line. A zero session in Ended says that.
func (l *boxLine) dismiss(ctx context.Context, st stop) error {
	var err error
	if l.s != nil {
		st.id = l.s.id
		err = l.stop(ctx, st)
	}
	err = errors.Join(err, l.line.Write(&wire.Ended{Refusal: st.why, Reason: st.reason}))
	st.done <- err
	return errors.Join(errDismissed, err)
}

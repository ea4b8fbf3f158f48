// SPDX-License-Identifier: Apache-2.0

package session

import (
	"context"
	"errors"
	"fmt"
	"time"

	"sdbox/gateway/registry"
	"sdbox/gateway/store"
	"sdbox/internal/ident"
	"sdbox/internal/refusal"
	"sdbox/internal/wire"
)

// startingSeconds is what a person reads of how long a desktop takes to start: long enough for a slow one.
const startingSeconds = "20"

// ErrAway says that nobody is logged in at the session's screen: a message would reach nobody.
var ErrAway = errors.New("nobody is at the screen of this session")

// Tell shows an operator's message on the screen of a session, over whatever is there, in one line of at most wire.MaxNotice bytes. It
// returns when the message is audited and on its way; ErrAway if nobody is there to read it, ErrGone if the session ended before.
func (s *Server) Tell(ctx context.Context, id ident.ID, by, text string) error {
	if text == "" || len(text) > wire.MaxNotice {
		return fmt.Errorf("message of %d bytes: want 1 to %d", len(text), wire.MaxNotice)
	}
	return s.end(ctx, stop{id: id, by: by, text: text})
}

// tell is Tell at the session's line.
func (l *boxLine) tell(ctx context.Context, st stop) error {
	s := l.s
	if s.state != Authorised && s.state != Starting && s.state != Active {
		return ErrAway
	}
	e := store.Entry{Actor: st.by, Action: "session.message", Object: "session:" + s.id.String(), Session: s.id, Fields: map[string]string{"text": st.text}}
	if err := l.srv.conf.Store.Change(ctx, e, func(*store.Tx) error { return nil }); err != nil {
		return err
	}
	return l.line.Write(&wire.Notice{Text: st.text, At: time.Now().UnixMilli()})
}

// say shows the person a refusal to come, after its audit row.
func (l *boxLine) say(ctx context.Context, bubble string, why refusal.Refusal) error {
	e := store.Entry{Actor: l.srv.actor(), Action: "session.notice", Object: "session:" + l.s.id.String(), Session: l.s.id, Code: why.Error(),
		Fields: map[string]string{"bubble": bubble}}
	if err := l.srv.conf.Store.Change(ctx, e, func(*store.Tx) error { return nil }); err != nil {
		return err
	}
	return l.line.Write(&wire.Notice{At: time.Now().UnixMilli(), Refusal: &why})
}

// warned is what a person was told last of a right: which of warnings, and the end it was about. An earlier end is news.
type warned struct {
	before time.Duration
	ends   time.Time
}

// warnings are how long before a right ends the person at work in its bubble is told, the first first.
func warnings() []time.Duration { return []time.Duration{15 * time.Minute, time.Minute} }

// rightEnds is when a person's right to a project ends by its dates; zero when none is set.
func rightEnds(p registry.Project) time.Time {
	until, closes := when(p.Membership.Until), when(p.Bubble.Closes)
	if until.IsZero() || !closes.IsZero() && closes.Before(until) {
		return closes
	}
	return until
}

// warn tells the person that her right to the bubble on the screen ends soon, once for each of warnings, and when she opens it
// later than that.
func (l *boxLine) warn(ctx context.Context, now time.Time) error {
	s := l.s
	if s.state != Active || s.wish == nil {
		return nil
	}
	name, ends := s.wish.project.Bubble.Name, rightEnds(s.wish.project)
	if ends.IsZero() {
		delete(s.warned, name)
		return nil
	}
	left, due := ends.Sub(now), time.Duration(0)
	for _, w := range warnings() {
		if left <= w {
			due = w
		}
	}
	if due == 0 {
		delete(s.warned, name) // it was made longer
		return nil
	}
	if said, found := s.warned[name]; found && said.before <= due && !ends.Before(said.ends) {
		return nil
	}
	s.warned[name] = warned{due, ends}
	minutes := max(1, int((left+30*time.Second)/time.Minute))
	return l.say(ctx, name, refusal.New(refusal.ProjectEnding, "project", s.wish.project.Bubble.Title, "minutes", fmt.Sprint(minutes)))
}

// nextWarning is when warn has something to say next about a project; zero when it has not.
func nextWarning(p registry.Project, now time.Time) time.Time {
	ends := rightEnds(p)
	if ends.IsZero() {
		return time.Time{}
	}
	for _, w := range warnings() {
		if at := ends.Add(-w); at.After(now) {
			return at
		}
	}
	return time.Time{}
}

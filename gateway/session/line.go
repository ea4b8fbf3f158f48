// SPDX-License-Identifier: Apache-2.0

package session

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"sync"
	"time"

	"sdbox/gateway/store"
	"sdbox/internal/line"
	"sdbox/internal/refusal"
	"sdbox/internal/wire"
)

// maxStrays is how many messages that do not fit the state a line survives. Some are innocent: what a box sent while the
// gateway's word that the session has ended was on its way.
const maxStrays = 16

// maxRefusals is how many refusals a box may collect in refusalWindow: each costs an audit row.
const (
	maxRefusals   = 40
	refusalWindow = time.Minute
)

// How many messages a box may send: a burst, and then so many a second. Beats do not count. A person who switches bubbles as fast
// as a hand can stays far below; each message may cost a row of the audit log.
const (
	messageBurst = 600
	messageRate  = 10
)

// pace is what a box has sent of late, over all its lines: one that comes back has no more than before. It belongs to the line that the
// box has.
type pace struct {
	budget   float64 // messages it may still send
	spentAt  time.Time
	refusals []time.Time
}

var suffix = regexp.MustCompile(`^[0-9A-Z]{3}$`)

var errStray = errors.New("message does not fit the state")

// boxLine is one box's line. Its loop owns every field below the first blank line; nobody else touches them.
type boxLine struct {
	srv     *Server
	addr    netip.Addr
	serial  string
	conn    net.Conn
	line    *line.Conn
	stops   chan stop
	dirty   chan struct{} // holds one token: some right may have changed
	watched chan struct{} // holds one token: who looks at the session may have changed
	done    chan struct{} // closed when the loop and all it started are over

	in       chan wire.Message
	lost     chan error // the reader's end
	reached  chan reached
	opened   chan opened
	pumped   chan pumped
	finished chan finished
	running  sync.WaitGroup // all goroutines of this line
	deadline *time.Timer
	refresh  *time.Timer // next login nonce
	cardOf   nonces      // for CardIn
	s        *session    // nil = no card in
	openings int         // desktops that are being reached for
	strays   int
	pace     *pace
	country  string // where the box is registered
	handlers map[wire.Type]rule
}

func newLine(s *Server, conn net.Conn, addr netip.Addr, serial string) (*boxLine, error) {
	c, err := line.New(conn, wire.FromBox, line.Silence)
	if err != nil {
		return nil, err
	}
	return &boxLine{
		srv: s, addr: addr, serial: serial, conn: conn, line: c, stops: make(chan stop, 4), dirty: make(chan struct{}, 1), watched: make(chan struct{}, 1), done: make(chan struct{}),
		in: make(chan wire.Message), lost: make(chan error, 1), reached: make(chan reached), opened: make(chan opened), pumped: make(chan pumped), finished: make(chan finished),
		deadline: time.NewTimer(time.Hour), refresh: time.NewTimer(time.Hour), handlers: rules(),
	}, nil
}

// touch tells the loop that something may have changed; it never waits.
func (l *boxLine) touch() {
	select {
	case l.dirty <- struct{}{}:
	default:
	}
}

// run greets the box and serves it until the line ends. When it returns no goroutine of the line is left.
func (l *boxLine) run(ctx context.Context) error {
	if _, err := l.line.Greet(&wire.Hello{Language: l.srv.conf.Language, Support: l.srv.conf.Support, Now: time.Now().UnixMilli(), Box: l.serial}); err != nil {
		return err
	}
	inner, cancel := context.WithCancel(ctx)
	l.running.Go(func() { l.read(inner) })
	l.running.Go(func() {
		if l.line.Beats(inner) != nil {
			l.conn.Close() // the reader sees it
		}
	})
	err := l.loop(inner)
	if ctx.Err() != nil {
		// The gateway stops. The session is suspended like one whose line broke, and its row is written although ctx is over.
		err = nil
	}
	last, done := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer done()
	lost := l.happen(last, LineLost, change{})
	if l.s != nil { // the store failed: the row is left to the sweep, but nothing of the session stays open
		live := l.live()
		live.State, live.Lost = Suspended, time.Now()
		row := store.SessionChange{ID: l.s.id, Epoch: l.s.epoch}
		l.release()
		l.srv.publish(live, nil, row, time.Time{})
	}
	cancel()
	l.conn.Close()
	l.deadline.Stop()
	l.refresh.Stop()
	l.drain()
	return errors.Join(err, lost)
}

// drain waits for the line's goroutines and closes what they still bring.
func (l *boxLine) drain() {
	over := make(chan struct{})
	go func() {
		l.running.Wait()
		close(over)
	}()
	for {
		select {
		case r := <-l.reached:
			r.close()
		case o := <-l.opened:
			o.close()
		case <-l.pumped:
		case <-l.finished:
		case <-l.in:
		case <-over:
			return
		}
	}
}

func (l *boxLine) read(ctx context.Context) {
	for {
		m, err := l.line.Read()
		if err != nil {
			l.lost <- err
			return
		}
		select {
		case l.in <- m:
		case <-ctx.Done():
			l.lost <- ctx.Err()
			return
		}
	}
}

// loop is the line's life: one thing at a time. An error ends the line.
func (l *boxLine) loop(ctx context.Context) error {
	for {
		var err error
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err = <-l.lost:
			return err
		case m := <-l.in:
			err = l.message(ctx, m)
		case st := <-l.stops:
			err = l.stopped(ctx, st)
		case <-l.dirty:
			err = l.again(ctx)
		case <-l.watched:
			err = l.tellWatched()
		case <-l.deadline.C:
			err = l.late(ctx)
		case <-l.refresh.C:
			err = l.freshNonce()
		case r := <-l.reached:
			err = l.reachedBubble(ctx, r)
		case o := <-l.opened:
			err = l.openedDesk(ctx, o)
		case p := <-l.pumped:
			err = l.pumpEnded(ctx, p)
		case f := <-l.finished:
			err = l.finishedDesk(ctx, f)
		case in := <-l.s.input():
			err = l.input(ctx, in)
		case n := <-l.s.acks():
			l.s.flow.acked(n)
		case <-l.s.wanted():
			l.wantsKey()
		}
		if err != nil {
			return err
		}
	}
}

// rule says in which states a message is expected, and what is done with it then.
type rule struct {
	states []State
	do     func(*boxLine, context.Context, wire.Message) error
}

// on adapts a handler of one message type.
func on[M wire.Message](do func(*boxLine, context.Context, M) error, states ...State) rule {
	return rule{states, func(l *boxLine, ctx context.Context, m wire.Message) error {
		typed, ok := m.(M)
		if !ok {
			return fmt.Errorf("%w: %T", errStray, m)
		}
		return do(l, ctx, typed)
	}}
}

// rules is what a box may say in which state. A message that is not here, or in another state, is a stray.
func rules() map[wire.Type]rule {
	return map[wire.Type]rule{
		wire.TypeOf(&wire.NonceRequest{}): on((*boxLine).nonceRequest, Absent),
		wire.TypeOf(&wire.CardIn{}):       on((*boxLine).cardIn, Absent),
		wire.TypeOf(&wire.Resume{}):       on((*boxLine).resume, Absent),
		wire.TypeOf(&wire.Offer{}):        on((*boxLine).offer, Requested, Authorised),
		wire.TypeOf(&wire.Login{}):        on((*boxLine).login, Requested),
		wire.TypeOf(&wire.Attach{}):       on((*boxLine).attach, Authorised, Starting, Active),
		wire.TypeOf(&wire.EndDesktop{}):   on((*boxLine).endDesktop, Authorised),
		wire.TypeOf(&wire.Presence{}):     on((*boxLine).presence, Authorised, Starting, Active),
		wire.TypeOf(&wire.Detach{}):       on((*boxLine).detach, Absent, Requested, Authorised, Starting, Active),
		wire.TypeOf(&wire.Event{}):        on((*boxLine).event, Absent, Requested, Authorised, Starting, Active),
	}
}

func (l *boxLine) state() State {
	if l.s == nil {
		return Absent
	}
	return l.s.state
}

func (l *boxLine) message(ctx context.Context, m wire.Message) error {
	now := time.Now()
	p := l.pace
	p.budget = min(messageBurst, p.budget+now.Sub(p.spentAt).Seconds()*messageRate) - 1
	p.spentAt = now
	if p.budget < 0 {
		return fmt.Errorf("more than %d messages, and more than %d a second", messageBurst, messageRate)
	}
	r, known := l.handlers[wire.TypeOf(m)]
	if !known || !slices.Contains(r.states, l.state()) {
		return l.stray(m)
	}
	return r.do(l, ctx, m)
}

// stray drops a message. Many of them are not an accident.
func (l *boxLine) stray(m wire.Message) error {
	l.strays++
	l.srv.conf.Log.Info("stray message", "room", "session", "box", l.serial, "message", fmt.Sprintf("%T", m), "state", string(l.state()))
	if l.strays > maxStrays {
		return fmt.Errorf("%w: %T in state %q, and %d before it", errStray, m, l.state(), maxStrays)
	}
	return nil
}

// refuse answers a message that is not granted, after its audit row: the suffix the person reads can always be found.
func (l *boxLine) refuse(ctx context.Context, m wire.Message, bubble string, why refusal.Refusal, cause string) error {
	if err := l.count(time.Now()); err != nil {
		return err
	}
	e := store.Entry{Actor: l.actor(), Action: "session.refused", Object: "box:" + l.serial, Code: why.Error(), Fields: map[string]string{"cause": cause}}
	if l.s != nil {
		e.Session = l.s.id
		e.Fields["person"] = l.s.person.ID.String()
	}
	if bubble != "" {
		e.Fields["bubble"] = bubble
	}
	if err := l.srv.conf.Store.Change(ctx, e, func(*store.Tx) error { return nil }); err != nil {
		return err
	}
	l.srv.conf.Log.Info("refused", "room", "session", "box", l.serial, "code", why.Error(), "cause", cause)
	return l.line.Write(&wire.Refused{Refusal: why, Re: wire.TypeOf(m), Bubble: bubble})
}

// count notes one more refusal; the line of a box that collects too many is given up.
func (l *boxLine) count(now time.Time) error {
	p := l.pace
	p.refusals = slices.DeleteFunc(p.refusals, func(t time.Time) bool { return now.Sub(t) > refusalWindow })
	if len(p.refusals) >= maxRefusals {
		return fmt.Errorf("more than %d refusals in %v", maxRefusals, refusalWindow)
	}
	p.refusals = append(p.refusals, now)
	return nil
}

func (l *boxLine) actor() string { return "box:" + l.serial }

// event audits what the box refused by itself, with the suffix the person reads.
func (l *boxLine) event(ctx context.Context, m *wire.Event) error {
	row, known := refusal.Lookup(m.Refusal.Code)
	if !known || !suffix.MatchString(m.Refusal.Suffix) {
		return l.stray(m)
	}
	if err := l.count(time.Now()); err != nil {
		return err
	}
	e := store.Entry{Actor: l.actor(), Action: "box.refused", Object: "box:" + l.serial, Code: m.Refusal.Error(), Fields: map[string]string{"light": string(row.Light)}}
	if l.s != nil {
		e.Session = l.s.id
		e.Fields["person"] = l.s.person.ID.String()
	}
	if left, found := m.Refusal.Params["left"]; found && len(left) < 4 {
		e.Fields["left"] = left
	}
	return l.srv.conf.Store.Change(ctx, e, func(*store.Tx) error { return nil })
}

func (l *boxLine) nonceRequest(_ context.Context, _ *wire.NonceRequest) error {
	return l.line.Write(&wire.Nonce{Nonce: l.cardOf.draw(time.Now())})
}

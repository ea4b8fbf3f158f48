// SPDX-License-Identifier: Apache-2.0

package session

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"sdbox/gateway/store"
	"sdbox/internal/ident"
	"sdbox/internal/refusal"
)

// sweepInterval is how often sessions past their deadline are looked for.
const sweepInterval = 5 * time.Second

// maxLines is how many boxes may hold a line at once (one gateway is meant for 1,300).
const maxLines = 4096

// ErrGone says that there is no such session any more.
var ErrGone = errors.New("there is no such session")

// Live is one session as operators see it.
type Live struct {
	ID       ident.ID
	Person   string // name
	PersonID ident.ID
	Box      string // serial
	Country  string
	Bubble   string // short name; empty = none attached
	Title    string // of the bubble
	Colour   uint32 // of the bubble, 0xRRGGBB
	State    State
	Since    time.Time
	Delay    time.Duration // round trip of the line; 0 = not known
	Lost     time.Time     // since when a suspended session has had no line; zero if it is suspended because the card is out
	Watchers []string      // actors who look at it now, as Watch was told
}

// entry is a session that has not ended, and the line that owns it; a suspended session has none and the server owns it.
type entry struct {
	live Live
	line *boxLine
	row  store.SessionChange // the store's row as last written, for whoever ends it
	back time.Time           // until when it may come back without a finger; zero = not at all
}

// stop asks a line's loop to end its session, or only to say something at its screen.
type stop struct {
	id     ident.ID
	by     string // the actor of the audit row
	why    refusal.Refusal
	reason string     // the operator's own words
	done   chan error // buffered; nil = nobody waits
	whole  bool       // the line ends too, whatever session it holds
	text   string     // if set, nothing ends: a message to the person
}

// Server holds the sessions of one gateway. All methods may be called from any goroutine.
type Server struct {
	conf Config

	mu      sync.Mutex
	lines   map[netip.Addr]*boxLine // guarded by mu
	paces   map[netip.Addr]*pace    // guarded by mu; one for each box that was here
	entries map[ident.ID]*entry     // guarded by mu
	changed chan struct{}           // guarded by mu: closed and replaced at each change

	watchers map[ident.ID]map[string]int // guarded by mu: how many pages each looker has open on a session
}

// New makes a server of sessions.
func New(conf Config) (*Server, error) {
	if err := conf.check(); err != nil {
		return nil, fmt.Errorf("session: %w", err)
	}
	return &Server{conf: conf, lines: map[netip.Addr]*boxLine{}, paces: map[netip.Addr]*pace{}, entries: map[ident.ID]*entry{}, changed: make(chan struct{}),
		watchers: map[ident.ID]map[string]int{}}, nil
}

// Serve takes lines from boxes until ctx ends, and returns when the last of them is closed. It owns the listener. A connection
// whose address is not that of a box with a standing attestation result is closed without a word.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	first := context.WithoutCancel(ctx) // half an adoption is worse than a late stop
	if err := s.adopt(first); err != nil {
		return fmt.Errorf("session: %w", errors.Join(err, ln.Close()))
	}
	after, err := s.conf.Store.Last(first)
	if err != nil {
		return fmt.Errorf("session: %w", errors.Join(err, ln.Close()))
	}
	ctx, cancel := context.WithCancelCause(ctx)
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel(nil)
	all.Go(func() { s.sweep(ctx) })
	all.Go(func() {
		if err := s.watch(ctx, after); err != nil {
			cancel(err) // without it no revocation would reach a session: better no sessions
		}
	})
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	places := make(chan struct{}, maxLines)
	for {
		conn, err := ln.Accept()
		if ctx.Err() != nil {
			return stopped(ctx)
		}
		if err != nil {
			return fmt.Errorf("session: accept a line: %w", err)
		}
		select {
		case places <- struct{}{}:
			all.Go(func() {
				s.serve(ctx, conn)
				<-places
			})
		default:
			conn.Close()
		}
	}
}

// stopped is why a context ended, if that was not somebody's wish.
func stopped(ctx context.Context) error {
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return fmt.Errorf("session: %w", err)
	}
	return nil
}

// serve runs one line to its end.
func (s *Server) serve(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	peer, err := netip.ParseAddrPort(conn.RemoteAddr().String())
	if err != nil {
		return
	}
	addr := peer.Addr().Unmap().WithZone("")
	box, ok := s.conf.Box(addr)
	if !ok {
		s.conf.Log.Warn("line from an address without a box", "room", "session", "address", addr.String())
		return
	}
	l, err := newLine(s, conn, addr, box.Serial)
	if err != nil {
		s.conf.Log.Error("line", "room", "session", "box", box.Serial, "err", err)
		return
	}
	if !s.admit(ctx, l) {
		return
	}
	defer s.forget(l)
	if err := l.run(ctx); err != nil {
		s.conf.Log.Info("line ended", "room", "session", "box", box.Serial, "err", err)
	}
}

// admit makes l the one line of its box. An older one is of a boot, or of a connection, that is no more: it ends first.
func (s *Server) admit(ctx context.Context, l *boxLine) bool {
	for {
		s.mu.Lock()
		old := s.lines[l.addr]
		if old == nil {
			s.lines[l.addr] = l
			l.pace = s.paceLocked(l.addr)
		}
		s.mu.Unlock()
		if old == nil {
			return true
		}
		old.conn.Close()
		select {
		case <-old.done:
		case <-ctx.Done():
			return false
		}
	}
}

func (s *Server) paceLocked(addr netip.Addr) *pace {
	if s.paces[addr] == nil {
		s.paces[addr] = &pace{budget: messageBurst, spentAt: time.Now()}
	}
	return s.paces[addr]
}

func (s *Server) forget(l *boxLine) {
	s.mu.Lock()
	if s.lines[l.addr] == l {
		delete(s.lines, l.addr)
	}
	s.mu.Unlock()
	close(l.done)
}

// publish shows what a session is now; a session that has ended is taken away.
func (s *Server) publish(live Live, line *boxLine, row store.SessionChange, back time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if live.State == Ended {
		delete(s.entries, live.ID)
	} else {
		s.entries[live.ID] = &entry{live: live, line: line, row: row, back: back}
	}
	s.wakeLocked()
}

// wakeLocked has every open page look again.
func (s *Server) wakeLocked() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// Changes returns a channel that is closed when a session next changes.
func (s *Server) Changes() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// Live lists the sessions that have not ended, the newest first.
func (s *Server) Live() []Live {
	s.mu.Lock()
	list := make([]Live, 0, len(s.entries))
	for _, e := range s.entries {
		live := e.live
		if e.line != nil {
			live.Delay = e.line.line.Delay()
		}
		live.Watchers = s.watchersLocked(live.ID)
		list = append(list, live)
	}
	s.mu.Unlock()
	slices.SortFunc(list, func(a, b Live) int {
		if c := b.Since.Compare(a.Since); c != 0 {
			return c
		}
		return strings.Compare(a.ID.String(), b.ID.String())
	})
	return list
}

// Cut ends a session for an operator: the box is told why before anything closes, then the bubble's picture stops. The
// desktops go on. It returns when that is done and audited; ErrGone if the session ended before.
func (s *Server) Cut(ctx context.Context, id ident.ID, by, reason string) error {
	return s.end(ctx, stop{id: id, by: by, why: refusal.New(refusal.CutByOperator, "at", refusal.Moment(time.Now()), "reason", reason), reason: reason})
}

// StopBox ends the line of a box, and the session on it, for a refusal. It returns when the box has been told, or has no line.
func (s *Server) StopBox(ctx context.Context, serial, by string, why refusal.Refusal) error {
	s.mu.Lock()
	var l *boxLine
	for _, line := range s.lines {
		if line.serial == serial {
			l = line
		}
	}
	s.mu.Unlock()
	if l == nil {
		return nil
	}
	st := stop{by: by, why: why, whole: true, done: make(chan error, 1)}
	select {
	case l.stops <- st:
	case <-l.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-st.done:
		return err
	case <-l.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// end hands a stop to whoever owns the session, and waits.
func (s *Server) end(ctx context.Context, st stop) error {
	st.done = make(chan error, 1)
	for {
		s.mu.Lock()
		e := s.entries[st.id]
		s.mu.Unlock()
		if e == nil {
			return fmt.Errorf("session %s: %w", st.id, ErrGone)
		}
		if e.line == nil && st.text != "" {
			return ErrAway
		}
		if e.line == nil {
			if err := s.endSuspended(ctx, e, st); !errors.Is(err, ErrGone) || !s.moved(e) {
				return err
			}
			continue // it came back to its box meanwhile
		}
		select {
		case e.line.stops <- st:
		case <-e.line.done:
			continue // its loop has just ended: look again
		case <-ctx.Done():
			return ctx.Err()
		}
		select {
		case err := <-st.done:
			return err
		case <-e.line.done:
			select {
			case err := <-st.done:
				return err
			default: // the loop ended without having seen it
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// endSuspended ends a session that no line holds.
func (s *Server) endSuspended(ctx context.Context, e *entry, st stop) error {
	row := e.row
	row.State, row.Deadline, row.Bubble, row.Reason, row.Code = Ended, 0, "", st.words(), st.why.Error()
	err := s.conf.Store.ChangeSession(ctx, st.by, row)
	if errors.Is(err, store.ErrConflict) {
		return fmt.Errorf("session %s: %w", st.id, ErrGone)
	}
	if err != nil {
		return err
	}
	live := e.live
	live.State = Ended
	s.publish(live, nil, row, time.Time{})
	return nil
}

func (st stop) words() string {
	if st.reason != "" {
		return st.reason
	}
	return st.why.Error()
}

// elsewhere returns the person's other sessions.
func (s *Server) elsewhere(person, but ident.ID) []Live {
	var list []Live
	for _, l := range s.Live() {
		if l.PersonID == person && l.ID != but {
			list = append(list, l)
		}
	}
	return list
}

// takeOver asks the owner of another session of the same person to end it, without waiting: two lines that take over one
// another must not wait for one another. The other screen hears of it at one of its next steps.
func (s *Server) takeOver(ctx context.Context, other Live, why refusal.Refusal, by string) error {
	st := stop{id: other.ID, by: by, why: why}
	for {
		s.mu.Lock()
		e := s.entries[other.ID]
		s.mu.Unlock()
		switch {
		case e == nil:
			return nil
		case e.line == nil:
			if err := s.endSuspended(ctx, e, st); !errors.Is(err, ErrGone) {
				return err
			}
			if !s.moved(e) {
				return nil
			}
		default:
			select {
			case e.line.stops <- st:
			default: // as many stops as it can hold are on their way already
			}
			return nil
		}
	}
}

// moved says whether a session that has just been found in other hands is in them: its entry is not the one looked at.
func (s *Server) moved(e *entry) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.entries[e.live.ID]
	return now != nil && now != e
}

func (s *Server) actor() string { return "gateway:" + s.conf.Name }

// sweep ends what is past its deadline and has no loop to see to it.
func (s *Server) sweep(ctx context.Context) {
	tick := time.NewTicker(sweepInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			s.sweepAt(ctx, now)
		}
	}
}

// sweepAt leaves a grace to the loops: each ends its own session at the deadline and tells the box why.
func (s *Server) sweepAt(ctx context.Context, now time.Time) {
	swept, err := s.conf.Store.Sweep(ctx, s.actor(), now.Add(-sweepInterval))
	if err != nil && ctx.Err() == nil {
		s.conf.Log.Error("sweep", "room", "session", "err", err)
	}
	for _, ses := range swept {
		s.mu.Lock()
		e := s.entries[ses.ID]
		s.mu.Unlock()
		if e != nil {
			live := e.live
			live.State = Ended
			s.publish(live, nil, e.row, time.Time{})
		}
	}
}

// watch hands every change of rights to the lines it may concern.
func (s *Server) watch(ctx context.Context, after int64) error {
	for e, err := range s.conf.Store.Watch(ctx, after) {
		if err != nil {
			return err
		}
		if strings.HasPrefix(e.Kind, "session.") {
			continue // our own doing; it changes no right
		}
		s.mu.Lock()
		for _, l := range s.lines {
			l.touch()
		}
		s.mu.Unlock()
	}
	return nil
}

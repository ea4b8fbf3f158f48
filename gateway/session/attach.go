// SPDX-License-Identifier: Apache-2.0

package session

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"sdbox/gateway/desktop"
	"sdbox/gateway/registry"
	"sdbox/internal/bubble"
	"sdbox/internal/refusal"
	"sdbox/internal/stream"
	"sdbox/internal/wire"
)

// maxWarm is how many bubbles are connected to in advance while the finger is asked.
const maxWarm = 4

// maxOpening is how many desktops a line may be reaching for at once. A hand that goes through a list of sleeping bubbles has fewer
// under way; each is a connection to a bubble and a token of it.
const maxOpening = 16

// maxDesks is how many desktops a session stays connected to, the one on the screen among them: each is a picture in the gateway's
// memory, up to 39 MB. The one that was shown longest ago is let go, and opens again as one that runs.
const maxDesks = 8

// How many bubbles are asked at once what runs in them, and how long each may take to answer.
const (
	lookAtOnce   = 16
	lookPatience = 5 * time.Second
)

// The limits of the picture a box may ask for, in pixels.
const (
	minWidth, minHeight = 320, 200
	maxWidth, maxHeight = 4096, 2400
)

// Bubble is a connection to a bubble on which no desktop is open yet. It is used by one goroutine at a time.
type Bubble interface {
	// Running lists the accounts whose desktop is up. It starts nothing.
	Running(ctx context.Context) ([]string, error)
	// End spends the token on the end of the account's desktop and its programs.
	End(ctx context.Context, token []byte) error
	// Open spends the token on the account's desktop; the connection is used up. Errors wrap those of package bubble.
	Open(ctx context.Context, token []byte, width, height int, layout string) (desktop.Desktop, error)
	Close() error
}

// Bubbles returns the Dial of a gateway: mutual TLS with the gateway's certificate, the bubble's name checked.
func (c *Config) Bubbles() func(context.Context, registry.Bubble) (Bubble, error) {
	return func(ctx context.Context, b registry.Bubble) (Bubble, error) {
		conn, err := bubble.Dial(ctx, b.Address, bubble.ClientTLS(c.Identity, c.Trust.Roots(), c.Domain.Bubble(b.Name)))
		if err != nil {
			return nil, err
		}
		return realBubble{conn}, nil
	}
}

type realBubble struct{ *bubble.Conn }

// Open implements Bubble.
func (b realBubble) Open(ctx context.Context, token []byte, width, height int, layout string) (desktop.Desktop, error) {
	return desktop.Open(ctx, desktop.Target{Conn: b.Conn, Token: token, Width: width, Height: height, Layout: layout})
}

// reached is what looking ahead found in one bubble.
type reached struct {
	session *session
	name    string
	err     error // it did not answer: nothing is known
	up      bool
	conn    Bubble // kept warm only if the person's desktop is up
}

func (r reached) close() {
	if r.conn != nil {
		r.conn.Close()
	}
}

// lookAhead asks, while the finger is asked, in which bubbles the person's desktop runs, lookAtOnce of them at a time, and keeps the
// connections to at most maxWarm of those. No token, no start, no pixel. A finger that is quicker reads a list that is mended.
func (l *boxLine) lookAhead(ctx context.Context) error {
	s := l.s
	projects, err := l.srv.conf.Registry.Projects(ctx, s.person.ID)
	if err != nil {
		return err
	}
	places := make(chan struct{}, lookAtOnce)
	for _, p := range projects {
		l.running.Go(func() {
			select {
			case places <- struct{}{}:
			case <-ctx.Done():
				return
			}
			r := l.look(ctx, s, p)
			<-places
			select {
			case l.reached <- r:
			case <-ctx.Done():
				r.close()
			}
		})
	}
	return nil
}

// look asks one bubble, for lookPatience at most: one that does not answer is not waited for.
func (l *boxLine) look(ctx context.Context, s *session, p registry.Project) reached {
	limited, cancel := context.WithTimeout(ctx, lookPatience)
	defer cancel()
	r := reached{session: s, name: p.Bubble.Name}
	if r.conn, r.err = l.srv.conf.Dial(limited, p.Bubble); r.err != nil {
		r.conn = nil
	} else {
		var accounts []string
		accounts, r.err = r.conn.Running(limited)
		r.up = r.err == nil && slices.Contains(accounts, p.Membership.Account)
	}
	if r.err != nil {
		l.srv.conf.Log.Debug("look ahead", "room", "session", "bubble", p.Bubble.Name, "err", r.err)
	}
	return r
}

func (l *boxLine) reachedBubble(ctx context.Context, r reached) error {
	if l.s == nil || l.s != r.session {
		r.close()
		return nil
	}
	if !r.up || len(l.s.warm) >= maxWarm || l.s.desks[r.name] != nil {
		r.close()
	} else {
		l.s.warm[r.name] = r.conn
	}
	if r.err != nil || l.s.desks[r.name] != nil { // a desktop that was opened meanwhile runs, whatever was true before
		return nil
	}
	l.s.up[r.name] = r.up
	return l.renewStates(ctx)
}

// desk is a desktop of this session that is, or may again be, on the screen. Its connection stays while another one is shown.
type desk struct {
	name    string
	desktop desktop.Desktop
	size    [2]int
	kept    bool      // it was connected to for an earlier attach, and may be dead since
	last    time.Time // when it was shown last, or reached
}

// wish is the newest attach.
type wish struct {
	project       registry.Project
	number        uint16
	width, height int
	layout        string
}

// attach asks for a bubble's picture. The one before stops at once: what the box shows next is either the new one or the list.
func (l *boxLine) attach(ctx context.Context, m *wire.Attach) error {
	s := l.s
	if m.Session != s.id || m.Width < minWidth || m.Width > maxWidth || m.Height < minHeight || m.Height > maxHeight || len(m.Layout) > 16 || (s.attached && m.Stream == s.number) {
		return l.stray(m)
	}
	l.cover()
	s.number, s.attached, s.wish = m.Stream, true, nil
	project, until, err := l.mayOpen(ctx, m.Bubble)
	var d *denial
	if errors.As(err, &d) {
		if err := l.happen(ctx, BubbleAsked, change{}); err != nil {
			return err
		}
		if err := l.happen(ctx, BubbleLost, change{why: d.why}); err != nil {
			return err
		}
		return l.refuse(ctx, m, m.Bubble, d.why, d.cause)
	}
	if err != nil {
		return err
	}
	s.rights[m.Bubble] = until
	s.wish = &wish{project: project, number: m.Stream, width: int(m.Width), height: int(m.Height), layout: m.Layout}
	if err := l.happen(ctx, BubbleAsked, change{}); err != nil {
		return err
	}
	if k := s.desks[m.Bubble]; k != nil && k.size == [2]int{int(m.Width), int(m.Height)} {
		k.kept = true
		return l.show(ctx, k)
	}
	return l.open(ctx, *s.wish)
}

// opened is what became of reaching for a desktop.
type opened struct {
	session *session
	wish    wish
	desktop desktop.Desktop
	err     error
}

func (o opened) close() {
	if o.err == nil {
		o.desktop.Close()
	}
}

// open reaches for a desktop without holding up the loop. The token says which account, for whom, and how new the login is.
func (l *boxLine) open(ctx context.Context, w wish) error {
	s := l.s
	name := w.project.Bubble.Name
	if k := s.desks[name]; k != nil { // of another size: one connection for each desktop
		delete(s.desks, name)
		l.closeLater(k.desktop)
	}
	token, err := bubble.NewToken(l.srv.conf.Signer, l.srv.conf.Domain.Bubble(name), bubble.Claims{
		Account: w.project.Membership.Account, Session: s.id, Epoch: s.order, Purpose: bubble.PurposeDesktop, GatewayCertificate: bubble.CertificateHash(l.srv.conf.Identity.Leaf)})
	if err != nil {
		return err
	}
	if up, known := s.up[name]; known && !up {
		if err := l.say(ctx, name, refusal.New(refusal.BubbleStarting, "bubble", w.project.Bubble.Title, "seconds", startingSeconds)); err != nil {
			return err
		}
	}
	if o, is := s.opening[name]; is && o.width == w.width && o.height == w.height && o.layout == w.layout {
		return nil // it is on its way already, and will be shown under the newest number
	}
	if l.openings >= maxOpening {
		return l.lose(ctx, name, fmt.Errorf("%d desktops are being reached for already", l.openings))
	}
	l.openings++
	s.opening[name] = w
	warm := s.warm[name]
	delete(s.warm, name)
	l.running.Go(func() {
		limited, cancel := context.WithTimeout(ctx, startingLife)
		defer cancel()
		o := opened{session: s, wish: w}
		o.desktop, o.err = l.reach(limited, w, warm, token)
		select {
		case l.opened <- o:
		case <-ctx.Done():
			o.close()
		}
	})
	return nil
}

// reach opens the desktop over the connection made in advance, or a new one: a bubble may have closed what stood idle.
func (l *boxLine) reach(ctx context.Context, w wish, warm Bubble, token []byte) (desktop.Desktop, error) {
	if warm != nil {
		d, err := warm.Open(ctx, token, w.width, w.height, w.layout)
		if err == nil || spoken(err) {
			return d, err
		}
		warm.Close()
	}
	conn, err := l.srv.conf.Dial(ctx, w.project.Bubble)
	if err != nil {
		return nil, err
	}
	return conn.Open(ctx, token, w.width, w.height, w.layout)
}

// spoken says whether a bubble itself refused: asking again over another connection would spend a token twice.
func spoken(err error) bool {
	for _, e := range []error{bubble.ErrRequest, bubble.ErrToken, bubble.ErrEpoch, bubble.ErrAccount, bubble.ErrBusy, bubble.ErrDesktop} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// openedDesk shows a desktop that was reached, if the person still wants it.
func (l *boxLine) openedDesk(ctx context.Context, o opened) error {
	s := l.s
	name := o.wish.project.Bubble.Name
	l.openings--
	if s != nil && s == o.session && s.opening[name].number == o.wish.number {
		delete(s.opening, name)
	}
	// The newest attach of this bubble takes the first connection that comes, even if an earlier attach asked for it.
	wanted := s != nil && s == o.session && s.state == Starting && s.wish != nil && s.wish.project.Bubble.Name == name &&
		s.wish.width == o.wish.width && s.wish.height == o.wish.height
	switch {
	case o.err != nil && !wanted:
		return nil
	case o.err != nil:
		return l.lose(ctx, name, o.err)
	case s == nil || s != o.session || s.desks[name] != nil || s.rights[name].IsZero(): // the right may have ended meanwhile
		l.closeLater(o.desktop)
		return nil
	}
	k := &desk{name: name, desktop: o.desktop, size: [2]int{o.wish.width, o.wish.height}, last: time.Now()}
	s.desks[name] = k
	l.letGo()
	s.up[name] = true
	if wanted {
		if err := l.show(ctx, k); err != nil {
			return err
		}
	}
	return l.renewStates(ctx)
}

// letGo lets go of a desktop when there are too many. The one on the screen stays.
func (l *boxLine) letGo() {
	s := l.s
	if len(s.desks) <= maxDesks {
		return
	}
	var oldest *desk
	for _, k := range s.desks {
		if k != s.shown && (oldest == nil || k.last.Before(oldest.last)) {
			oldest = k
		}
	}
	delete(s.desks, oldest.name)
	l.closeLater(oldest.desktop)
}

// show puts a desktop on the screen: first the word that frames of this number are of this bubble, then the frames.
func (l *boxLine) show(ctx context.Context, k *desk) error {
	s := l.s
	if s.media == nil {
		return errors.New("attach without a media connection")
	}
	s.shown, k.last = k, time.Now()
	if err := l.happen(ctx, BubbleShown, change{}); err != nil {
		return err
	}
	if err := l.line.Write(&wire.Attached{Bubble: k.name, Stream: s.number}); err != nil {
		return err
	}
	if err := l.warn(ctx, time.Now()); err != nil {
		return err
	}
	inner, cancel := context.WithCancel(ctx)
	p := &pump{bubble: k.name, number: s.number, media: s.media, flow: s.flow, from: k.desktop, start: s.since, cancel: cancel, done: make(chan struct{})}
	s.pump = p
	l.running.Go(func() {
		err := p.run(inner)
		close(p.done)
		select {
		case l.pumped <- pumped{p, err}:
		case <-inner.Done():
		}
	})
	return nil
}

// cover stops the picture and lets go of every key. When it returns no pixel of the bubble can leave any more.
func (l *boxLine) cover() {
	s := l.s
	if s.pump != nil {
		s.pump.stop()
		s.pump = nil
	}
	if s.shown != nil {
		if err := s.shown.desktop.Input(desktop.Input{Kind: desktop.ReleaseAll}); err != nil {
			l.srv.conf.Log.Debug("release keys", "room", "session", "bubble", s.shown.name, "err", err)
		}
		s.shown = nil
	}
}

// pumpEnded handles a picture that stopped by itself: the bubble or its desktop is gone, or the media connection is.
func (l *boxLine) pumpEnded(ctx context.Context, p pumped) error {
	s := l.s
	if s == nil || s.pump != p.pump {
		return nil
	}
	if s.media.gateway.Err() != nil {
		l.cover()
		s.mediaLost = true
		l.arm()
		return nil
	}
	if k := s.shown; k != nil && k.kept && p.pump.frames <= 1 { // it died while another was on the screen: that is no news to her
		l.cover()
		delete(s.desks, k.name)
		l.closeLater(k.desktop)
		if err := l.happen(ctx, BubbleAsked, change{}); err != nil {
			return err
		}
		return l.open(ctx, *s.wish)
	}
	return l.lose(ctx, p.pump.bubble, p.err)
}

// lose sends the person back to the list because a bubble does not answer.
func (l *boxLine) lose(ctx context.Context, name string, cause error) error {
	s := l.s
	l.cover()
	title := name
	if s.wish != nil {
		title = s.wish.project.Bubble.Title
	}
	if k := s.desks[name]; k != nil {
		delete(s.desks, name)
		l.closeLater(k.desktop)
	}
	s.wish, s.up[name] = nil, false
	why := refusal.New(refusal.BubbleDown, "bubble", title, "since", refusal.Moment(time.Now()))
	if err := l.happen(ctx, BubbleLost, change{why: why}); err != nil {
		return err
	}
	if err := l.refuse(ctx, &wire.Attach{}, name, why, cause.Error()); err != nil {
		return err
	}
	return l.renewStates(ctx)
}

// input applies what the person did, in order, to the desktop on the screen and to no other: what she typed before the switch, and
// what comes by a slower way than the switch did, carries an older number and goes nowhere.
func (l *boxLine) input(ctx context.Context, in stream.Input) error {
	s := l.s
	if s == nil || s.shown == nil || s.state != Active || in.Stream != s.number {
		return nil
	}
	d := desktop.Input{Kind: desktop.Key, XT: uint32(in.Code), Down: in.Down}
	switch in.Kind {
	case stream.Key:
		if in.Code == 0 || in.Code > 0xff {
			return nil
		}
	case stream.Pointer:
		d = desktop.Input{Kind: desktop.Pointer, X: int(in.X), Y: int(in.Y), Buttons: in.Buttons, Wheel: int(in.Wheel)}
	default:
		return nil
	}
	if err := s.shown.desktop.Input(d); err != nil {
		return l.lose(ctx, s.shown.name, err)
	}
	return nil
}

// wantsKey answers a box that lost track of the picture.
func (l *boxLine) wantsKey() {
	s := l.s
	if s == nil || s.pump == nil || s.shown == nil {
		return
	}
	s.flow.key.Store(true)
	s.shown.desktop.Refresh()
	s.flow.poke()
}

// closeLater detaches from a desktop; that may take half a second, and the loop has a screen to cover.
func (l *boxLine) closeLater(d desktop.Desktop) {
	l.running.Go(func() {
		if err := d.Close(); err != nil {
			l.srv.conf.Log.Debug("detach", "room", "session", "box", l.serial, "err", err)
		}
	})
}

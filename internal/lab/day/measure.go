// SPDX-License-Identifier: Apache-2.0

package day

import (
	"context"
	"errors"
	"fmt"
	"image"
	"log/slog"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"sdbox/agent/screen"
	"sdbox/gateway/console"
	"sdbox/internal/card/pcsc"
	"sdbox/internal/lab/house"
	labnet "sdbox/internal/lab/net"
)

// Samples say how often each figure is measured.
type Samples struct {
	Login, Switch, Keys, Pixels, Block, Cut int
}

// Few is enough to see that a promise is kept; it fits into the three minutes of a demonstration.
func Few() *Samples { return &Samples{Login: 5, Switch: 8, Keys: 30, Pixels: 10, Block: 1, Cut: 3} }

// Many is what figures that are published rest on.
func Many() *Samples {
	return &Samples{Login: 50, Switch: 100, Keys: 200, Pixels: 100, Block: 10, Cut: 20}
}

const (
	sampleTimeout = 30 * time.Second
	enterEvery    = 5 * time.Millisecond // how often Enter is pressed while the list is awaited
	keyPause      = 120 * time.Millisecond
)

// measure takes the figures on box 1, whose card reader is empty when it begins, and box 2 as the day left it.
func (p *player) measure(ctx context.Context) error {
	fmt.Fprintf(p.Print, "\nmeasuring on %d cores, load %s\n", runtime.NumCPU(), load())
	if err := p.site.Tray.Eject(p.person.GUID); err != nil {
		return err
	}
	// The PC/SC library of this process is to find the daemon in the place of box 1 (pcsclite's own variable).
	if err := os.Setenv("PCSCLITE_CSOCK_NAME", p.site.Boxes[0].Place.Outside("/run/pcscd/pcscd.comm")); err != nil {
		return err
	}
	painters, err := p.openPainters(ctx)
	if err != nil {
		return err
	}
	defer func() {
		for _, d := range painters {
			_ = d.Close() // the desktop outlives its client
		}
	}()
	m := &measurement{player: p, painters: painters}
	for _, part := range []func(context.Context) error{m.logins, m.switches, m.keys, m.moments, m.blocks, m.memory, m.cuts} {
		if err := part(ctx); err != nil {
			return fmt.Errorf("measure: %w", err)
		}
	}
	return p.site.Boxes[0].SetLink(ctx, labnet.Conditions{})
}

// load is the load of the machine over the last minute: figures taken beside other work are not those of an idle machine.
func load() string {
	raw, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	first, _, _ := strings.Cut(string(raw), " ")
	return first
}

func (p *player) openPainters(ctx context.Context) ([]*painter, error) {
	var out []*painter
	for _, b := range p.site.Bubbles[:2] {
		conn, authority, err := b.DialDisplay(ctx, p.person)
		if err != nil {
			return out, err
		}
		d, err := newPainter(conn, authority)
		if err != nil {
			return out, errors.Join(err, conn.Close())
		}
		out = append(out, d)
	}
	return out, nil
}

// measurement is the state of measuring: which bubble is on the screen of box 1.
type measurement struct {
	*player
	painters []*painter // of the first two bubbles
	shown    int        // index of the bubble on the screen
}

// network sets the round trip time of box 1's link and prints what pings take: over the link, from kernel to kernel, and through the
// tunnel, from gateway to agent.
func (m *measurement) network(ctx context.Context, rtt time.Duration) error {
	if err := m.site.Boxes[0].SetLink(ctx, labnet.Conditions{Delay: rtt / 2}); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	link, through := time.Hour, time.Hour
	for range 5 {
		took, err := m.site.Boxes[0].Place.Ping(ctx, house.GatewayAddress)
		if err != nil {
			return err
		}
		link = min(link, took)
		if took, err = m.site.PingBox(ctx, m.site.Boxes[0]); err != nil {
			return err
		}
		through = min(through, took)
	}
	fmt.Fprintf(m.Print, "link of %s: round trip %v set, %.1f ms by ping over it, %.1f ms through the tunnel\n", m.site.Boxes[0].Serial, rtt,
		milliseconds(link), milliseconds(through))
	return nil
}

// anywhere is a random place for a pattern in the part of a desktop that no window of the lab covers.
func (m *measurement) anywhere() image.Point {
	free := house.FreeArea()
	return image.Pt(free.Min.X+rand.IntN(free.Dx()-patternSize), free.Min.Y+rand.IntN(free.Dy()-patternSize))
}

// showing waits until a pattern stands at a point of the desktop on box 1's screen.
func (m *measurement) showing(ctx context.Context, what *pattern, at image.Point) (time.Time, error) {
	corner := at.Add(m.area.Min)
	return m.eyes[0].await(ctx, func(img *screen.Image) bool { return what.shows(img, corner) })
}

// login inserts the card, places the finger and opens the first bubble as soon as the list is there; it returns when the box
// had the finger, and when the first right frame came. The pattern is drawn before the bubble is attached, and no pixel of it
// can come before that.
func (m *measurement) login(ctx context.Context) (finger, right time.Time, err error) {
	ctx, cancel := context.WithTimeout(ctx, m.patience())
	defer cancel()
	if finger, err = m.present(ctx, 0, m.person); err != nil {
		return finger, right, err
	}
	what, at := newPattern(), m.anywhere()
	if err := m.painters[0].draw(what, at); err != nil {
		return finger, right, err
	}
	err = m.hurried(ctx, 0, func() (err error) {
		right, err = m.showing(ctx, what, at)
		return err
	})
	m.shown = 0
	return finger, right, errors.Join(err, m.painters[0].clear())
}

// present inserts a person's card and places her finger; it returns when the finger was handed over.
func (m *measurement) present(ctx context.Context, box int, person *house.Person) (time.Time, error) {
	if err := m.site.Tray.Insert(ctx, person.GUID, m.site.Boxes[box]); err != nil {
		return time.Time{}, err
	}
	impression, err := person.Impression(house.Right)
	if err != nil {
		return time.Time{}, err
	}
	return m.site.Boxes[box].Touch(ctx, impression)
}

// hurried presses Enter on a box again and again, as a person who cannot wait for the list, until f returns.
func (m *measurement) hurried(ctx context.Context, box int, f func() error) error {
	ctx, stop := context.WithCancel(ctx)
	pressed := make(chan error, 1)
	go func() {
		tick := time.NewTicker(enterEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				pressed <- nil
				return
			case <-tick.C:
				if err := m.press(box, house.Tap(house.KeyEnter)...); err != nil {
					pressed <- err
					return
				}
			}
		}
	}()
	err := f()
	stop()
	return errors.Join(err, <-pressed)
}

// logins measures finger to picture at a round trip of 40 ms, and card removal to black and to detached.
func (m *measurement) logins(ctx context.Context) error {
	const rtt = 40 * time.Millisecond
	if err := m.network(ctx, rtt); err != nil {
		return err
	}
	removals, stop := m.watchReader(ctx)
	defer stop()
	var picture, dark, detached []float64
	for i := range m.Samples.Login {
		finger, right, err := m.login(ctx)
		if err != nil {
			return fmt.Errorf("login %d: %w", i+1, err)
		}
		picture = append(picture, milliseconds(right.Sub(finger)))
		black, gone, err := m.pull(ctx, removals)
		if err != nil {
			return fmt.Errorf("card out %d: %w", i+1, err)
		}
		dark, detached = append(dark, milliseconds(black)), append(detached, milliseconds(gone))
	}
	m.add("finger captured to first right frame, RTT 40 ms", "ms", 2*milliseconds(rtt)+500, 2*milliseconds(rtt)+200, picture)
	m.add("card removal (pcscd) to black screen", "ms", 100, 30, dark)
	m.add("card removal (pcscd) to detached at the gateway", "ms", 1000, 200, detached)
	_, _, err := m.login(ctx)
	return err
}

func (m *measurement) add(name, unit string, must, goal float64, values []float64) {
	m.report.Figures = append(m.report.Figures, newFigure(name, unit, must, goal, values))
}

// watchReader listens to the PC/SC daemon of box 1 as one more client of it.
func (m *measurement) watchReader(ctx context.Context) (<-chan pcsc.Event, func()) {
	ctx, cancel := context.WithCancel(ctx)
	w := pcsc.NewWatcher(slog.New(slog.DiscardHandler))
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	return w.Events(), func() {
		cancel()
		<-ended
	}
}

// pull takes the card out of box 1 and returns how long after pcscd said so the screen was black, and the gateway's session
// detached.
func (m *measurement) pull(ctx context.Context, events <-chan pcsc.Event) (black, detached time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, sampleTimeout)
	defer cancel()
	type moment struct {
		at  time.Time
		err error
	}
	gone := make(chan moment, 1)
	before, err := m.session(ctx, m.site.Boxes[0])
	if err != nil {
		return 0, 0, err
	}
	for len(events) > 0 { // what the reader said of the insertion
		<-events
	}
	if err := m.site.Tray.Eject(m.person.GUID); err != nil {
		return 0, 0, err
	}
	go func() {
		at, err := m.awaitState(ctx, before.ID, "suspended", "ended")
		gone <- moment{at, err}
	}()
	blackAt, err := m.eyes[0].await(ctx, dark)
	atGateway := <-gone
	if err := errors.Join(err, atGateway.err); err != nil {
		return 0, 0, err
	}
	for {
		select {
		case e := <-events:
			if !e.Present {
				return blackAt.Sub(e.At), atGateway.at.Sub(e.At), nil
			}
		case <-ctx.Done():
			return 0, 0, fmt.Errorf("pcscd does not report the removal: %w", ctx.Err())
		}
	}
}

// session finds the live session at a box, as operators see it.
func (p *player) session(ctx context.Context, box *house.Box) (console.Session, error) {
	list, err := p.site.Console.Sessions(ctx)
	if err != nil {
		return console.Session{}, err
	}
	for _, s := range list {
		if s.Box == box.Serial && s.CanCut() {
			return s, nil
		}
	}
	return console.Session{}, fmt.Errorf("the gateway knows no live session at %s", box.Serial)
}

// awaitState asks the console until a session is in one of these states, or no longer listed.
func (m *measurement) awaitState(ctx context.Context, id string, states ...string) (time.Time, error) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		list, err := m.site.Console.Sessions(ctx)
		if err != nil {
			return time.Time{}, err
		}
		listed := false
		for _, s := range list {
			listed = listed || (s.ID == id && !slices.Contains(states, s.State))
		}
		if !listed {
			return time.Now(), nil
		}
		select {
		case <-ctx.Done():
			return time.Time{}, fmt.Errorf("session %s: %w", id, ctx.Err())
		case <-tick.C:
		}
	}
}

// switches measures key chord to first right frame of the other bubble at three round trip times.
func (m *measurement) switches(ctx context.Context) error {
	for _, rtt := range []time.Duration{time.Millisecond, 40 * time.Millisecond, 150 * time.Millisecond} {
		if err := m.network(ctx, rtt); err != nil {
			return err
		}
		var took []float64
		for i := range m.Samples.Switch + 1 {
			d, err := m.change(ctx)
			if err != nil {
				return fmt.Errorf("switch %d at %v: %w", i, rtt, err)
			}
			if i > 0 { // the first finds the acknowledgements of the old delay still on their way
				took = append(took, milliseconds(d))
			}
		}
		m.add(fmt.Sprintf("switch: chord to first right frame, RTT %d ms", rtt.Milliseconds()), "ms", milliseconds(rtt)+250, milliseconds(rtt)+100, took)
	}
	return m.network(ctx, time.Millisecond)
}

// change presses the chord to the other bubble, draws there, and waits for the pattern.
func (m *measurement) change(ctx context.Context) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, sampleTimeout)
	defer cancel()
	arrow, to := uint16(house.KeyRight), 1
	if m.shown == 1 {
		arrow, to = house.KeyLeft, 0
	}
	what, at := newPattern(), m.anywhere()
	began := time.Now()
	if err := m.press(0, house.Chord(house.KeyLeftCtrl, house.KeyLeftAlt, arrow)...); err != nil {
		return 0, err
	}
	if err := m.painters[to].draw(what, at); err != nil {
		return 0, err
	}
	came, err := m.showing(ctx, what, at)
	m.shown = to
	return came.Sub(began), errors.Join(err, m.painters[to].clear())
}

// keys measures a key press to the changed pixel, in a terminal.
func (m *measurement) keys(ctx context.Context) error {
	if err := m.focusTerminal(ctx, 0); err != nil {
		return err
	}
	if err := m.press(0, house.Chord(house.KeyLeftCtrl, 46)...); err != nil { // Ctrl+C: nothing runs in it
		return err
	}
	if err := m.enter(0, "clear\n"); err != nil {
		return err
	}
	region := house.Terminal().Add(m.area.Min)
	var took []float64
	for i := range m.Samples.Keys {
		if err := m.calm(ctx, region); err != nil {
			return err
		}
		before := part(m.eyes[0].watcher.Image, region, 1)
		key := uint16(30) // a
		if i%32 == 31 {
			key = house.KeyEnter
		}
		began := time.Now()
		if err := m.press(0, house.Tap(key)...); err != nil {
			return err
		}
		limited, cancel := context.WithTimeout(ctx, sampleTimeout)
		came, err := m.eyes[0].await(limited, func(img *screen.Image) bool { return !sameRegion(before, img, region) })
		cancel()
		if err != nil {
			return fmt.Errorf("key %d: %w", i+1, err)
		}
		took = append(took, milliseconds(came.Sub(began)))
	}
	f := newFigure("key press to its pixel, RTT 1 ms, xterm", "ms", 60, 30, took)
	f.OK = f.OK && f.P50 <= 30
	m.report.Figures = append(m.report.Figures, f)
	return nil
}

// memory reads what the gateway holds for each of two live sessions, with desktops of 1912x1036 pixels on two boxes, above what
// it held before any; and what an agent holds.
func (m *measurement) memory(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*sampleTimeout)
	defer cancel()
	if _, err := m.present(ctx, 1, m.site.People[1]); err != nil {
		return err
	}
	open := func(img *screen.Image) bool { return img.RGBAAt(1, house.ScreenHeight/2) == m.site.Bubbles[0].Frame() }
	if err := m.hurried(ctx, 1, func() error { _, err := m.eyes[1].await(ctx, open); return err }); err != nil {
		return err
	}
	if _, err := m.eyes[1].readIn(ctx, m.desktop(), "weber@epi"); err != nil {
		return err
	}
	with, err := m.site.GatewayProgram.MemoryMB()
	if err != nil {
		return err
	}
	agent, err := m.site.Boxes[0].MemoryMB()
	if err != nil {
		return err
	}
	fmt.Fprintf(m.Print, "gateway: %.1f MB before any session, %.1f MB with two\n", m.idle, with)
	m.add("memory of the gateway per live session", "MB", 48, 24, []float64{max(0, with-m.idle) / 2})
	m.add("memory of an agent with a desktop", "MB", 150, 80, []float64{agent})
	return m.site.Tray.Eject(m.site.People[1].GUID)
}

// cuts measures an operator's cut to the moment the bubble's picture is gone.
func (m *measurement) cuts(ctx context.Context) error {
	var took []float64
	for i := range m.Samples.Cut {
		if i > 0 {
			if err := m.site.Tray.Eject(m.person.GUID); err != nil {
				return err
			}
			if _, err := m.eyes[0].read(ctx, "Ready", "Insert your card"); err != nil {
				return err
			}
			if _, _, err := m.login(ctx); err != nil {
				return fmt.Errorf("login before cut %d: %w", i+1, err)
			}
		}
		d, err := m.cutOnce(ctx)
		if err != nil {
			return fmt.Errorf("cut %d: %w", i+1, err)
		}
		took = append(took, milliseconds(d))
	}
	m.add("cut by an operator to session dead", "ms", 1000, 100, took)
	return m.site.Tray.Eject(m.person.GUID)
}

func (m *measurement) cutOnce(ctx context.Context) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, sampleTimeout)
	defer cancel()
	what, at := newPattern(), m.anywhere()
	if err := m.painters[m.shown].draw(what, at); err != nil {
		return 0, err
	}
	if _, err := m.showing(ctx, what, at); err != nil {
		return 0, err
	}
	session, err := m.session(ctx, m.site.Boxes[0])
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if err := m.site.Console.Cut(ctx, session.ID, cutReason); err != nil {
		return 0, err
	}
	corner := at.Add(m.area.Min)
	came, err := m.eyes[0].await(ctx, func(img *screen.Image) bool { return !what.shows(img, corner) })
	return came.Sub(began), errors.Join(err, m.painters[m.shown].clear())
}

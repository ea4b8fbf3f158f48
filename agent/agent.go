// SPDX-License-Identifier: Apache-2.0

// Package agent is the life of an SD-Box: it proves the machine, opens the tunnel, logs a person in with card and finger, and
// shows the desktop of a bubble. state.go is the picture, a table; this file is the loop that performs it.
//
// One goroutine, the loop, owns the state, the screen, the keyboard and the visit. Everything slow (link, card, finger, stream
// set-up) runs in goroutines of its own and tells the loop what happened.
package agent

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"sdbox/agent/boot"
	"sdbox/agent/keys"
	"sdbox/agent/kiosk"
	"sdbox/agent/screen"
	"sdbox/firmware/reference"
	"sdbox/internal/card/pcsc"
	"sdbox/internal/finger"
	"sdbox/internal/refusal"
	"sdbox/internal/stream"
	"sdbox/internal/tpm"
	"sdbox/internal/wire"

	"golang.org/x/sync/errgroup"
)

// Times of the loop (implementation).
const (
	quietAfter = 30 * time.Second // a black screen becomes "Ready" again
	tickEvery  = time.Second      // the delay in the bar, the clock
)

// Config is an SD-Box: what it trusts and its hardware. Nothing in it is optional but Log, Boot, Kept and Releases.
type Config struct {
	Domain      string
	Gateways    []string       // outer host:port of front doors, best first
	GatewayName string         // DNS name in the gateway's certificate
	Root        *x509.CertPool // whom the gateway's certificate must come from
	Language    refusal.Lang   // until the gateway says the site's
	Support     string         // whom to call, until the gateway says
	Layout      string         // keyboard layout of this box, for the bubble: "fr", "us"
	TPM         *tpm.TPM
	EventLog    string // file of what the firmware measured
	Screen      screen.Screen
	Keys        keys.Source
	Cards       Cards
	Finger      func(context.Context) (finger.Template, error)
	Log         *slog.Logger
	Boot        *boot.Client     // PID 1 of a box's own system; nil elsewhere
	Kept        []byte           // what it kept of the agent before this one
	Releases    *reference.Trust // whose releases this box takes; nil = none
}

// Agent is one running SD-Box.
type Agent struct {
	cfg   Config
	log   *slog.Logger
	table map[State]map[Trigger]Row

	links   chan linkEvent
	holds   chan holdEvent
	fingers chan fingerEvent
	offers  chan offerEvent
	inputs  chan keys.Raw
	workers errgroup.Group
	route   *route

	// owned by the loop
	state    State
	face     *face
	keys     *keys.State
	reader   string  // the reader with a card in it, "" without
	count    uint16  // of that reader's insertions and removals, when the card came
	up       *uplink // nil without a line
	media    *stream.Mux
	visit    *visit            // nil without a card in
	expected *kept             // a session of the agent before this one whose card has not been seen yet
	said     refusal.Refusal   // the last refusal, what the screen says in Stopped and Closed
	reason   string            // the operator's own words beside it
	network  boot.NetworkState // by PID 1; "" where there is none
	unread   unread            // since when there is no card reader
	owed     []refusal.Refusal // what was read here while the centre could not be told
	update   updating
	quiet    *time.Timer
}

// New makes an agent; Run makes it live.
func New(cfg Config) (*Agent, error) {
	if len(cfg.Gateways) == 0 {
		return nil, errors.New("agent: no gateway is configured")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	face, err := newFace(cfg.Screen, cfg.Language, cfg.Support)
	if err != nil {
		return nil, fmt.Errorf("agent: %w", err)
	}
	bounds := cfg.Screen.Image().Bounds()
	a := &Agent{
		cfg: cfg, log: cfg.Log.With("room", "agent"), table: map[State]map[Trigger]Row{},
		links: make(chan linkEvent), holds: make(chan holdEvent), fingers: make(chan fingerEvent), offers: make(chan offerEvent),
		inputs: make(chan keys.Raw, 64), route: newRoute(), face: face, keys: keys.NewState(bounds.Dx(), bounds.Dy()), quiet: time.NewTimer(quietAfter),
	}
	if cfg.Boot != nil {
		a.network = boot.Starting
	}
	for _, r := range Table() {
		if a.table[r.From] == nil {
			a.table[r.From] = map[Trigger]Row{}
		}
		a.table[r.From][r.On] = r
	}
	a.restore(cfg.Kept)
	return a, nil
}

// Run lives until ctx ends. It returns when everything it started has ended; the screen is black then.
func (a *Agent) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	link, err := newLink(a.cfg, a.links, a.route)
	if err != nil {
		return fmt.Errorf("agent: %w", err)
	}
	var sources errgroup.Group
	sources.Go(func() error { return link.run(ctx) })
	sources.Go(func() error { return a.cfg.Keys.Run(ctx, a.inputs) })
	err = a.loop(ctx)
	cancel()
	ended := a.end()
	return errors.Join(err, ended, sources.Wait(), a.cfg.Screen.Close())
}

// end lets go of what the loop owned, and waits for all that ran beside it.
func (a *Agent) end() error {
	a.leave()
	var err error
	if a.media != nil {
		err = a.media.Close()
	}
	return errors.Join(err, a.workers.Wait())
}

// loop is the one place where anything changes.
func (a *Agent) loop(ctx context.Context) error {
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	if err := a.face.show(a.opening()); err != nil {
		return err
	}
	for {
		var err error
		select {
		case <-ctx.Done():
			return nil
		case e := <-a.cfg.Cards.Events(): // first among equals: a card that leaves blackens the screen
			err = a.onCard(e)
		case e := <-a.links:
			err = a.onLink(ctx, e)
		case e := <-a.holds:
			err = a.onHold(e)
		case e := <-a.fingers:
			err = a.onFinger(e)
		case e := <-a.offers:
			err = a.onOffer(e)
		case f := <-a.frames():
			err = a.onFrame(f)
		case r := <-a.inputs:
			err = a.onInput(r)
		case e := <-a.cfg.Boot.Events():
			err = a.onMachine(e)
		case <-a.quiet.C:
			err = a.fire(Quiet)
		case <-a.presenceDue():
			err = a.renewGrant()
		case <-a.waitOver():
			err = a.fire(GaveUp)
		case now := <-tick.C:
			err = errors.Join(a.noteBearer(), a.face.tick(now, a.delay()), a.noteReader(now), a.stepUpdate(ctx, now), a.cfg.Boot.Beat())
		}
		if err != nil {
			return fmt.Errorf("agent: %s: %w", a.state, err)
		}
	}
}

// fire looks the trigger up in the table and performs its row. A trigger that came too late changes nothing.
func (a *Agent) fire(t Trigger) error {
	row, found := a.table[a.state][t]
	if !found {
		a.log.Debug("too late", "state", a.state.String(), "trigger", t.String())
		return nil
	}
	if row.From != row.To {
		a.log.Info("state", "from", row.From.String(), "on", t.String(), "to", row.To.String())
	}
	a.state = row.To
	if err := a.perform(row.do); err != nil {
		return err
	}
	a.light()
	if a.up != nil {
		a.up.lively.Store(slices.Contains(loggedIn(), row.To))
	}
	if row.To == Ready && a.reader != "" { // the card was there before the line
		return a.fire(CardPresent)
	}
	return nil
}

func (a *Agent) perform(e effect) error {
	switch e {
	case showBoot:
		return a.sayOutage()
	case showClosed, stop:
		return a.sayWhy()
	case showReady:
		a.face.forget()
		return a.face.show(kiosk.Ready{})
	case readCard:
		return a.readCard()
	case sendCard:
		return a.sendCard()
	case askFinger:
		return a.askFinger()
	case verify:
		return a.verify()
	case askAgain:
		return a.askAgain()
	case sendLogin:
		if err := a.face.show(kiosk.Verifying{Name: a.visit.person.Name}); err != nil {
			return err
		}
		return a.send(a.visit.login)
	case askToBring:
		return a.face.show(kiosk.Message{Refusal: a.said})
	case showList:
		return a.showList(nil)
	case attach:
		return a.attach()
	case showDesk:
		a.visit.runs() // the frame that fired Shown is on the screen already
	case backToList:
		return a.backToList()
	case refuseOpen:
		a.visit.current = ""
		return a.showList(&a.said)
	case leave:
		return a.cardOut()
	case forget:
		a.leave()
		if a.up == nil {
			return a.sayOutage()
		}
		return a.face.show(kiosk.Ready{})
	case cover:
		return a.cover()
	case uncover:
		return a.uncover()
	case keepCard:
		return a.keepCard()
	case resume:
		return a.resume()
	case offerAgain:
		return a.offerAgain()
	case askEnd:
		b := a.visit.bubbles[a.visit.selected]
		return a.face.show(kiosk.EndDesktop{Title: b.Title, Colour: b.Colour})
	case endDesktop:
		if err := a.send(&wire.EndDesktop{Session: a.visit.session(), Bubble: a.visit.bubbles[a.visit.selected].Name}); err != nil {
			return err
		}
		return a.showList(nil)
	}
	return nil
}

// sayWhy covers whatever is shown with a refusal or an ending, and forgets the person. A stopped session says who ended it.
func (a *Agent) sayWhy() error {
	language := a.face.around.Language // still the person's
	if err := a.face.dark(); err != nil {
		return err
	}
	a.leave()
	a.face.around.Language = language
	if a.reason != "" {
		return a.face.show(kiosk.Ended{Refusal: a.said, Reason: a.reason})
	}
	return a.face.show(kiosk.Message{Refusal: a.said})
}

// say keeps what the screen is about to say, and writes code and suffix into the log: the same string in both.
func (a *Agent) say(r refusal.Refusal, reason string) {
	a.said, a.reason = r, reason
	a.log.Info("refused", "code", r.Error())
}

// sayOutage shows that the box waits for the centre, and why. The centre is told of it when it answers again.
func (a *Agent) sayOutage() error {
	if waitedFor(a.said.Code) {
		if err := a.report(a.said); err != nil {
			return err
		}
	}
	a.face.forget() // nobody is here any more: the site's language
	if a.said.Code == "" {
		return a.face.show(kiosk.Boot{})
	}
	return a.face.show(kiosk.Boot{Refusal: &a.said})
}

// send hands a message to the line and never waits: a gateway that does not read must not keep a card's going from being seen.
func (a *Agent) send(m wire.Message) error {
	if a.up != nil && !a.up.send(m) {
		return a.broken(errors.New("the gateway does not read"))
	}
	return nil
}

func (a *Agent) delay() time.Duration {
	if a.visit == nil || a.visit.media == nil {
		return 0
	}
	return a.visit.media.Delay()
}

// onCard takes a card's coming and going. Going is answered before anything else: the screen is black when this returns.
func (a *Agent) onCard(e pcsc.Event) error {
	switch {
	case e.Present && a.reader == "":
		a.reader, a.count = e.Reader, e.Count
		if a.expected != nil {
			return a.found(e)
		}
		return a.fire(CardPresent)
	case e.Present && a.reader == e.Reader: // another card between two looks: the first one left
		a.count = e.Count
		if err := a.fire(CardGone); err != nil {
			return err
		}
		return a.fire(CardPresent)
	case !e.Present && a.reader == e.Reader:
		a.reader = ""
		return a.fire(CardGone)
	}
	return nil
}

func (a *Agent) onLink(ctx context.Context, e linkEvent) error {
	switch {
	case e.up != nil:
		a.up = e.up
		a.face.greet(e.up.hello)
		media, err := stream.NewMux(e.up.media)
		if err != nil {
			return err
		}
		a.media = media
		a.said = refusal.Refusal{} // the next outage has a suffix of its own
		if err := a.payOwed(); err != nil {
			return err
		}
		if a.expected != nil {
			if err := a.giveUpKept(); err != nil {
				return err
			}
		}
		return a.fire(LineUp)
	case e.renewed != nil:
		if a.up != nil {
			a.up.facts = *e.renewed
		}
		return nil
	case e.message != nil:
		return a.onMessage(ctx, e.message)
	case e.offer != nil:
		a.onRelease(e.offer)
		return nil
	case e.silence != nil && *e.silence:
		return a.fire(Silent)
	case e.silence != nil:
		return a.fire(Heard)
	}
	return a.onDown(e)
}

// onDown takes the end of the link, or that it could not come up.
func (a *Agent) onDown(e linkEvent) error {
	media := a.media
	a.up, a.media = nil, nil
	defer func() {
		if media != nil {
			_ = media.Close() // its tunnel is gone; the screen says so first
		}
	}()
	a.reason = ""
	switch {
	case e.refused != nil && a.state == Closed && a.said.Code == e.refused.Refusal.Code: // the code that stands there may be on the telephone
	case e.refused != nil:
		a.say(e.refused.Refusal, "")
	default:
		switch code := a.whyDown(e.err); code {
		case a.said.Code: // one suffix for one outage
		case "":
			a.said = refusal.Refusal{}
		default:
			a.say(refusal.New(code), "")
		}
	}
	if e.refused != nil {
		return a.fire(BoxRefused)
	}
	return a.fire(LineLost)
}

// onMessage takes what the gateway says. Messages about a session that is not ours came too late.
func (a *Agent) onMessage(ctx context.Context, m wire.Message) error {
	v := a.visit
	if ended, is := m.(*wire.Ended); is && v == nil && ended.Session.IsZero() {
		a.say(ended.Refusal, ended.Reason)
		return nil // the line closes next and says so
	}
	if v == nil {
		return nil
	}
	switch m := m.(type) {
	case *wire.Nonce:
		if a.state == Resuming {
			v.back = m.Nonce
			v.hold.prove(wire.Presence{Session: v.session(), Nonce: m.Nonce}, a.up.facts.boxTunnelKey)
			return nil
		}
		v.takeNonce(m.Nonce)
	case *wire.Person:
		v.person, v.nonce = m, m.Nonce
		a.face.speak(m)
		return a.fire(Known)
	case *wire.Answer:
		return a.onAnswer(m)
	case *wire.Bubbles:
		a.noteRefused(m.List)
		if m.Grant.Statement == nil {
			return a.renewList(m)
		}
		v.takeBubbles(m)
		return errors.Join(a.keep(), a.fire(Granted))
	case *wire.Grant:
		v.takeGrant(m)
		return a.keep()
	case *wire.Attached:
		// the first frame of the stream says the same; nothing is shown before it
	case *wire.Notice:
		return a.onNotice(m)
	case *wire.Watched:
		if m.Session == v.session() {
			return a.face.watch(m.On)
		}
	case *wire.Refused:
		a.say(m.Refusal, "")
		if m.Refusal.Code == refusal.OpenElsewhere {
			return a.fire(InUse)
		}
		return a.fire(Refusal)
	case *wire.Ended:
		if m.Session == v.session() || m.Session.IsZero() {
			a.say(m.Refusal, m.Reason)
			return a.fire(Ended)
		}
	}
	return ctx.Err()
}

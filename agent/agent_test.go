// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	crand "crypto/rand"
	"crypto/x509"
	"image"
	"log/slog"
	"math/big"
	"math/rand/v2"
	"net"
	"runtime"
	"testing"
	"time"

	"sdbox/agent/keys"
	"sdbox/agent/screen"
	"sdbox/agent/viewer"
	"sdbox/internal/card"
	"sdbox/internal/card/cardsim"
	"sdbox/internal/card/pcsc"
	"sdbox/internal/finger"
	"sdbox/internal/finger/fingersim"
	"sdbox/internal/ident"
	"sdbox/internal/line"
	"sdbox/internal/refusal"
	"sdbox/internal/stream"
	"sdbox/internal/tile"
	"sdbox/internal/wire"

	"github.com/stretchr/testify/require"
)

// centre is the other end of a box's line, moved by the test, with a real stream.
type centre struct {
	t     *testing.T
	line  *line.Conn
	mux   *stream.Mux
	desk  *stream.Gateway
	print []byte // fingerprint of its stream
	box   []byte // fingerprint of the box's
	code  *tile.Encoder
	pix   []byte
	facts facts
}

// bench is one SD-Box in memory, its loop running.
type bench struct {
	*centre
	agent  *Agent
	cards  *reader
	screen *watched
	keys   *silent
	finger chan finger.Template
	person *fingersim.Finger
	cert   *x509.Certificate
	pub9E  *ecdsa.PublicKey
	asked  chan error
}

const width, height = 960, 540

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{finger: make(chan finger.Template, 1), asked: make(chan error, 1), person: fingersim.NewFinger(7)}
	sim, cert, pub9E := issueCard(t, b.person)
	b.cert, b.pub9E = cert, pub9E
	b.cards = &reader{events: make(chan pcsc.Event, 4), card: sim}
	b.screen, b.keys = newWatched(t), new(silent)
	var err error
	b.agent, err = New(Config{
		Gateways: []string{"192.0.2.1:443"}, Language: refusal.English, Support: "call 12", Layout: "us", Screen: b.screen, Keys: b.keys, Cards: b.cards, Log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})),
		Finger: func(ctx context.Context) (finger.Template, error) {
			select {
			case f := <-b.finger:
				return f, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		},
	})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.agent.loop(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
		require.NoError(t, b.agent.end())
	})
	b.up(t)
	return b
}

func issueCard(t *testing.T, person *fingersim.Finger) (*cardsim.Sim, *x509.Certificate, *ecdsa.PublicKey) {
	t.Helper()
	sim, err := cardsim.New(cardsim.NISTOCC, cardsim.Person{GUID: ident.GUID{1}, Name: "Camille Durand"})
	require.NoError(t, err)
	pub, err := sim.Generate(card.Slot9A)
	require.NoError(t, err)
	pub9E, err := sim.Generate(card.Slot9E)
	require.NoError(t, err)
	ca, err := ecdsa.GenerateKey(elliptic.P256(), crand.Reader)
	require.NoError(t, err)
	plan := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(crand.Reader, plan, plan, pub, ca)
	require.NoError(t, err)
	require.NoError(t, sim.PutCertificate(card.Slot9A, der))
	require.NoError(t, sim.Enrol(card.RefFinger, person.Reference().Encode()))
	require.NoError(t, sim.Enrol(card.RefFinger2, second().Reference().Encode()))
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return sim, cert, pub9E
}

// second is the person's other finger.
func second() *fingersim.Finger { return fingersim.NewFinger(8) }

func socket(t *testing.T) net.PacketConn {
	t.Helper()
	c, err := net.ListenUDP("udp6", &net.UDPAddr{IP: net.IPv6loopback})
	require.NoError(t, err)
	return c
}

// up gives the box a line and a stream's way, as the link would.
func (b *bench) up(t *testing.T) {
	t.Helper()
	near, far := net.Pipe()
	boxLine, err := line.New(near, wire.FromGateway, line.Silence)
	require.NoError(t, err)
	b.centre = &centre{t: t, facts: facts{gatewayCertificate: []byte{1}, gatewayTunnelKey: wire.Key{2}, result: []byte{3}, deviceCertificate: []byte{4}, boxTunnelKey: wire.Key{5}}}
	b.line, err = line.New(far, wire.FromBox, line.Silence)
	require.NoError(t, err)
	b.mux, err = stream.NewMux(socket(t))
	require.NoError(t, err)
	up := &uplink{line: boxLine, media: socket(t), hello: &wire.Hello{Language: refusal.English, Box: "PARIS-0042"}, facts: b.facts, out: make(chan wire.Message, outboxSize)}
	b.agent.links <- linkEvent{up: up}
	go func() { _ = up.write(t.Context()) }()
	mux := b.mux // a test may bring the line up again
	t.Cleanup(func() {
		_ = far.Close()
		require.NoError(t, mux.Close())
	})
	go func() { // what link.serve does
		for {
			m, err := boxLine.Read()
			e := linkEvent{message: m}
			if err != nil {
				e = linkEvent{err: err}
			}
			select {
			case b.agent.links <- e:
			case <-t.Context().Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
}

// expect reads the box's next message, of type M.
func expect[M wire.Message](c *centre) M {
	c.t.Helper()
	m, err := c.line.Read()
	require.NoError(c.t, err)
	got, ok := m.(M)
	require.True(c.t, ok, "want %T, have %T", got, m)
	return got
}

func (c *centre) say(m wire.Message) {
	c.t.Helper()
	require.NoError(c.t, c.line.Write(m))
}

// seen waits until the screen satisfies a condition; each flush is looked at once.
func (b *bench) seen(what string, is func(*screen.Image) bool) {
	b.t.Helper()
	deadline := time.NewTimer(10 * time.Second)
	defer deadline.Stop()
	for !b.screen.see(is) {
		select {
		case <-b.screen.changed:
		case <-deadline.C:
			b.t.Fatalf("the screen never showed: %s", what)
		}
	}
}

var session = ident.ID{42}

// insert puts the card in and plays the centre up to the finger.
func (b *bench) insert() *wire.CardIn {
	b.t.Helper()
	b.cards.events <- pcsc.Event{Reader: "r", Present: true, Count: 1}
	expect[*wire.NonceRequest](b.centre)
	b.say(&wire.Nonce{Nonce: bytes.Repeat([]byte{7}, 32)})
	in := expect[*wire.CardIn](b.centre)
	b.say(&wire.Person{Session: session, Name: "Camille Durand", Language: refusal.French, Nonce: bytes.Repeat([]byte{8}, 32)})
	b.answer()
	return in
}

func (b *bench) place(f *fingersim.Finger) {
	b.finger <- f.Impression(rand.New(rand.NewPCG(1, uint64(time.Now().UnixNano()))))
}

// login places the right finger until the card takes it and answers with a list.
func (b *bench) login() *wire.Login {
	b.t.Helper()
	b.finger <- b.person.Reference()
	l := expect[*wire.Login](b.centre)
	ended := refusal.New("P02", "project", "History", "day", "30 June")
	b.say(&wire.Bubbles{List: []wire.Bubble{
		{Name: "epi", Title: "Epidemiology", Colour: 0x00aa88, State: wire.Open},
		{Name: "hist", Title: "History", Colour: 0x884422, State: wire.Refuses, Refusal: &ended},
		{Name: "econ", Title: "Economics", Colour: 0x2266cc, State: wire.Open},
	}, Grant: wire.Grant{Statement: []byte{1}, LifeMS: 600_000, Nonce: bytes.Repeat([]byte{9}, 32), Epoch: 3}})
	b.seen("the list", anywhere(0x2266cc))
	return l
}

// show answers an Attach with one whole picture of a colour.
func (b *bench) show(at *wire.Attach, rgb uint32) {
	b.t.Helper()
	b.say(&wire.Attached{Bubble: at.Bubble, Stream: at.Stream})
	if b.code == nil {
		var err error
		b.code, err = tile.NewEncoder()
		require.NoError(b.t, err)
	}
	b.pix = make([]byte, int(at.Width)*int(at.Height)*4)
	for i := 0; i < len(b.pix); i += 4 {
		b.pix[i], b.pix[i+1], b.pix[i+2] = byte(rgb), byte(rgb>>8), byte(rgb>>16)
	}
	frame, err := b.code.Encode(tile.Source{Stream: at.Stream, Pix: b.pix, Width: int(at.Width), Height: int(at.Height), Key: true})
	require.NoError(b.t, err)
	h, err := tile.ParseHeader(frame)
	require.NoError(b.t, err)
	<-b.desk.Ready()
	require.NoError(b.t, b.desk.WriteFrame(h.N, frame))
}

func (b *bench) press(code uint16) {
	for _, r := range keys.Key(code, 1) {
		b.agent.inputs <- r
	}
	for _, r := range keys.Key(code, 0) {
		b.agent.inputs <- r
	}
}

// settle returns when the loop has taken every input sent before.
func (b *bench) settle() {
	for len(b.agent.inputs) > 0 {
		runtime.Gosched()
	}
	b.agent.holds <- holdEvent{} // of no hold of ours: taken after the last input, and dropped
}

func filled(rgb uint32) func(*screen.Image) bool {
	area := viewer.Area(width, height)
	return func(m *screen.Image) bool {
		for _, p := range []image.Point{area.Min, area.Max.Sub(image.Pt(1, 1)), {X: area.Min.X, Y: area.Max.Y - 1}} {
			c := m.RGBAAt(p.X, p.Y)
			if uint32(c.R)<<16|uint32(c.G)<<8|uint32(c.B) != rgb {
				return false
			}
		}
		return true
	}
}

func anywhere(rgb uint32) func(*screen.Image) bool {
	return func(m *screen.Image) bool {
		for y := range m.Height {
			row := m.Row(y, 0, m.Width)
			for i := 0; i < len(row); i += 4 {
				if uint32(row[i+2])<<16|uint32(row[i+1])<<8|uint32(row[i]) == rgb {
					return true
				}
			}
		}
		return false
	}
}

func TestCardSignsPresenceThenTheWholeTranscript(t *testing.T) {
	b := newBench(t)
	in := b.insert()
	digest, err := wire.Digest(wire.PresenceStatement{Context: wire.PresenceContext, Nonce: in.Nonce, TunnelKey: b.facts.boxTunnelKey})
	require.NoError(t, err)
	require.True(t, ecdsa.VerifyASN1(b.pub9E, digest[:], in.Presence))
	require.Equal(t, b.cert.Raw, in.Certificate)

	l := b.login()
	digest, err = wire.Digest(b.transcript(l))
	require.NoError(t, err)
	require.True(t, ecdsa.VerifyASN1(b.cert.PublicKey.(*ecdsa.PublicKey), digest[:], l.Signature))
	b.agent.visit.hold.steps <- func() { // runs after the login's own step
		_, err := b.agent.visit.hold.card.Signer(card.Slot9A, b.cert.PublicKey.(*ecdsa.PublicKey)).Sign(nil, digest[:], crypto.SHA256)
		b.asked <- err
	}
	require.ErrorIs(t, <-b.asked, card.ErrNotVerified, "the finger spoke for one signature")
}

func TestWrongFingersAreCountedThenTheCardIsBlocked(t *testing.T) {
	b := newBench(t)
	b.insert()
	for _, want := range []struct{ code, left string }{{"C03", "2"}, {"C03", "1"}, {"C05", ""}} {
		b.place(fingersim.NewFinger(99))
		e := expect[*wire.Event](b.centre)
		require.Equal(t, refusal.Code(want.code), e.Refusal.Code)
		require.Equal(t, want.left, e.Refusal.Params["left"])
		require.Len(t, e.Refusal.Suffix, 3)
	}
}

func TestSecondFingerIsComparedWhenThePersonSaysSo(t *testing.T) {
	b := newBench(t)
	b.insert()
	b.press(3) // the key 2
	b.settle()
	b.finger <- second().Reference()
	require.NotEmpty(t, expect[*wire.Login](b.centre).Signature)
}

func TestPictureAppearsWholeAndSwitchWipesItFirst(t *testing.T) {
	b := newBench(t)
	b.insert()
	b.login()
	b.press(28) // enter: the first project that opens
	at := expect[*wire.Attach](b.centre)
	require.Equal(t, "epi", at.Bubble)
	area := viewer.Area(width, height)
	require.Equal(t, [2]uint16{uint16(area.Dx()), uint16(area.Dy())}, [2]uint16{at.Width, at.Height})
	b.show(at, 0x123456)
	b.seen("epi", filled(0x123456))

	for _, r := range [][]keys.Raw{keys.Key(29, 1), keys.Key(56, 1), keys.Key(106, 1)} { // Ctrl+Alt+Right
		for _, raw := range r {
			b.agent.inputs <- raw
		}
	}
	next := expect[*wire.Attach](b.centre)
	require.Equal(t, "econ", next.Bubble, "the ended project is passed over")
	require.NotEqual(t, at.Stream, next.Stream)
	require.False(t, b.screen.see(anywhere(0x123456)), "the old picture is gone before the new bubble is asked for")
	b.show(next, 0x654321)
	b.seen("econ", filled(0x654321))
}

func TestLightsAreThoseOfTheBubbleOnTheScreen(t *testing.T) {
	b := newBench(t)
	b.insert()
	b.login()
	b.press(28)
	at := expect[*wire.Attach](b.centre)
	b.show(at, 0x123456)
	b.seen("epi", filled(0x123456))
	require.Zero(t, b.keys.lit.Load())
	frame, err := b.code.Encode(tile.Source{Stream: at.Stream, Pix: b.pix, Width: int(at.Width), Height: int(at.Height), Lights: tile.CapsLock})
	require.NoError(t, err)
	h, err := tile.ParseHeader(frame)
	require.NoError(t, err)
	require.NoError(t, b.desk.WriteFrame(h.N, frame))
	require.Eventually(t, func() bool { return keys.Lights(b.keys.lit.Load()) == keys.CapsLock }, 10*time.Second, time.Millisecond)
	for _, code := range []uint16{29, 56, 106} { // Ctrl+Alt+Right
		for _, raw := range keys.Key(code, 1) {
			b.agent.inputs <- raw
		}
	}
	expect[*wire.Attach](b.centre)
	b.settle()
	require.Zero(t, b.keys.lit.Load())
}

func TestKeyboardThatTypesTooFastIsNamedOnTheScreenAndToTheCentre(t *testing.T) {
	b := newBench(t)
	before := b.screen.see(anywhere(0x8a4b00))
	b.agent.inputs <- keys.TooFast()
	require.Equal(t, refusal.TypedTooFast, expect[*wire.Event](b.centre).Refusal.Code)
	b.settle()
	require.True(t, !before && b.screen.see(anywhere(0x8a4b00)), "its light is amber")
}

func TestCardOutCoversScreen(t *testing.T) {
	b := newBench(t)
	b.insert()
	b.login()
	b.press(28)
	b.show(expect[*wire.Attach](b.centre), 0x123456)
	b.seen("epi", filled(0x123456))

	b.cards.events <- pcsc.Event{Reader: "r", Count: 2}
	require.Equal(t, &wire.Detach{Session: session, Why: wire.CardOut}, expect[*wire.Detach](b.centre))
	require.False(t, b.screen.see(anywhere(0x123456)), "no pixel of the bubble outlives the card")
}

func TestKeysReachTheBubbleAndAreReleasedWhenItIsLeft(t *testing.T) {
	b := newBench(t)
	b.insert()
	b.login()
	b.press(28)
	at := expect[*wire.Attach](b.centre)
	b.show(at, 0x123456)
	b.seen("epi", filled(0x123456))
	for _, r := range keys.Key(30, 1) { // a, held
		b.agent.inputs <- r
	}
	require.Equal(t, stream.Input{Seq: 1, Stream: at.Stream, Kind: stream.Key, Code: 30, Down: true}, <-b.desk.Input())
	for _, raw := range append(append(keys.Key(29, 1), keys.Key(56, 1)...), keys.Key(103, 1)...) { // Ctrl+Alt+Up
		b.agent.inputs <- raw
	}
	held := map[uint16]bool{30: true}
	for len(held) > 0 {
		e := <-b.desk.Input()
		if e.Down {
			held[e.Code] = true
			continue
		}
		delete(held, e.Code)
	}
	require.Equal(t, wire.Menu, expect[*wire.Detach](b.centre).Why)
}

func TestEndedSessionSaysWhyAndForgetsThePerson(t *testing.T) {
	b := newBench(t)
	b.insert()
	b.login()
	b.press(28)
	b.show(expect[*wire.Attach](b.centre), 0x123456)
	b.seen("epi", filled(0x123456))
	b.say(&wire.Ended{Session: session, Refusal: refusal.New("S04", "reason", "drill"), Reason: "drill"})
	b.seen("another picture", func(m *screen.Image) bool { return !anywhere(0x123456)(m) && anywhere(0xffffff)(m) })
	// nothing of the old session is answered any more, and the next card starts anew
	b.cards.events <- pcsc.Event{Reader: "r", Count: 2}
	b.cards.events <- pcsc.Event{Reader: "r", Present: true, Count: 3}
	for {
		m, err := b.line.Read()
		require.NoError(t, err)
		if _, ok := m.(*wire.NonceRequest); ok {
			return
		}
	}
}

func TestDesktopOpenElsewhereComesHereOnEnter(t *testing.T) {
	b := newBench(t)
	b.insert()
	b.finger <- b.person.Reference()
	first := expect[*wire.Login](b.centre)
	b.say(&wire.Refused{Refusal: refusal.New(refusal.OpenElsewhere, "box", "LYON-0007"), Re: wire.TypeOf(first)})
	b.seen("the amber question", anywhere(0x8a4b00))
	b.press(28)
	require.Equal(t, first, expect[*wire.Login](b.centre), "the same proof again is the yes")
}

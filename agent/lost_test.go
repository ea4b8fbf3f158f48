// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"log/slog"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"sdbox/agent/screen"
	"sdbox/internal/card/pcsc"
	"sdbox/internal/line"
	"sdbox/internal/refusal"
	"sdbox/internal/stream"
	"sdbox/internal/wire"

	"github.com/stretchr/testify/require"
)

// answer sets up the centre's end of the stream that the box offers.
func (b *bench) answer() {
	b.t.Helper()
	offer := expect[*wire.Offer](b.centre)
	cert, err := stream.NewCertificate()
	require.NoError(b.t, err)
	var answer string
	b.desk, answer, err = b.mux.Answer(b.t.Context(), cert, offer.SDP, offer.Fingerprint)
	require.NoError(b.t, err)
	desk := b.desk
	b.t.Cleanup(func() { _ = desk.Close() }) // the box's end may have closed it
	b.print, b.box = cert.Fingerprint[:], offer.Fingerprint
	b.say(&wire.Answer{SDP: answer, Fingerprint: b.print})
}

// transcript is what a login must have signed.
func (b *bench) transcript(l *wire.Login) wire.Transcript {
	person := sha256.Sum256(b.cert.Raw)
	return wire.Transcript{
		Context: wire.LoginContext, Nonce: l.Nonce, GatewayCertificate: b.facts.gatewayCertificate, GatewayTunnelKey: b.facts.gatewayTunnelKey,
		GatewayStream: b.print, Result: b.facts.result, DeviceCertificate: b.facts.deviceCertificate, BoxTunnelKey: b.facts.boxTunnelKey, BoxStream: b.box,
		PersonCertificate: person[:],
	}
}

// work is a person at work in epi, whose whole picture is one colour.
func (b *bench) work() {
	b.t.Helper()
	b.insert()
	b.login()
	b.press(28)
	b.show(expect[*wire.Attach](b.centre), 0x123456)
	b.seen("epi", filled(0x123456))
}

// covered is the sheet over a darkened picture: white somewhere, nothing of the picture as it was.
func covered(m *screen.Image) bool { return anywhere(0xffffff)(m) && !anywhere(0x123456)(m) }

func (b *bench) silence(is bool) { b.agent.links <- linkEvent{silence: &is} }

func TestSilenceCoversThePictureAndNothingTypedGoesThrough(t *testing.T) {
	b := newBench(t)
	b.work()
	b.silence(true)
	b.seen("the cover", covered)
	b.press(30)
	b.settle()
	b.silence(false)
	b.seen("the picture again", filled(0x123456))
	e := expect[*wire.Event](b.centre)
	require.Equal(t, refusal.LinkLost, e.Refusal.Code, "the centre learns what the screen said")
	b.press(31)
	for _, down := range []bool{true, false} {
		in := <-b.desk.Input()
		require.Equal(t, [2]any{uint16(31), down}, [2]any{in.Code, in.Down}, "the key pressed under the cover is gone")
	}
	b.cards.events <- pcsc.Event{Reader: "r", Count: 2} // and a card that leaves under the cover blackens the screen
}

func TestSameCardBringsTheSessionBackWithoutAFinger(t *testing.T) {
	b := newBench(t)
	b.insert()
	l := b.login()
	b.press(28)
	first := expect[*wire.Attach](b.centre)
	b.show(first, 0x123456)
	b.seen("epi", filled(0x123456))
	signed, err := wire.Digest(b.transcript(l))
	require.NoError(t, err)
	_ = b.line.Close()
	b.seen("the cover", covered)

	b.up(t)
	expect[*wire.NonceRequest](b.centre)
	nonce := bytes.Repeat([]byte{6}, 32)
	b.say(&wire.Nonce{Nonce: nonce})
	m := expect[*wire.Resume](b.centre)
	require.Equal(t, session, m.Session)
	require.Equal(t, uint64(3), m.Epoch)
	require.Equal(t, signed[:], m.Transcript)
	require.Equal(t, b.cert.Raw, m.Certificate)
	here, err := wire.Digest(wire.PresenceStatement{Context: wire.PresenceContext, Nonce: nonce, Session: session[:], TunnelKey: b.facts.boxTunnelKey})
	require.NoError(t, err)
	require.True(t, ecdsa.VerifyASN1(b.pub9E, here[:], m.Presence))

	b.say(&wire.Bubbles{List: []wire.Bubble{{Name: "econ", Title: "Economics", State: wire.Asleep}, {Name: "epi", Title: "Epidemiology", Colour: 0x00aa88, State: wire.Asleep}},
		Grant: wire.Grant{Statement: []byte{2}, LifeMS: 600_000, Nonce: nonce, Epoch: 4}})
	require.Equal(t, refusal.LinkLost, expect[*wire.Event](b.centre).Refusal.Code)
	b.code = nil
	b.answer()
	at := expect[*wire.Attach](b.centre)
	require.Equal(t, "epi", at.Bubble, "the bubble she was in")
	require.NotEqual(t, first.Stream, at.Stream)
	b.show(at, 0x345678)
	b.seen("epi again", filled(0x345678))
}

func TestRefusedReturnAsksForAFinger(t *testing.T) {
	b := newBench(t)
	b.work()
	_ = b.line.Close()
	b.seen("the cover", covered)
	b.up(t)
	expect[*wire.NonceRequest](b.centre)
	b.say(&wire.Nonce{Nonce: bytes.Repeat([]byte{6}, 32)})
	m := expect[*wire.Resume](b.centre)
	b.say(&wire.Refused{Refusal: refusal.New(refusal.LinkLost), Re: wire.TypeOf(m)})
	expect[*wire.Detach](b.centre)
	b.cards.events <- pcsc.Event{Reader: "q", Count: 2} // another reader: nothing of ours
	expect[*wire.NonceRequest](b.centre)
	b.say(&wire.Nonce{Nonce: bytes.Repeat([]byte{7}, 32)})
	expect[*wire.CardIn](b.centre)
	require.False(t, b.screen.see(anywhere(0x123456)))
}

func TestCardOutWhileTheLineIsLostForgetsTheSession(t *testing.T) {
	b := newBench(t)
	b.work()
	_ = b.line.Close()
	b.seen("the cover", covered)
	b.cards.events <- pcsc.Event{Reader: "r", Count: 2}
	b.seen("the connecting screen", anywhere(0xfff1d6))
	b.up(t)
	require.Equal(t, refusal.CentreSilent, expect[*wire.Event](b.centre).Refusal.Code, "what was read meanwhile can be looked up")
	b.cards.events <- pcsc.Event{Reader: "r", Present: true, Count: 3}
	expect[*wire.NonceRequest](b.centre)
	b.say(&wire.Nonce{Nonce: bytes.Repeat([]byte{7}, 32)})
	expect[*wire.CardIn](b.centre) // not Resume, though it is the same card
}

// The wait is over while the line is still down: the box forgets, and the card that is still in logs in anew when the line is back.
func TestWaitThatTakesTooLongAsksForAFinger(t *testing.T) {
	b := newBench(t)
	b.work()
	_ = b.line.Close()
	b.seen("the cover", covered)
	b.settle()
	b.agent.visit.wait.Reset(0)
	b.seen("the connecting screen", func(m *screen.Image) bool { return anywhere(0xfff1d6)(m) })
	b.up(t)
	expect[*wire.Event](b.centre)
	expect[*wire.NonceRequest](b.centre)
	b.say(&wire.Nonce{Nonce: bytes.Repeat([]byte{7}, 32)})
	expect[*wire.CardIn](b.centre)
}

// A person at work hears of a silent centre within two seconds, and the line is given up soon.
func TestSilentLineIsToldWithinTwoSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, up1 := net.Pipe()
		up2, far := net.Pipe()
		var cut atomic.Bool // the network takes what the box sends, and brings nothing back
		go relay(up2, up1, func() bool { return true })
		go relay(up1, up2, func() bool { return !cut.Load() })
		box, err := line.New(near, wire.FromGateway, line.Silence)
		require.NoError(t, err)
		centre, err := line.New(far, wire.FromBox, line.Silence)
		require.NoError(t, err)
		events := make(chan linkEvent)
		l := &link{log: slog.New(slog.DiscardHandler), events: events}
		up := &uplink{line: box}
		done := make(chan error, 1)
		go func() { done <- l.pulse(t.Context(), up) }()
		read := make(chan error, 2)
		for _, end := range []*line.Conn{box, centre} {
			go func() { _, err := end.Read(); read <- err }()
		}
		<-time.After(12 * time.Second) // nobody works: two beats, and no fuss
		up.lively.Store(true)
		pause := time.After(10 * time.Second)
		select {
		case e := <-events:
			require.Failf(t, "a line that answers is not silent", "%+v", e)
		case <-pause:
		}
		began := time.Now()
		cut.Store(true)
		require.True(t, *(<-events).silence)
		require.LessOrEqual(t, time.Since(began), 2*time.Second)
		cut.Store(false)
		require.False(t, *(<-events).silence)
		began = time.Now()
		cut.Store(true)
		require.True(t, *(<-events).silence)
		require.ErrorIs(t, <-done, line.ErrSilent)
		require.LessOrEqual(t, time.Since(began), 7*time.Second)
		for _, c := range []net.Conn{near, up1, up2, far} {
			require.NoError(t, c.Close())
		}
		<-read
		<-read
	})
}

// relay copies from one connection to another what may pass.
func relay(to, from net.Conn, pass func() bool) {
	b := make([]byte, 1024)
	for {
		n, err := from.Read(b)
		if err == nil && pass() {
			_, err = to.Write(b[:n])
		}
		if err != nil {
			return
		}
	}
}

// A box that stays closed tries again and again, and each refusal has a suffix of its own: the one on the screen stays, for somebody
// may be reading it out.
func TestClosedBoxKeepsTheCodeOnItsScreen(t *testing.T) {
	b := newBench(t)
	_ = b.line.Close()
	b.seen("the connecting screen", anywhere(0xfff1d6))
	first := refusal.New(refusal.NotIntact)
	for _, r := range []refusal.Refusal{first, refusal.New(refusal.NotIntact)} {
		b.agent.links <- linkEvent{refused: &wire.Refused{Refusal: r}}
	}
	b.settle()
	require.Equal(t, first, b.agent.said)
}

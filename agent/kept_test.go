// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"encoding/json"
	"net"
	"os"
	"testing"

	"sdbox/agent/boot"
	"sdbox/internal/card/pcsc"
	"sdbox/internal/wire"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// again is a new agent in the same box, with the same card in the same reader.
func (b *bench) again(change func(*Config)) *bench {
	t := b.t
	t.Helper()
	n := &bench{centre: &centre{t: t}, cards: &reader{events: make(chan pcsc.Event, 4), card: b.cards.card}, screen: newWatched(t), person: b.person, cert: b.cert, pub9E: b.pub9E, finger: b.finger}
	cfg := b.agent.cfg
	cfg.Cards, cfg.Screen = n.cards, n.screen
	change(&cfg)
	var err error
	n.agent, err = New(cfg)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- n.agent.loop(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
		require.NoError(t, n.agent.end())
	})
	return n
}

// pid1 is the other end of an agent's socket to PID 1.
func pid1(t *testing.T) (*boot.Client, *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	var ends [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "end")
		c, err := net.FileConn(f)
		require.NoError(t, err)
		require.NoError(t, f.Close())
		ends[i] = c.(*net.UnixConn)
		t.Cleanup(func() { _ = ends[i].Close() })
	}
	return boot.NewClient(ends[0]), ends[1]
}

// keptUntil reads what the agent hands PID 1 until is says that it is that.
func keptUntil(t *testing.T, c *net.UnixConn, is func(kept []byte) bool) []byte {
	t.Helper()
	for buf := make([]byte, 64<<10); ; {
		n, err := c.Read(buf)
		require.NoError(t, err)
		var m struct{ Keep *[]byte }
		require.NoError(t, json.Unmarshal(buf[:n], &m))
		if m.Keep != nil && is(*m.Keep) {
			return *m.Keep
		}
	}
}

func TestAgentThatStartsAnewBringsTheSessionBackWithoutAFinger(t *testing.T) {
	client, other := pid1(t)
	b := newBench(t).again(func(c *Config) { c.Boot = client })
	b.up(t)
	b.work()
	held := keptUntil(t, other, func(k []byte) bool { return bytes.Contains(k, []byte(`"epi"`)) })
	require.LessOrEqual(t, len(held), 4<<10)

	n := b.again(func(c *Config) { c.Kept = held }) // the one before it may not say that it goes
	n.cards.events <- pcsc.Event{Reader: "r", Present: true, Count: 1}
	n.seen("connection lost", anywhere(0xffffff))
	n.up(t)
	expect[*wire.NonceRequest](n.centre)
	nonce := bytes.Repeat([]byte{6}, 32)
	n.say(&wire.Nonce{Nonce: nonce})
	m := expect[*wire.Resume](n.centre)
	require.Equal(t, session, m.Session)
	require.Equal(t, uint64(3), m.Epoch)
	require.Len(t, m.Transcript, 32)
	require.Equal(t, b.cert.Raw, m.Certificate)
	here, err := wire.Digest(wire.PresenceStatement{Context: wire.PresenceContext, Nonce: nonce, Session: session[:], TunnelKey: n.facts.boxTunnelKey})
	require.NoError(t, err)
	require.True(t, ecdsa.VerifyASN1(b.pub9E, here[:], m.Presence))

	n.say(&wire.Bubbles{List: []wire.Bubble{{Name: "econ", Title: "Economics", State: wire.Asleep}, {Name: "epi", Title: "Epidemiology", Colour: 0x00aa88, State: wire.Open}},
		Grant: wire.Grant{Statement: []byte{2}, LifeMS: 600_000, Nonce: nonce, Epoch: 4}})
	expect[*wire.Event](n.centre)
	n.answer()
	at := expect[*wire.Attach](n.centre)
	require.Equal(t, "epi", at.Bubble)
	n.show(at, 0x345678)
	n.seen("epi again", filled(0x345678))
}

func TestCardThatMovedWhileThereWasNoAgentCostsAFinger(t *testing.T) {
	for name, event := range map[string]*pcsc.Event{
		"it left and came back": {Reader: "r", Present: true, Count: 3}, "in another reader": {Reader: "q", Present: true, Count: 1}, "it is gone": nil,
	} {
		t.Run(name, func(t *testing.T) {
			client, other := pid1(t)
			held, err := json.Marshal(kept{Session: session, Epoch: 3, Transcript: make([]byte, 32), Reader: "r", Count: 1, Name: "Camille Durand"})
			require.NoError(t, err)
			b := newBench(t).again(func(c *Config) { c.Boot, c.Kept = client, held })
			if event != nil {
				b.cards.events <- *event
			}
			keptGone := func() { keptUntil(t, other, func(k []byte) bool { return len(k) == 0 }) }
			if event != nil {
				keptGone()
			}
			b.up(t)
			if event == nil {
				expect[*wire.Detach](b.centre)
				keptGone()
				b.cards.events <- pcsc.Event{Reader: "r", Present: true, Count: 1}
			}
			expect[*wire.NonceRequest](b.centre)
			b.say(&wire.Nonce{Nonce: bytes.Repeat([]byte{7}, 32)})
			expect[*wire.CardIn](b.centre)
		})
	}
}

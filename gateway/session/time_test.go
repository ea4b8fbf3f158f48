// SPDX-License-Identifier: Apache-2.0

package session

import (
	"context"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"sdbox/internal/line"
	"sdbox/internal/refusal"
	"sdbox/internal/wire"

	"github.com/stretchr/testify/require"
)

// pipes is a listener whose connections are pipes from the first box's address.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	if c, open := <-p; open {
		return addressed{c}, nil
	}
	return nil, net.ErrClosed
}
func (p pipes) Close() error   { close(p); return nil }
func (p pipes) Addr() net.Addr { return &net.TCPAddr{} }

type addressed struct{ net.Conn }

func (addressed) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }

// A card that nobody's finger follows: a fresh nonce every 30 s, and the end after two minutes.
func TestCardWithoutAFingerEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, nil)
		ctx, cancel := context.WithCancel(t.Context())
		ln := make(pipes)
		done := make(chan error, 1)
		go func() { done <- h.server.Serve(ctx, ln) }()
		ours, theirs := net.Pipe()
		ln <- theirs
		l, err := line.New(ours, wire.FromGateway, line.Silence)
		require.NoError(t, err)
		b := &testBox{house: h, line: l, in: make(chan wire.Message, 64)}
		for addr := range h.boxes {
			if h.boxes[addr].Serial == "PARIS-1" {
				b.addr = addr
			}
		}
		go func() { // it answers the gateway's beats, which is sign of life enough
			defer close(b.in)
			for {
				m, err := l.Read()
				if err != nil {
					return
				}
				b.in <- m
			}
		}()
		require.Equal(t, "PARIS-1", expect[*wire.Hello](b).Box)
		b.send(&wire.Hello{Version: wire.Version})
		b.insert(h.card)
		began := time.Now()
		expect[*wire.Person](b)
		seen := map[string]bool{}
		for range 3 {
			<-time.After(31 * time.Second)
			n := expect[*wire.Nonce](b)
			require.False(t, seen[string(n.Nonce)], "a nonce came twice")
			seen[string(n.Nonce)] = true
		}
		<-time.After(30 * time.Second)
		ended := expect[*wire.Ended](b)
		require.Equal(t, refusal.OurFault, ended.Refusal.Code)
		require.WithinDuration(t, began.Add(requestedLife), time.Now(), 5*time.Second)
		require.Empty(t, h.server.Live())
		require.NoError(t, l.Close())
		cancel()
		require.NoError(t, <-done)
		require.NoError(t, h.store.Close())
	})
}

// A grant that is not renewed ends with its session: here it lasts as long as the box's attestation result, a second and a half.
func TestGrantThatIsNotRenewedEnds(t *testing.T) {
	h := newHouse(t)
	h.mu.Lock()
	for addr, box := range h.boxes {
		box.Expires = time.Now().Add(1500 * time.Millisecond)
		h.boxes[addr] = box
	}
	h.mu.Unlock()
	b := h.boot(1)
	list := b.finger(h.card)
	require.LessOrEqual(t, list.Grant.LifeMS, int64(1500))
	b.attach("epi", 1)
	expect[*wire.Attached](b)
	require.Equal(t, refusal.OurFault, expect[*wire.Ended](b).Refusal.Code)
	waitFor(t, "the session ends", func() bool { return len(h.states()) == 0 })
}

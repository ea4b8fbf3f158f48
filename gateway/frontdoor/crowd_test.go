// SPDX-License-Identifier: Apache-2.0

package frontdoor

import (
	"context"
	"crypto/tls"
	"net"
	"os"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"sdbox/internal/wire"

	"github.com/stretchr/testify/require"
)

// size is how many connections have proved nothing, and how many boxes are at the door.
func (c *crowd) size() (waiting, boxes int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.waiting), len(c.boxes)
}

// Connections that say nothing take the places of one another, from one address and from many, and a box gets in past them: from its own
// address, from theirs, and while it is inside it loses its place to none of them.
func TestSilentConnectionsKeepNoBoxOut(t *testing.T) {
	const most = 4
	g := newGate(t, most)
	m := newMachine(t)
	g.register(m, "PARIS-1")
	hold := func(from string) net.Conn {
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		conn, err := dialer.Dial("tcp", g.address)
		require.NoError(t, err)
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	first := hold("127.0.0.7")
	for i := range 3 * most {
		hold(net.IPv4(127, 0, 0, byte(10+i%5)).String())
	}
	_, err := first.Read(make([]byte, 1))
	require.Error(t, err, "the oldest is closed")
	identity := g.enrol(m)
	c := g.call(identity)
	nonce := c.nonce()
	for range 3 * most {
		hold("127.0.0.1") // where the box is, too
	}
	require.Eventually(t, func() bool { waiting, boxes := g.door.crowd.size(); return waiting == most && boxes == 1 }, 5*time.Second, time.Millisecond)
	_, ok := c.ask(c.evidence(m, nonce, nil)).(*wire.Lease)
	require.True(t, ok)

	before, again := g.call(identity), g.call(identity)
	_, err = before.line.Read()
	require.Error(t, err, "a box has one place")
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
	again.nonce()
}

// One source has its share of the places and no more, however many connections it makes.
func TestOneSourceTakesItsShareOnly(t *testing.T) {
	c := newCrowd(2 * perSource)
	var guests []*guest
	enter := func(addr net.IP) *guest {
		ours, theirs := net.Pipe()
		t.Cleanup(func() { theirs.Close(); ours.Close() })
		g, ok := c.enter(&fromAddress{ours, &net.TCPAddr{IP: addr, Port: 1}})
		require.True(t, ok)
		return g
	}
	other := enter(net.ParseIP("2001:db8:1::1"))
	for i := range 3 * perSource {
		guests = append(guests, enter(net.IP{0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 15: byte(i)}))
	}
	waiting, _ := c.size()
	require.Equal(t, 1+perSource, waiting, "a /64 is one source")
	require.Same(t, other, c.waiting[0])
	for range 2 {
		for _, g := range append(guests, other) {
			c.leave(g)
		}
	}
	require.Empty(t, c.waiting)
	require.Empty(t, c.sources)
}

type fromAddress struct {
	net.Conn
	addr net.Addr
}

func (f *fromAddress) RemoteAddr() net.Addr { return f.addr }

// A flood of handshakes, whole ones and garbage, from more connections than there are places, costs a bounded number of goroutines, and
// other boxes enrol and get their lease during it.
func TestFloodOfHandshakesKeepsNoBoxOut(t *testing.T) {
	const most = 16
	g := newGate(t, most)
	m := newMachine(t)
	g.register(m, "PARIS-1")
	quiet := runtime.NumGoroutine()
	ctx, cancel := context.WithCancel(t.Context())
	var flood sync.WaitGroup
	for i, play := range []func(*tls.Conn) error{
		func(c *tls.Conn) error { return c.HandshakeContext(ctx) },
		func(c *tls.Conn) error { _, err := c.NetConn().Write(make([]byte, 1<<10)); return err },
		func(c *tls.Conn) error {
			if err := c.HandshakeContext(ctx); err != nil {
				return err
			}
			_, err := c.Write([]byte{0xff, 0xff, 0xff, 0xff, 1, 2, 3})
			return err
		},
	} {
		flood.Go(func() {
			dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(i))}}
			var held []net.Conn // as long as the door lets it
			for ctx.Err() == nil {
				conn, err := dialer.DialContext(ctx, "tcp", g.address)
				if err != nil {
					continue
				}
				if held = append(held, conn); len(held) > most {
					held[0].Close()
					held = held[1:]
				}
				_ = play(tls.Client(conn, &tls.Config{RootCAs: g.trust.Roots(), ServerName: "gw1.lab", NextProtos: []string{wire.DoorProtocol}}))
			}
			for _, conn := range held {
				conn.Close()
			}
		})
	}
	defer flood.Wait()
	defer cancel()
	require.Eventually(t, func() bool { waiting, _ := g.door.crowd.size(); return waiting >= most }, 10*time.Second, time.Millisecond)
	identity := g.enrol(m)
	for range 3 {
		c := g.call(identity)
		lease, ok := c.ask(c.evidence(m, c.nonce(), nil)).(*wire.Lease)
		require.True(t, ok)
		require.NotEmpty(t, lease.Result)
	}
	require.Less(t, runtime.NumGoroutine()-quiet, 8*most)
	waiting, _ := g.door.crowd.size()
	require.LessOrEqual(t, waiting, most)
}

// reluctant is a listener of a system that has no descriptor left, a few times.
type reluctant struct {
	net.Listener
	left int
}

func (r *reluctant) Accept() (net.Conn, error) {
	if r.left--; r.left >= 0 {
		return nil, &net.OpError{Op: "accept", Err: syscall.EMFILE}
	}
	return r.Listener.Accept()
}

// A flood may use up what the system has: the door stays, and opens again.
func TestDoorOutlivesASystemWithoutRoom(t *testing.T) {
	g := newGate(t, 4)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- g.door.Serve(ctx, &reluctant{ln, 3}) }()
	g.address = ln.Addr().String()
	g.call(nil)
	cancel()
	require.NoError(t, <-done)
	require.ErrorContains(t, g.door.Serve(t.Context(), ln), "closed")
}

// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"sdbox/internal/tunnel/tunneltest"
	"sdbox/test/leak"

	"github.com/stretchr/testify/require"
)

var (
	testNet     = netip.MustParsePrefix("fd00:5db0::/48")
	testGateway = netip.MustParseAddr("fd00:5db0::1")
	loopback    = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
)

// house is a gateway and what a test needs to let boxes in.
type house struct {
	*Gateway
	t      testing.TB
	public [32]byte
}

func newHouse(t testing.TB) *house { return newHouseAt(t, net.IPv4(127, 0, 0, 1)) }

func newHouseAt(t testing.TB, outer net.IP) *house {
	leak.Check(t)
	key, err := NewKey()
	require.NoError(t, err)
	g, err := NewGateway(GatewayConfig{
		Key: key, Address: testGateway, Prefix: testNet, UDP: &net.UDPAddr{IP: outer},
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, g.Close()) })
	public, err := PublicKey(key)
	require.NoError(t, err)
	return &house{g, t, public}
}

func (h *house) endpoint() netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), h.Port())
}

// peer makes the keys of box number n.
func (h *house) peer(n int) (BoxConfig, Peer) {
	key, err := NewKey()
	require.NoError(h.t, err)
	public, err := PublicKey(key)
	require.NoError(h.t, err)
	address := netip.MustParseAddr(fmt.Sprintf("fd00:5db0::b:%x", n))
	psk := NewPSK()
	return BoxConfig{
			Key: key, Address: address, GatewayKey: h.public, GatewayAddress: testGateway, PSK: psk,
			Endpoints: []netip.AddrPort{h.endpoint()},
		}, Peer{
			PublicKey: public, PSK: psk, Address: address, Expires: time.Now().Add(time.Hour), AllowedOuter: loopback,
		}
}

func (h *house) open(c BoxConfig) *Box {
	b, err := NewBox(c)
	require.NoError(h.t, err)
	h.t.Cleanup(func() { require.NoError(h.t, b.Close()) })
	return b
}

func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// serveEcho returns what each inner TCP connection sends.
func (h *house) serveEcho(port uint16) {
	l, err := h.Listen(port)
	require.NoError(h.t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				io.Copy(c, c)
			}()
		}
	}()
	h.t.Cleanup(func() {
		l.Close()
		<-done
	})
}

func TestBoxSpeaksThroughTunnel(t *testing.T) {
	t.Run("on every address", func(t *testing.T) { testSpeaks(t, newHouseAt(t, nil)) })
	t.Run("on one address", func(t *testing.T) { testSpeaks(t, newHouse(t)) })
}

func testSpeaks(t *testing.T, h *house) {
	h.serveEcho(7000)
	config, peer := h.peer(1)
	require.NoError(t, h.AddPeer(peer))
	box := h.open(config)
	ctx := within(t, 20*time.Second)

	conn, err := box.DialTCP(ctx, 7000)
	require.NoError(t, err)
	defer conn.Close()
	sent := make([]byte, 1<<20)
	rand.Read(sent)
	failed := make(chan error, 1)
	go func() {
		_, err := conn.Write(sent)
		failed <- err
	}()
	got := make([]byte, len(sent))
	_, err = io.ReadFull(conn, got)
	require.NoError(t, err)
	require.NoError(t, <-failed)
	require.Equal(t, sent, got)

	up, err := h.ListenUDP(7001)
	require.NoError(t, err)
	defer up.Close()
	down, err := box.ListenUDP(0)
	require.NoError(t, err)
	defer down.Close()
	_, err = down.WriteTo([]byte("hello"), up.LocalAddr())
	require.NoError(t, err)
	buf := make([]byte, 100)
	require.NoError(t, up.SetReadDeadline(time.Now().Add(5*time.Second)))
	n, from, err := up.ReadFrom(buf)
	require.NoError(t, err)
	require.Equal(t, "hello", string(buf[:n]))
	require.Equal(t, config.Address, from.(*net.UDPAddr).AddrPort().Addr(), "inside the tunnel an address is a box")

	rtt, err := box.Ping(ctx)
	require.NoError(t, err)
	require.Positive(t, rtt)
	_, err = h.Ping(ctx, config.Address)
	require.NoError(t, err)
	require.Zero(t, h.Refused())
}

func TestLeaseEndCutsTheBox(t *testing.T) {
	h := newHouse(t)
	accepted := make(chan net.Conn, 1)
	l, err := h.Listen(7000)
	require.NoError(t, err)
	go func() {
		if c, err := l.Accept(); err == nil {
			accepted <- c
		}
	}()
	config, peer := h.peer(1)
	ended := make(chan Reason, 1)
	peer.OnEnd = func(why Reason) { ended <- why }
	require.NoError(t, h.AddPeer(peer))
	box := h.open(config)
	ctx := within(t, 20*time.Second)
	conn, err := box.DialTCP(ctx, 7000)
	require.NoError(t, err)
	defer conn.Close()
	inner := <-accepted

	peer.Expires = time.Now().Add(100 * time.Millisecond) // a renewal may shorten, too
	require.NoError(t, h.AddPeer(peer))
	require.Equal(t, Expired, <-ended)
	_, err = inner.Read(make([]byte, 1))
	require.Error(t, err, "the inner connection is closed with the peer")
	before := h.Refused()
	_, err = box.Ping(within(t, 300*time.Millisecond))
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Greater(t, h.Refused(), before)
	require.False(t, h.RemovePeer(peer.PublicKey), "nothing is left to remove")
}

func TestPeerEndsOnceForItsReason(t *testing.T) {
	h := newHouse(t)
	ended := make(chan Reason, 10)
	_, first := h.peer(1)
	first.OnEnd = func(why Reason) { ended <- why }
	require.NoError(t, h.AddPeer(first))
	require.NoError(t, h.AddPeer(first), "renewed, not ended")
	_, again := h.peer(1) // the same box after a boot: same address, new key
	again.OnEnd = first.OnEnd
	require.NoError(t, h.AddPeer(again))
	require.Equal(t, Replaced, <-ended)
	require.True(t, h.RemovePeer(again.PublicKey))
	require.Equal(t, Removed, <-ended)
	require.NoError(t, h.AddPeer(first))
	require.NoError(t, h.Close())
	require.Equal(t, Closed, <-ended)
	require.Empty(t, ended)
	require.ErrorIs(t, h.AddPeer(first), net.ErrClosed)
}

func TestBadPeersAreRefused(t *testing.T) {
	h := newHouse(t)
	_, other := h.peer(9)
	require.NoError(t, h.AddPeer(other))
	for name, spoil := range map[string]func(*Peer){
		"no PSK":                 func(p *Peer) { p.PSK = [32]byte{} },
		"no key":                 func(p *Peer) { p.PublicKey = [32]byte{} },
		"the gateway's key":      func(p *Peer) { p.PublicKey = h.public },
		"the gateway's address":  func(p *Peer) { p.Address = testGateway },
		"an address outside":     func(p *Peer) { p.Address = netip.MustParseAddr("fd00:dead::1") },
		"IPv4":                   func(p *Peer) { p.Address = netip.MustParseAddr("10.0.0.1") },
		"no end":                 func(p *Peer) { p.Expires = time.Time{} },
		"ended":                  func(p *Peer) { p.Expires = time.Now().Add(-time.Second) },
		"no outer address":       func(p *Peer) { p.AllowedOuter = nil },
		"too many outer":         func(p *Peer) { p.AllowedOuter = make([]netip.Prefix, 100) },
		"a bad outer address":    func(p *Peer) { p.AllowedOuter = []netip.Prefix{{}} },
		"a known key moves away": func(p *Peer) { p.PublicKey = other.PublicKey },
	} {
		_, p := h.peer(1)
		spoil(&p)
		require.Error(t, h.AddPeer(p), name)
	}
	for name, spoil := range map[string]func(*BoxConfig){
		"no PSK":               func(c *BoxConfig) { c.PSK = [32]byte{} },
		"no endpoint":          func(c *BoxConfig) { c.Endpoints = nil },
		"a bad endpoint":       func(c *BoxConfig) { c.Endpoints = []netip.AddrPort{{}} },
		"IPv4 inside":          func(c *BoxConfig) { c.Address = netip.MustParseAddr("10.0.0.1") },
		"no gateway address":   func(c *BoxConfig) { c.GatewayAddress = netip.Addr{} },
		"own address for both": func(c *BoxConfig) { c.GatewayAddress = c.Address },
	} {
		c, _ := h.peer(1)
		spoil(&c)
		_, err := NewBox(c)
		require.Error(t, err, name)
	}
}

func TestWrongPSKGetsNoPacketThrough(t *testing.T) {
	h := newHouse(t)
	config, peer := h.peer(1)
	peer.PSK = NewPSK()
	require.NoError(t, h.AddPeer(peer))
	_, err := h.open(config).Ping(within(t, 500*time.Millisecond))
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

func TestBoxCannotTakeAnotherInnerAddress(t *testing.T) {
	h := newHouse(t)
	config, peer := h.peer(1)
	victim, other := h.peer(2)
	require.NoError(t, h.AddPeer(peer))
	require.NoError(t, h.AddPeer(other))
	config.Address = victim.Address
	_, err := h.open(config).Ping(within(t, 500*time.Millisecond))
	require.ErrorIs(t, err, context.DeadlineExceeded)
	_, err = h.open(victim).Ping(within(t, 10*time.Second))
	require.NoError(t, err)
}

func TestForeignOuterAddressIsDropped(t *testing.T) {
	h := newHouse(t)
	home, abroad := netip.MustParseAddr("127.0.0.3"), netip.MustParseAddr("127.0.0.4")
	link := tunneltest.NewLink(t, h.Port(), tunneltest.Config{Back: home})
	config, peer := h.peer(1)
	config.Endpoints = []netip.AddrPort{link.Addr()}
	peer.AllowedOuter = []netip.Prefix{netip.PrefixFrom(home, 32)}
	require.NoError(t, h.AddPeer(peer))
	_, foreign := h.peer(2) // another box may speak from there; this one still not
	foreign.AllowedOuter = []netip.Prefix{netip.PrefixFrom(abroad, 32)}
	require.NoError(t, h.AddPeer(foreign))
	box := h.open(config)
	_, err := box.Ping(within(t, 10*time.Second))
	require.NoError(t, err)
	require.Zero(t, h.Refused())

	link.Move(abroad)
	_, err = box.Ping(within(t, 300*time.Millisecond))
	require.ErrorIs(t, err, context.DeadlineExceeded, "WireGuard alone would follow the box")
	require.NotZero(t, h.Refused())

	link.Move(home)
	_, err = box.Ping(within(t, 10*time.Second))
	require.NoError(t, err)

	late, peer3 := h.peer(3) // a handshake from abroad is refused as well
	late.Endpoints = []netip.AddrPort{link.Addr()}
	peer3.AllowedOuter = []netip.Prefix{netip.PrefixFrom(abroad, 32)}
	require.NoError(t, h.AddPeer(peer3))
	_, err = h.open(late).Ping(within(t, 300*time.Millisecond))
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

func TestRenewLosesNothing(t *testing.T) {
	h := newHouse(t)
	h.serveEcho(7000)
	link := tunneltest.NewLink(t, h.Port(), tunneltest.Config{Delay: 2 * time.Millisecond})
	config, peer := h.peer(1)
	config.Endpoints = []netip.AddrPort{link.Addr()}
	require.NoError(t, h.AddPeer(peer))
	box := h.open(config)
	_, err := box.Ping(within(t, 10*time.Second))
	require.NoError(t, err)

	ctx, stop := context.WithCancel(within(t, 20*time.Second))
	pings := make(chan int)
	go func() {
		n := 0
		for ctx.Err() == nil {
			one, cancel := context.WithTimeout(context.Background(), time.Second)
			if _, err := box.Ping(one); err != nil {
				n = -1 << 20
			}
			cancel()
			n++
		}
		pings <- n
	}()
	peer.PSK = NewPSK()
	require.NoError(t, h.AddPeer(peer))
	require.NoError(t, box.Renew(ctx, peer.PSK))
	stop()
	require.Positive(t, <-pings, "a packet was lost while the keys changed")
	require.ErrorIs(t, box.Renew(ctx, [32]byte{}), errZeroPSK)
}

func TestHandshakeFindsTheOpenPort(t *testing.T) {
	h := newHouse(t)
	blocked := tunneltest.NewLink(t, h.Port(), tunneltest.Config{})
	blocked.Cut(true)
	config, peer := h.peer(1)
	config.Endpoints = []netip.AddrPort{blocked.Addr(), h.endpoint()}
	require.NoError(t, h.AddPeer(peer))
	_, err := h.open(config).Ping(within(t, 4*time.Second)) // less than a handshake's retry
	require.NoError(t, err)
}

func BenchmarkThroughput(b *testing.B) {
	h := newHouseAt(b, nil)
	l, err := h.Listen(7000)
	require.NoError(b, err)
	config, peer := h.peer(1)
	require.NoError(b, h.AddPeer(peer))
	box := h.open(config)
	received := make(chan int64, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			received <- 0
			return
		}
		n, _ := io.Copy(io.Discard, c)
		received <- n
	}()
	conn, err := box.DialTCP(within(b, 10*time.Second), 7000)
	require.NoError(b, err)
	chunk := make([]byte, 64<<10)
	b.SetBytes(int64(len(chunk)))
	for b.Loop() {
		_, err := conn.Write(chunk)
		require.NoError(b, err)
	}
	require.NoError(b, conn.Close())
	<-received
	rtt, err := box.Ping(within(b, 10*time.Second))
	require.NoError(b, err)
	b.ReportMetric(float64(rtt.Microseconds()), "ping-us")
}

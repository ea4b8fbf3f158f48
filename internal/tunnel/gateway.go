// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.zx2c4.com/wireguard/device"
)

// maxOuterPrefixes bounds the allow-list of one peer.
const maxOuterPrefixes = 64

// movesEvery is the least time between two calls of OnPath for one peer.
const movesEvery = time.Second

// Reason says why a peer is gone.
type Reason string

// The reasons OnEnd is called with.
const (
	Expired  Reason = "expired"  // its lease ended
	Removed  Reason = "removed"  // RemovePeer
	Replaced Reason = "replaced" // another key took its inner address: the box has booted again
	Closed   Reason = "closed"   // the gateway closes
)

// GatewayConfig is what a gateway's end of the tunnel needs.
type GatewayConfig struct {
	Key     [32]byte     // X25519 private key
	Address netip.Addr   // the gateway's inner IPv6 address
	Prefix  netip.Prefix // the inner network every box's address lies in
	UDP     *net.UDPAddr // outer port, 0 draws one; without an IP on every address (and twice as fast)
	Log     *slog.Logger // optional; never gets keys
}

// Peer is a box that may use the tunnel until Expires.
type Peer struct {
	PublicKey    [32]byte
	PSK          [32]byte       // never all zero
	Address      netip.Addr     // inner; belongs to this box for ever
	Expires      time.Time      // the lease's end; with a monotonic reading (time.Now().Add) no clock change moves it
	AllowedOuter []netip.Prefix // from where it may speak; "anywhere" is 0.0.0.0/0 and ::/0, said aloud

	// OnEnd, when set, is called once when the peer is gone and its inner connections are closed, unless AddPeer has
	// renewed it. It may call AddPeer and RemovePeer, not Close.
	OnEnd func(Reason)

	// OnPath, when set, is called when the box is first reached, and when its outer address or bearer has changed since,
	// at most once a second for one peer: the last change counts. It may call AddPeer and RemovePeer, not Close.
	OnPath func(Path)
}

// Gateway is the gateway's end of the tunnel. All methods may be called from any goroutine.
type Gateway struct {
	address   netip.Addr
	prefix    netip.Prefix
	net       *netstack
	guard     *guard
	dev       *device.Device
	deadlines *deadlines
	inner     *innerConns
	port      uint16
	stop      context.CancelFunc
	running   sync.WaitGroup // deadlines.run, tellMoves

	mu     sync.Mutex
	closed bool                    // guarded by mu
	peers  map[[32]byte]*Peer      // guarded by mu; Expires has a monotonic reading
	owners map[netip.Addr][32]byte // guarded by mu: wireguard would let an address move to the newest peer silently
}

// NewGateway opens the UDP sockets. It has no peers.
func NewGateway(c GatewayConfig) (*Gateway, error) {
	if c.UDP == nil {
		return nil, errors.New("open tunnel: no UDP port given")
	}
	if !c.Prefix.IsValid() || c.Prefix != c.Prefix.Masked() || !c.Prefix.Contains(c.Address) {
		return nil, fmt.Errorf("open tunnel: gateway address %s is not in the inner network %s", c.Address, c.Prefix)
	}
	local, _ := netip.AddrFromSlice(c.UDP.IP)
	if local = local.Unmap(); local.IsUnspecified() {
		local = netip.Addr{}
	}
	guard, err := newGuard(c.Key, local)
	if err != nil {
		return nil, fmt.Errorf("open tunnel: %w", err)
	}
	inner, err := newNetstack(c.Address)
	if err != nil {
		return nil, fmt.Errorf("open tunnel: %w", err)
	}
	g := &Gateway{
		address: c.Address, prefix: c.Prefix, net: inner, guard: guard, inner: newInnerConns(),
		dev:   device.NewDevice(inner, guard, deviceLogger(orDiscard(c.Log))),
		peers: map[[32]byte]*Peer{}, owners: map[netip.Addr][32]byte{},
	}
	g.deadlines = newDeadlines(g.expire)
	if err := g.open(c.Key, c.UDP.Port); err != nil {
		g.dev.Close()
		return nil, fmt.Errorf("open tunnel on UDP port %d: %w", c.UDP.Port, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	g.stop = cancel
	g.running.Go(func() { g.deadlines.run(ctx) })
	g.running.Go(func() { g.tellMoves(ctx) })
	return g, nil
}

func (g *Gateway) open(key [32]byte, port int) error {
	var s settings
	if err := s.key("private_key", key).set("listen_port", strconv.Itoa(port)).apply(g.dev); err != nil {
		return err
	}
	if err := g.dev.Up(); err != nil {
		return err
	}
	g.port = uint16(g.guard.port.Load())
	return nil
}

// Port is the outer UDP port in use.
func (g *Gateway) Port() uint16 { return g.port }

// Refused counts outer packets dropped because no peer may send them from where they came.
func (g *Gateway) Refused() uint64 { return g.guard.refused.Load() }

// AddPeer lets a box in, or renews the peer with this key: new PSK, end, allow-list and OnEnd, while its traffic goes
// on. On return the box's next handshake succeeds. A new PSK acts at the next handshake only.
func (g *Gateway) AddPeer(p Peer) error {
	if err := g.validate(&p); err != nil {
		return fmt.Errorf("add tunnel peer: %w", err)
	}
	if before, taken := g.owner(p.Address); taken && before != p.PublicKey {
		g.end(before, Replaced)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return fmt.Errorf("add tunnel peer: %w", net.ErrClosed)
	}
	if before, taken := g.owners[p.Address]; taken && before != p.PublicKey {
		return fmt.Errorf("add tunnel peer: two keys at once ask for %s", p.Address)
	}
	old := g.peers[p.PublicKey]
	if old != nil && old.Address != p.Address {
		return fmt.Errorf("add tunnel peer: the key has %s and asks for %s", old.Address, p.Address)
	}
	probes, err := newProbeKey(p.PSK)
	if err != nil {
		return fmt.Errorf("add tunnel peer: %w", err)
	}
	var s settings
	s.key("public_key", p.PublicKey)
	if old != nil {
		s.set("update_only", "true")
	}
	s.key("preshared_key", p.PSK) // before allowed_ip: a peer is made line by line, and none may exist without its PSK
	if old == nil {
		s.set("replace_allowed_ips", "true").set("allowed_ip", netip.PrefixFrom(p.Address, 128).String())
	}
	if err := s.apply(g.dev); err != nil {
		g.removeLocked(p.PublicKey)
		return fmt.Errorf("add tunnel peer %s: %w", p.Address, err)
	}
	g.peers[p.PublicKey] = &p
	g.owners[p.Address] = p.PublicKey
	g.inner.admit(p.Address)
	g.guard.admit(p.PublicKey, p.Address, p.AllowedOuter, probes)
	g.deadlines.set(p.PublicKey, p.Expires)
	return nil
}

// validate checks a peer, and makes its lists and times its own.
func (g *Gateway) validate(p *Peer) error {
	own := g.guard.private.PublicKey().Bytes()
	switch {
	case p.PSK == [32]byte{}:
		return errZeroPSK
	case p.PublicKey == [32]byte{} || p.PublicKey == [32]byte(own):
		return errors.New("the key is no box's")
	case !g.prefix.Contains(p.Address) || p.Address == g.address || p.Address.Zone() != "":
		return fmt.Errorf("inner address %s is not one of a box in %s", p.Address, g.prefix)
	case len(p.AllowedOuter) == 0 || len(p.AllowedOuter) > maxOuterPrefixes:
		return fmt.Errorf("%d outer prefixes: want 1 to %d", len(p.AllowedOuter), maxOuterPrefixes)
	}
	p.AllowedOuter = slices.Clone(p.AllowedOuter)
	for i, prefix := range p.AllowedOuter {
		if !prefix.IsValid() || prefix.Addr().Is4In6() {
			return fmt.Errorf("outer prefix %s is not valid", prefix)
		}
		p.AllowedOuter[i] = prefix.Masked()
	}
	left := time.Until(p.Expires)
	if left <= 0 {
		return errors.New("its lease has already ended")
	}
	p.Expires = time.Now().Add(left) // from here on the monotonic clock counts, whatever Expires was made from
	return nil
}

func (g *Gateway) owner(address netip.Addr) (key [32]byte, taken bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	key, taken = g.owners[address]
	return key, taken
}

// RemovePeer takes a box out. On return no packet of it passes, its inner connections are closed and OnEnd has
// returned. It reports whether there was such a peer.
func (g *Gateway) RemovePeer(public [32]byte) bool { return g.end(public, Removed) }

// expire is called at a peer's deadline; a renewal may have overtaken it.
func (g *Gateway) expire(public [32]byte) {
	g.mu.Lock()
	p := g.peers[public]
	due := p != nil && !time.Now().Before(p.Expires)
	g.mu.Unlock()
	if due {
		g.end(public, Expired)
	}
}

func (g *Gateway) end(public [32]byte, why Reason) bool {
	g.mu.Lock()
	p := g.peers[public]
	if p == nil || why == Expired && time.Now().Before(p.Expires) {
		g.mu.Unlock()
		return false
	}
	g.removeLocked(public)
	delete(g.peers, public)
	delete(g.owners, p.Address)
	g.mu.Unlock()
	g.inner.dismiss(p.Address) // an inner TCP connection outlives the peer, and would come back with it
	if p.OnEnd != nil {
		p.OnEnd(why)
	}
	return true
}

func (g *Gateway) removeLocked(public [32]byte) {
	g.deadlines.drop(public)
	g.guard.dismiss(public)
	g.dev.RemovePeer(public)
}

// Carry lets a TLS connection carry a box's packets, for where UDP is blocked, and returns when the connection, the peer or
// ctx ends; it closes the connection. The caller has made sure whose connection it is. A box has one at a time, the newest.
// What comes by it is held to the box's allow-list and to the box's own packets; a stream that is no stream of packets ends.
func (g *Gateway) Carry(ctx context.Context, public [32]byte, c net.Conn) error {
	from, err := netip.ParseAddrPort(c.RemoteAddr().String())
	if err != nil {
		return errors.Join(fmt.Errorf("carry tunnel by TLS: %w", err), c.Close())
	}
	if err := g.guard.carry(ctx, public, c, from.Addr().Unmap().WithZone("")); err != nil {
		return fmt.Errorf("carry tunnel by TLS: %w", err)
	}
	return nil
}

// tellMoves calls OnPath until ctx ends.
func (g *Gateway) tellMoves(ctx context.Context) {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-pause.C:
		case <-ctx.Done():
			return
		}
		select {
		case <-g.guard.moved:
		case <-ctx.Done():
			return
		}
		for key, path := range g.guard.takeMoves() {
			g.mu.Lock()
			p := g.peers[key]
			g.mu.Unlock()
			if p != nil && p.OnPath != nil {
				p.OnPath(path)
			}
		}
		pause.Reset(movesEvery)
	}
}

// Listen accepts inner TCP connections on the gateway's own address. RemoteAddr of a connection is the box's inner
// address, and is true. They are closed when their box's peer ends.
func (g *Gateway) Listen(port uint16) (net.Listener, error) {
	l, err := g.net.listenTCP(port)
	if err != nil {
		return nil, fmt.Errorf("listen in the tunnel on port %d: %w", port, err)
	}
	return g.inner.listen(l)
}

// ListenUDP opens an inner UDP socket on the gateway's own address. Its From addresses are boxes and are true.
func (g *Gateway) ListenUDP(port uint16) (net.PacketConn, error) {
	c, err := g.net.listenUDP(port)
	if err != nil {
		return nil, fmt.Errorf("listen in the tunnel on UDP port %d: %w", port, err)
	}
	return g.inner.packets(c)
}

// Ping measures one round trip through the tunnel to a box (ICMPv6 echo).
func (g *Gateway) Ping(ctx context.Context, box netip.Addr) (time.Duration, error) {
	rtt, err := g.net.echo(ctx, box)
	if err != nil {
		return 0, fmt.Errorf("ping box %s through the tunnel: %w", box, err)
	}
	return rtt, nil
}

// Close ends every peer, closes every inner connection and listener, and returns when nothing runs any more.
func (g *Gateway) Close() error {
	g.mu.Lock()
	again := g.closed
	g.closed = true
	var keys [][32]byte
	for key := range g.peers {
		keys = append(keys, key)
	}
	g.mu.Unlock()
	if again {
		<-g.dev.Wait()
		return nil
	}
	g.stop()
	g.running.Wait()
	for _, key := range keys {
		g.end(key, Closed)
	}
	g.inner.close()
	g.dev.Close()
	return nil
}

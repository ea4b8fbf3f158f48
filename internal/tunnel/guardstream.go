// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
)

// A box makes one initiation in 5 s, and some at a change of keys; more of them by its TLS connection cost nothing.
const (
	streamInitiations     = 2 // a second
	streamInitiationBurst = 10
)

// Path is how a box's packets come and go.
type Path struct {
	Bearer  Bearer
	Address netip.Addr // outer, of the box
}

// String is the path as logs have it: "udp 192.0.2.7".
func (p Path) String() string { return string(p.Bearer) + " " + p.Address.String() }

var (
	errNoLease = errors.New("the box has no lease")
	errOutside = errors.New("the box may not speak from there")
)

// peerStream is the TLS connection of a peer.
type peerStream struct {
	*streamConn
	address    netip.Addr
	cancel     context.CancelFunc
	initiation bucket
}

// streamEndpoint is a box by its TLS connection, whichever of them is open. For the engine's limits it is the box's inner
// address, which no other box has: boxes behind one outer address do not share a limit.
type streamEndpoint struct{ inner netip.Addr }

// ClearSrc does nothing.
func (streamEndpoint) ClearSrc() {}

// SrcToString is empty.
func (streamEndpoint) SrcToString() string { return "" }

// DstToString names the box.
func (e streamEndpoint) DstToString() string { return e.inner.String() }

// DstToBytes is what a cookie binds.
func (e streamEndpoint) DstToBytes() []byte { return e.inner.AsSlice() }

// DstIP is what the engine's rate limit counts by.
func (e streamEndpoint) DstIP() netip.Addr { return e.inner }

// SrcIP is the zero address.
func (streamEndpoint) SrcIP() netip.Addr { return netip.Addr{} }

// carry lets a stream connection carry a peer's packets until it, the peer or ctx ends. The newest one of a peer takes the
// place of the one before.
func (g *guard) carry(ctx context.Context, key [32]byte, c net.Conn, address netip.Addr) error {
	defer c.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := &peerStream{
		streamConn: newStreamConn(c), address: address, cancel: cancel,
		initiation: bucket{rate: streamInitiations, burst: streamInitiationBurst},
	}
	g.mu.Lock()
	p := g.peers[key]
	if p == nil || !p.mayUse(address) {
		g.mu.Unlock()
		g.refused.Add(1)
		if p == nil {
			return errNoLease
		}
		return fmt.Errorf("%w: %s", errOutside, address)
	}
	if p.stream != nil {
		p.stream.cancel()
	}
	p.stream = s
	g.mu.Unlock()
	from := &peerEndpoint{streamEndpoint{p.inner}, p}
	err := s.run(ctx, func(ctx context.Context, packet []byte) { g.arrive(ctx, packet, s, from) })
	g.mu.Lock()
	if p.stream == s {
		p.stream = nil
	}
	g.mu.Unlock()
	return err
}

// arrive takes a packet of a peer's stream.
func (g *guard) arrive(ctx context.Context, packet []byte, s *peerStream, from *peerEndpoint) {
	switch {
	case isProbe(packet):
		if g.answer(packet, s.address, from.peer) {
			s.push(packet)
		}
	case messageType(packet) == device.MessageInitiationType && !s.initiation.take(time.Now()),
		g.check(packet, s.address) != from.peer:
		g.refused.Add(1)
	default:
		g.streams.deliver(ctx, packet, from)
	}
}

// answer turns a probe into its answer, if it is of a peer that may speak from there, and of the peer only, if given. It
// moves nobody: where a peer is, only wireguard's own packets say.
func (g *guard) answer(packet []byte, address netip.Addr, only *outer) bool {
	tag := probeTag(packet)
	g.mu.RLock()
	p := g.probes[tag]
	var key probeKey
	allowed := p != nil && (only == nil || only == p) && p.mayUse(address)
	if allowed {
		for _, k := range p.probes {
			if k.tag == tag {
				key = k
			}
		}
	}
	g.mu.RUnlock()
	if !allowed || !key.answer(packet) {
		g.refused.Add(1)
		return false
	}
	return true
}

// sendStream queues packets for a peer's stream. Without one they are lost, as they would be by UDP.
func (g *guard) sendStream(packets [][]byte, p *outer) error {
	g.mu.RLock()
	s := p.stream
	g.mu.RUnlock()
	if s != nil {
		s.push(packets...)
	}
	return nil
}

// notePath remembers the way a peer is reached, which follows the last genuine packet of it, and tells of a change of
// address or bearer. A change of port is none: networks do that at will.
func (g *guard) notePath(to *peerEndpoint) {
	before := to.peer.path.Load()
	now := Path{UDP, netip.Addr{}}
	if _, byStream := to.Endpoint.(streamEndpoint); byStream {
		g.mu.RLock()
		s := to.peer.stream
		g.mu.RUnlock()
		if s == nil {
			return
		}
		now = Path{TLS, s.address}
	} else {
		now.Address = to.Endpoint.DstIP().Unmap()
	}
	if before != nil && *before == now || !to.peer.path.CompareAndSwap(before, &now) {
		return
	}
	g.mu.Lock()
	if !to.peer.gone {
		g.moves[to.peer.key] = now
	}
	g.mu.Unlock()
	select {
	case g.moved <- struct{}{}:
	default:
	}
}

// takeMoves returns where peers are that moved since the last call.
func (g *guard) takeMoves() map[[32]byte]Path {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := g.moves
	g.moves = map[[32]byte]Path{}
	return out
}

var _ conn.Endpoint = streamEndpoint{}

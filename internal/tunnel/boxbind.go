// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
)

// boxBind is the box's conn.Bind. For wireguard there is one logical endpoint, "the gateway"; which bearer and which
// outer address of it carries is decided here, so that no late packet can pull the box back to another one. A handshake
// goes to every UDP address, and the one that answers carries from then on: a blocked port costs no wait.
type boxBind struct {
	conn.Bind // the UDP sockets
	endpoints []*conn.StdNetEndpoint
	active    atomic.Int32 // index into endpoints
	answered  atomic.Bool  // a handshake, by UDP
	onTLS     atomic.Bool  // which bearer carries: the ladder's choice, but for the first handshake's answer
	stream    atomic.Pointer[streamConn]
	streams   *streams
	spoke     atomic.Int64 // when the box last sent more than a keepalive: ns since start
	start     time.Time
	heard     chan heardProbe

	mu         sync.Mutex
	keys       []probeKey // guarded by mu: the lease's, and before it those of the leases before; at most two
	initiation []byte     // guarded by mu: the last one sent, while no answer has come
	initiated  time.Time  // guarded by mu
}

// heardProbe is an answer that came.
type heardProbe struct {
	by     Bearer
	number uint32
	at     time.Time
}

func newBoxBind(endpoints []netip.AddrPort, psk [32]byte) (*boxBind, error) {
	if len(endpoints) == 0 || len(endpoints) > MaxEndpoints {
		return nil, fmt.Errorf("%d outer addresses of the gateway: want 1 to %d", len(endpoints), MaxEndpoints)
	}
	b := &boxBind{
		Bind: &udpBind{}, streams: newStreams(), start: time.Now(),
		heard: make(chan heardProbe, 64),
	}
	for _, e := range endpoints {
		if !e.IsValid() || e.Port() == 0 {
			return nil, fmt.Errorf("outer address %s of the gateway is not valid", e)
		}
		b.endpoints = append(b.endpoints, &conn.StdNetEndpoint{AddrPort: netip.AddrPortFrom(e.Addr().Unmap(), e.Port())})
	}
	return b, b.renew(psk)
}

// renew makes further probes with the key of a new lease. Answers to those under way still count.
func (b *boxBind) renew(psk [32]byte) error {
	key, err := newProbeKey(psk)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.keys = append(b.keys[max(0, len(b.keys)-1):], key)
	return nil
}

// Open opens the sockets. What does not come from the gateway's addresses is dropped.
func (b *boxBind) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	receive, actual, err := b.Bind.Open(port)
	if err != nil {
		return nil, 0, err
	}
	for i, fn := range receive {
		receive[i] = func(packets [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
			n, err := fn(packets, sizes, eps)
			for i := range n {
				if sizes[i] == 0 {
					continue
				}
				from := b.index(eps[i])
				if from < 0 || b.probe(packets[i][:sizes[i]], UDP) {
					sizes[i] = 0 // wireguard skips it
					continue
				}
				if isResponse(packets[i][:sizes[i]]) {
					b.active.Store(from)
					b.answered.Store(true)
					b.forgetInitiation()
				}
				eps[i] = logicalEndpoint{}
			}
			return n, err
		}
	}
	return append(receive, b.streams.open()), actual, nil
}

// Close closes the sockets; the stream lives on.
func (b *boxBind) Close() error {
	b.streams.close()
	return b.Bind.Close()
}

func isResponse(packet []byte) bool {
	return len(packet) == device.MessageResponseSize && messageType(packet) == device.MessageResponseType
}

func (b *boxBind) index(ep conn.Endpoint) int32 {
	from, ok := ep.(*conn.StdNetEndpoint)
	if !ok {
		return -1
	}
	address := netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
	for i, e := range b.endpoints {
		if e.AddrPort == address {
			return int32(i)
		}
	}
	return -1
}

// carry lets a TLS connection to the gateway carry, until it or ctx ends. It owns the connection.
func (b *boxBind) carry(ctx context.Context, c net.Conn) error {
	s := newStreamConn(c)
	b.stream.Store(s)
	defer b.stream.CompareAndSwap(s, nil)
	if !b.answered.Load() {
		b.repeatInitiation(s)
	}
	return s.run(ctx, func(ctx context.Context, packet []byte) {
		if b.probe(packet, TLS) {
			return
		}
		if isResponse(packet) {
			b.forgetInitiation()
			if !b.answered.Load() { // before wireguard sends what has waited for the answer
				b.onTLS.Store(true)
			}
		}
		b.streams.deliver(ctx, packet, logicalEndpoint{})
	})
}

// probe takes an answer out of the packets, and drops whatever else looks like a probe.
func (b *boxBind) probe(packet []byte, by Bearer) bool {
	if !isProbe(packet) {
		return false
	}
	b.mu.Lock()
	keys := b.keys
	b.mu.Unlock()
	for i := range keys {
		if number, ok := keys[i].number(packet); ok {
			select {
			case b.heard <- heardProbe{by, number, time.Now()}:
			default: // more than the box ever asks for at once
			}
			break
		}
	}
	return true
}

// ask sends a probe.
func (b *boxBind) ask(by Bearer, number uint32, size int) {
	b.mu.Lock()
	packet := b.keys[len(b.keys)-1].ask(number, size)
	b.mu.Unlock()
	if by == UDP {
		_ = b.Bind.Send([][]byte{packet}, b.endpoints[b.active.Load()]) // a network without a route loses probes
		return
	}
	if s := b.stream.Load(); s != nil {
		s.push(packet)
	}
}

// Send sends by the active bearer, and handshakes by all UDP addresses, and by TLS while UDP is not known to work. It
// never waits for the stream.
func (b *boxBind) Send(packets [][]byte, ep conn.Endpoint) error {
	if _, ok := ep.(logicalEndpoint); !ok {
		return conn.ErrWrongEndpointType
	}
	if len(packets) > 0 && messageType(packets[0]) == device.MessageInitiationType {
		b.rememberInitiation(packets[0]) // before the stream is looked at: one that comes meanwhile finds it
		return b.initiate(packets, b.stream.Load())
	}
	if len(packets) > 1 || len(packets) == 1 && len(packets[0]) > device.MessageKeepaliveSize {
		b.spoke.Store(int64(time.Since(b.start)))
	}
	if s := b.stream.Load(); s != nil && b.onTLS.Load() {
		s.push(packets...)
		return nil
	}
	return b.Bind.Send(packets, b.endpoints[b.active.Load()])
}

// initiate fails only when nothing took the handshake.
func (b *boxBind) initiate(packets [][]byte, s *streamConn) error {
	sent := false
	if s != nil && (b.onTLS.Load() || !b.answered.Load()) {
		s.push(packets...)
		sent = true
	}
	var failed error
	for _, e := range b.endpoints {
		if err := b.Bind.Send(packets, e); err != nil {
			failed = err
			continue
		}
		sent = true
	}
	if sent {
		return nil
	}
	return failed
}

// The last initiation is kept until it is answered: wireguard makes a new one after 5 s only, and TLS may come up before.
// The gateway takes one copy and drops the other as a repetition (WireGuard paper, 5.1).
func (b *boxBind) rememberInitiation(packet []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.initiation, b.initiated = append([]byte(nil), packet...), time.Now()
}

func (b *boxBind) forgetInitiation() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.initiation = nil
}

func (b *boxBind) repeatInitiation(s *streamConn) {
	b.mu.Lock()
	packet := b.initiation
	if time.Since(b.initiated) > device.RekeyTimeout {
		packet = nil
	}
	b.mu.Unlock()
	if s != nil && packet != nil {
		s.push(packet)
	}
}

// ParseEndpoint knows the one endpoint.
func (b *boxBind) ParseEndpoint(s string) (conn.Endpoint, error) {
	if s != (logicalEndpoint{}).DstToString() {
		return nil, conn.ErrWrongEndpointType
	}
	return logicalEndpoint{}, nil
}

// logicalEndpoint is the gateway, by whatever bearer.
type logicalEndpoint struct{}

// ClearSrc does nothing: the kernel chooses the source address for each packet.
func (logicalEndpoint) ClearSrc() {}

// SrcToString is empty.
func (logicalEndpoint) SrcToString() string { return "" }

// DstToString names the gateway.
func (logicalEndpoint) DstToString() string { return "gateway" }

// DstToBytes is what a cookie would bind; the box gives none.
func (logicalEndpoint) DstToBytes() []byte { return []byte("gateway") }

// DstIP is the zero address.
func (logicalEndpoint) DstIP() netip.Addr { return netip.Addr{} }

// SrcIP is the zero address.
func (logicalEndpoint) SrcIP() netip.Addr { return netip.Addr{} }

// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync/atomic"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
)

// boxBind is the box's conn.Bind. For wireguard there is one logical endpoint, "the gateway"; which outer address of it
// carries is decided here, so that no late packet can pull the box back to another one. A handshake goes to every
// address, and the one that answers carries from then on: a blocked port costs no wait.
type boxBind struct {
	conn.Bind // the UDP sockets
	endpoints []*conn.StdNetEndpoint
	active    atomic.Int32 // index into endpoints
}

func newBoxBind(endpoints []netip.AddrPort) (*boxBind, error) {
	if len(endpoints) == 0 || len(endpoints) > MaxEndpoints {
		return nil, fmt.Errorf("%d outer addresses of the gateway: want 1 to %d", len(endpoints), MaxEndpoints)
	}
	b := &boxBind{Bind: conn.NewStdNetBind()}
	for _, e := range endpoints {
		if !e.IsValid() || e.Port() == 0 {
			return nil, fmt.Errorf("outer address %s of the gateway is not valid", e)
		}
		b.endpoints = append(b.endpoints, &conn.StdNetEndpoint{AddrPort: netip.AddrPortFrom(e.Addr().Unmap(), e.Port())})
	}
	return b, nil
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
				if from < 0 {
					sizes[i] = 0 // wireguard skips it
					continue
				}
				if sizes[i] == device.MessageResponseSize && binary.LittleEndian.Uint32(packets[i]) == device.MessageResponseType {
					b.active.Store(from)
				}
				eps[i] = logicalEndpoint{}
			}
			return n, err
		}
	}
	return receive, actual, nil
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

// Send sends by the active address, and handshakes by all of them. It fails only when no address took them.
func (b *boxBind) Send(packets [][]byte, ep conn.Endpoint) error {
	if _, ok := ep.(logicalEndpoint); !ok {
		return conn.ErrWrongEndpointType
	}
	if len(packets) == 0 || messageType(packets[0]) != device.MessageInitiationType {
		return b.Bind.Send(packets, b.endpoints[b.active.Load()])
	}
	var failed error
	sent := false
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

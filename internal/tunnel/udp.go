// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"errors"
	"net"
	"net/netip"
	"sync"

	"golang.org/x/net/ipv6"
	"golang.zx2c4.com/wireguard/conn"
)

// batchSize is how many packets go through wireguard at once. It holds a buffer of 64 kB for each of them in every reader,
// so that 128 packets, its own measure, cost 8 MB a reader; beyond some 16 nothing gets faster.
const batchSize = 16

// udpBind is a conn.Bind on one local address, or on all of them: the zero address. Wireguard's own binds every address of
// the machine, cannot tell by which one a packet came when the kernel coalesces them, and reads 128 packets at once.
type udpBind struct {
	local netip.Addr

	mu     sync.Mutex
	socket *net.UDPConn // guarded by mu; nil while closed
}

// Open opens the socket. Port 0 draws one.
func (b *udpBind) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.socket != nil {
		return nil, 0, conn.ErrBindAlreadyOpen
	}
	socket, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(b.local, port)))
	if err != nil {
		return nil, 0, err
	}
	err = errors.Join(socket.SetReadBuffer(udpBuffer), socket.SetWriteBuffer(udpBuffer))
	if err != nil {
		socket.Close()
		return nil, 0, err
	}
	b.socket = socket
	return []conn.ReceiveFunc{receiveBatches(socket)}, socket.LocalAddr().(*net.UDPAddr).AddrPort().Port(), nil
}

// receiveBatches reads up to a batch per call. ipv6.PacketConn's batches work on a socket of either family.
func receiveBatches(socket *net.UDPConn) conn.ReceiveFunc {
	batch := ipv6.NewPacketConn(socket)
	messages := make([]ipv6.Message, batchSize)
	return func(packets [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
		for i := range packets {
			messages[i].Buffers = [][]byte{packets[i]}
		}
		n, err := batch.ReadBatch(messages[:len(packets)], 0)
		if err != nil {
			return 0, err
		}
		for i := range n {
			from, ok := messages[i].Addr.(*net.UDPAddr)
			if sizes[i] = messages[i].N; !ok {
				sizes[i] = 0
				continue
			}
			eps[i] = &conn.StdNetEndpoint{AddrPort: from.AddrPort()}
		}
		return n, nil
	}
}

// Close closes the socket.
func (b *udpBind) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.socket == nil {
		return nil
	}
	err := b.socket.Close()
	b.socket = nil
	return err
}

// SetMark is not used.
func (b *udpBind) SetMark(uint32) error { return nil }

// BatchSize is how many packets one receive may return.
func (b *udpBind) BatchSize() int { return batchSize }

// ParseEndpoint reads address:port.
func (b *udpBind) ParseEndpoint(s string) (conn.Endpoint, error) {
	at, err := netip.ParseAddrPort(s)
	if err != nil {
		return nil, err
	}
	return &conn.StdNetEndpoint{AddrPort: at}, nil
}

// Send sends packets one by one.
func (b *udpBind) Send(packets [][]byte, ep conn.Endpoint) error {
	to, ok := ep.(*conn.StdNetEndpoint)
	if !ok {
		return conn.ErrWrongEndpointType
	}
	b.mu.Lock()
	socket := b.socket
	b.mu.Unlock()
	if socket == nil {
		return net.ErrClosed
	}
	for _, packet := range packets {
		if _, err := socket.WriteToUDPAddrPort(packet, to.AddrPort); err != nil {
			return err
		}
	}
	return nil
}

// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.zx2c4.com/wireguard/tun"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

const (
	nic = 1

	// outQueue is how many packets wait for wireguard. A whole-screen key frame is some hundred; 4,096 keep the
	// inner TCP fast at 40 ms, and bound the memory to 5 MB.
	outQueue = 4096

	// udpBuffer takes the burst of one large frame; netstack's own default of 212 kB would lose half of it.
	udpBuffer = 4 << 20
)

// netstack is a TCP/IP stack in this process and, for wireguard, a tun.Device: what the stack sends, wireguard reads.
// It moves 128 packets per call, where the device that comes with wireguard moves one (half the throughput).
type netstack struct {
	address netip.Addr
	stack   *stack.Stack
	link    *channel.Endpoint
	events  chan tun.Event // never sent on; closed ends wireguard's reader

	closing   context.Context // done: Read returns os.ErrClosed
	close     context.CancelFunc
	closeOnce sync.Once
	closed    chan struct{}
}

var _ tun.Device = (*netstack)(nil)

func newNetstack(address netip.Addr) (*netstack, error) {
	if !address.Is6() || address.Is4In6() || address.IsUnspecified() || address.IsMulticast() {
		return nil, fmt.Errorf("inner address %s: want an IPv6 address", address)
	}
	n := &netstack{
		address: address,
		stack: stack.New(stack.Options{
			NetworkProtocols:   []stack.NetworkProtocolFactory{ipv6.NewProtocol},
			TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol6},
			HandleLocal:        true,
		}),
		link:   channel.New(outQueue, MTU, ""),
		events: make(chan tun.Event),
		closed: make(chan struct{}),
	}
	n.closing, n.close = context.WithCancel(context.Background())
	if err := n.configure(); err != nil {
		n.Close()
		return nil, fmt.Errorf("inner network: %w", err)
	}
	return n, nil
}

func (n *netstack) configure() error {
	sack, moderate, cubic := tcpip.TCPSACKEnabled(true), tcpip.TCPModerateReceiveBufferOption(true), tcpip.CongestionControlOption("cubic")
	for _, option := range []tcpip.SettableTransportProtocolOption{&sack, &moderate, &cubic} {
		if err := n.stack.SetTransportProtocolOption(tcp.ProtocolNumber, option); err != nil {
			return errors.New(err.String())
		}
	}
	if err := n.stack.SetOption(tcpip.ReceiveBufferSizeOption{Min: 4 << 10, Default: udpBuffer, Max: udpBuffer}); err != nil {
		return errors.New(err.String())
	}
	if err := n.stack.CreateNIC(nic, n.link); err != nil {
		return errors.New(err.String())
	}
	own := tcpip.ProtocolAddress{Protocol: ipv6.ProtocolNumber, AddressWithPrefix: tcpip.AddrFrom16(n.address.As16()).WithPrefix()}
	if err := n.stack.AddProtocolAddress(nic, own, stack.AddressProperties{}); err != nil {
		return errors.New(err.String())
	}
	n.stack.AddRoute(tcpip.Route{Destination: header.IPv6EmptySubnet, NIC: nic})
	return nil
}

func full(address netip.Addr, port uint16) tcpip.FullAddress {
	return tcpip.FullAddress{NIC: nic, Addr: tcpip.AddrFrom16(address.As16()), Port: port}
}

func (n *netstack) dialTCP(ctx context.Context, to netip.Addr, port uint16) (net.Conn, error) {
	return gonet.DialContextTCP(ctx, n.stack, full(to, port), ipv6.ProtocolNumber)
}

func (n *netstack) listenTCP(port uint16) (*gonet.TCPListener, error) {
	return gonet.ListenTCP(n.stack, full(n.address, port), ipv6.ProtocolNumber)
}

// listenUDP never binds the wildcard: pion's mux asks for the one address to name in its candidate.
func (n *netstack) listenUDP(port uint16) (*gonet.UDPConn, error) {
	own := full(n.address, port)
	return gonet.DialUDP(n.stack, &own, nil, ipv6.ProtocolNumber)
}

// dialEcho opens an ICMPv6 echo socket to one address (RFC 4443, 4.1). The stack fills in identifier and checksum.
func (n *netstack) dialEcho(to netip.Addr) (net.Conn, error) {
	var wq waiter.Queue
	ep, err := n.stack.NewEndpoint(icmp.ProtocolNumber6, ipv6.ProtocolNumber, &wq)
	if err != nil {
		return nil, errors.New(err.String())
	}
	if err = ep.Bind(full(n.address, 0)); err == nil {
		err = ep.Connect(full(to, 0))
	}
	if err != nil {
		ep.Close()
		return nil, errors.New(err.String())
	}
	return gonet.NewUDPConn(&wq, ep), nil
}

// Read hands wireguard at least one packet of the stack, and as many more as wait, up to a batch.
func (n *netstack) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	packet := n.link.ReadContext(n.closing)
	if packet == nil {
		return 0, os.ErrClosed
	}
	count := 0
	for {
		view := packet.ToView()
		packet.DecRef()
		sizes[count], _ = view.Read(bufs[count][offset:]) // only an empty view fails, and it gives size 0: skipped
		view.Release()
		if count++; count == len(bufs) || count == len(sizes) {
			return count, nil
		}
		if packet = n.link.Read(); packet == nil {
			return count, nil
		}
	}
}

// Write delivers what wireguard decrypted. WireGuard has checked the source address; anything but IPv6 is dropped.
func (n *netstack) Write(bufs [][]byte, offset int) (int, error) {
	for _, buf := range bufs {
		packet := buf[offset:]
		if len(packet) == 0 || packet[0]>>4 != header.IPv6Version {
			continue
		}
		pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(packet)})
		n.link.InjectInbound(ipv6.ProtocolNumber, pkt)
		pkt.DecRef()
	}
	return len(bufs), nil
}

// Close ends the stack and returns when its goroutines have ended. Wireguard calls it too; the second call waits.
func (n *netstack) Close() error {
	n.closeOnce.Do(func() {
		n.close()
		n.stack.RemoveNIC(nic)
		n.stack.Destroy()
		n.link.Close()
		close(n.events)
		close(n.closed)
	})
	<-n.closed
	return nil
}

// MTU, Name, File, Events and BatchSize complete tun.Device.
func (n *netstack) MTU() (int, error) { return MTU, nil }

// Name names the device in wireguard's log.
func (n *netstack) Name() (string, error) { return "sdbox", nil }

// File is nil: there is no kernel device.
func (n *netstack) File() *os.File { return nil }

// Events never carries one: the owner brings the device up itself, to see the error.
func (n *netstack) Events() <-chan tun.Event { return n.events }

// BatchSize is how many packets one Read may return.
func (n *netstack) BatchSize() int { return batchSize }

// echo measures one ICMPv6 round trip. Wireguard needs a handshake for the first one.
func (n *netstack) echo(ctx context.Context, to netip.Addr) (time.Duration, error) {
	c, err := n.dialEcho(to)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()

	request := header.ICMPv6(make([]byte, header.ICMPv6EchoMinimumSize+8))
	request.SetType(header.ICMPv6EchoRequest)
	request.SetSequence(1)
	start := time.Now()
	if _, err := c.Write(request); err != nil {
		return 0, err
	}
	reply := make([]byte, MTU)
	for {
		size, err := c.Read(reply)
		switch {
		case ctx.Err() != nil:
			return 0, ctx.Err()
		case err != nil:
			return 0, err
		case size >= header.ICMPv6EchoMinimumSize && header.ICMPv6(reply[:size]).Type() == header.ICMPv6EchoReply:
			return time.Since(start), nil
		}
	}
}

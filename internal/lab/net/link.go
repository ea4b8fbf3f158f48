// SPDX-License-Identifier: Apache-2.0

// Package net makes the links of the lab: a forwarder in user space that carries Ethernet frames between two network
// interfaces and can delay, lose or stop them. The kernels tests run on may lack netem, so no queueing discipline is used.
package net

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	frameMax = 10 + 65536 + 64 // virtio_net_hdr, one GSO super-frame, room for the Ethernet header and tags
	queueMax = 4096            // frames in flight in one direction; a longer queue only turns loss into delay
)

// Conditions are what a link does to the frames it carries, the same in both directions.
type Conditions struct {
	Delay     time.Duration // one way
	Loss      float64       // share of frames lost, 0 to 1
	NoUDP     bool          // UDP is dropped, as some sites' firewalls do
	Unplugged bool          // nothing passes, and the first interface of the link has no carrier on its far side
}

// Link carries frames between two interfaces until Close. Its methods may be called from any goroutine.
type Link struct {
	first, second *port
	stop          chan struct{}
	running       sync.WaitGroup

	mu   sync.Mutex
	cond Conditions // guarded by mu
}

// port is one interface the link listens on.
type port struct {
	name string
	file *os.File // AF_PACKET socket
}

// frame is one Ethernet frame with its virtio_net_hdr, and when it may leave.
type frame struct {
	due  time.Time
	data []byte
}

// Open joins two interfaces of the calling thread's network namespace. The caller needs CAP_NET_RAW there, on a thread
// locked to it; afterwards the link works from any thread.
func Open(first, second string) (*Link, error) {
	a, err := openPort(first)
	if err != nil {
		return nil, fmt.Errorf("open link end %s: %w", first, err)
	}
	b, err := openPort(second)
	if err != nil {
		a.file.Close()
		return nil, fmt.Errorf("open link end %s: %w", second, err)
	}
	l := &Link{first: a, second: b, stop: make(chan struct{})}
	l.carry(a, b)
	l.carry(b, a)
	return l, nil
}

// Conditions returns what was last set.
func (l *Link) Conditions() Conditions {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cond
}

// Set changes the conditions; frames already on their way keep the old ones.
func (l *Link) Set(c Conditions) error {
	if c.Delay < 0 || c.Delay > 10*time.Second {
		return fmt.Errorf("link delay %v: want 0 to 10 s", c.Delay)
	}
	if c.Loss < 0 || c.Loss > 1 {
		return fmt.Errorf("link loss %v: want 0 to 1", c.Loss)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.Unplugged != l.cond.Unplugged {
		if err := l.first.setUp(!c.Unplugged); err != nil {
			return fmt.Errorf("plug link end %s: %w", l.first.name, err)
		}
	}
	l.cond = c
	return nil
}

// Close stops forwarding and waits for its goroutines. The interfaces stay.
func (l *Link) Close() error {
	close(l.stop)
	err := errors.Join(l.first.file.Close(), l.second.file.Close())
	l.running.Wait()
	return err
}

// carry starts one direction: a reader that stamps frames, a writer that lets them go when they are due.
func (l *Link) carry(from, to *port) {
	queue := make(chan frame, queueMax)
	l.running.Go(func() {
		defer close(queue)
		l.receive(from, queue)
	})
	l.running.Go(func() { l.send(to, queue) })
}

func (l *Link) receive(from *port, queue chan<- frame) {
	buf := make([]byte, frameMax)
	for {
		n, err := from.file.Read(buf)
		if errors.Is(err, unix.ENETDOWN) {
			continue // reported once when the interface goes down; the socket lives on and is bound again when it returns
		}
		if err != nil {
			return
		}
		c := l.Conditions()
		if c.Unplugged || (c.NoUDP && isUDP(buf[:n])) || (c.Loss > 0 && rand.Float64() < c.Loss) {
			continue
		}
		select {
		case queue <- frame{due: time.Now().Add(c.Delay), data: append([]byte(nil), buf[:n]...)}:
		default: // a full queue drops the newest, as a router does
		}
	}
}

// isUDP says whether a frame, behind its virtio_net_hdr, is UDP over IPv4 or IPv6 (without extension headers). A later fragment
// counts as its first one does.
func isUDP(b []byte) bool {
	const head = 10 + 14 // virtio_net_hdr, Ethernet
	if len(b) < head+20 {
		return false
	}
	switch binary.BigEndian.Uint16(b[head-2:]) {
	case unix.ETH_P_IP:
		return b[head+9] == unix.IPPROTO_UDP
	case unix.ETH_P_IPV6:
		return b[head+6] == unix.IPPROTO_UDP
	}
	return false
}

func (l *Link) send(to *port, queue <-chan frame) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for f := range queue {
		if wait := time.Until(f.due); wait > 0 {
			timer.Reset(wait)
			select {
			case <-timer.C:
			case <-l.stop:
				return
			}
		}
		// A frame that cannot be written (interface down, no buffer) is lost, which is what a cable would do.
		_, _ = to.file.Write(f.data)
	}
}

// openPort binds a packet socket to one interface: promiscuous, blind to what it sends itself, and with virtio headers, so
// that frames with checksums or segmentation still to be done pass as they are (packet(7)).
func openPort(name string) (*port, error) {
	iface, err := net.InterfaceByName(name)
	if err != nil {
		return nil, err
	}
	all := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_ALL)) // network byte order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("packet socket: %w", err)
	}
	promiscuous := unix.PacketMreq{Ifindex: int32(iface.Index), Type: unix.PACKET_MR_PROMISC}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1),
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20),
		unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &promiscuous),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: iface.Index}),
	)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("set up packet socket: %w", err)
	}
	return &port{name: name, file: os.NewFile(uintptr(fd), "packet:"+name)}, nil
}

// setUp changes the interface's administrative state. Through the packet socket the request reaches the namespace the
// socket was made in, whatever thread asks.
func (p *port) setUp(up bool) error {
	request, err := unix.NewIfreq(p.name)
	if err != nil {
		return err
	}
	raw, err := p.file.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = raw.Control(func(fd uintptr) {
		if inner = unix.IoctlIfreq(int(fd), unix.SIOCGIFFLAGS, request); inner != nil {
			return
		}
		flags := request.Uint16() &^ unix.IFF_UP
		if up {
			flags |= unix.IFF_UP
		}
		request.SetUint16(flags)
		inner = unix.IoctlIfreq(int(fd), unix.SIOCSIFFLAGS, request)
	})
	return errors.Join(err, inner)
}

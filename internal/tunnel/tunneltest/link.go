// SPDX-License-Identifier: Apache-2.0

// Package tunneltest gives tests a bad network: a path between boxes and a gateway's UDP port that delays packets and
// loses some, by a seed.
package tunneltest

import (
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// queueLength is how many packets are on the way at most, each direction; more are lost.
const queueLength = 8192

// Config says how bad a Link is, each direction.
type Config struct {
	Delay time.Duration // one way
	Loss  float64       // 0 to 1
	Seed  uint64
	Back  netip.Addr // the address the gateway sees; 127.0.0.1 when zero
}

// Link is one path. Boxes speak to Addr.
type Link struct {
	config  Config
	gateway *net.UDPAddr
	front   *net.UDPConn
	running sync.WaitGroup
	cut     atomic.Bool

	mu     sync.Mutex
	closed bool                            // guarded by mu
	back   netip.Addr                      // guarded by mu: of the sockets to come
	backs  map[netip.AddrPort]*net.UDPConn // guarded by mu: by the box's address
}

type flying struct {
	at     time.Time
	packet []byte
	send   func([]byte)
}

// NewLink opens a path to a gateway's port on the loopback. The test's end closes it.
func NewLink(t testing.TB, gateway uint16, c Config) *Link {
	front, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	require.NoError(t, front.SetReadBuffer(4<<20))
	if !c.Back.IsValid() {
		c.Back = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	l := &Link{
		config: c, front: front, back: c.Back, backs: map[netip.AddrPort]*net.UDPConn{},
		gateway: &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(gateway)},
	}
	queue := make(chan flying, queueLength)
	l.running.Go(func() { l.carry(queue) })
	l.running.Go(func() { l.up(queue) })
	t.Cleanup(l.Close)
	return l
}

// Addr is where boxes send to.
func (l *Link) Addr() netip.AddrPort { return l.front.LocalAddr().(*net.UDPAddr).AddrPort() }

// Cut loses every packet from now on, or none beyond Loss any more.
func (l *Link) Cut(cut bool) { l.cut.Store(cut) }

// Move makes the gateway see every box come from another address.
func (l *Link) Move(to netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.back = to
	for box, conn := range l.backs {
		conn.Close()
		delete(l.backs, box)
	}
}

// Close ends the path and waits for its goroutines.
func (l *Link) Close() {
	l.mu.Lock()
	l.closed = true
	l.front.Close()
	for box, conn := range l.backs {
		conn.Close()
		delete(l.backs, box)
	}
	l.mu.Unlock()
	l.running.Wait()
}

// carry delivers packets in the order of their sending, each after the delay.
func (l *Link) carry(queue chan flying) {
	for f := range queue {
		if wait := time.Until(f.at); wait > 0 {
			<-time.After(wait)
		}
		f.send(f.packet)
	}
}

// fly puts a copy of a packet on the way, unless it is lost.
func (l *Link) fly(queue chan<- flying, dice *rand.Rand, packet []byte, send func([]byte)) {
	if dice.Float64() < l.config.Loss || l.cut.Load() {
		return
	}
	select {
	case queue <- flying{time.Now().Add(l.config.Delay), append([]byte(nil), packet...), send}:
	default:
	}
}

func (l *Link) up(queue chan flying) {
	dice := rand.New(rand.NewPCG(l.config.Seed, 1))
	buf := make([]byte, 1<<16)
	defer close(queue)
	for {
		n, box, err := l.front.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		if conn := l.toGateway(box); conn != nil {
			l.fly(queue, dice, buf[:n], func(p []byte) { conn.Write(p) })
		}
	}
}

// toGateway returns the socket that stands for a box, and makes it.
func (l *Link) toGateway(box netip.AddrPort) *net.UDPConn {
	l.mu.Lock()
	defer l.mu.Unlock()
	if conn := l.backs[box]; conn != nil || l.closed {
		return conn
	}
	conn, err := net.DialUDP("udp4", &net.UDPAddr{IP: l.back.AsSlice()}, l.gateway)
	if err != nil {
		return nil
	}
	conn.SetReadBuffer(4 << 20)
	l.backs[box] = conn
	queue := make(chan flying, queueLength)
	l.running.Go(func() { l.carry(queue) })
	l.running.Go(func() { l.down(queue, conn, box) })
	return conn
}

func (l *Link) down(queue chan flying, conn *net.UDPConn, box netip.AddrPort) {
	dice := rand.New(rand.NewPCG(l.config.Seed, 2))
	buf := make([]byte, 1<<16)
	defer close(queue)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			l.mu.Lock()
			ended := l.closed || l.backs[box] != conn
			l.mu.Unlock()
			if ended {
				return
			}
			continue // the gateway is not there: ICMP says so for one packet
		}
		l.fly(queue, dice, buf[:n], func(p []byte) { l.front.WriteToUDPAddrPort(p, box) })
	}
}

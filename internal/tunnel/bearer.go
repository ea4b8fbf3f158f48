// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
)

// A stream frame is `u16 BE length | packet`. A packet is what UDP would carry: a WireGuard message or a probe.
const (
	minPacket = device.MinMessageSize
	maxPacket = MTU + device.MessageTransportSize

	// writeSize is how many bytes of frames go into one write: one TLS record.
	writeSize = 16 << 10

	// A queue is long, for throughput at a long round trip, and forgets what is too old to be of use, so that a stream
	// that stands still does not fill memory and does not deliver the past when it moves again.
	streamQueue  = 4096
	streamTooOld = 300 * time.Millisecond

	streamWriteTime = 5 * time.Second  // a peer that takes nothing for this long has lost its stream
	streamSilence   = 60 * time.Second // and so has one that says nothing: a box probes more often
	streamSendAhead = 256 << 10        // bytes not yet sent that the kernel takes (TCP_NOTSENT_LOWAT)
	streamArrivals  = 1024             // packets of all streams that wait for wireguard
)

// Bearer says what carries the tunnel's packets.
type Bearer string

// The bearers, the better one first.
const (
	UDP Bearer = "udp"
	TLS Bearer = "tls" // packets framed in one TLS connection, where UDP is blocked
)

var errFrame = errors.New("a frame is shorter or longer than any packet")

// readFrame reads one packet into buf, which has room for maxPacket bytes.
func readFrame(r io.Reader, buf []byte) ([]byte, error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(head[:]))
	if n < minPacket || n > maxPacket {
		return nil, fmt.Errorf("%w: %d bytes", errFrame, n)
	}
	if _, err := io.ReadFull(r, buf[:n]); err != nil {
		return nil, err
	}
	return buf[:n], nil
}

// streamConn is one stream connection while it carries packets. push never waits: wireguard sends with a lock held that
// removing any peer needs, so a stream that nobody reads must not stop it.
type streamConn struct {
	conn net.Conn
	wake chan struct{} // capacity 1: the queue is no longer empty

	mu    sync.Mutex
	queue []queuedPacket // guarded by mu; oldest first
}

type queuedPacket struct {
	at    time.Time
	frame []byte
}

func newStreamConn(c net.Conn) *streamConn {
	return &streamConn{conn: c, wake: make(chan struct{}, 1)}
}

// push copies packets into the queue. What has become too old leaves it, and what finds it full takes the oldest's place.
func (s *streamConn) push(packets ...[]byte) {
	now := time.Now()
	s.mu.Lock()
	s.forgetLocked(now)
	for _, p := range packets {
		if len(p) > maxPacket {
			continue
		}
		if len(s.queue) == streamQueue {
			s.queue = s.queue[1:]
		}
		frame := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(p)), uint16(len(p)))
		s.queue = append(s.queue, queuedPacket{now, append(frame, p...)})
	}
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *streamConn) forgetLocked(now time.Time) {
	for len(s.queue) > 0 && now.Sub(s.queue[0].at) > streamTooOld {
		s.queue = s.queue[1:]
	}
}

// take moves the oldest frames into one write. It is empty when the queue is.
func (s *streamConn) take() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forgetLocked(time.Now())
	size, n := 0, 0
	for n < len(s.queue) && size+len(s.queue[n].frame) <= writeSize {
		size += len(s.queue[n].frame)
		n++
	}
	out := make([]byte, 0, size)
	for _, q := range s.queue[:n] {
		out = append(out, q.frame...)
	}
	if s.queue = s.queue[n:]; len(s.queue) == 0 {
		s.queue = nil
	}
	return out
}

// run gives every packet that comes to deliver, which may keep it, until the connection or ctx ends, and closes the
// connection. Deliver is called from one goroutine.
func (s *streamConn) run(ctx context.Context, deliver func(ctx context.Context, packet []byte)) error {
	sendAhead(s.conn)
	group, ctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(ctx, func() { s.conn.Close() }) // whatever waits in it
	group.Go(func() error { return s.write(ctx) })
	group.Go(func() error {
		buf := make([]byte, maxPacket)
		for {
			if err := s.conn.SetReadDeadline(time.Now().Add(streamSilence)); err != nil {
				return err
			}
			packet, err := readFrame(s.conn, buf)
			if err != nil {
				return err
			}
			deliver(ctx, append([]byte(nil), packet...))
		}
	})
	err := group.Wait()
	stop()
	s.conn.Close()
	return err
}

func (s *streamConn) write(ctx context.Context) error {
	for {
		out := s.take()
		if len(out) == 0 {
			select {
			case <-s.wake:
				continue
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if err := s.conn.SetWriteDeadline(time.Now().Add(streamWriteTime)); err != nil {
			return err
		}
		if _, err := s.conn.Write(out); err != nil {
			return err
		}
	}
}

// streams brings the packets of all stream connections to wireguard by one receive function: each one pins a batch of
// the largest buffers.
type streams struct {
	arrived chan arrival

	mu     sync.Mutex
	closed chan struct{} // guarded by mu; closed by close, made anew by open
}

type arrival struct {
	packet []byte
	from   conn.Endpoint
}

func newStreams() *streams { return &streams{arrived: make(chan arrival, streamArrivals)} }

// deliver hands a packet over, or waits: the sender's TCP then waits too.
func (s *streams) deliver(ctx context.Context, packet []byte, from conn.Endpoint) {
	select {
	case s.arrived <- arrival{packet, from}:
	case <-ctx.Done():
	}
}

// open makes the receive function. The connections outlive it: wireguard closes and opens its sockets at will.
func (s *streams) open() conn.ReceiveFunc {
	s.mu.Lock()
	defer s.mu.Unlock()
	closed := make(chan struct{})
	s.closed = closed
	return func(packets [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
		var next arrival
		select {
		case next = <-s.arrived:
		case <-closed:
			return 0, net.ErrClosed
		}
		for n := 0; ; {
			sizes[n] = copy(packets[n], next.packet)
			eps[n] = next.from
			if n++; n == len(packets) {
				return n, nil
			}
			select {
			case next = <-s.arrived:
			default:
				return n, nil
			}
		}
	}
}

func (s *streams) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed != nil {
		close(s.closed)
		s.closed = nil
	}
}

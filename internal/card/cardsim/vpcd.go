// SPDX-License-Identifier: Apache-2.0

package cardsim

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"

	"golang.org/x/sys/unix"
)

// Control messages of the virtual reader: one byte instead of an APDU.
const (
	vpcdOff   = 0x00
	vpcdOn    = 0x01
	vpcdReset = 0x02
	vpcdATR   = 0x04
)

// errInserted refuses a card that is in another reader.
var errInserted = errors.New("the card is in a reader already")

// errReaderGone is the end of the reader: its daemon stopped, or took another card.
var errReaderGone = errors.New("the reader went away")

// insert is one stay of the card in a reader.
type insert struct {
	cancel  context.CancelFunc
	ejected bool          // guarded by Sim.mu
	done    chan struct{} // closed when DialVPCD is about to return
}

// DialVPCD puts the card into the virtual reader that listens at addr (vsmartcard's vpcd: port 35963 for its first slot)
// and serves it until Eject (nil), the end of ctx (its cause) or the end of the reader. A card is in one reader at a time.
func (s *Sim) DialVPCD(ctx context.Context, addr string) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return fmt.Errorf("insert card: %w", err)
	}
	return s.ServeVPCD(ctx, conn)
}

// ServeVPCD does the same over a connection that stands already, for a caller that dials in another network namespace. It
// closes conn.
func (s *Sim) ServeVPCD(ctx context.Context, conn net.Conn) error {
	serving, cancel := context.WithCancel(ctx)
	in := &insert{cancel: cancel, done: make(chan struct{})}
	defer cancel()
	stop := context.AfterFunc(serving, func() { conn.Close() })
	defer stop()
	defer conn.Close()

	s.mu.Lock()
	if s.inserts != nil {
		s.mu.Unlock()
		return fmt.Errorf("insert card: %w", errInserted)
	}
	s.inserts, s.ram = in, ram{}
	s.mu.Unlock()

	err := s.serve(conn)

	s.mu.Lock()
	defer s.mu.Unlock()
	defer close(in.done)
	s.inserts, s.ram = nil, ram{}
	switch {
	case in.ejected:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("card in reader: %w", context.Cause(ctx))
	}
	return fmt.Errorf("card in reader: %w", err)
}

// Eject pulls the card out of its reader and returns when it is out: it can be inserted elsewhere at once. Without a reader
// it does nothing.
func (s *Sim) Eject() {
	s.mu.Lock()
	in := s.inserts
	if in == nil {
		s.mu.Unlock()
		return
	}
	in.ejected = true
	s.mu.Unlock()
	in.cancel()
	<-in.done
}

// serve answers the reader: 16-bit length, then a control byte or a command APDU; the answer likewise.
func (s *Sim) serve(conn net.Conn) error {
	r := bufio.NewReader(quickAck{conn})
	for {
		var head [2]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return errors.Join(errReaderGone, err)
		}
		message := make([]byte, binary.BigEndian.Uint16(head[:]))
		if _, err := io.ReadFull(r, message); err != nil {
			return errors.Join(errReaderGone, err)
		}
		answer, err := s.answer(message)
		if err != nil {
			return err
		}
		if answer == nil {
			continue
		}
		// One Write: a length alone in a packet would wait for its acknowledgement (RFC 896).
		frame := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(answer)), uint16(len(answer)))
		if _, err := conn.Write(append(frame, answer...)); err != nil {
			return errors.Join(errReaderGone, err)
		}
	}
}

// answer is the card's answer to one message of the reader; nil if it wants none.
func (s *Sim) answer(message []byte) ([]byte, error) {
	if len(message) != 1 {
		return s.Transmit(message)
	}
	switch message[0] {
	case vpcdOff, vpcdOn, vpcdReset:
		s.Reset()
		return nil, nil
	case vpcdATR:
		return s.ATR(), nil
	default:
		return nil, fmt.Errorf("unknown control %02X of the reader", message[0])
	}
}

// quickAck turns delayed acknowledgement off before each read: the option does not last (tcp(7)), and without it the
// reader's Nagle algorithm makes each command wait about 44 ms.
type quickAck struct{ net.Conn }

func (q quickAck) Read(b []byte) (int, error) {
	if tcp, ok := q.Conn.(*net.TCPConn); ok {
		raw, err := tcp.SyscallConn()
		if err != nil {
			return 0, err
		}
		var failed error
		err = raw.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1) })
		if err := errors.Join(err, failed); err != nil {
			return 0, err
		}
	}
	return q.Conn.Read(b)
}

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
	"time"

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
	done    chan struct{} // closed when the card is out
}

// DialVPCD puts the card into the virtual reader that listens at addr (vsmartcard's vpcd: port 35963 for its first slot)
// and serves it until Eject (nil), the end of ctx (its cause) or the end of the reader. A card is in one reader at a time.
func (s *Sim) DialVPCD(ctx context.Context, addr string) error {
	return s.InsertVPCD(ctx, func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", addr)
	})
}

// ServeVPCD does the same over a connection to the reader that stands already, and closes it. It cannot dial again: where
// one card may follow another within a second, InsertVPCD is the one to use.
func (s *Sim) ServeVPCD(ctx context.Context, conn net.Conn) error {
	defer conn.Close()
	fresh := true
	return s.InsertVPCD(ctx, func(context.Context) (net.Conn, error) {
		if !fresh {
			return nil, ErrUnseen
		}
		fresh = false
		return conn, nil
	})
}

// InsertVPCD does the same for a caller that reaches the reader in its own way, as in another network namespace. It calls
// dial once for each insertion and closes what dial returns.
func (s *Sim) InsertVPCD(ctx context.Context, dial func(context.Context) (net.Conn, error)) error {
	return s.reside(ctx, false, func(ctx context.Context) error {
		unseen := true
		var err error
		for unseen {
			if unseen, err = s.stay(ctx, dial); unseen {
				stayOut(ctx)
			}
		}
		return err
	})
}

// reside is the card's time in a reader: while stay runs, no other reader has it. The end of stay by Eject is no error.
func (s *Sim) reside(ctx context.Context, t0 bool, stay func(context.Context) error) error {
	serving, cancel := context.WithCancel(ctx)
	defer cancel()
	in := &insert{cancel: cancel, done: make(chan struct{})}
	s.mu.Lock()
	if s.inserts != nil {
		s.mu.Unlock()
		return fmt.Errorf("insert card: %w", errInserted)
	}
	s.inserts, s.t0 = in, t0
	s.resetLocked()
	s.mu.Unlock()

	err := stay(serving)

	s.mu.Lock()
	defer s.mu.Unlock()
	defer close(in.done)
	s.inserts, s.ram, s.t0 = nil, ram{}, false
	switch {
	case in.ejected:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("card in reader: %w", context.Cause(ctx))
	}
	return fmt.Errorf("card in reader: %w", err)
}

// emptySlot is how long a card that was not seen coming stays out: longer than the reader's daemon leaves between two looks (pcscd: 400 ms),
// or the next look would find the card again and the slot would never have been empty.
const emptySlot = 600 * time.Millisecond

func stayOut(ctx context.Context) {
	out := time.NewTimer(emptySlot)
	defer out.Stop()
	select {
	case <-out.C:
	case <-ctx.Done():
	}
}

// stay is one connection to the reader; unseen says that there has to be another.
func (s *Sim) stay(ctx context.Context, dial func(context.Context) (net.Conn, error)) (unseen bool, err error) {
	conn, err := dial(ctx)
	if err != nil {
		return false, fmt.Errorf("reach the reader: %w", err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	err = s.serve(conn)
	return errors.Is(err, ErrUnseen), err
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
	var power supply
	for {
		var head [2]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return errors.Join(errReaderGone, err)
		}
		message := make([]byte, binary.BigEndian.Uint16(head[:]))
		if _, err := io.ReadFull(r, message); err != nil {
			return errors.Join(errReaderGone, err)
		}
		answer, reply, err := s.answer(message, &power)
		if reply {
			// One Write: a length alone in a packet would wait for its acknowledgement (RFC 896).
			frame := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(answer)), uint16(len(answer)))
			if _, err := conn.Write(append(frame, answer...)); err != nil {
				return errors.Join(errReaderGone, err)
			}
		}
		if err != nil {
			return err
		}
	}
}

// supply is what the reader did about the card's power since it was inserted.
type supply struct {
	on   bool // it was switched on once
	asks int  // times the reader asked whether the card is there, before that
}

// asksAtMost is how often the reader asks before it powers a card that it saw coming: when it looks, and again as it switches the power on;
// a busy daemon may look once more between the two.
const asksAtMost = 4

// ErrUnseen is the end of ServeVPCD for a card that came so soon after another that the reader believes it to be that one. Nothing answers without
// power: the reader then sees an empty slot, and the card has to be put in again. (A real reader has a switch.)
var ErrUnseen = errors.New("the reader did not see the card coming")

// answer is the card's answer to one message of the reader, if it wants one.
func (s *Sim) answer(message []byte, power *supply) (answer []byte, reply bool, err error) {
	if len(message) != 1 {
		if !power.on {
			return nil, true, ErrUnseen
		}
		answer, err = s.Transmit(message)
		return answer, err == nil, err
	}
	switch message[0] {
	case vpcdOff:
		s.Reset()
	case vpcdOn, vpcdReset:
		power.on = true
		s.Reset()
	case vpcdATR:
		if power.asks++; !power.on && power.asks > asksAtMost {
			return nil, true, ErrUnseen // an empty answer says that the slot is empty
		}
		return s.ATR(), true, nil
	default:
		return nil, false, fmt.Errorf("unknown control %02X of the reader", message[0])
	}
	return nil, false, nil
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

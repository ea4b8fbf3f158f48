// SPDX-License-Identifier: Apache-2.0

package cardsim

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// Messages between a card and the reader of a virtual machine (libcacard, vscard_common.h; QEMU's ccid-card-passthru): type, number of
// the reader and length of what follows, each 32 bits big-endian.
const (
	vscInit          = 1
	vscError         = 2 // also says that all is well: the host answers each ReaderAdd, ATR and CardRemove with one
	vscReaderAdd     = 3
	vscATR           = 5
	vscCardRemove    = 6
	vscAPDU          = 7
	vscFlush         = 8
	vscFlushComplete = 9

	vscHeader    = 12
	vscNoReader  = 0xFFFFFFFF
	vscMagic     = "VSCD"
	vscVersion   = 2
	vscReader    = "sdbox"
	maxVSCard    = 1024 // payload of a message taken, ours: a command of T=0 has at most 260 bytes
	ejectsWithin = 10 * time.Second
)

// atrT0 is the answer to reset in a reader that speaks T=0 alone, as QEMU's does: TB1 and TC1 of zero, historical bytes "sdbox".
const atrT0 = "\x3B\x65\x00\x00sdbox"

// InsertVSCard puts the card into the reader of a virtual machine (QEMU's usb-ccid with a ccid-card-passthru, whose socket dial
// reaches) and serves it until Eject (nil), the end of ctx (its cause) or the end of the machine. It returns when the machine
// knows that the card is out. The protocol is T=0: an answer to a command with data waits for GET RESPONSE. The machine tells of
// neither power nor reset; SELECT stands for one.
func (s *Sim) InsertVSCard(ctx context.Context, dial func(context.Context) (net.Conn, error)) error {
	return s.reside(ctx, true, func(ctx context.Context) error {
		conn, err := dial(ctx)
		if err != nil {
			return fmt.Errorf("reach the reader: %w", err)
		}
		defer conn.Close()
		return s.serveVSCard(ctx, &vscard{conn: conn})
	})
}

// vscard is a connection to the reader of a virtual machine.
type vscard struct {
	conn net.Conn
	turn sync.Mutex // one message at a time
}

func (v *vscard) send(kind, reader uint32, payload []byte) error {
	message := make([]byte, 0, vscHeader+len(payload))
	for _, n := range []uint32{kind, reader, uint32(len(payload))} {
		message = binary.BigEndian.AppendUint32(message, n)
	}
	v.turn.Lock()
	defer v.turn.Unlock()
	if _, err := v.conn.Write(append(message, payload...)); err != nil {
		return errors.Join(errReaderGone, err)
	}
	return nil
}

func (v *vscard) receive() (kind uint32, payload []byte, err error) {
	var head [vscHeader]byte
	if _, err := io.ReadFull(v.conn, head[:]); err != nil {
		return 0, nil, errors.Join(errReaderGone, err)
	}
	length := binary.BigEndian.Uint32(head[8:])
	if length > maxVSCard {
		return 0, nil, fmt.Errorf("message of the reader with %d bytes, limit %d", length, maxVSCard)
	}
	payload = make([]byte, length)
	if _, err := io.ReadFull(v.conn, payload); err != nil {
		return 0, nil, errors.Join(errReaderGone, err)
	}
	return binary.BigEndian.Uint32(head[:]), payload, nil
}

// enter introduces the reader and puts the card in. The host answers the last two.
func (v *vscard) enter(atr []byte) error {
	hello := append([]byte(vscMagic), 0, 0, 0, vscVersion, 0, 0, 0, 0) // version, no capabilities
	return errors.Join(v.send(vscInit, vscNoReader, hello), v.send(vscReaderAdd, vscNoReader, []byte(vscReader)), v.send(vscATR, 0, atr))
}

// leave takes the card out; the host answers that too.
func (v *vscard) leave() error {
	return errors.Join(v.conn.SetDeadline(time.Now().Add(ejectsWithin)), v.send(vscCardRemove, 0, nil))
}

// serveVSCard answers the host until it knows that the card is out.
func (s *Sim) serveVSCard(ctx context.Context, v *vscard) error {
	if err := v.enter([]byte(atrT0)); err != nil {
		return err
	}
	var out sync.WaitGroup
	out.Add(1)
	eject := context.AfterFunc(ctx, func() { defer out.Done(); _ = v.leave() }) // without an answer, the deadline ends the stay
	defer func() {
		if !eject() {
			out.Wait()
		}
	}()
	var lost error // why the card leaves by itself
	for answers := 0; answers < 3; {
		kind, payload, err := v.receive()
		if err != nil {
			return errors.Join(lost, err)
		}
		switch kind {
		case vscError:
			if len(payload) != 4 || binary.BigEndian.Uint32(payload) != 0 {
				return fmt.Errorf("the reader refuses the card: error % X", payload)
			}
			answers++
		case vscAPDU:
			answer, err := s.tpdu(payload)
			if err != nil && lost == nil {
				lost = err
				if err := v.leave(); err != nil {
					return err
				}
			}
			if lost != nil {
				continue
			}
			if err := v.send(vscAPDU, 0, answer); err != nil {
				return err
			}
		case vscFlush:
			if err := v.send(vscFlushComplete, 0, nil); err != nil {
				return err
			}
		case vscInit:
		default:
			return fmt.Errorf("unknown message %d of the reader", kind)
		}
	}
	if lost == nil && ctx.Err() == nil {
		return errors.New("the reader let the card go unasked")
	}
	return lost
}

// tpdu answers one command of T=0 (ISO/IEC 7816-3, 10.3): five bytes of header, of which the last is the length of the data that
// follow it or of those expected. A reader that sends four left out a length of zero.
func (s *Sim) tpdu(command []byte) ([]byte, error) {
	if len(command) > 5 && len(command) != 5+int(command[4]) {
		return []byte{byte(swLength >> 8), byte(swLength & 0xFF)}, nil
	}
	return s.Transmit(command)
}

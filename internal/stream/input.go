// SPDX-License-Identifier: Apache-2.0

package stream

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Kind is what an Input is about.
type Kind uint8

// The kinds of Input.
const (
	Key     Kind = 1 // a key went down or up
	Pointer Kind = 2 // the pointer moved, a button went down or up, or the wheel turned
)

// Input is one event of a person's hands, in pixels of the bubble's desktop.
type Input struct {
	Seq     uint32 // set by the stream: 1, 2, ... for events; motion carries the number of the event before it
	Stream  uint16 // number of the attach whose picture the person had before her: input for any other goes nowhere
	Kind    Kind
	Code    uint16 // Key: XT scancode, set 1; extended codes have bit 7 set (desktop of RFC 6143 servers: QEMU key event)
	Down    bool   // Key
	X, Y    uint16 // Pointer
	Buttons uint8  // Pointer: RFC 6143, 7.5.5, bit 0 left, 1 middle, 2 right
	Wheel   int8   // Pointer: steps, up is positive
}

// What the two ends say on the data channel, big-endian. A report says everything that the gateway has not yet
// confirmed, so any one of them that arrives is enough; a receipt answers each report.
//
//	report   u8 version | u32 id | u32 acks, u32 n | u32 refresh | u32 motion, u32 after, u16 stream, u16 x, y, u8 buttons
//	         | u32 first | u8 k | k events:  u16 stream | u8 kind | u16 code | u8 down | u16 x, y | u8 buttons | i8 wheel
//	receipt  u8 version | u32 id | u32 acks | u32 refresh | u32 motion | u32 applied
//
// acks, refresh and motion count how often that state has changed: the newest wins. first numbers the first event.
const (
	reportVersion = 2
	reportHead    = 37
	eventSize     = 12
	maxEvents     = 90 // in one report: 1,117 bytes, one packet
	receiptSize   = 21
)

// motion is the newest place of the pointer, after the event numbered after.
type motion struct {
	count, after uint32
	stream       uint16
	x, y         uint16
	buttons      uint8
}

type report struct {
	id        uint32
	acks, ack uint32 // how often the box has acknowledged, and the last frame number
	refresh   uint32
	motion    motion
	first     uint32
	events    []Input
}

type receipt struct{ id, acks, refresh, motion, applied uint32 }

var errVersion = errors.New("datagram of another version")

func (r *report) append(to []byte) []byte {
	to = append(to, reportVersion)
	for _, v := range []uint32{r.id, r.acks, r.ack, r.refresh, r.motion.count, r.motion.after} {
		to = binary.BigEndian.AppendUint32(to, v)
	}
	to = binary.BigEndian.AppendUint16(to, r.motion.stream)
	to = binary.BigEndian.AppendUint16(to, r.motion.x)
	to = binary.BigEndian.AppendUint16(to, r.motion.y)
	to = append(to, r.motion.buttons)
	to = binary.BigEndian.AppendUint32(to, r.first)
	to = append(to, byte(len(r.events)))
	for _, e := range r.events {
		to = binary.BigEndian.AppendUint16(to, e.Stream)
		to = append(to, byte(e.Kind))
		to = binary.BigEndian.AppendUint16(to, e.Code)
		to = append(to, bit(e.Down))
		to = binary.BigEndian.AppendUint16(to, e.X)
		to = binary.BigEndian.AppendUint16(to, e.Y)
		to = append(to, e.Buttons, byte(e.Wheel))
	}
	return to
}

// parseReport reads what a box sent. It takes exactly what append writes.
func parseReport(b []byte) (report, error) {
	if len(b) < reportHead {
		return report{}, fmt.Errorf("report of %d bytes: want at least %d", len(b), reportHead)
	}
	if b[0] != reportVersion {
		return report{}, errVersion
	}
	u32 := func(at int) uint32 { return binary.BigEndian.Uint32(b[at:]) }
	u16 := func(at int) uint16 { return binary.BigEndian.Uint16(b[at:]) }
	r := report{id: u32(1), acks: u32(5), ack: u32(9), refresh: u32(13), first: u32(32)}
	r.motion = motion{count: u32(17), after: u32(21), stream: u16(25), x: u16(27), y: u16(29), buttons: b[31]}
	k := int(b[36])
	if k > maxEvents || len(b) != reportHead+k*eventSize {
		return report{}, fmt.Errorf("report of %d bytes with %d events", len(b), k)
	}
	for i := range k {
		at := reportHead + i*eventSize
		e := Input{
			Seq: r.first + uint32(i), Stream: u16(at), Kind: Kind(b[at+2]), Code: u16(at + 3), Down: b[at+5] == 1,
			X: u16(at + 6), Y: u16(at + 8), Buttons: b[at+10], Wheel: int8(b[at+11]),
		}
		if err := e.check(); err != nil || b[at+5] > 1 {
			return report{}, fmt.Errorf("event %d of report is not one", i)
		}
		r.events = append(r.events, e)
	}
	return r, nil
}

// check refuses an event that mixes kinds, so that each event has one encoding.
func (e Input) check() error {
	switch e.Kind {
	case Key:
		if e.Code != 0 && e.X == 0 && e.Y == 0 && e.Buttons == 0 && e.Wheel == 0 {
			return nil
		}
	case Pointer:
		if e.Code == 0 && !e.Down {
			return nil
		}
	}
	return errors.New("input that is neither a key nor a pointer event")
}

func (r *receipt) append(to []byte) []byte {
	to = append(to, reportVersion)
	for _, v := range []uint32{r.id, r.acks, r.refresh, r.motion, r.applied} {
		to = binary.BigEndian.AppendUint32(to, v)
	}
	return to
}

// parseReceipt reads what a gateway sent.
func parseReceipt(b []byte) (receipt, error) {
	if len(b) != receiptSize {
		return receipt{}, fmt.Errorf("receipt of %d bytes: want %d", len(b), receiptSize)
	}
	if b[0] != reportVersion {
		return receipt{}, errVersion
	}
	u32 := func(at int) uint32 { return binary.BigEndian.Uint32(b[at:]) }
	return receipt{id: u32(1), acks: u32(5), refresh: u32(9), motion: u32(13), applied: u32(17)}, nil
}

func bit(b bool) byte {
	if b {
		return 1
	}
	return 0
}

// newer says whether counter a has been counted beyond b, through a wrap too (RFC 1982).
func newer(a, b uint32) bool { return int32(a-b) > 0 }

// SPDX-License-Identifier: Apache-2.0

// Package keys reads keyboards and mice for an SD-Box: the Linux input events of devices, or of a socket that speaks the
// same bytes, become scancodes, pointer moves, the chords the box keeps for itself, and plain navigation.
package keys

import (
	"encoding/binary"
	"fmt"
	"io"
)

// RawSize is the size of one struct input_event on 64-bit Linux (linux/input.h), in bytes.
const RawSize = 24

// Event types and codes of linux/input-event-codes.h, as far as they are used.
const (
	evSyn, evKey, evRel, evAbs, evLED = 0, 1, 2, 3, 17

	synReport, synDropped = 0, 3
	synTooFast            = 0x7fff // ours: no kernel sends it

	ledNum, ledCaps, ledScroll = 0, 1, 2

	relX, relY, relWheel = 0, 1, 8
	absX, absY           = 0, 1

	btnLeft, btnRight, btnMiddle, btnTouch = 0x110, 0x111, 0x112, 0x14a
)

// AbsMax is the largest absolute position: a Raw carries 0..AbsMax from the screen's left or upper edge to the other.
const AbsMax = 32767

// Raw is one Linux input event without its time.
type Raw struct {
	Type, Code uint16
	Value      int32
}

// Lost is the event of a source that lost sight of a device: whatever was held there must count as released.
func Lost() Raw { return Raw{Type: evSyn, Code: synDropped} }

// TooFast is the event of a source that listens no longer to a keyboard, because it types as no person does. What was held there
// counts as released.
func TooFast() Raw { return Raw{Type: evSyn, Code: synTooFast} }

// ParseRaw reads one struct input_event: 16 bytes of time, then u16 type, u16 code, s32 value, little-endian. Every
// 24 bytes are an event; what its numbers mean is judged by State.
func ParseRaw(b *[RawSize]byte) Raw {
	return Raw{
		Type:  binary.LittleEndian.Uint16(b[16:]),
		Code:  binary.LittleEndian.Uint16(b[18:]),
		Value: int32(binary.LittleEndian.Uint32(b[20:])),
	}
}

// Append writes one struct input_event with a time of zero; the inverse of ParseRaw, for whoever speaks to a box's socket.
func (r Raw) Append(b []byte) []byte {
	b = append(b, make([]byte, 16)...)
	b = binary.LittleEndian.AppendUint16(b, r.Type)
	b = binary.LittleEndian.AppendUint16(b, r.Code)
	return binary.LittleEndian.AppendUint32(b, uint32(r.Value))
}

// readRaws reads whole events from r until it ends, a device goes away, or emit returns false.
func readRaws(r io.Reader, emit func(Raw) bool) error {
	var buf [64 * RawSize]byte
	have := 0
	for {
		n, err := r.Read(buf[have:])
		have += n
		used := 0
		for ; have-used >= RawSize; used += RawSize {
			if !emit(ParseRaw((*[RawSize]byte)(buf[used:]))) {
				return nil
			}
		}
		have = copy(buf[:], buf[used:have])
		if err != nil {
			if have > 0 {
				return fmt.Errorf("input ended %d bytes into an event: %w", have, err)
			}
			return err
		}
	}
}

// Key and its kin write the events a keyboard or mouse would send, for the lab and for tests. down: 1 pressed,
// 0 released, 2 repeated.
func Key(code uint16, down int32) []Raw { return []Raw{{evKey, code, down}, {evSyn, synReport, 0}} }

// Move places the pointer, each axis 0..AbsMax.
func Move(x, y int32) []Raw { return []Raw{{evAbs, absX, x}, {evAbs, absY, y}, {evSyn, synReport, 0}} }

// Button presses (down) or releases a mouse button.
func Button(b Buttons, down bool) []Raw {
	code, value := uint16(btnLeft), int32(0)
	switch b {
	case Middle:
		code = btnMiddle
	case Right:
		code = btnRight
	}
	if down {
		value = 1
	}
	return []Raw{{evKey, code, value}, {evSyn, synReport, 0}}
}

// Wheel turns the wheel by steps, away from the person when positive.
func Wheel(steps int32) []Raw { return []Raw{{evRel, relWheel, steps}, {evSyn, synReport, 0}} }

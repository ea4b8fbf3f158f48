// SPDX-License-Identifier: Apache-2.0

package stream

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// A frame travels as parts, one RTP payload each:
//
//	u32 n | u16 index | u16 count | bytes
//
// big-endian, at most maxPayload bytes, the RTP marker on the last. Every part but the last is full. The parts of a
// frame have consecutive RTP sequence numbers, which alone order them and show a loss; n is the writer's own label. A
// part with count 0 carries nothing: it opens the track, so that the first frame's losses can be asked for.
const (
	// maxPayload makes an inner packet of 1,256 bytes: IPv6 40, UDP 8, RTP 12, AES-GCM tag 16.
	maxPayload = 1180
	partHeader = 8
	partSize   = maxPayload - partHeader

	// maxParts bounds a frame, and with it what both ends hold.
	maxParts = 8192

	// MaxFrame is the largest frame, 9.6 MB: a full-HD screen of noise, uncompressed, fits.
	MaxFrame = maxParts * partSize
)

type part struct {
	n            uint32
	index, count uint16
	data         []byte // aliases the payload
}

// span is how many sequence numbers the frame of this part takes.
func (p part) span() uint64 { return uint64(max(p.count, 1)) }

// parsePart reads an RTP payload. Everything that the writer never sends is an error.
func parsePart(payload []byte, marker bool) (part, error) {
	if len(payload) < partHeader || len(payload) > maxPayload {
		return part{}, fmt.Errorf("part of %d bytes: want %d to %d", len(payload), partHeader, maxPayload)
	}
	p := part{
		n:     binary.BigEndian.Uint32(payload),
		index: binary.BigEndian.Uint16(payload[4:]),
		count: binary.BigEndian.Uint16(payload[6:]),
		data:  payload[partHeader:],
	}
	if p.count == 0 {
		if p.n != 0 || p.index != 0 || len(p.data) != 0 || !marker {
			return part{}, errors.New("opening part that is not empty")
		}
		return p, nil
	}
	last := p.index == p.count-1
	switch {
	case p.count > maxParts:
		return part{}, fmt.Errorf("frame of %d parts: at most %d", p.count, maxParts)
	case p.index >= p.count:
		return part{}, fmt.Errorf("part %d of %d", p.index, p.count)
	case marker != last:
		return part{}, errors.New("marker is not on the last part")
	case len(p.data) == 0 || !last && len(p.data) != partSize:
		return part{}, fmt.Errorf("part %d of %d with %d bytes", p.index, p.count, len(p.data))
	}
	return p, nil
}

// appendPart writes the payload of part index of frame.
func appendPart(to []byte, n uint32, frame []byte, index, count int) []byte {
	to = binary.BigEndian.AppendUint32(to, n)
	to = binary.BigEndian.AppendUint16(to, uint16(index))
	to = binary.BigEndian.AppendUint16(to, uint16(count))
	return append(to, frame[index*partSize:min((index+1)*partSize, len(frame))]...)
}

// openingPart is the payload of the part that carries nothing.
func openingPart() []byte { return make([]byte, partHeader) }

// partCount is how many parts a frame takes.
func partCount(size int) int { return (size + partSize - 1) / partSize }

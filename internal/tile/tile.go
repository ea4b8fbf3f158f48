// SPDX-License-Identifier: Apache-2.0

// Package tile carries a screen without loss: the gateway's Encoder turns pixels, damage and copies into frames, the
// box's Decoder turns frames into the same pixels again or says that it needs a key frame. It does no I/O.
//
// A frame is a header of 25 bytes, big-endian,
//
//	u8 version | u8 codec | u8 flags | u16 stream | u32 n | u32 epoch | u16 w h | u32 ms | u32 CRC | body
//
// and a body. The flags are bit 0 key frame, bit 1 cursor, bits 4 to 6 the keyboard's lights. The body continues the one zstd stream of the epoch (window 1 MB, flushed per frame). Inside the stream:
//
//	u16 copies   {u16 dst x y, u16 w h, u16 src x y}   read from the previous frame, written in order
//	[cursor]     u16 w h, u16 hot x y, w*h BGRA        only with FlagCursor; 0 x 0 hides it
//	u16 patches  {u16 tile, u8 x y, u8 w-1 h-1}        in rising tile order, at most one for each tile of 64 x 64
//	pixels       BGRX rows of each patch
//
// A key frame starts an epoch, a new zstd stream and a black picture. The CRC (32C) covers the header before it, what stands in the
// stream before the pixels, and the rows of all copied and patched rectangles as they are after the frame.
//
// Copies come from the desktop where it tells of them; the Encoder looks for the others itself.
package tile

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"image"
)

// Size is the side of a tile in pixels.
const Size = 64

// Limits of the codec: what an Encoder never exceeds and a Decoder refuses.
const (
	MaxSide   = 8192
	MaxCopies = 64
	MaxCursor = 256 // side of a cursor shape
)

// The header's constants.
const (
	Version    = 2
	CodecZstd  = 1
	FlagKey    = 1 << 0 // first frame of an epoch: needs nothing from before
	FlagCursor = 1 << 1 // the frame carries the cursor's shape
	flagLights = 7 << lightsAt
	lightsAt   = 4
	HeaderLen  = 25
)

// Lights is the set of a keyboard's lights that the desktop wants lit, in the bits of QEMU's LED state (RFB pseudo-encoding -261).
type Lights uint8

// The lights of a keyboard.
const (
	ScrollLock Lights = 1 << iota
	NumLock
	CapsLock
)

const (
	crcAt       = HeaderLen - 4
	windowBytes = 1 << 20
	copyBytes   = 12
	patchBytes  = 6
)

// ErrNeedKey says that the picture can no longer be trusted: a frame is missing, damaged or not meant for this decoder.
// The decoder refuses everything until a key frame comes; ask for one.
var ErrNeedKey = errors.New("picture needs a key frame")

// Copy says that the pixels of Dst were those of the rectangle of the same size at Src in the previous frame.
type Copy struct {
	Dst image.Rectangle
	Src image.Point
}

func (c Copy) source() image.Rectangle { return c.Dst.Sub(c.Dst.Min).Add(c.Src) }

// Cursor is a pointer's shape: premultiplied BGRA, Width*Height*4 bytes. A shape of 0 x 0 hides the pointer.
type Cursor struct {
	Width, Height int
	Hot           image.Point
	Pix           []byte
}

// Header is what stands before a frame's body. Stream numbers the attach the frame belongs to, N counts frames within
// the encoder's life, Millis is the encoder's clock when the frame was made.
type Header struct {
	Codec, Flags  uint8
	Stream        uint16
	N, Epoch      uint32
	Width, Height int
	Millis        uint32
	CRC           uint32
}

// Key says whether the frame starts an epoch.
func (h Header) Key() bool { return h.Flags&FlagKey != 0 }

// Lights returns the keyboard's lights as of this frame: each frame says all of them.
func (h Header) Lights() Lights { return Lights(h.Flags & flagLights >> lightsAt) }

// ParseHeader reads the header of a frame without decoding it, so that a receiver can drop frames of another stream.
func ParseHeader(frame []byte) (Header, error) {
	if len(frame) < HeaderLen {
		return Header{}, fmt.Errorf("frame of %d bytes: shorter than its header", len(frame))
	}
	if frame[0] != Version {
		return Header{}, fmt.Errorf("frame version %d: want %d", frame[0], Version)
	}
	be := binary.BigEndian
	h := Header{
		Codec: frame[1], Flags: frame[2], Stream: be.Uint16(frame[3:]), N: be.Uint32(frame[5:]), Epoch: be.Uint32(frame[9:]),
		Width: int(be.Uint16(frame[13:])), Height: int(be.Uint16(frame[15:])), Millis: be.Uint32(frame[17:]), CRC: be.Uint32(frame[21:]),
	}
	if h.Codec != CodecZstd || h.Flags&^(FlagKey|FlagCursor|flagLights) != 0 {
		return Header{}, fmt.Errorf("frame codec %d, flags %#x: unknown", h.Codec, h.Flags)
	}
	if h.Width < 1 || h.Height < 1 || h.Width > MaxSide || h.Height > MaxSide {
		return Header{}, fmt.Errorf("frame of %d x %d pixels: want 1 to %d", h.Width, h.Height, MaxSide)
	}
	return h, nil
}

func (h Header) appendTo(b []byte) []byte {
	be := binary.BigEndian
	b = append(b, Version, h.Codec, h.Flags)
	b = be.AppendUint16(b, h.Stream)
	b = be.AppendUint32(b, h.N)
	b = be.AppendUint32(b, h.Epoch)
	b = be.AppendUint16(b, uint16(h.Width))
	b = be.AppendUint16(b, uint16(h.Height))
	b = be.AppendUint32(b, h.Millis)
	return be.AppendUint32(b, h.CRC)
}

// picture is a BGRX framebuffer without padding between rows.
type picture struct {
	pix  []byte
	w, h int
}

func (p picture) bounds() image.Rectangle { return image.Rect(0, 0, p.w, p.h) }

// row returns the bytes of one row of r.
func (p picture) row(r image.Rectangle, y int) []byte {
	at := (y*p.w + r.Min.X) * 4
	return p.pix[at : at+r.Dx()*4]
}

// tiles returns how many tiles stand in a row and in a column.
func (p picture) tiles() (across, down int) { return (p.w + Size - 1) / Size, (p.h + Size - 1) / Size }

// tile returns the rectangle of tile i, cut at the picture's edges.
func (p picture) tile(i int) image.Rectangle {
	across, _ := p.tiles()
	x, y := i%across*Size, i/across*Size
	return image.Rect(x, y, x+Size, y+Size).Intersect(p.bounds())
}

// copyAll performs at most MaxCopies copies that all read the picture as it was before any of them. Only sources that an
// earlier copy writes over are kept aside, in scratch, which is reused.
func (p picture) copyAll(copies []Copy, scratch []byte) []byte {
	var aside [MaxCopies]bool
	scratch = scratch[:0]
	for i, c := range copies {
		src := c.source()
		for _, before := range copies[:i] {
			aside[i] = aside[i] || before.Dst.Overlaps(src)
		}
		for y := src.Min.Y; aside[i] && y < src.Max.Y; y++ {
			scratch = append(scratch, p.row(src, y)...)
		}
	}
	from := scratch
	for i, c := range copies {
		for y := c.Dst.Min.Y; aside[i] && y < c.Dst.Max.Y; y++ {
			n := copy(p.row(c.Dst, y), from)
			from = from[n:]
		}
		if !aside[i] {
			p.move(c)
		}
	}
	return scratch
}

// move performs one copy, whose source and target may overlap.
func (p picture) move(c Copy) {
	src, h := c.source(), c.Dst.Dy()
	for i := range h {
		if c.Src.Y < c.Dst.Min.Y { // downwards: the last row first
			i = h - 1 - i
		}
		copy(p.row(c.Dst, c.Dst.Min.Y+i), p.row(src, src.Min.Y+i))
	}
}

// checksum goes on from crc over the rows of all copies and patches.
func (p picture) checksum(crc uint32, copies []Copy, patches []image.Rectangle) uint32 {
	add := func(r image.Rectangle) {
		for y := r.Min.Y; y < r.Max.Y; y++ {
			crc = extend(crc, p.row(r, y))
		}
	}
	for _, c := range copies {
		add(c.Dst)
	}
	for _, r := range patches {
		add(r)
	}
	return crc
}

func extend(crc uint32, b []byte) uint32 {
	return crc32.Update(crc, crc32.MakeTable(crc32.Castagnoli), b)
}

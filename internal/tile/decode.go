// SPDX-License-Identifier: Apache-2.0

package tile

import (
	"encoding/binary"
	"errors"
	"fmt"
	"image"
	"io"

	"github.com/klauspost/compress/zstd"
)

// Update says what one frame changed. Damage lists the rectangles to draw again. Cursor is nil when its shape stays.
type Update struct {
	Stream   uint16
	N, Epoch uint32
	Key      bool
	Millis   uint32
	Size     image.Point
	Damage   []image.Rectangle
	Cursor   *Cursor
	Lights   Lights // as of this frame
}

// Decoder rebuilds the picture from frames it does not trust. It is used by one goroutine at a time. Its memory is
// bounded by the largest picture it was made for.
type Decoder struct {
	z          *zstd.Decoder
	in         part
	maxW, maxH int
	picture    picture
	scratch    []byte
	stream     uint16
	n, epoch   uint32
	crc        uint32 // of what has been read of the frame under way
	good       bool   // the picture is the encoder's; false until a key frame
}

// part feeds the zstd reader with one frame's body and ends there; the next frame continues.
type part struct{ rest []byte }

// Read gives what is left of the body. An end inside a block is an error of the frame.
func (p *part) Read(b []byte) (int, error) {
	if len(p.rest) == 0 {
		return 0, io.ErrUnexpectedEOF
	}
	n := copy(b, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

// NewDecoder returns a decoder for pictures of at most maxW x maxH pixels.
func NewDecoder(maxW, maxH int) (*Decoder, error) {
	if maxW < 1 || maxH < 1 || maxW > MaxSide || maxH > MaxSide {
		return nil, fmt.Errorf("tile decoder for %d x %d pixels: want 1 to %d", maxW, maxH, MaxSide)
	}
	z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(windowBytes), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, fmt.Errorf("start tile decoder: %w", err)
	}
	return &Decoder{z: z, maxW: maxW, maxH: maxH}, nil
}

// Pixels returns the picture, BGRX without padding, and its size. It is the decoder's own memory: valid and unchanged
// until the next Decode. After an error it is not to be shown.
func (d *Decoder) Pixels() (pix []byte, w, h int) { return d.picture.pix, d.picture.w, d.picture.h }

// Close releases the decoder's tables.
func (d *Decoder) Close() { d.z.Close() }

// Decode applies one frame. Any error wraps ErrNeedKey, and so do all following frames until a key frame.
func (d *Decoder) Decode(frame []byte) (Update, error) {
	u, err := d.decode(frame)
	if err != nil {
		d.good = false
		return Update{}, fmt.Errorf("decode tile frame: %w: %w", ErrNeedKey, err)
	}
	return u, nil
}

func (d *Decoder) decode(frame []byte) (Update, error) {
	h, err := ParseHeader(frame)
	if err != nil {
		return Update{}, err
	}
	if err := d.admit(h); err != nil {
		return Update{}, err
	}
	d.in.rest, d.crc = frame[HeaderLen:], extend(0, frame[:crcAt])
	if h.Key() {
		if err := d.begin(h); err != nil {
			return Update{}, err
		}
	}
	u := Update{Stream: h.Stream, N: h.N, Epoch: h.Epoch, Key: h.Key(), Millis: h.Millis, Size: image.Pt(h.Width, h.Height), Lights: h.Lights()}
	copies, err := d.readCopies()
	if err != nil {
		return Update{}, err
	}
	if h.Flags&FlagCursor != 0 {
		if u.Cursor, err = d.readCursor(); err != nil {
			return Update{}, err
		}
	}
	patches, err := d.readPatches()
	if err != nil {
		return Update{}, err
	}
	d.scratch = d.picture.copyAll(copies, d.scratch)
	for _, r := range patches {
		for y := r.Min.Y; y < r.Max.Y; y++ {
			if _, err := io.ReadFull(d.z, d.picture.row(r, y)); err != nil {
				return Update{}, fmt.Errorf("read pixels: %w", err)
			}
		}
	}
	if len(d.in.rest) != 0 {
		return Update{}, fmt.Errorf("%d bytes after the frame's end", len(d.in.rest))
	}
	if d.picture.checksum(d.crc, copies, patches) != h.CRC {
		return Update{}, errors.New("checksum differs")
	}
	d.good, d.stream, d.n, d.epoch = true, h.Stream, h.N, h.Epoch
	u.Damage = damage(h, copies, patches)
	return u, nil
}

// admit checks that the frame is the one that may come now.
func (d *Decoder) admit(h Header) error {
	if h.Width > d.maxW || h.Height > d.maxH {
		return fmt.Errorf("picture of %d x %d pixels: more than %d x %d", h.Width, h.Height, d.maxW, d.maxH)
	}
	if h.Key() {
		if d.epoch != 0 && h.Stream == d.stream && int32(h.N-d.n) <= 0 {
			return fmt.Errorf("key frame %d after frame %d: an old picture", h.N, d.n)
		}
		return nil
	}
	if !d.good {
		return errors.New("no key frame yet")
	}
	if h.Stream != d.stream || h.Epoch != d.epoch || h.N != d.n+1 || h.Width != d.picture.w || h.Height != d.picture.h {
		return fmt.Errorf("frame %d of stream %d, epoch %d does not follow frame %d of stream %d, epoch %d", h.N, h.Stream, h.Epoch, d.n, d.stream, d.epoch)
	}
	return nil
}

func (d *Decoder) begin(h Header) error {
	if h.Width != d.picture.w || h.Height != d.picture.h {
		d.picture = picture{make([]byte, h.Width*h.Height*4), h.Width, h.Height}
		d.scratch = nil
	} else {
		clear(d.picture.pix)
	}
	if err := d.z.Reset(&d.in); err != nil {
		return fmt.Errorf("start epoch: %w", err)
	}
	return nil
}

// read fills b from the stream and counts it in the checksum.
func (d *Decoder) read(b []byte) error {
	_, err := io.ReadFull(d.z, b)
	d.crc = extend(d.crc, b)
	return err
}

func (d *Decoder) readUint16() (int, error) {
	var b [2]byte
	if err := d.read(b[:]); err != nil {
		return 0, fmt.Errorf("read count: %w", err)
	}
	return int(binary.BigEndian.Uint16(b[:])), nil
}

func (d *Decoder) readCopies() ([]Copy, error) {
	n, err := d.readUint16()
	if err != nil {
		return nil, err
	}
	if n > MaxCopies {
		return nil, fmt.Errorf("%d copies: more than %d", n, MaxCopies)
	}
	copies := make([]Copy, n)
	area := 0
	for i := range copies {
		var b [copyBytes]byte
		if err := d.read(b[:]); err != nil {
			return nil, fmt.Errorf("read copy: %w", err)
		}
		at := func(i int) int { return int(binary.BigEndian.Uint16(b[i*2:])) }
		c := Copy{image.Rect(at(0), at(1), at(0)+at(2), at(1)+at(3)), image.Pt(at(4), at(5))}
		src := c.source()
		if c.Dst.Empty() || !c.Dst.In(d.picture.bounds()) || !src.In(d.picture.bounds()) {
			return nil, fmt.Errorf("copy to %v from %v: outside the picture", c.Dst, c.Src)
		}
		if area += at(2) * at(3); area > d.picture.w*d.picture.h {
			return nil, errors.New("copies of more than the whole picture")
		}
		copies[i] = c
	}
	return copies, nil
}

func (d *Decoder) readCursor() (*Cursor, error) {
	var b [8]byte
	if err := d.read(b[:]); err != nil {
		return nil, fmt.Errorf("read cursor: %w", err)
	}
	at := func(i int) int { return int(binary.BigEndian.Uint16(b[i*2:])) }
	c := &Cursor{Width: at(0), Height: at(1), Hot: image.Pt(at(2), at(3))}
	if c.Width > MaxCursor || c.Height > MaxCursor {
		return nil, fmt.Errorf("cursor of %d x %d pixels: more than %d", c.Width, c.Height, MaxCursor)
	}
	c.Pix = make([]byte, c.Width*c.Height*4)
	if err := d.read(c.Pix); err != nil {
		return nil, fmt.Errorf("read cursor pixels: %w", err)
	}
	return c, c.check()
}

func (d *Decoder) readPatches() ([]image.Rectangle, error) {
	n, err := d.readUint16()
	if err != nil {
		return nil, err
	}
	across, down := d.picture.tiles()
	if n > across*down {
		return nil, fmt.Errorf("%d patches for %d tiles", n, across*down)
	}
	patches := make([]image.Rectangle, n)
	last := -1
	for i := range patches {
		var b [patchBytes]byte
		if err := d.read(b[:]); err != nil {
			return nil, fmt.Errorf("read patch: %w", err)
		}
		at := int(binary.BigEndian.Uint16(b[:]))
		if at <= last || at >= across*down {
			return nil, fmt.Errorf("patch of tile %d after %d of %d", at, last, across*down)
		}
		last = at
		t := d.picture.tile(at)
		x, y := t.Min.X+int(b[2]), t.Min.Y+int(b[3])
		patches[i] = image.Rect(x, y, x+int(b[4])+1, y+int(b[5])+1)
		if !patches[i].In(t) {
			return nil, fmt.Errorf("patch %v outside its tile %v", patches[i], t)
		}
	}
	return patches, nil
}

// damage is what a viewer draws again: everything after a key frame.
func damage(h Header, copies []Copy, patches []image.Rectangle) []image.Rectangle {
	if h.Key() {
		return []image.Rectangle{image.Rect(0, 0, h.Width, h.Height)}
	}
	for _, c := range copies {
		patches = append(patches, c.Dst)
	}
	return patches
}

// SPDX-License-Identifier: Apache-2.0

package tile

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"image"
	"slices"

	"github.com/klauspost/compress/zstd"
)

// Source is one moment of a screen. Pix is BGRX, Width*Height*4 bytes, read only while Encode runs.
//
// Damage must cover all that changed since the last Source, the targets of copies included. Copies are hints: a wrong
// one costs bytes, never a wrong pixel. Cursor nil means as before.
type Source struct {
	Stream        uint16
	Millis        uint32
	Pix           []byte
	Width, Height int
	Damage        []image.Rectangle
	Copies        []Copy
	Cursor        *Cursor
	Lights        Lights
	Key           bool // start a new epoch with a whole picture
}

// Encoder makes the frames of one session. It is used by one goroutine at a time, and holds what the decoder will hold.
type Encoder struct {
	z       *zstd.Encoder
	out     bytes.Buffer // z writes here
	head    []byte       // what a frame says before its pixels
	scratch []byte
	dirty   []bool
	patches []image.Rectangle
	finder  finder
	picture picture // what the decoder shows after the last frame
	cursor  *Cursor // the last one seen, so that a key frame carries it
	lights  Lights
	stream  uint16
	n       uint32
	epoch   uint32
}

// NewEncoder returns an encoder without a picture: its first frame is a key frame.
func NewEncoder() (*Encoder, error) {
	e := &Encoder{finder: finder{fewest: searchTiles}}
	z, err := zstd.NewWriter(&e.out, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(windowBytes),
		zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, fmt.Errorf("start tile encoder: %w", err)
	}
	e.z = z
	return e, nil
}

// Encode returns the frame that brings the decoder from the last Source to this one, or nil when it shows it already.
// The frame belongs to the caller. A key frame is made when s.Key asks for it, at first, and on a new size or stream.
func (e *Encoder) Encode(s Source) ([]byte, error) {
	if err := s.check(); err != nil {
		return nil, fmt.Errorf("encode tile frame: %w", err)
	}
	if s.Cursor != nil {
		e.cursor = s.Cursor.clone()
	}
	key := s.Key || e.epoch == 0 || s.Width != e.picture.w || s.Height != e.picture.h || s.Stream != e.stream
	cursor := s.Cursor
	if key {
		e.begin(s)
		cursor = e.cursor
	}
	now := picture{s.Pix, s.Width, s.Height}
	copies := e.copies(now, s, key)
	e.scratch = e.picture.copyAll(copies, e.scratch)
	e.findPatches(now)
	if !key && len(copies) == 0 && len(e.patches) == 0 && cursor == nil && s.Lights == e.lights {
		return nil, nil
	}
	e.n++
	e.lights = s.Lights
	h := Header{Codec: CodecZstd, Flags: uint8(s.Lights) << lightsAt & flagLights, Stream: s.Stream, N: e.n, Epoch: e.epoch, Width: s.Width, Height: s.Height, Millis: s.Millis}
	if key {
		h.Flags |= FlagKey
	}
	if cursor != nil {
		h.Flags |= FlagCursor
	}
	e.describe(now, copies, cursor)
	h.CRC = now.checksum(extend(extend(0, h.appendTo(nil)[:crcAt]), e.head), copies, e.patches)
	return e.compress(h, now)
}

// begin starts an epoch: black picture, new zstd stream.
func (e *Encoder) begin(s Source) {
	if s.Width != e.picture.w || s.Height != e.picture.h {
		e.picture = picture{make([]byte, s.Width*s.Height*4), s.Width, s.Height}
	} else {
		clear(e.picture.pix)
	}
	e.stream = s.Stream
	e.epoch++
	e.out.Reset()
	e.z.Reset(&e.out)
}

// copies marks which tiles must be compared, and returns the hints that are right and the moves that nobody told of. Nothing can
// come from the black picture of a new epoch.
func (e *Encoder) copies(now picture, s Source, key bool) []Copy {
	if key {
		e.mark(now.bounds())
		return nil
	}
	e.mark(s.Damage...)
	copies, area := e.useful(now, s.Copies)
	found := e.finder.find(e.picture, now, e.dirty, copies, MaxCopies-len(copies))
	found = slices.DeleteFunc(found, func(c Copy) bool { // they overlap a little
		area += c.Dst.Dx() * c.Dst.Dy()
		return area > now.w*now.h
	})
	copies = append(copies, found...)
	for _, c := range copies {
		e.mark(c.Dst)
	}
	for _, c := range found {
		e.unmark(c.Dst)
	}
	return copies
}

// useful keeps the copies that lie inside the picture and are right for at least half of their rows.
func (e *Encoder) useful(now picture, copies []Copy) (kept []Copy, area int) {
	seen := 0
	for _, c := range copies {
		if len(kept) == MaxCopies {
			break
		}
		src := c.source()
		if c.Dst.Empty() || !c.Dst.In(now.bounds()) || !src.In(now.bounds()) || c.Src == c.Dst.Min {
			continue
		}
		size := c.Dst.Dx() * c.Dst.Dy()
		if seen += size; seen > now.w*now.h {
			break
		}
		same := 0
		for y := range c.Dst.Dy() {
			if bytes.Equal(now.row(c.Dst, c.Dst.Min.Y+y), e.picture.row(src, src.Min.Y+y)) {
				same++
			}
		}
		if same*2 >= c.Dst.Dy() {
			kept = append(kept, c)
			area += size
		}
	}
	return kept, area
}

// mark sets which tiles must be compared.
func (e *Encoder) mark(rects ...image.Rectangle) {
	across, down := e.picture.tiles()
	if len(e.dirty) != across*down {
		e.dirty = make([]bool, across*down)
	}
	for _, r := range rects {
		r = r.Intersect(e.picture.bounds())
		if r.Empty() {
			continue
		}
		for y := r.Min.Y / Size; y <= (r.Max.Y-1)/Size; y++ {
			for x := r.Min.X / Size; x <= (r.Max.X-1)/Size; x++ {
				e.dirty[y*across+x] = true
			}
		}
	}
}

// unmark says that the tiles inside r need no comparison: they were compared byte by byte.
func (e *Encoder) unmark(r image.Rectangle) {
	across, _ := e.picture.tiles()
	for y := r.Min.Y / Size; y <= (r.Max.Y-1)/Size; y++ {
		for x := r.Min.X / Size; x <= (r.Max.X-1)/Size; x++ {
			if i := y*across + x; e.picture.tile(i).In(r) {
				e.dirty[i] = false
			}
		}
	}
}

// findPatches compares the marked tiles with what the decoder will have, keeps the smallest rectangle of each that
// differs, and takes its pixels over.
func (e *Encoder) findPatches(now picture) {
	e.patches = e.patches[:0]
	for i, dirty := range e.dirty {
		if !dirty {
			continue
		}
		e.dirty[i] = false
		r := difference(e.picture, now, now.tile(i))
		if r.Empty() {
			continue
		}
		e.patches = append(e.patches, r)
		for y := r.Min.Y; y < r.Max.Y; y++ {
			copy(e.picture.row(r, y), now.row(r, y))
		}
	}
}

// difference is the smallest rectangle inside r outside which a and b agree.
func difference(a, b picture, r image.Rectangle) image.Rectangle {
	for !r.Empty() && bytes.Equal(a.row(r, r.Min.Y), b.row(r, r.Min.Y)) {
		r.Min.Y++
	}
	for !r.Empty() && bytes.Equal(a.row(r, r.Max.Y-1), b.row(r, r.Max.Y-1)) {
		r.Max.Y--
	}
	if r.Empty() {
		return image.Rectangle{}
	}
	left, right := r.Max.X, r.Min.X
	for y := r.Min.Y; y < r.Max.Y; y++ {
		p, q := a.row(r, y), b.row(r, y)
		for x := r.Min.X; x < left; x++ {
			if at := (x - r.Min.X) * 4; [4]byte(p[at:]) != [4]byte(q[at:]) {
				left = x
			}
		}
		for x := r.Max.X; x > right; x-- {
			if at := (x - 1 - r.Min.X) * 4; [4]byte(p[at:]) != [4]byte(q[at:]) {
				right = x
			}
		}
	}
	r.Min.X, r.Max.X = left, right
	return r
}

// describe writes what the frame's content says before its pixels, uncompressed, to head.
func (e *Encoder) describe(now picture, copies []Copy, cursor *Cursor) {
	be := binary.BigEndian
	b := be.AppendUint16(e.head[:0], uint16(len(copies)))
	for _, c := range copies {
		for _, v := range []int{c.Dst.Min.X, c.Dst.Min.Y, c.Dst.Dx(), c.Dst.Dy(), c.Src.X, c.Src.Y} {
			b = be.AppendUint16(b, uint16(v))
		}
	}
	if cursor != nil {
		for _, v := range []int{cursor.Width, cursor.Height, cursor.Hot.X, cursor.Hot.Y} {
			b = be.AppendUint16(b, uint16(v))
		}
		b = append(b, cursor.Pix...)
	}
	b = be.AppendUint16(b, uint16(len(e.patches)))
	across, _ := now.tiles()
	for _, r := range e.patches {
		b = be.AppendUint16(b, uint16(r.Min.Y/Size*across+r.Min.X/Size))
		b = append(b, byte(r.Min.X%Size), byte(r.Min.Y%Size), byte(r.Dx()-1), byte(r.Dy()-1))
	}
	e.head = b
}

// compress makes the frame. Pixels go row by row into the compressor, so that a key frame's are held nowhere a second time.
func (e *Encoder) compress(h Header, now picture) ([]byte, error) {
	e.out.Reset()
	e.out.Write(h.appendTo(nil))
	if _, err := e.z.Write(e.head); err != nil {
		return nil, fmt.Errorf("compress tile frame: %w", err)
	}
	for _, r := range e.patches {
		for y := r.Min.Y; y < r.Max.Y; y++ {
			if _, err := e.z.Write(now.row(r, y)); err != nil {
				return nil, fmt.Errorf("compress tile frame: %w", err)
			}
		}
	}
	if err := e.z.Flush(); err != nil {
		return nil, fmt.Errorf("flush tile frame: %w", err)
	}
	frame := bytes.Clone(e.out.Bytes())
	if e.out.Cap() > windowBytes { // a rare large frame must not keep its size for the session's life
		e.out = bytes.Buffer{}
	}
	return frame, nil
}

func (s Source) check() error {
	if s.Width < 1 || s.Height < 1 || s.Width > MaxSide || s.Height > MaxSide {
		return fmt.Errorf("picture of %d x %d pixels: want 1 to %d", s.Width, s.Height, MaxSide)
	}
	if len(s.Pix) != s.Width*s.Height*4 {
		return fmt.Errorf("picture of %d x %d pixels in %d bytes", s.Width, s.Height, len(s.Pix))
	}
	if c := s.Cursor; c != nil {
		return c.check()
	}
	return nil
}

func (c *Cursor) check() error {
	if c.Width < 0 || c.Height < 0 || c.Width > MaxCursor || c.Height > MaxCursor || len(c.Pix) != c.Width*c.Height*4 {
		return fmt.Errorf("cursor of %d x %d pixels in %d bytes", c.Width, c.Height, len(c.Pix))
	}
	if !c.Hot.In(image.Rect(0, 0, max(c.Width, 1), max(c.Height, 1))) {
		return fmt.Errorf("cursor of %d x %d pixels with its hot spot at %v", c.Width, c.Height, c.Hot)
	}
	return nil
}

func (c *Cursor) clone() *Cursor {
	d := *c
	d.Pix = bytes.Clone(c.Pix)
	return &d
}

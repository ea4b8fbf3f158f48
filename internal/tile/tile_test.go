// SPDX-License-Identifier: Apache-2.0

package tile

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"flag"
	"image"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
)

// desk is a screen that a test draws on.
type desk struct {
	picture
	r      *rand.Rand
	damage []image.Rectangle
	copies []Copy
}

func newDesk(w, h int, seed uint64) *desk {
	return &desk{picture: picture{make([]byte, w*h*4), w, h}, r: rand.New(rand.NewPCG(seed, 1))}
}

func (d *desk) fill(r image.Rectangle, noise bool) {
	colour := [4]byte{byte(d.r.Uint32()), byte(d.r.Uint32()), byte(d.r.Uint32()), 0}
	for y := r.Min.Y; y < r.Max.Y; y++ {
		row := d.row(r, y)
		for i := 0; i < len(row); i += 4 {
			if noise && d.r.IntN(3) == 0 {
				colour = [4]byte{byte(d.r.Uint32()), byte(d.r.Uint32()), byte(d.r.Uint32()), 0}
			}
			copy(row[i:], colour[:])
		}
	}
	d.damage = append(d.damage, r)
}

func (d *desk) scroll(r image.Rectangle, by int) {
	c := Copy{image.Rect(r.Min.X, r.Min.Y, r.Max.X, r.Max.Y-by), image.Pt(r.Min.X, r.Min.Y+by)}
	d.copyAll([]Copy{c}, nil)
	d.copies = append(d.copies, c)
	d.damage = append(d.damage, c.Dst)
	d.fill(image.Rect(r.Min.X, r.Max.Y-by, r.Max.X, r.Max.Y), true)
}

func (d *desk) source() Source {
	s := Source{Stream: 7, Pix: d.pix, Width: d.w, Height: d.h, Damage: d.damage, Copies: d.copies}
	d.damage, d.copies = nil, nil
	return s
}

func (d *desk) anyRect() image.Rectangle {
	x, y := d.r.IntN(d.w), d.r.IntN(d.h)
	return image.Rect(x, y, x+1+d.r.IntN(d.w-x), y+1+d.r.IntN(d.h-y))
}

func pair(t testing.TB) (*Encoder, *Decoder) {
	e, err := NewEncoder()
	require.NoError(t, err)
	d, err := NewDecoder(512, 512)
	require.NoError(t, err)
	t.Cleanup(d.Close)
	return e, d
}

// TestDecoderShowsEveryFrameExactly draws, scrolls, lies about copies, changes size and asks for key frames.
func TestDecoderShowsEveryFrameExactly(t *testing.T) {
	e, d := pair(t)
	k := newDesk(200, 150, 1)
	k.fill(k.bounds(), true)
	for i := range 400 {
		s := k.source()
		s.Key = i%97 == 50
		if i%20 == 3 {
			s.Cursor = &Cursor{Width: 2, Height: 1, Hot: image.Pt(1, 0), Pix: []byte{1, 2, 3, 255, 4, 5, 6, byte(i)}}
		}
		if i%7 == 2 {
			s.Copies = append(s.Copies, Copy{image.Rect(-5, 0, 20, 20), image.Pt(0, 0)}, Copy{k.bounds(), image.Pt(1, 0)},
				Copy{image.Rect(10, 10, 60, 60), image.Pt(3, 40)})
		}
		frame, err := e.Encode(s)
		require.NoError(t, err)
		if frame != nil {
			u, err := d.Decode(frame)
			require.NoError(t, err, "frame %d", i)
			require.Equal(t, s.Cursor != nil || u.Key && i > 3, u.Cursor != nil, "frame %d", i)
		}
		pix, w, h := d.Pixels()
		require.Equal(t, image.Pt(k.w, k.h), image.Pt(w, h))
		require.Equal(t, k.pix, pix, "frame %d", i)
		switch {
		case i%150 == 149:
			k = newDesk(100+i%90, 70+i%60, uint64(i))
		case i%3 == 0 && k.h > 40:
			k.scroll(image.Rect(5, 3, k.w-2, k.h-1), 1+k.r.IntN(20))
		case i%3 == 1:
			k.fill(k.anyRect(), i%2 == 0)
		}
	}
}

func TestUnchangedPictureMakesNoFrame(t *testing.T) {
	e, d := pair(t)
	k := newDesk(130, 70, 2)
	k.fill(k.bounds(), true)
	frame, err := e.Encode(k.source())
	require.NoError(t, err)
	_, err = d.Decode(frame)
	require.NoError(t, err)
	s := k.source()
	s.Damage = []image.Rectangle{k.bounds(), image.Rect(-100, -100, 1000, 1000)}
	frame, err = e.Encode(s)
	require.NoError(t, err)
	require.Nil(t, frame)
}

func TestLightsOfTheKeyboardTravelWithEveryFrame(t *testing.T) {
	e, d := pair(t)
	k := newDesk(100, 80, 1)
	see := func(s Source) Update {
		frame, err := e.Encode(s)
		require.NoError(t, err)
		require.NotNil(t, frame)
		u, err := d.Decode(frame)
		require.NoError(t, err)
		return u
	}
	require.Zero(t, see(k.source()).Lights)
	s := k.source()
	s.Lights = CapsLock | NumLock
	u := see(s)
	require.Equal(t, CapsLock|NumLock, u.Lights)
	require.Empty(t, u.Damage)
	same, err := e.Encode(s)
	require.NoError(t, err)
	require.Nil(t, same)
	s.Key = true
	require.Equal(t, CapsLock|NumLock, see(s).Lights)
	require.Zero(t, see(k.source()).Lights)
}

func TestScrollCostsItsNewLinesOnly(t *testing.T) {
	e, _ := pair(t)
	k := newDesk(400, 300, 3)
	k.fill(k.bounds(), true)
	first, err := e.Encode(k.source())
	require.NoError(t, err)
	k.scroll(k.bounds(), 10)
	second, err := e.Encode(k.source())
	require.NoError(t, err)
	require.Less(t, len(second), len(first)/15)
}

func TestLostFrameNeedsKey(t *testing.T) {
	e, d := pair(t)
	k := newDesk(100, 100, 4)
	next := func(key bool) []byte {
		k.fill(k.anyRect(), true)
		s := k.source()
		s.Key = key
		frame, err := e.Encode(s)
		require.NoError(t, err)
		return frame
	}
	first, _, third := next(false), next(false), next(false)
	_, err := d.Decode(third)
	require.ErrorIs(t, err, ErrNeedKey, "nothing decoded yet")
	_, err = d.Decode(first)
	require.NoError(t, err)
	_, err = d.Decode(third)
	require.ErrorIs(t, err, ErrNeedKey)
	_, err = d.Decode(next(false))
	require.ErrorIs(t, err, ErrNeedKey, "still")
	u, err := d.Decode(next(true))
	require.NoError(t, err)
	require.True(t, u.Key)
	pix, _, _ := d.Pixels()
	require.Equal(t, k.pix, pix)
}

func TestNewStreamStartsWithKeyFrame(t *testing.T) {
	e, d := pair(t)
	k := newDesk(100, 100, 5)
	k.fill(k.bounds(), false)
	frame, err := e.Encode(k.source())
	require.NoError(t, err)
	_, err = d.Decode(frame)
	require.NoError(t, err)
	s := k.source()
	s.Stream = 8
	frame, err = e.Encode(s)
	require.NoError(t, err)
	h, err := ParseHeader(frame)
	require.NoError(t, err)
	require.True(t, h.Key())
	require.Equal(t, uint16(8), h.Stream)
}

// TestEveryDamagedByteIsRefusedOrHarmless flips each byte of a frame: the decoder must refuse it or show the same.
func TestEveryDamagedByteIsRefusedOrHarmless(t *testing.T) {
	e, _ := pair(t)
	k := newDesk(70, 50, 6)
	k.fill(k.bounds(), true)
	first, err := e.Encode(k.source())
	require.NoError(t, err)
	k.scroll(k.bounds(), 9)
	s := k.source()
	s.Cursor = &Cursor{Width: 1, Height: 1, Pix: []byte{9, 9, 9, 255}}
	second, err := e.Encode(s)
	require.NoError(t, err)
	after := func(bad []byte, check func(d *Decoder, u Update, err error)) {
		d, err := NewDecoder(70, 50)
		require.NoError(t, err)
		defer d.Close()
		_, err = d.Decode(first)
		require.NoError(t, err)
		u, err := d.Decode(bad)
		check(d, u, err)
	}
	for i := range second {
		bad := append([]byte(nil), second...)
		bad[i] ^= 0x41
		after(bad, func(d *Decoder, u Update, err error) {
			if err != nil {
				require.ErrorIs(t, err, ErrNeedKey)
				return
			}
			pix, _, _ := d.Pixels()
			require.Equal(t, k.pix, pix, "byte %d", i)
			require.Equal(t, s.Cursor, u.Cursor)
		})
		after(second[:i], func(_ *Decoder, _ Update, err error) { require.ErrorIs(t, err, ErrNeedKey, "cut at %d", i) })
	}
	after(first, func(_ *Decoder, _ Update, err error) {
		require.ErrorIs(t, err, ErrNeedKey, "the picture from before, again")
	})
}

func TestPictureLargerThanAllowedIsRefused(t *testing.T) {
	e, err := NewEncoder()
	require.NoError(t, err)
	k := newDesk(513, 10, 7)
	frame, err := e.Encode(k.source())
	require.NoError(t, err)
	_, d := pair(t)
	_, err = d.Decode(frame)
	require.ErrorIs(t, err, ErrNeedKey)
	_, err = NewDecoder(MaxSide+1, 1)
	require.Error(t, err)
	_, err = e.Encode(Source{Pix: make([]byte, 3), Width: 1, Height: 1})
	require.Error(t, err)
}

// golden frames fix the format: a change that old boxes cannot read must change Version.
func TestGoldenFramesStillDecode(t *testing.T) {
	path := filepath.Join("testdata", "golden.txt")
	k := newDesk(90, 80, 8)
	k.fill(k.bounds(), false)
	e, d := pair(t)
	var lines []string
	for range 4 {
		frame, err := e.Encode(k.source())
		require.NoError(t, err)
		lines = append(lines, hex.EncodeToString(frame))
		k.fill(image.Rect(10, 10, 30, 22), false)
		k.scroll(image.Rect(0, 8, 64, 60), 8)
	}
	if *update {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o644))
	}
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	again := newDesk(90, 80, 8)
	again.fill(again.bounds(), false)
	for _, line := range strings.Fields(string(text)) {
		frame, err := hex.DecodeString(line)
		require.NoError(t, err)
		_, err = d.Decode(frame)
		require.NoError(t, err)
		pix, _, _ := d.Pixels()
		require.Equal(t, again.pix, pix)
		again.fill(image.Rect(10, 10, 30, 22), false)
		again.scroll(image.Rect(0, 8, 64, 60), 8)
	}
}

var update = flag.Bool("update", false, "write the golden files anew")

// pack makes a key frame of 100 x 80 pixels with this content, whatever it says. Its checksum is right where there are no copies.
func pack(t testing.TB, flags uint8, content []byte) []byte {
	z, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(windowBytes))
	require.NoError(t, err)
	h := Header{Codec: CodecZstd, Flags: FlagKey | flags, N: 1, Epoch: 1, Width: 100, Height: 80}
	h.CRC = extend(extend(0, h.appendTo(nil)[:crcAt]), content)
	return z.EncodeAll(content, h.appendTo(nil))
}

// resized gives a frame a picture one pixel wider.
func resized(frame []byte) []byte {
	frame[14]++
	return frame
}

func numbers(vs ...int) (b []byte) {
	for _, v := range vs {
		b = binary.BigEndian.AppendUint16(b, uint16(v))
	}
	return b
}

// TestHostileFrameIsRefused lists frames that decompress well and lie. The picture has 4 tiles of at most 64 x 64.
func TestHostileFrameIsRefused(t *testing.T) {
	_, d := pair(t)
	patch := func(tile int, rect ...byte) []byte { return append(numbers(tile), rect...) }
	for name, frame := range map[string][]byte{
		"nothing":                pack(t, 0, nil),
		"too many copies":        pack(t, 0, numbers(MaxCopies+1)),
		"copy without size":      pack(t, 0, numbers(1, 0, 0, 0, 5, 1, 1)),
		"copy to outside":        pack(t, 0, numbers(1, 90, 0, 11, 5, 0, 0)),
		"copy from outside":      pack(t, 0, numbers(1, 0, 0, 11, 5, 0, 76)),
		"copies without end":     pack(t, 0, numbers(2, 0, 0, 99, 80, 1, 0, 0, 0, 99, 80, 1, 0)),
		"cursor too large":       pack(t, FlagCursor, numbers(0, MaxCursor+1, 1, 0, 0)),
		"hot spot outside":       pack(t, FlagCursor, append(numbers(0, 1, 1, 1, 0), 0, 0, 0, 0)),
		"cursor cut short":       pack(t, FlagCursor, append(numbers(0, 1, 1, 0, 0), 0)),
		"too many patches":       pack(t, 0, numbers(0, 5)),
		"patch of no tile":       pack(t, 0, append(numbers(0, 1), patch(4, 0, 0, 0, 0)...)),
		"patch over its tile":    pack(t, 0, append(numbers(0, 1), patch(0, 1, 0, 63, 0)...)),
		"patch over the picture": pack(t, 0, append(numbers(0, 1), patch(1, 0, 0, 36, 0)...)),
		"patches out of order":   pack(t, 0, append(append(numbers(0, 2), patch(1, 0, 0, 0, 0)...), patch(1, 1, 1, 0, 0)...)),
		"pixels cut short":       pack(t, 0, append(append(numbers(0, 1), patch(0, 0, 0, 9, 9)...), 1, 2, 3)),
		"too many pixels":        pack(t, 0, append(numbers(0, 0), make([]byte, 1<<20)...)),
		"wrong checksum":         pack(t, 0, numbers(1, 0, 0, 50, 20, 5, 5, 0)),
		"another size":           resized(pack(t, 0, numbers(0, 0))),
	} {
		_, err := d.Decode(frame)
		require.ErrorIs(t, err, ErrNeedKey, name)
	}
	_, err := d.Decode(pack(t, 0, numbers(0, 0)))
	require.NoError(t, err, "a black picture is a good one")
}

// FuzzContent is a sender whose compression is right and whose content is anything.
func FuzzContent(f *testing.F) {
	f.Add(uint8(0), numbers(0, 0))
	f.Add(uint8(0), numbers(1, 0, 0, 50, 20, 5, 5, 0))
	for _, content := range [][]byte{
		nil, numbers(MaxCopies + 1), numbers(1, 0, 0, 0, 5, 1, 1), numbers(1, 0, 0), numbers(2, 0, 0, 100, 80, 0, 0, 0, 0, 100, 80, 0, 0), numbers(0), numbers(0, 99), numbers(0, 1, 9),
		numbers(0, 2, 0, 0, 0, 0, 0, 0), append(numbers(0, 1, 0), 0, 0, 0, 0), append(numbers(0, 1, 0), 70, 0, 3, 3), append(numbers(0, 0), 1), append(numbers(0, 1, 3), 60, 0, 3, 3),
	} {
		f.Add(uint8(0), content)
	}
	for _, content := range [][]byte{numbers(0, 9999, 1, 0, 0), numbers(0, 2, 2, 0, 0), numbers(0, 1), append(numbers(0, 1, 1, 5, 5), 1, 2, 3, 4, 0, 0)} {
		f.Add(uint8(FlagCursor), content)
	}
	f.Add(uint8(FlagCursor), append(numbers(0, 1, 1, 0, 0), 1, 2, 3, 4, 0, 1, 0, 0, 1, 1, 0, 0, 9, 9, 9, 0))
	f.Fuzz(func(t *testing.T, flags uint8, content []byte) {
		d, err := NewDecoder(128, 128)
		require.NoError(t, err)
		defer d.Close()
		if _, err := d.Decode(pack(t, flags&FlagCursor, content)); err != nil {
			require.ErrorIs(t, err, ErrNeedKey)
		}
	})
}

func FuzzDecode(f *testing.F) {
	e, _ := pair(f)
	k := newDesk(100, 80, 9)
	k.fill(k.bounds(), false)
	first, err := e.Encode(k.source())
	require.NoError(f, err)
	k.scroll(k.bounds(), 5)
	s := k.source()
	s.Cursor = &Cursor{Width: 1, Height: 1, Pix: []byte{9, 9, 9, 255}}
	second, err := e.Encode(s)
	require.NoError(f, err)
	f.Add(first, second)
	f.Add(second, first)
	f.Add(first[:40], second[:40])
	f.Add(first, append(bytes.Clone(second[:len(second)-2]), 0, 0))
	f.Add(first, first)
	f.Add([]byte{}, []byte{9, 9})
	f.Add([]byte{Version + 1}, resized(bytes.Clone(second)))
	wide := bytes.Clone(first)
	wide[13] = 1 // 356 pixels
	f.Add(wide, first)
	odd := bytes.Clone(first)
	odd[1] = 99 // a codec that is none
	f.Add(odd, append(bytes.Clone(odd[:2]), 0xff))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		d, err := NewDecoder(128, 128)
		require.NoError(t, err)
		defer d.Close()
		for _, frame := range [][]byte{a, b} {
			if _, err := d.Decode(frame); err != nil {
				require.ErrorIs(t, err, ErrNeedKey)
			}
		}
	})
}

// BenchmarkKeyEcho is one glyph on a full screen.
func BenchmarkKeyEcho(b *testing.B) {
	e, err := NewEncoder()
	require.NoError(b, err)
	k := newDesk(1920, 1000, 10)
	k.fill(k.bounds(), false)
	_, err = e.Encode(k.source())
	require.NoError(b, err)
	bytes := 0
	for i := 0; b.Loop(); i++ {
		x, y := i%200*8, i/200%60*16
		k.fill(image.Rect(x, y, x+8, y+16), i%4 == 0)
		frame, err := e.Encode(k.source())
		require.NoError(b, err)
		bytes += len(frame)
	}
	b.ReportMetric(float64(bytes)/float64(b.N), "B/frame")
}

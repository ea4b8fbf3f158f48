// SPDX-License-Identifier: Apache-2.0

package viewer

import (
	"bytes"
	"image"
	"math/rand/v2"
	"testing"
	"testing/synctest"

	"sdbox/agent/keys"
	"sdbox/agent/screen"
	"sdbox/internal/stream"
	"sdbox/internal/tile"

	"github.com/stretchr/testify/require"
)

const blue, orange, barColour = 0x2563eb, 0xc2410c, 0x010203

// recorder is a screen that remembers which rectangles were flushed last.
type recorder struct {
	*screen.Memory
	last []image.Rectangle
}

func (r *recorder) Flush(rects ...image.Rectangle) error {
	r.last = append([]image.Rectangle(nil), rects...)
	return r.Memory.Flush(rects...)
}

// room is a viewer, its screen, and the gateway's end of the stream.
type room struct {
	*Viewer
	screen  *recorder
	encoder *tile.Encoder
	source  tile.Source
	bars    int
}

func newRoom(t testing.TB) *room { return newRoomOf(t, 960, 540) }

func newRoomOf(t testing.TB, w, h int) *room {
	m, err := screen.NewMemory(w, h)
	require.NoError(t, err)
	e, err := tile.NewEncoder()
	require.NoError(t, err)
	r := &room{screen: &recorder{Memory: m}, encoder: e}
	r.Viewer = New(r.screen, func(dst *screen.Image, at image.Rectangle) []image.Rectangle {
		dst.Fill(at, barColour)
		r.bars++
		return []image.Rectangle{at}
	})
	return r
}

// desktop makes a noisy picture of the area's size.
func (r *room) desktop(seed uint64) {
	w, h := r.area.Dx(), r.area.Dy()
	r.source = tile.Source{Stream: r.source.Stream, Width: w, Height: h, Pix: make([]byte, w*h*4)}
	rnd := rand.New(rand.NewPCG(seed, 1))
	for i := range r.source.Pix {
		r.source.Pix[i] = byte(rnd.Uint32())
	}
}

// frame encodes the desktop after a change of some rectangles.
func (r *room) frame(t testing.TB, damage ...image.Rectangle) []byte {
	for _, d := range damage {
		for y := d.Min.Y; y < d.Max.Y; y++ {
			row := r.source.Pix[(y*r.source.Width+d.Min.X)*4 : (y*r.source.Width+d.Max.X)*4]
			for i := range row {
				row[i] ^= 0x5a
			}
		}
	}
	r.source.Damage = damage
	f, err := r.encoder.Encode(r.source)
	require.NoError(t, err)
	r.source.Key, r.source.Cursor = false, nil
	return f
}

func (r *room) see(t testing.TB, frame []byte) Result {
	got, err := r.Frame(frame)
	require.NoError(t, err)
	return got
}

// open starts a stream and shows its first picture.
func (r *room) open(t testing.TB, number uint16, colour uint32) {
	require.NoError(t, r.Open(number, colour))
	r.source.Stream = number
	r.desktop(uint64(number))
	require.True(t, r.see(t, r.frame(t)).Shown)
}

// equal says whether the screen shows the desktop bit for bit, the pointer's place aside.
func (r *room) equal(t testing.TB) {
	pointer := r.cursor.Bounds(r.pointer)
	front := r.screen.Front()
	for y := range r.source.Height {
		for x := range r.source.Width {
			at := image.Pt(x, y).Add(r.area.Min)
			if at.In(pointer) {
				continue
			}
			p := r.source.Pix[(y*r.source.Width+x)*4:]
			if c := front.RGBAAt(at.X, at.Y); c.B != p[0] || c.G != p[1] || c.R != p[2] {
				require.FailNow(t, "pixel differs", "%v: %v instead of %v", at, c, p[:3])
			}
		}
	}
}

func black(t testing.TB, img *screen.Image) {
	require.Equal(t, make([]byte, len(img.Pix)), img.Pix, "black")
}

func TestPictureStandsInItsFrameBitForBit(t *testing.T) {
	r := newRoom(t)
	r.open(t, 1, blue)
	r.equal(t)
	front := r.screen.Front()
	require.Equal(t, Area(960, 540), r.area)
	require.Equal(t, image.Rect(3, 28, 957, 537), r.area)
	for _, at := range []image.Point{{0, 300}, {2, 539}, {959, 28}, {500, 538}} {
		c := front.RGBAAt(at.X, at.Y)
		require.Equal(t, uint32(blue), uint32(c.R)<<16|uint32(c.G)<<8|uint32(c.B), "frame at %v", at)
	}
	require.Equal(t, byte(3), front.RGBAAt(480, 10).B, "bar")
	require.Equal(t, 1, r.bars)
	require.NoError(t, r.Bar())
	require.Equal(t, []image.Rectangle{BarArea(960, 540)}, r.screen.last)
}

func TestOnlyDamageIsFlushed(t *testing.T) {
	r := newRoom(t)
	r.open(t, 1, blue)
	d := image.Rect(100, 90, 110, 97)
	require.Equal(t, Result{Decoded: true, N: 2}, r.see(t, r.frame(t, d)))
	require.Equal(t, []image.Rectangle{d.Add(r.area.Min)}, r.screen.last)
	r.equal(t)
}

func TestSwitchWipesTheOldPictureFirst(t *testing.T) {
	r := newRoom(t)
	r.open(t, 1, blue)
	memory, _, _ := r.decoder.Pixels()
	late := r.frame(t, image.Rect(0, 0, 200, 200))
	require.NoError(t, r.Open(2, orange))
	black(t, r.screen.Front())
	require.Equal(t, make([]byte, len(memory)), memory, "the old picture is gone from memory")

	require.Equal(t, Result{}, r.see(t, late), "a frame of the old stream")
	r.encoder, _ = tile.NewEncoder()
	r.source.Stream = 2
	r.desktop(2)
	lost := r.frame(t)
	next := r.frame(t, image.Rect(5, 5, 50, 50))
	require.NotEmpty(t, lost)
	require.True(t, r.see(t, next).Refresh, "the new stream without its key frame")
	require.NoError(t, r.Pointer(100, 100))
	require.NoError(t, r.Redraw())
	require.NoError(t, r.Bar())
	black(t, r.screen.Front())

	r.source.Key = true
	require.True(t, r.see(t, r.frame(t)).Shown)
	r.equal(t)
}

func TestCloseIsBlackAndStaysBlack(t *testing.T) {
	r := newRoom(t)
	r.open(t, 1, blue)
	next := r.frame(t, image.Rect(0, 0, 90, 90))
	require.NoError(t, r.Close())
	black(t, r.screen.Front())
	require.Equal(t, Result{}, r.see(t, next))
	require.NoError(t, r.Pointer(10, 10))
	require.NoError(t, r.Close())
	black(t, r.screen.Front())
}

func TestPointerMovesOverThePictureAndLeavesNoTrace(t *testing.T) {
	r := newRoom(t)
	r.open(t, 1, blue)
	red := bytes.Repeat([]byte{0, 0, 255, 255}, 8*8)
	r.source.Cursor = &tile.Cursor{Width: 8, Height: 8, Hot: image.Pt(4, 4), Pix: red}
	require.True(t, r.see(t, r.frame(t, image.Rect(0, 0, 1, 1))).Decoded)
	for _, at := range []image.Point{{300, 200}, {303, 202}, {-50, -50}, {5000, 5000}, {480, 270}} {
		require.NoError(t, r.Pointer(at.X, at.Y))
		require.True(t, r.pointer.In(r.area))
		require.Equal(t, byte(255), r.screen.Front().RGBAAt(r.pointer.X, r.pointer.Y).R)
		r.equal(t)
	}
	require.True(t, r.see(t, r.frame(t, image.Rect(400, 200, 600, 300))).Decoded, "a change under the pointer")
	require.Equal(t, byte(255), r.screen.Front().RGBAAt(480, 270).R, "stays under it")
	c := r.screen.Front().RGBAAt(1, 300)
	require.Equal(t, byte(0x25), c.R, "the frame is whole")
	r.source.Cursor = &tile.Cursor{}
	require.True(t, r.see(t, r.frame(t, image.Rect(0, 0, 1, 1))).Decoded)
	r.equal(t)
}

func TestDamagedFrameIsNotShownAndAsksOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t)
		r.open(t, 1, blue)
		shown, pointer := bytes.Clone(r.screen.Front().Pix), r.pointer
		bad := r.frame(t, image.Rect(50, 50, 500, 300))
		bad[len(bad)/2] ^= 0xff
		require.Equal(t, Result{Refresh: true}, r.see(t, bad))
		require.Equal(t, Result{}, r.see(t, bad), "it was asked a moment ago")
		require.NoError(t, r.Pointer(200, 200))
		require.NoError(t, r.Redraw())
		require.NoError(t, r.Mask(image.Rectangle{}))
		require.NoError(t, r.Pointer(pointer.X, pointer.Y))
		require.True(t, bytes.Equal(shown, r.screen.Front().Pix), "the picture stands still under the pointer")
		r.source.Key = true
		require.Equal(t, Result{Decoded: true, N: 3}, r.see(t, r.frame(t)))
		r.equal(t)
	})
}

func TestMaskKeepsSomebodyElsesDrawing(t *testing.T) {
	r := newRoom(t)
	r.open(t, 1, blue)
	box := image.Rect(200, 100, 400, 160)
	require.NoError(t, r.Mask(box))
	r.screen.Image().Fill(box, 0xabcdef)
	require.NoError(t, r.screen.Flush(box))
	r.source.Cursor = &tile.Cursor{Width: 8, Height: 8, Pix: bytes.Repeat([]byte{0, 0, 255, 255}, 8*8)}
	r.see(t, r.frame(t, image.Rect(0, 0, 900, 400)))
	require.NoError(t, r.Pointer(300, 130))
	for y := box.Min.Y; y < box.Max.Y; y++ {
		require.Equal(t, byte(0xab), r.screen.Front().RGBAAt(210, y).R)
	}
	require.NotEqual(t, byte(255), r.screen.Front().RGBAAt(301, 137).R, "a bubble's pointer does not paint over it: the box's arrow does")
	r.source.Cursor = &tile.Cursor{}
	r.see(t, r.frame(t, image.Rect(0, 0, 1, 1)))
	require.Equal(t, byte(0), r.screen.Front().RGBAAt(303, 140).R, "nor hides it there")
	r.source.Cursor = &tile.Cursor{Width: 8, Height: 8, Pix: bytes.Repeat([]byte{0, 0, 255, 255}, 8*8)}
	r.see(t, r.frame(t, image.Rect(0, 0, 1, 1)))
	require.NoError(t, r.Pointer(190, 95))
	require.Equal(t, byte(255), r.screen.Front().RGBAAt(192, 97).R)
	require.NoError(t, r.Mask(image.Rectangle{}))
	r.equal(t)
}

func TestDesktopOfAnotherSizeIsCutOrSurroundedByBlack(t *testing.T) {
	for _, size := range []image.Point{{300, 200}, {960, 540}} {
		r := newRoom(t)
		require.NoError(t, r.Open(1, blue))
		pix := bytes.Repeat([]byte{255}, size.X*size.Y*4)
		r.source = tile.Source{Stream: 1, Width: size.X, Height: size.Y, Pix: pix}
		require.True(t, r.see(t, r.frame(t)).Shown)
		inside := image.Rectangle{Max: size}.Add(r.area.Min).Intersect(r.area)
		require.Equal(t, byte(255), r.screen.Front().RGBAAt(inside.Max.X-1, inside.Max.Y-1).G)
		require.NotEqual(t, byte(255), r.screen.Front().RGBAAt(inside.Max.X, inside.Max.Y-1).G)
	}
	r := newRoom(t)
	require.NoError(t, r.Open(1, blue))
	r.source = tile.Source{Stream: 1, Width: 2000, Height: 10, Pix: make([]byte, 80_000)}
	require.True(t, r.see(t, r.frame(t)).Refresh, "larger than any screen of this box")
}

func TestInputIsInThePicturesOwnPixels(t *testing.T) {
	area := Area(1920, 1080)
	require.Equal(t, image.Rect(4, 40, 1916, 1076), area)
	in, ok := Input(area, keys.Event{Kind: keys.KeyEvent, XT: 0xb8, Down: true})
	require.True(t, ok)
	require.Equal(t, stream.Input{Kind: stream.Key, Code: 0xb8, Down: true}, in)
	for _, c := range []struct{ x, y, wantX, wantY int }{{4, 40, 0, 0}, {0, 0, 0, 0}, {1919, 1079, 1911, 1035}, {100, 100, 96, 60}} {
		in, ok = Input(area, keys.Event{Kind: keys.PointerEvent, X: c.x, Y: c.y, Buttons: keys.Right, Wheel: -3})
		require.True(t, ok)
		require.Equal(t, stream.Input{Kind: stream.Pointer, X: uint16(c.wantX), Y: uint16(c.wantY), Buttons: 4, Wheel: -3}, in)
	}
	for _, kind := range []keys.Kind{keys.ChordEvent, keys.LostEvent} {
		_, ok = Input(area, keys.Event{Kind: kind})
		require.False(t, ok)
	}
}

func TestPartsAroundAHoleCoverTheRest(t *testing.T) {
	r := image.Rect(10, 10, 30, 30)
	for _, hole := range []image.Rectangle{{}, image.Rect(15, 15, 20, 20), image.Rect(0, 0, 12, 50), r, image.Rect(29, 29, 90, 90)} {
		covered := 0
		for _, p := range without(r, hole) {
			require.True(t, p.In(r) && p.Intersect(hole).Empty())
			covered += p.Dx() * p.Dy()
		}
		in := hole.Intersect(r)
		require.Equal(t, 400-in.Dx()*in.Dy(), covered, "%v", hole)
	}
}

func FuzzFrame(f *testing.F) {
	r := newRoomOf(f, 160, 120)
	require.NoError(f, r.Open(1, blue))
	r.source.Stream = 1
	r.desktop(1)
	r.source.Cursor = &tile.Cursor{Width: 1, Height: 1, Pix: []byte{9, 9, 9, 255}}
	first := r.frame(f)
	f.Add(first, r.frame(f, image.Rect(3, 3, 40, 40)))
	small := tile.Source{Stream: 1, Width: 20, Height: 10, Pix: make([]byte, 20*10*4)}
	e, err := tile.NewEncoder()
	require.NoError(f, err)
	smaller, err := e.Encode(small)
	require.NoError(f, err)
	f.Add(first, smaller)
	f.Add(smaller, []byte{})
	r.source.Stream = 2
	f.Add(first, r.frame(f))
	r.source.Stream = 1
	r.source.Key = true
	f.Add(first, r.frame(f))
	f.Add(first, []byte{2, 1, 3, 0, 1})
	f.Fuzz(func(t *testing.T, a, b []byte) {
		r := newRoomOf(t, 160, 120)
		require.NoError(t, r.Open(1, blue))
		for _, frame := range [][]byte{a, b, a} {
			got, err := r.Frame(frame)
			require.NoError(t, err)
			if !got.Decoded && !r.shown {
				black(t, r.screen.Front())
			}
		}
	})
}

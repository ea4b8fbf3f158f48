// SPDX-License-Identifier: Apache-2.0

package desktop_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"image"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sdbox/gateway/desktop"
	"sdbox/internal/bubble/bubbletest"
	"sdbox/internal/rfb"

	"github.com/stretchr/testify/require"
)

// patience is how long a desktop may take to show what it was asked for, on a busy machine.
const patience = 20 * time.Second

// terminal fills the screen with one xterm that prints what it is told to count to.
const terminal = `exec xterm -fullscreen -b 0 -bw 0 -geometry 100x40+0+0 -e /bin/sh -c 'while read n; do seq $n; done'`

// viewer rebuilds the picture from the damage alone, as a box does.
type viewer struct {
	t      *testing.T
	d      desktop.Desktop
	pix    []byte
	size   image.Point
	cursor *desktop.Cursor
	copies int // hints that were right for every row
	lights desktop.Lights
}

func open(t *testing.T, h *bubbletest.House, width, height int) *viewer {
	d, err := desktop.Open(t.Context(), desktop.Target{
		Address: h.Address, TLS: h.TLS(), Token: h.Token(t, "amina"), Width: width, Height: height, Layout: "fr",
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	return &viewer{t: t, d: d}
}

// next applies one update.
func (v *viewer) next(ctx context.Context) error {
	return v.d.Next(ctx, func(u desktop.Update) error {
		if u.Size != v.size {
			v.pix, v.size = make([]byte, len(u.Pix)), u.Size
		}
		for _, c := range u.Copies {
			src := c.Dst.Sub(c.Dst.Min).Add(c.Src)
			right := true
			for y := range c.Dst.Dy() {
				right = right && bytes.Equal(row(u.Pix, u.Size.X, c.Dst, c.Dst.Min.Y+y), row(v.pix, u.Size.X, src, src.Min.Y+y))
			}
			if right {
				v.copies++
			}
		}
		for _, r := range u.Damage {
			for y := r.Min.Y; y < r.Max.Y; y++ {
				copy(row(v.pix, u.Size.X, r, y), row(u.Pix, u.Size.X, r, y))
			}
		}
		if u.Cursor != nil {
			v.cursor = u.Cursor
		}
		v.lights = u.Lights
		return nil
	})
}

func row(pix []byte, width int, r image.Rectangle, y int) []byte {
	return pix[(y*width+r.Min.X)*4 : (y*width+r.Max.X)*4]
}

// until applies updates until ok.
func (v *viewer) until(what string, ok func() bool) {
	ctx, cancel := context.WithTimeout(v.t.Context(), patience)
	defer cancel()
	for !ok() {
		require.NoError(v.t, v.next(ctx), "%s", what)
	}
}

// settle applies updates until none comes for a while.
func (v *viewer) settle() {
	for {
		ctx, cancel := context.WithTimeout(v.t.Context(), 400*time.Millisecond)
		err := v.next(ctx)
		cancel()
		if err != nil {
			require.ErrorIs(v.t, err, context.DeadlineExceeded)
			return
		}
	}
}

func (v *viewer) typeKeys(scancodes ...uint32) {
	for _, k := range scancodes {
		require.NoError(v.t, v.d.Input(desktop.Input{Kind: desktop.Key, XT: k, Down: true}))
		require.NoError(v.t, v.d.Input(desktop.Input{Kind: desktop.Key, XT: k}))
	}
}

// xwd reads the root window by an X client of its own (XWDFile.h, version 7).
func xwd(t *testing.T, h *bubbletest.House) (pix []byte, size image.Point) {
	dump, err := h.X(t, "amina", "xwd", "-root", "-silent").Output()
	require.NoError(t, err)
	field := func(i int) int { return int(binary.BigEndian.Uint32(dump[i*4:])) }
	require.Equal(t, 7, field(1))
	require.Equal(t, 0, field(7), "least significant byte first")
	require.Equal(t, 32, field(11), "bits per pixel")
	size = image.Pt(field(4), field(5))
	data := dump[field(0)+field(19)*12:]
	for y := range size.Y {
		pix = append(pix, data[y*field(12):y*field(12)+size.X*4]...)
	}
	return pix, size
}

// requireEqual compares with an independent reading, the unused fourth byte aside, once nothing moves any more.
func (v *viewer) requireEqual(h *bubbletest.House) {
	v.t.Helper()
	var differ image.Rectangle
	for end := time.Now().Add(patience); time.Now().Before(end); {
		v.settle()
		want, size := xwd(v.t, h)
		require.Equal(v.t, size, v.size)
		if differ = difference(want, v.pix, size); differ.Empty() {
			return
		}
	}
	require.Fail(v.t, "the picture differs from xwd's", "in %v", differ)
}

func difference(a, b []byte, size image.Point) image.Rectangle {
	var r image.Rectangle
	for i := 0; i < len(a); i += 4 {
		if [3]byte(a[i:]) != [3]byte(b[i:]) {
			x, y := i/4%size.X, i/4/size.X
			r = r.Union(image.Rect(x, y, x+1, y+1))
		}
	}
	return r
}

// TestDesktopIsExactAcrossKeysScrollResizeAndDetach is a day of one desktop: real Xvnc, real xterm.
func TestDesktopIsExactAcrossKeysScrollResizeAndDetach(t *testing.T) {
	h := bubbletest.New(t, terminal)
	h.Serve(t)
	v := open(t, h, 800, 600)
	require.NoError(t, v.next(t.Context()))
	require.Equal(t, image.Pt(800, 600), v.size)
	v.until("xterm draws", func() bool { return !uniform(v.pix) })
	v.requireEqual(h)

	require.NoError(t, v.d.Input(desktop.Input{Kind: desktop.Pointer, X: 400, Y: 300}))
	v.until("cursor shape over the terminal", func() bool { return v.cursor != nil && v.cursor.Width > 0 })
	before := slices.Clone(v.pix)
	v.typeKeys(0x03) // the key of 2, which is e acute on a French keyboard
	v.until("a key changes pixels", func() bool { return !bytes.Equal(before, v.pix) })
	v.requireEqual(h)

	v.typeKeys(0x1c) // enter: seq complains of it
	shift := uint32(0x2a)
	require.NoError(t, v.d.Input(desktop.Input{Kind: desktop.Key, XT: shift, Down: true}))
	v.typeKeys(0x0a, 0x0a) // 99
	require.NoError(t, v.d.Input(desktop.Input{Kind: desktop.ReleaseAll}))
	v.typeKeys(0x1c)
	v.requireEqual(h)
	v.typeKeys(0x1c) // the screen is full: one line up
	v.until("a scroll comes as copies", func() bool { return v.copies > 0 })
	v.requireEqual(h)

	pid, _ := h.Desktop(t, "amina")
	require.NoError(t, v.d.Close())
	require.Error(t, v.next(t.Context()))
	w := open(t, h, 1000, 700)
	require.NoError(t, w.next(t.Context()))
	require.Equal(t, image.Pt(1000, 700), w.size)
	again, _ := h.Desktop(t, "amina")
	require.Equal(t, pid, again, "the same desktop")
	w.requireEqual(h)
	before = slices.Clone(w.pix)
	w.typeKeys(0x1e)
	w.until("the desktop still takes keys after the resize", func() bool { return !bytes.Equal(before, w.pix) })
	w.requireEqual(h)

	layout, err := h.X(t, "amina", "setxkbmap", "-query").CombinedOutput()
	require.NoError(t, err)
	require.Contains(t, string(layout), "fr")
}

// TestFrenchKeyboardTypesWhatStandsOnItsKeys presses keys by their place, with AltGr and dead keys, and reads what a program got.
func TestFrenchKeyboardTypesWhatStandsOnItsKeys(t *testing.T) {
	h := bubbletest.New(t, `export LC_ALL=C.UTF-8; exec xterm -u8 -fullscreen -geometry 100x40+0+0 -e /bin/sh -c 'cat > typed'`)
	h.Serve(t)
	v := open(t, h, 900, 600)
	require.NoError(t, v.next(t.Context()))
	const shift, altGr, enter, capsLock = 0x2a, 0xb8, 0x1c, 0x3a
	with := func(modifier, key uint32) {
		require.NoError(t, v.d.Input(desktop.Input{Kind: desktop.Key, XT: modifier, Down: true}))
		v.typeKeys(key)
		require.NoError(t, v.d.Input(desktop.Input{Kind: desktop.Key, XT: modifier}))
	}
	require.NoError(t, v.d.Input(desktop.Input{Kind: desktop.Pointer, X: 100, Y: 100})) // the focus follows the pointer
	typed := filepath.Join(h.Config.Accounts[0].Home, "typed")
	got := func() string {
		text, err := os.ReadFile(typed)
		require.True(t, err == nil || os.IsNotExist(err))
		return string(text)
	}
	require.Eventually(t, func() bool { // until the terminal listens
		v.typeKeys(enter)
		return got() != ""
	}, patience, 100*time.Millisecond)
	v.typeKeys(0x10, 0x03) // a é
	with(altGr, 0x0b)      // @
	v.typeKeys(0x1a, 0x12) // ^ e
	with(shift, 0x1a)      // ¨
	v.typeKeys(0x17)       // i
	with(altGr, 0x07)      // |
	with(altGr, 0x09)      // \
	with(altGr, 0x12)      // €
	require.NoError(t, v.d.Input(desktop.Input{Kind: desktop.Key, XT: 0x39, Down: true}))
	for range 3 { // a held key: the keyboard repeats it, and so does the box
		require.NoError(t, v.d.Input(desktop.Input{Kind: desktop.Key, XT: 0x39, Down: true}))
	}
	require.NoError(t, v.d.Input(desktop.Input{Kind: desktop.Key, XT: 0x39}))
	v.typeKeys(capsLock)
	v.until("the desktop wants the light of caps lock", func() bool { return v.lights == desktop.Lights(rfb.CapsLock) })
	v.typeKeys(0x10, capsLock, enter)
	v.until("and no longer", func() bool { return v.lights == 0 })
	require.Eventually(t, func() bool { return strings.TrimLeft(got(), "\n") != "" }, patience, 50*time.Millisecond)
	require.Equal(t, "aé@êï|\\€    A\n", strings.TrimLeft(got(), "\n"))
}

func uniform(pix []byte) bool {
	for i := 4; i < len(pix); i += 4 {
		if [3]byte(pix[i:]) != [3]byte(pix) {
			return false
		}
	}
	return true
}

// BenchmarkKeyToPixel is the time from a key to the update that shows it: bubble, Xvnc and xterm on one machine.
func BenchmarkKeyToPixel(b *testing.B) {
	h := bubbletest.New(b, terminal)
	h.Serve(b)
	d, err := desktop.Open(b.Context(), desktop.Target{Address: h.Address, TLS: h.TLS(), Token: h.Token(b, "amina"), Width: 1920, Height: 1000})
	require.NoError(b, err)
	defer d.Close()
	seen := func() bool {
		ctx, cancel := context.WithTimeout(b.Context(), 400*time.Millisecond)
		defer cancel()
		return d.Next(ctx, func(desktop.Update) error { return nil }) == nil
	}
	require.NoError(b, d.Input(desktop.Input{Kind: desktop.Pointer, X: 100, Y: 100})) // the focus follows the pointer
	for typed, end := false, time.Now().Add(patience); !typed; {
		require.True(b, time.Now().Before(end), "the terminal does not echo")
		for seen() {
		}
		require.NoError(b, d.Input(desktop.Input{Kind: desktop.Key, XT: 0x1e, Down: true}))
		require.NoError(b, d.Input(desktop.Input{Kind: desktop.Key, XT: 0x1e}))
		typed = seen()
	}
	for seen() {
	}
	var times []time.Duration
	for b.Loop() {
		start := time.Now()
		require.NoError(b, d.Input(desktop.Input{Kind: desktop.Key, XT: 0x1e, Down: true}))
		require.NoError(b, d.Input(desktop.Input{Kind: desktop.Key, XT: 0x1e}))
		require.True(b, seen())
		times = append(times, time.Since(start))
		b.StopTimer()
		for seen() {
		}
		b.StartTimer()
	}
	slices.Sort(times)
	b.ReportMetric(float64(times[len(times)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(times[len(times)*95/100].Microseconds())/1000, "p95-ms")
}

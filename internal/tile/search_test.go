// SPDX-License-Identifier: Apache-2.0

package tile

import (
	"image"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// write fills r with lines of text in two colours: glyphs of 8 x 12 pixels, words and gaps.
func (d *desk) write(r image.Rectangle) {
	var font [26][12]byte
	for i := range font {
		for y := range 9 {
			font[i][y] = byte(i*37+y*(i|1)*29) & 0x7e
		}
	}
	for y := r.Min.Y; y < r.Max.Y; y += 12 {
		for x := r.Min.X; x < r.Max.X; x += 8 {
			glyph := [12]byte{}
			if d.r.IntN(6) > 0 {
				glyph = font[d.r.IntN(len(font))]
			}
			for dy := range min(12, r.Max.Y-y) {
				row := d.row(image.Rect(x, y+dy, min(x+8, r.Max.X), y+dy+1), y+dy)
				for i := range row {
					row[i] = 0xff * (1 - glyph[dy]>>(i/4)&1)
				}
			}
		}
	}
	d.damage = append(d.damage, r)
}

// shift draws r as it would look moved, the old place white, and tells of damage alone.
func (d *desk) shift(r image.Rectangle, by image.Point) {
	old := slices.Clone(d.pix)
	was := picture{old, d.w, d.h}
	for y := r.Min.Y; y < r.Max.Y; y++ {
		row := d.row(r, y)
		for i := range row {
			row[i] = 0xff
		}
	}
	to := r.Add(by)
	for y := r.Min.Y; y < r.Max.Y; y++ {
		copy(d.row(to, y+by.Y), was.row(r, y))
	}
	d.damage = append(d.damage, r, to)
}

// TestMoveNobodyToldOfIsFound scrolls and drags in every direction without a hint: the frame is right, and far smaller than what
// moved.
func TestMoveNobodyToldOfIsFound(t *testing.T) {
	page := image.Rect(0, 0, 800, 600)
	for name, c := range map[string]struct {
		what image.Rectangle
		by   image.Point
	}{
		"three lines up":        {image.Rect(0, 36, 800, 600), image.Pt(0, -36)},
		"one line down":         {image.Rect(0, 0, 800, 588), image.Pt(0, 12)},
		"a few pixels down":     {image.Rect(0, 0, 800, 593), image.Pt(0, 7)},
		"almost a page":         {image.Rect(0, 480, 800, 600), image.Pt(0, -480)},
		"to the left":           {image.Rect(120, 0, 800, 600), image.Pt(-120, 0)},
		"to the right":          {image.Rect(0, 0, 797, 600), image.Pt(3, 0)},
		"a pane inside":         {image.Rect(203, 117, 655, 510), image.Pt(0, -24)},
		"a window":              {image.Rect(90, 60, 510, 390), image.Pt(133, 101)},
		"a window back up left": {image.Rect(300, 200, 700, 500), image.Pt(-31, -17)},
		"the rest of a line":    {image.Rect(96, 240, 760, 252), image.Pt(8, 0)},
	} {
		e, err := NewEncoder()
		require.NoError(t, err)
		d, err := NewDecoder(800, 600)
		require.NoError(t, err)
		defer d.Close()
		k := newDesk(page.Dx(), page.Dy(), 11)
		k.write(page)
		send := func() int {
			frame, err := e.Encode(k.source())
			require.NoError(t, err)
			_, err = d.Decode(frame)
			require.NoError(t, err, name)
			pix, _, _ := d.Pixels()
			require.Equal(t, k.pix, pix, name)
			return len(frame)
		}
		whole := send()
		k.shift(c.what, c.by)
		moved := c.what.Dx() * c.what.Dy()
		require.Less(t, send(), whole*moved/(page.Dx()*page.Dy())/4+80, name)
	}
}

// TestEveryMixOfMovesIsExact throws moves, text, noise, wrong hints and damage that covers too much at the encoder.
func TestEveryMixOfMovesIsExact(t *testing.T) {
	e, d := pair(t)
	k := newDesk(500, 400, 12)
	k.write(k.bounds())
	for i := range 150 {
		r := k.anyRect()
		switch k.r.IntN(6) {
		case 0:
			k.fill(r, true)
		case 1:
			k.write(r)
		case 2:
			k.scroll(r, 1+k.r.IntN(r.Dy()))
		default:
			for range 1 + k.r.IntN(3) {
				r = k.anyRect()
				k.shift(r, image.Pt(k.r.IntN(k.w-r.Dx()+1)-r.Min.X, k.r.IntN(k.h-r.Dy()+1)-r.Min.Y))
			}
		}
		s := k.source()
		if i%3 == 0 {
			s.Damage = []image.Rectangle{k.bounds()}
		}
		if i%5 == 0 {
			s.Copies = append(s.Copies, Copy{k.anyRect(), k.anyRect().Min})
		}
		frame, err := e.Encode(s)
		require.NoError(t, err)
		if frame != nil {
			_, err = d.Decode(frame)
			require.NoError(t, err, "step %d", i)
		}
		pix, _, _ := d.Pixels()
		require.Equal(t, k.pix, pix, "step %d", i)
	}
}

// TestSearchInVainRests holds that noise is searched seldom, and a move after it is found again at the latest after maxPause frames.
func TestSearchInVainRests(t *testing.T) {
	e, err := NewEncoder()
	require.NoError(t, err)
	k := newDesk(512, 512, 13)
	encode := func() int {
		frame, err := e.Encode(k.source())
		require.NoError(t, err)
		return len(frame)
	}
	k.fill(k.bounds(), true)
	whole := encode()
	for range 2 * maxPause {
		k.fill(k.bounds(), true)
		encode()
	}
	require.Greater(t, e.finder.misses, 2, "searched in vain")
	require.Less(t, e.finder.misses, 7, "and seldom")
	least := whole
	for range maxPause + 1 {
		k.shift(image.Rect(0, 12, 512, 512), image.Pt(0, -12))
		least = min(least, encode())
	}
	require.Less(t, least, whole/10)
}

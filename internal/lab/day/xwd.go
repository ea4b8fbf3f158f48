// SPDX-License-Identifier: Apache-2.0

package day

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"image"

	"sdbox/agent/screen"
)

// parseXWD reads what xwd(1) writes, as XWDFile.h describes it: a big-endian header of 32-bit words, a colour table, rows of
// pixels. Only true colour of 32 or 24 bits a pixel is taken. (xwd packs pixels into 24 bits, in rows that stay as long, as soon as
// one window on the screen has a visual of its own, as those of GTK have.)
func parseXWD(dump []byte) (*screen.Image, error) {
	const words = 25
	if len(dump) < words*4 {
		return nil, errors.New("xwd: short header")
	}
	word := func(i int) int { return int(binary.BigEndian.Uint32(dump[4*i:])) }
	headerSize, version, format := word(0), word(1), word(2)
	width, height, lsbFirst, bits, stride, colours := word(4), word(5), word(7) == 0, word(11), word(12), word(19)
	if version != 7 || format != 2 || (bits != 32 && bits != 24) || width < 1 || height < 1 || width > screen.MaxSide || height > screen.MaxSide || stride < bits/8*width {
		return nil, fmt.Errorf("xwd: version %d, format %d, %dx%d of %d bits: not taken", version, format, width, height, bits)
	}
	start := headerSize + 12*colours
	if headerSize < words*4 || colours < 0 || colours > 1<<16 || start+stride*height > len(dump) {
		return nil, errors.New("xwd: short picture")
	}
	img := screen.NewImage(width, height)
	for y := range height {
		row, out := dump[start+y*stride:], img.Row(y, 0, width)
		for x := range width {
			pixel := row[x*bits/8:][:bits/8]
			for i := range 3 {
				if lsbFirst {
					out[4*x+i] = pixel[i]
				} else {
					out[4*x+i] = pixel[len(pixel)-1-i]
				}
			}
		}
	}
	return img, nil
}

// samePixels compares a desktop with the area of a screen that shows it; the fourth byte of a pixel has no meaning. It
// returns how many pixels outside the rectangle except differ, and the rectangle of the desktop that holds them.
func samePixels(desktop, shown *screen.Image, area, except image.Rectangle) (differ int, where image.Rectangle) {
	if area.Dx() != desktop.Width || area.Dy() != desktop.Height || !area.In(shown.Bounds()) {
		return desktop.Width * desktop.Height, desktop.Bounds()
	}
	for y := range desktop.Height {
		a, b := desktop.Row(y, 0, desktop.Width), shown.Row(area.Min.Y+y, area.Min.X, area.Max.X)
		if bytes.Equal(a, b) {
			continue
		}
		for x := 0; x < len(a); x += 4 {
			if (a[x] != b[x] || a[x+1] != b[x+1] || a[x+2] != b[x+2]) && !image.Pt(x/4, y).In(except) {
				differ++
				where = where.Union(image.Rect(x/4, y, x/4+1, y+1))
			}
		}
	}
	return differ, where
}

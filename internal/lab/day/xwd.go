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
// pixels. Only true colour of 32 bits a pixel is taken, which is what the desktops here have.
func parseXWD(dump []byte) (*screen.Image, error) {
	const words = 25
	if len(dump) < words*4 {
		return nil, errors.New("xwd: short header")
	}
	word := func(i int) int { return int(binary.BigEndian.Uint32(dump[4*i:])) }
	headerSize, version, format := word(0), word(1), word(2)
	width, height, lsbFirst, bits, stride, colours := word(4), word(5), word(7) == 0, word(11), word(12), word(19)
	if version != 7 || format != 2 || bits != 32 || width < 1 || height < 1 || width > screen.MaxSide || height > screen.MaxSide || stride < 4*width {
		return nil, fmt.Errorf("xwd: version %d, format %d, %dx%d of %d bits: not taken", version, format, width, height, bits)
	}
	start := headerSize + 12*colours
	if headerSize < words*4 || colours < 0 || colours > 1<<16 || start+stride*height > len(dump) {
		return nil, errors.New("xwd: short picture")
	}
	img := screen.NewImage(width, height)
	for y := range height {
		row, out := dump[start+y*stride:], img.Row(y, 0, width)
		if lsbFirst {
			copy(out, row)
			continue
		}
		for x := range width {
			out[4*x], out[4*x+1], out[4*x+2] = row[4*x+3], row[4*x+2], row[4*x+1]
		}
	}
	return img, nil
}

// samePixels compares a desktop with the area of a screen that shows it; the fourth byte of a pixel has no meaning. It
// returns how many pixels differ, and the first of them.
func samePixels(desktop, shown *screen.Image, area image.Rectangle) (differ int, first image.Point) {
	if area.Dx() != desktop.Width || area.Dy() != desktop.Height || !area.In(shown.Bounds()) {
		return desktop.Width * desktop.Height, image.Point{}
	}
	for y := range desktop.Height {
		a, b := desktop.Row(y, 0, desktop.Width), shown.Row(area.Min.Y+y, area.Min.X, area.Max.X)
		if bytes.Equal(a, b) {
			continue
		}
		for x := 0; x < len(a); x += 4 {
			if a[x] != b[x] || a[x+1] != b[x+1] || a[x+2] != b[x+2] {
				if differ++; differ == 1 {
					first = image.Pt(x/4, y)
				}
			}
		}
	}
	return differ, first
}

// SPDX-License-Identifier: Apache-2.0

package screen

import "image"

// MaxCursor is the largest side of a cursor, in pixels.
const MaxCursor = 256

// Cursor is the shape of a mouse pointer: premultiplied BGRA rows without gaps, and the pixel of it that points.
type Cursor struct {
	Pix           []byte
	Width, Height int
	Hot           image.Point
}

// Bounds returns what the cursor covers when it points at p.
func (c *Cursor) Bounds(p image.Point) image.Rectangle {
	return image.Rect(0, 0, c.Width, c.Height).Add(p.Sub(c.Hot))
}

// draw writes the cursor, pointing at p, blended over the pixels of src into the part of dst inside clip. Both have one size.
func (c *Cursor) draw(dst, src *Image, p image.Point, clip image.Rectangle) {
	at := c.Bounds(p)
	r := at.Intersect(clip).Intersect(dst.Bounds())
	var line [MaxCursor * 4]byte
	for y := r.Min.Y; y < r.Max.Y; y++ {
		over := c.Pix[((y-at.Min.Y)*c.Width+r.Min.X-at.Min.X)*4:]
		under := src.Row(y, r.Min.X, r.Max.X)
		for i := 0; i < len(under); i += 4 {
			rest := 255 - uint32(over[i+3])
			for n := range 3 {
				line[i+n] = byte(min(255, uint32(over[i+n])+(uint32(under[i+n])*rest+127)/255))
			}
			line[i+3] = under[i+3]
		}
		copy(dst.Row(y, r.Min.X, r.Max.X), line[:len(under)])
	}
}

// Arrow makes the pointer of the box's own screens, at a scale of at least 1: black with a white edge, so that it is seen on anything.
func Arrow(scale float64) *Cursor {
	scale = min(max(scale, 1), MaxCursor/24)
	outer := [][2]float64{{0, 0}, {0, 19.5}, {4.6, 15.6}, {7.7, 22.6}, {11.4, 21}, {8.3, 14.2}, {14, 14}}
	inner := [][2]float64{{1.3, 3}, {1.3, 16.7}, {5, 13.5}, {8.3, 20.9}, {9.8, 20.2}, {6.5, 12.9}, {11, 12.8}}
	c := &Cursor{Width: int(16 * scale), Height: int(24 * scale)}
	c.Pix = make([]byte, c.Width*c.Height*4)
	const sub = 4 // samples each way in one pixel
	for y := range c.Height {
		for x := range c.Width {
			covered, black := 0, 0
			for i := range sub * sub {
				px := (float64(x) + (float64(i%sub)+0.5)/sub) / scale
				py := (float64(y) + (float64(i/sub)+0.5)/sub) / scale
				if inside(outer, px, py) {
					covered++
					if inside(inner, px, py) {
						black++
					}
				}
			}
			p := c.Pix[(y*c.Width+x)*4:]
			white := byte((covered - black) * 255 / (sub * sub))
			p[0], p[1], p[2], p[3] = white, white, white, byte(covered*255/(sub*sub))
		}
	}
	return c
}

// inside says whether a point lies in a polygon, by the even-odd rule.
func inside(polygon [][2]float64, x, y float64) bool {
	in := false
	for i, a := range polygon {
		b := polygon[(i+1)%len(polygon)]
		if (a[1] > y) != (b[1] > y) && x < a[0]+(y-a[1])*(b[0]-a[0])/(b[1]-a[1]) {
			in = !in
		}
	}
	return in
}

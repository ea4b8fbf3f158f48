// SPDX-License-Identifier: Apache-2.0

package kiosk

import (
	"image"
	"math"

	"sdbox/agent/screen"
)

// canvas paints smooth shapes into an image. Shapes are signed distance functions: negative inside, one unit per pixel,
// so that the edge's coverage is half a pixel each way of zero.
type canvas struct {
	img  *screen.Image
	clip image.Rectangle
}

// vec is a point in pixels; a pixel's middle lies at its half.
type vec struct{ x, y float64 }

func (v vec) add(x, y float64) vec { return vec{v.x + x, v.y + y} }

// blend mixes a colour into one pixel.
func blend(p []byte, rgb uint32, alpha uint32) {
	rest := 256 - alpha
	p[0] = byte((uint32(p[0])*rest + (rgb&0xff)*alpha) >> 8)
	p[1] = byte((uint32(p[1])*rest + (rgb>>8&0xff)*alpha) >> 8)
	p[2] = byte((uint32(p[2])*rest + (rgb>>16&0xff)*alpha) >> 8)
}

// mix returns the colour a share of the way from one to another.
func mix(from, to uint32, share float64) uint32 {
	var out uint32
	for shift := 0; shift < 24; shift += 8 {
		a, b := float64(from>>shift&0xff), float64(to>>shift&0xff)
		out |= uint32(a+(b-a)*share+0.5) << shift
	}
	return out
}

func (c canvas) fill(r image.Rectangle, rgb uint32) { c.img.Fill(r.Intersect(c.clip), rgb) }

// shade blends a colour over a whole rectangle; alpha is 0 to 1.
func (c canvas) shade(r image.Rectangle, rgb uint32, alpha float64) {
	r = r.Intersect(c.clip)
	a := uint32(alpha * 256)
	for y := r.Min.Y; y < r.Max.Y; y++ {
		row := c.img.Row(y, r.Min.X, r.Max.X)
		for i := 0; i < len(row); i += 4 {
			blend(row[i:i+4], rgb, a)
		}
	}
}

// shape paints where sd is negative, inside the box, with a smooth edge. sd is a true distance, so one answer speaks for all the
// pixels nearer than the edge: a shape costs its edge, not its box.
func (c canvas) shape(box image.Rectangle, rgb uint32, sd func(vec) float64) {
	box = box.Intersect(c.clip)
	for y := box.Min.Y; y < box.Max.Y; y++ {
		row := c.img.Row(y, box.Min.X, box.Max.X)
		for i := 0; i < len(row); {
			d := sd(vec{float64(box.Min.X+i/4) + 0.5, float64(y) + 0.5})
			end := min(i+4*max(int(math.Abs(d)-0.5), 1), len(row))
			switch {
			case d >= 0.5:
			case d <= -0.5:
				solid(row[i:end], rgb)
			default:
				blend(row[i:i+4], rgb, uint32((0.5-d)*256))
			}
			i = end
		}
	}
}

// solid paints pixels of a row.
func solid(row []byte, rgb uint32) {
	for ; len(row) >= 4; row = row[4:] {
		row[0], row[1], row[2] = byte(rgb), byte(rgb>>8), byte(rgb>>16)
	}
}

// around returns the pixels within r of a point.
func around(m vec, r float64) image.Rectangle {
	return image.Rect(int(math.Floor(m.x-r-1)), int(math.Floor(m.y-r-1)), int(math.Ceil(m.x+r+1)), int(math.Ceil(m.y+r+1)))
}

func (c canvas) disc(m vec, r float64, rgb uint32) {
	c.shape(around(m, r), rgb, func(p vec) float64 { return math.Hypot(p.x-m.x, p.y-m.y) - r })
}

func (c canvas) ring(m vec, r, width float64, rgb uint32) {
	c.shape(around(m, r+width/2), rgb, func(p vec) float64 { return math.Abs(math.Hypot(p.x-m.x, p.y-m.y)-r) - width/2 })
}

// arc paints part of a ring with round ends, from an angle over a sweep, in turns clockwise from the right.
func (c canvas) arc(m vec, r, width, from, sweep float64, rgb uint32) {
	sin, cos := math.Sincos(2 * math.Pi * (from + sweep/2)) // the arc's middle
	endSin, endCos := math.Sincos(math.Pi * sweep)
	c.shape(around(m, r+width/2), rgb, func(p vec) float64 {
		x, y := p.x-m.x, p.y-m.y
		along, across := x*cos+y*sin, math.Abs(y*cos-x*sin)
		if across*endCos > along*endSin { // beyond the ends
			return math.Hypot(along-r*endCos, across-r*endSin) - width/2
		}
		return math.Abs(math.Hypot(x, y)-r) - width/2
	})
}

// line paints a straight stroke with round ends.
func (c canvas) line(a, b vec, width float64, rgb uint32) {
	box := around(a, width/2).Union(around(b, width/2))
	dx, dy := b.x-a.x, b.y-a.y
	length := dx*dx + dy*dy
	c.shape(box, rgb, func(p vec) float64 {
		t := 0.0
		if length > 0 {
			t = min(max(((p.x-a.x)*dx+(p.y-a.y)*dy)/length, 0), 1)
		}
		return math.Hypot(p.x-a.x-t*dx, p.y-a.y-t*dy) - width/2
	})
}

// lines joins points by strokes.
func (c canvas) lines(width float64, rgb uint32, points ...vec) {
	for i := 1; i < len(points); i++ {
		c.line(points[i-1], points[i], width, rgb)
	}
}

// boxDistance is the distance function of a rectangle with round corners.
func boxDistance(r image.Rectangle, radius float64) func(vec) float64 {
	m := vec{float64(r.Min.X+r.Max.X) / 2, float64(r.Min.Y+r.Max.Y) / 2}
	hw, hh := float64(r.Dx())/2-radius, float64(r.Dy())/2-radius
	return func(p vec) float64 {
		x, y := math.Abs(p.x-m.x)-hw, math.Abs(p.y-m.y)-hh
		if x <= 0 || y <= 0 {
			return max(x, y) - radius
		}
		return math.Hypot(x, y) - radius
	}
}

// round paints a rectangle with round corners.
func (c canvas) round(r image.Rectangle, radius float64, rgb uint32) {
	radius = min(radius, float64(min(r.Dx(), r.Dy()))/2)
	n := int(math.Ceil(radius))
	c.fill(image.Rect(r.Min.X, r.Min.Y+n, r.Max.X, r.Max.Y-n), rgb)
	c.fill(image.Rect(r.Min.X+n, r.Min.Y, r.Max.X-n, r.Min.Y+n), rgb)
	c.fill(image.Rect(r.Min.X+n, r.Max.Y-n, r.Max.X-n, r.Max.Y), rgb)
	sd := boxDistance(r, radius)
	for _, corner := range []image.Point{r.Min, {r.Max.X - n, r.Min.Y}, {r.Min.X, r.Max.Y - n}, {r.Max.X - n, r.Max.Y - n}} {
		c.shape(image.Rectangle{Min: corner, Max: corner.Add(image.Pt(n, n))}, rgb, sd)
	}
}

// frame paints a rectangle with round corners and an edge inside it.
func (c canvas) frame(r image.Rectangle, radius, width float64, edge, inside uint32) {
	n := int(math.Round(width))
	c.round(r, radius, edge)
	c.round(r.Inset(n), max(radius-float64(n), 0), inside)
}

// shadow paints the soft shadow of a rectangle with round corners, outside of it only: the card is painted over the rest.
func (c canvas) shadow(r image.Rectangle, radius, blur, alpha float64) {
	drop := r.Add(image.Pt(0, int(blur/3)))
	sd, n := boxDistance(drop, radius), int(blur)
	band := func(box image.Rectangle) {
		box = box.Intersect(c.clip)
		for y := box.Min.Y; y < box.Max.Y; y++ {
			row := c.img.Row(y, box.Min.X, box.Max.X)
			for i := 0; i < len(row); i += 4 {
				d := sd(vec{float64(box.Min.X+i/4) + 0.5, float64(y) + 0.5})
				if t := 1 - (d+blur/3)/(blur*4/3); t > 0 {
					t = min(t, 1)
					blend(row[i:i+4], 0x0b1a2a, uint32(t*t*alpha*256))
				}
			}
		}
	}
	out := drop.Inset(-n)
	in := r.Inset(int(radius))
	band(image.Rect(out.Min.X, out.Min.Y, out.Max.X, in.Min.Y))
	band(image.Rect(out.Min.X, in.Max.Y, out.Max.X, out.Max.Y))
	band(image.Rect(out.Min.X, in.Min.Y, in.Min.X, in.Max.Y))
	band(image.Rect(in.Max.X, in.Min.Y, out.Max.X, in.Max.Y))
}

// contrast is the contrast ratio of two colours (WCAG 2.2, "contrast ratio"), 1 to 21.
func contrast(a, b uint32) float64 {
	la, lb := luminance(a), luminance(b)
	return (max(la, lb) + 0.05) / (min(la, lb) + 0.05)
}

// luminance is the relative luminance of a colour (WCAG 2.2).
func luminance(rgb uint32) float64 {
	channel := func(shift int) float64 {
		v := float64(rgb>>shift&0xff) / 255
		if v <= 0.04045 {
			return v / 12.92
		}
		return math.Pow((v+0.055)/1.055, 2.4)
	}
	return 0.2126*channel(16) + 0.7152*channel(8) + 0.0722*channel(0)
}

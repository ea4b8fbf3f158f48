// SPDX-License-Identifier: Apache-2.0

package screen

import (
	"image"
	"image/color"
)

// Image is a picture in the byte order of screens, framebuffers and bubbles: blue, green, red, unused (BGRX8888, the
// DRM format XR24). Its origin is 0,0 and it has no alpha. The unused byte has no meaning.
type Image struct {
	Pix           []byte
	Stride        int // bytes from one row to the next
	Width, Height int // pixels
}

// NewImage makes a black image. The sides must be those of a screen; it panics on sides below zero.
func NewImage(width, height int) *Image {
	return &Image{Pix: make([]byte, width*height*4), Stride: width * 4, Width: width, Height: height}
}

// Bounds implements image.Image.
func (m *Image) Bounds() image.Rectangle { return image.Rect(0, 0, m.Width, m.Height) }

// ColorModel implements image.Image.
func (m *Image) ColorModel() color.Model { return color.RGBAModel }

// Opaque tells encoders that there is no alpha to write.
func (m *Image) Opaque() bool { return true }

// At implements image.Image.
func (m *Image) At(x, y int) color.Color { return m.RGBAAt(x, y) }

// RGBAAt returns one pixel; outside the image it is black.
func (m *Image) RGBAAt(x, y int) color.RGBA {
	if !(image.Point{X: x, Y: y}).In(m.Bounds()) {
		return color.RGBA{A: 255}
	}
	p := m.Pix[y*m.Stride+x*4:]
	return color.RGBA{R: p[2], G: p[1], B: p[0], A: 255}
}

// Fill paints the part of r inside the image with a colour 0xRRGGBB.
func (m *Image) Fill(r image.Rectangle, rgb uint32) {
	r = r.Intersect(m.Bounds())
	if r.Empty() {
		return
	}
	first := m.Row(r.Min.Y, r.Min.X, r.Max.X)
	first[0], first[1], first[2], first[3] = byte(rgb), byte(rgb>>8), byte(rgb>>16), 0
	for n := 4; n < len(first); n *= 2 {
		copy(first[n:], first[:n])
	}
	for y := r.Min.Y + 1; y < r.Max.Y; y++ {
		copy(m.Row(y, r.Min.X, r.Max.X), first)
	}
}

// Row returns the bytes of row y from x0 up to x1. All three must lie inside the image.
func (m *Image) Row(y, x0, x1 int) []byte { return m.Pix[y*m.Stride+x0*4 : y*m.Stride+x1*4] }

// Copy copies the part of r that lies inside both images from the same place of src.
func (m *Image) Copy(src *Image, r image.Rectangle) {
	r = r.Intersect(m.Bounds()).Intersect(src.Bounds())
	for y := r.Min.Y; y < r.Max.Y; y++ {
		copy(m.Row(y, r.Min.X, r.Max.X), src.Row(y, r.Min.X, r.Max.X))
	}
}

// RGBA returns a copy in the form the image encoders are fast with.
func (m *Image) RGBA() *image.RGBA {
	out := image.NewRGBA(m.Bounds())
	for y := range m.Height {
		src, dst := m.Row(y, 0, m.Width), out.Pix[y*out.Stride:]
		for i := 0; i+3 < len(src); i += 4 {
			dst[i], dst[i+1], dst[i+2], dst[i+3] = src[i+2], src[i+1], src[i], 255
		}
	}
	return out
}

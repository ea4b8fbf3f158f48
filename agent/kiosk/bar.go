// SPDX-License-Identifier: Apache-2.0

package kiosk

import (
	"image"
	"strconv"
	"time"

	"sdbox/agent/screen"
)

// Bar is what stands above a bubble's picture while a person works in it.
type Bar struct {
	Title  string        // of the bubble
	Person string        // whose session it is
	Colour uint32        // 0xRRGGBB of the bubble's frame
	Delay  time.Duration // there and back on the line; below zero = not known yet
}

// The delays up to which work feels good and fair.
const (
	goodDelay = 80 * time.Millisecond
	fairDelay = 200 * time.Millisecond
)

// Colours of the dot before the delay.
const (
	goodDot = uint32(0x43d19e)
	fairDot = uint32(0xffc24d)
)

// Bar draws the bar into a region of dst, the one the viewer leaves free, and returns what changed. The viewer paints
// the frame and the picture and knows no fonts: whoever owns both calls this at each attach and change of delay.
func (k *Kiosk) Bar(dst *screen.Image, r image.Rectangle, b Bar, a Around) []image.Rectangle {
	p := k.page(dst, a)
	p.canvas = canvas{img: dst, clip: r}
	p.s = float64(r.Dy()) / 40
	colour := b.Colour & 0xffffff
	on := onColour(colour)
	p.fill(r, colour)
	middle := (r.Min.Y + r.Max.Y) / 2
	title, small := p.face(medium, 20), p.face(regular, 18)
	p.logoOn(vec{float64(r.Min.X + p.px(22)), float64(middle)}, p.s*20, on, colour)
	x := r.Min.X + p.px(44)
	right := p.delay(b, r.Max.X-p.px(8), middle)
	if a.Watched {
		right = p.watched(right-p.px(10), middle, p.px(28))
	}
	right -= p.px(20)
	person := k.fonts.shorten(small, oneLine(b.Person), min(r.Dx()/4, (right-x)/2))
	p.textRight(small, right, middle+small.size*3/8, on, person)
	right -= p.width(small, person) + p.px(20)
	p.text(title, x, middle+title.size*3/8, on, k.fonts.shorten(title, oneLine(b.Title), min(r.Dx()/2, right-x)))
	return []image.Rectangle{r}
}

// watched draws the sign that an operator looks at this session, an eye and the words, with its right edge at x, and returns its left.
func (p *page) watched(x, middle, height int) int {
	size := float64(height)
	k := p.face(medium, 18)
	k.size = height * 9 / 14
	left := x - p.width(k, p.say.watched) - int(size*2.25)
	p.round(image.Rect(left, middle-height/2, x, middle+height/2), size/2, ink)
	p.eye(vec{float64(left) + size*0.95, float64(middle)}, size*0.28, fairDot)
	p.text(k, left+int(size*1.65), middle+k.size*3/8, 0xf2f5f8, p.say.watched)
	return left
}

// delay draws the delay's pill with its right edge at x and returns its left edge.
func (p *page) delay(b Bar, x, middle int) int {
	k := p.face(medium, 18)
	text, word, dot := p.say.delay+" ", p.say.noDelay, uint32(0x9aa6b2)
	if b.Delay >= 0 {
		text += strconv.FormatInt(b.Delay.Round(time.Millisecond).Milliseconds(), 10) + " ms  "
		switch {
		case b.Delay <= goodDelay:
			word, dot = p.say.good, goodDot
		case b.Delay <= fairDelay:
			word, dot = p.say.fair, fairDot
		default:
			word, dot = p.say.poor, 0xff7b6b
		}
	}
	text += word
	if p.Slow.Code != "" {
		text += "  ·  " + p.say.slowMode + " " + p.kiosk.fonts.shorten(k, oneLine(p.Slow.Error()), p.px(120))
		if dot == goodDot {
			dot = fairDot // it works, and could be better
		}
	}
	left := x - p.width(k, text) - p.px(44)
	half := p.px(14)
	p.round(image.Rect(left, middle-half, x, middle+half), float64(half), ink)
	p.disc(vec{float64(left) + 18*p.s, float64(middle)}, 5.5*p.s, dot)
	p.text(k, left+p.px(32), middle+k.size*3/8, 0xf2f5f8, text)
	return left
}

// onColour returns black or white, whichever reads better on a ground: one of them always reaches 4.5.
func onColour(ground uint32) uint32 {
	if contrast(ground, 0xffffff) >= contrast(ground, 0) {
		return 0xffffff
	}
	return 0
}

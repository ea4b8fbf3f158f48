// SPDX-License-Identifier: Apache-2.0

package kiosk

import (
	"image"
	"math"
	"strings"

	"sdbox/internal/refusal"
)

// The colours. Every pair of text and ground used on a screen reaches a contrast of 4.5 (WCAG 2.2 AA); a test holds it.
const (
	paper    = 0xf6f7f9 // ground, upper edge
	paperEnd = 0xe9edf2 // ground, lower edge
	sheet    = 0xffffff // cards
	edge     = 0xdbe1e8 // the edge of a card
	ink      = 0x16202c // text
	soft     = 0x4f5d6d // second text
	accent   = 0x0b6e6e // the one colour of the house
	accentBg = 0xe3f1f0

	blueInk, blueBg   = 0x1b52b0, 0xe6eefb
	amberInk, amberBg = 0x8a4b00, 0xfff1d6
	redInk, redBg     = 0xa61b1b, 0xfdE9e7
)

// page is one screen being drawn. Measures are in pixels of a 1920x1080 screen, brought to the real one by px.
type page struct {
	canvas
	Around
	kiosk *Kiosk
	say   words
	s     float64
}

// px scales a measure.
func (p *page) px(n float64) int { return int(math.Round(n * p.s)) }

// y scales a height of the 1920x1080 screen; on a taller screen what stands in the middle stays in the middle.
func (p *page) y(n float64) int { return p.px(n) + (p.img.Height-p.px(1080))/2 }

// face returns a font at a scaled size, never smaller than can be read.
func (p *page) face(w weight, size float64) faceKey { return faceKey{w, max(p.px(size), 11)} }

// middle is the screen's middle column.
func (p *page) middle() int { return p.img.Width / 2 }

func (p *page) width(k faceKey, s string) int { return p.kiosk.fonts.width(k, s) }

// text writes a line from the left and returns where it ended.
func (p *page) text(k faceKey, x, baseline int, rgb uint32, s string) int {
	return p.kiosk.fonts.draw(p.canvas, k, x, baseline, rgb, s)
}

func (p *page) textRight(k faceKey, x, baseline int, rgb uint32, s string) {
	p.text(k, x-p.width(k, s), baseline, rgb, s)
}

func (p *page) textMiddle(k faceKey, x, baseline int, rgb uint32, s string) {
	p.text(k, x-p.width(k, s)/2, baseline, rgb, s)
}

// paragraph writes wrapped lines from a baseline on and returns the baseline after the last. middled lines lie around x.
func (p *page) paragraph(k faceKey, x, baseline, width, limit int, rgb uint32, s string, middled bool) int {
	for _, line := range p.kiosk.fonts.wrap(k, s, width, limit) {
		if middled {
			p.textMiddle(k, x, baseline, rgb, line)
		} else {
			p.text(k, x, baseline, rgb, line)
		}
		baseline += k.size * 11 / 8
	}
	return baseline
}

// ground paints what every light screen has: the paper, the logo, the clock, and a footer with box and support.
func (p *page) ground() {
	w, h := p.img.Width, p.img.Height
	for y := range h {
		p.fill(image.Rect(0, y, w, y+1), mix(paper, paperEnd, float64(y)/float64(h)))
	}
	p.logo(vec{float64(p.px(112)), float64(p.px(100))}, p.s*52)
	p.text(p.face(bold, 34), p.px(152), p.px(112), ink, "SD-Box")
	if !p.Now.IsZero() {
		p.textRight(p.face(medium, 34), w-p.px(80), p.px(104), ink, refusal.Clock(p.Language, p.Now))
		p.textRight(p.face(regular, 22), w-p.px(80), p.px(138), soft, refusal.Day(p.Language, p.Now))
	}
	if p.Watched {
		half := p.width(p.face(medium, 28), p.say.watched)/2 + p.px(50)
		p.watched(p.middle()+half, p.px(100), p.px(44))
	}
	foot := h - p.px(64)
	p.fill(image.Rect(p.px(80), foot-p.px(44), w-p.px(80), foot-p.px(44)+max(p.px(1), 1)), edge)
	small := p.face(regular, 22)
	if p.Box != "" {
		end := p.text(small, p.px(80), foot, soft, p.say.box+" ")
		p.text(p.face(medium, 22), end, foot, ink, p.kiosk.fonts.shorten(p.face(medium, 22), p.Box, w/3))
	}
	p.textMiddle(small, p.middle(), foot, soft, p.say.larger)
	if p.Support != "" {
		number := p.kiosk.fonts.shorten(p.face(medium, 22), p.Support, w/3)
		x := w - p.px(80) - p.width(p.face(medium, 22), number)
		p.text(p.face(medium, 22), x, foot, ink, number)
		p.textRight(small, x, foot, soft, p.say.support+" ")
	}
	if p.Slow.Code != "" {
		p.slow(foot + p.px(42))
	}
}

// slow says in one line at the lower edge that UDP is blocked, and what to do about it.
func (p *page) slow(base int) {
	w, k, bold := p.Slow.Words(p.Language), p.face(medium, 22), p.face(bold, 24)
	code := p.kiosk.fonts.shorten(bold, oneLine(p.Slow.Error()), p.px(160))
	text, room := w.Title+" "+w.Next, p.img.Width-p.px(80)-p.px(60)-p.width(bold, code)
	for size := 22.0; size > 16 && p.width(k, text) > room; size-- { // its last words are the next step
		k = p.face(medium, size)
	}
	text = p.kiosk.fonts.shorten(k, text, room)
	x := p.middle() - (p.px(60)+p.width(k, text)+p.width(bold, code))/2
	p.sign(w.Light, vec{float64(x + p.px(12)), float64(base) - 8*p.s}, p.s*12)
	x = p.text(k, x+p.px(36), base, p.lamp(w.Light).ink, text)
	p.text(bold, x+p.px(24), base, ink, code)
}

// lamp is how a light is shown: ink and ground, its name and what it asks.
type lamp struct {
	ink, ground uint32
	name        string
}

func (p *page) lamp(l refusal.Light) lamp {
	switch l {
	case refusal.Blue:
		return lamp{blueInk, blueBg, p.say.blue}
	case refusal.Amber:
		return lamp{amberInk, amberBg, p.say.amber}
	case refusal.Red:
		return lamp{redInk, redBg, p.say.red}
	}
	return lamp{accent, accentBg, p.say.white}
}

// pill writes a light's sign and name on its ground, from the left, and returns its rectangle.
func (p *page) pill(l refusal.Light, x, y int) image.Rectangle {
	lamp, k := p.lamp(l), p.face(medium, 22)
	h := p.px(44)
	r := image.Rect(x, y, x+p.width(k, lamp.name)+p.px(68), y+h)
	p.round(r, float64(h)/2, lamp.ground)
	p.sign(l, vec{float64(x + p.px(26)), float64(y) + float64(h)/2}, p.s*12)
	p.text(k, x+p.px(46), y+h/2+k.size*3/8, lamp.ink, lamp.name)
	return r
}

// sign draws the small sign of a light: a different shape for each, so that nobody needs to tell colours apart.
func (p *page) sign(l refusal.Light, m vec, r float64) {
	c := p.lamp(l).ink
	w := max(r/5, 1.5)
	switch l {
	case refusal.Blue:
		p.ring(m, r-w/2, w, c)
		p.lines(w, c, m.add(0, -r*0.5), m, m.add(r*0.38, r*0.2))
	case refusal.Amber:
		p.lines(w*1.1, c, m.add(0, -r*0.95), m.add(r, r*0.8), m.add(-r, r*0.8), m.add(0, -r*0.95))
		p.line(m.add(0, -r*0.3), m.add(0, r*0.2), w, c)
		p.disc(m.add(0, r*0.52), w*0.6, c)
	case refusal.Red:
		p.disc(m, r, c)
		p.line(m.add(-r*0.45, 0), m.add(r*0.45, 0), w*1.4, sheet)
	default:
		p.ring(m, r-w/2, w, c)
		p.lines(w, c, m.add(-r*0.4, 0), m.add(-r*0.1, r*0.32), m.add(r*0.42, -r*0.3))
	}
}

// oneLine makes one line of a text that came over a wire.
func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

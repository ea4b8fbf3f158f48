// SPDX-License-Identifier: Apache-2.0

package kiosk

import (
	"image"
	"math"
)

// logo draws the house's mark around a middle: a box with a keyhole.
func (p *page) logo(m vec, size float64) { p.logoOn(m, size, accent, sheet) }

// logoOn draws the mark in one colour on another.
func (p *page) logoOn(m vec, size float64, on, ground uint32) {
	h := size / 2
	p.round(image.Rect(int(m.x-h), int(m.y-h), int(m.x+h), int(m.y+h)), size*0.26, on)
	p.disc(m.add(0, -size*0.11), size*0.165, ground)
	w := size * 0.075
	p.round(image.Rect(int(m.x-w+0.5), int(m.y-size*0.1), int(m.x+w+0.5), int(m.y+size*0.27)), w*0.7, ground)
}

// waiting wraps a picture in a turning ring.
func (p *page) waiting(draw func(m vec)) func(m vec) {
	return func(m vec) {
		draw(m)
		p.kiosk.turns = true
		r, w := p.s*158, p.s*8
		p.ring(m, r, w, edge)
		turn := float64(p.Now.UnixMilli()%1600) / 1600
		p.arc(m, r, w, turn-0.25, 0.22, accent)
	}
}

// plate is the round ground the pictures stand on.
func (p *page) plate(m vec) { p.disc(m, p.s*132, accentBg) }

// box returns a scaled rectangle around a middle.
func (p *page) around(m vec, w, h float64) image.Rectangle {
	return image.Rect(int(math.Round(m.x-w/2*p.s)), int(math.Round(m.y-h/2*p.s)), int(math.Round(m.x+w/2*p.s)), int(math.Round(m.y+h/2*p.s)))
}

// at moves a point by scaled measures.
func (p *page) at(m vec, x, y float64) vec { return m.add(x*p.s, y*p.s) }

func (p *page) drawBox(m vec) {
	p.plate(m)
	p.frame(p.around(m, 128, 104), 20*p.s, 8*p.s, accent, sheet)
	p.ring(p.at(m, 0, -2), 24*p.s, 8*p.s, accent)
	p.disc(p.at(m, 36, 30), 5*p.s, accent)
	p.line(p.at(m, -30, 72), p.at(m, 30, 72), 8*p.s, accent)
}

// smartcard draws a card with its chip.
func (p *page) smartcard(m vec) {
	p.round(p.around(m, 116, 164), 14*p.s, accent)
	chip := p.at(m, 0, 38)
	p.round(p.around(chip, 46, 40), 8*p.s, 0xf3d58a)
	for _, y := range []float64{-7, 7} {
		p.line(p.at(chip, -20, y), p.at(chip, -8, y), 2.4*p.s, 0x9a7420)
		p.line(p.at(chip, 8, y), p.at(chip, 20, y), 2.4*p.s, 0x9a7420)
	}
	p.ring(chip, 8*p.s, 2.4*p.s, 0x9a7420)
	p.line(p.at(m, -36, -54), p.at(m, 8, -54), 7*p.s, 0x7fc0bd)
	p.line(p.at(m, -36, -36), p.at(m, -10, -36), 7*p.s, 0x7fc0bd)
}

func (p *page) drawCard(m vec) {
	p.plate(m)
	p.smartcard(m)
}

// drawCardIn draws a card on its way into the reader.
func (p *page) drawCardIn(m vec) {
	p.plate(m)
	reader := p.at(m, 0, 92)
	p.round(p.around(reader, 196, 88), 20*p.s, ink)
	p.round(p.around(p.at(reader, 0, -24), 148, 16), 8*p.s, 0x05090e)
	p.smartcard(p.at(m, 0, -10))
	p.round(p.around(p.at(reader, 0, 10), 196, 68), 20*p.s, ink) // the lip of the slot, before the card
	p.disc(p.at(reader, 70, 16), 5*p.s, 0x59d0b0)
}

// drawFinger draws a fingerprint.
func (p *page) drawFinger(m vec) {
	p.plate(m)
	c := p.at(m, 0, 14)
	w := 7.5 * p.s
	type ridge struct{ r, from, sweep, down float64 }
	for _, a := range []ridge{{76, 0.545, 0.41, 0}, {58, 0.5, 0.5, 40}, {40, 0.5, 0.5, 58}, {22, 0.5, 0.5, 40}} {
		p.arc(c, a.r*p.s, w, a.from, a.sweep, accent)
		if a.down > 0 {
			p.line(p.at(c, -a.r, 0), p.at(c, -a.r, a.down*0.62), w, accent)
			p.line(p.at(c, a.r, 0), p.at(c, a.r, a.down), w, accent)
		}
	}
	p.line(p.at(c, 0, -2), p.at(c, 0, 62), w, accent)
}

// drawDesktop draws a window in a frame of the bubble's colour.
func (p *page) drawDesktop(m vec, colour uint32) {
	p.plate(m)
	p.round(p.around(m, 156, 112), 14*p.s, colour&0xffffff)
	p.round(p.around(p.at(m, 0, 6), 140, 84), 6*p.s, sheet)
	p.line(p.at(m, -54, -8), p.at(m, -10, -8), 6*p.s, edge)
	p.line(p.at(m, -54, 10), p.at(m, 30, 10), 6*p.s, edge)
	p.line(p.at(m, -54, 28), p.at(m, 4, 28), 6*p.s, edge)
	p.line(p.at(m, -26, 76), p.at(m, 26, 76), 8*p.s, accent)
}

// eye draws an open eye around m, r high.
func (p *page) eye(m vec, r float64, rgb uint32) {
	w := max(r/3.2, 1.4)
	p.lines(w, rgb, m.add(-r*1.7, 0), m.add(-r*0.9, -r*0.72), m.add(0, -r), m.add(r*0.9, -r*0.72), m.add(r*1.7, 0),
		m.add(r*0.9, r*0.72), m.add(0, r), m.add(-r*0.9, r*0.72), m.add(-r*1.7, 0))
	p.disc(m, r*0.45, rgb)
}

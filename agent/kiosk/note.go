// SPDX-License-Identifier: Apache-2.0

package kiosk

import (
	"image"
	"strings"
	"time"

	"sdbox/agent/screen"
	"sdbox/internal/refusal"
)

// Note is a message over whatever is on the screen: an operator's words, or a refusal to come. One of Text and Refusal is set.
type Note struct {
	Text    string
	At      time.Time // when it was sent
	Refusal *refusal.Refusal
}

// Measures of a note, in pixels of a 1920x1080 screen.
const (
	noteWidth = 1120
	noteTop   = 72 // under the bar
	noteLines = 6
)

// Note draws a note over dst, whatever it shows, and returns the rectangle that is the note's: nobody else may paint there while it
// stands. On amber and red it names whom to call.
func (k *Kiosk) Note(dst *screen.Image, n Note, a Around) image.Rectangle {
	p := k.page(dst, a)
	p.canvas = canvas{img: dst, clip: dst.Bounds()}
	light, title, text, foot := refusal.Blue, p.say.message, oneLine(n.Text), p.say.read
	if !n.At.IsZero() {
		title += "  ·  " + refusal.Clock(a.Language, n.At)
	}
	if n.Refusal != nil {
		w := n.Refusal.Words(a.Language)
		light, title, text = w.Light, w.Title, strings.TrimSpace(w.Text+" "+w.Next)
		if a.Support != "" && light != refusal.Blue {
			foot += "  ·  " + p.say.support + " " + a.Support
		}
	}
	head, body, small := p.face(bold, 30), p.face(regular, 28), p.face(regular, 22)
	width := min(p.px(noteWidth), p.img.Width-p.px(160))
	left := p.middle() - width/2
	heads := k.fonts.wrap(head, title, width-p.px(90), 2)
	lines := k.fonts.wrap(body, text, width-p.px(90), noteLines)
	height := p.px(96) + (len(heads)*head.size+len(lines)*body.size)*11/8
	at := image.Rect(left-p.px(36), p.px(noteTop), left+width+p.px(36), p.px(noteTop)+height).Intersect(dst.Bounds())
	p.clip = at
	p.fill(at, p.lamp(light).ink)
	p.fill(at.Inset(max(p.px(4), 2)), sheet)
	if light == refusal.Blue {
		p.envelope(vec{float64(left + p.px(28)), float64(at.Min.Y + p.px(50))}, 24*p.s, p.lamp(light).ink)
	} else {
		p.sign(light, vec{float64(left + p.px(28)), float64(at.Min.Y + p.px(50))}, 24*p.s)
	}
	x := left + p.px(80)
	y := p.paragraph(head, x, at.Min.Y+p.px(60), width-p.px(90), 2, p.lamp(light).ink, title, false)
	y = p.paragraph(body, x, y, width-p.px(90), noteLines, ink, text, false)
	p.text(small, x, y, soft, k.fonts.shorten(small, foot, width-p.px(340)))
	if n.Refusal != nil {
		p.textRight(p.face(bold, 24), left+width, y, ink, k.fonts.shorten(p.face(bold, 24), n.Refusal.Error(), p.px(200)))
	}
	return at
}

// envelope draws a letter around m.
func (p *page) envelope(m vec, r float64, rgb uint32) {
	w := max(r/6, 1.5)
	p.lines(w, rgb, m.add(-r, -r*0.7), m.add(r, -r*0.7), m.add(r, r*0.7), m.add(-r, r*0.7), m.add(-r, -r*0.7), m.add(0, r*0.15), m.add(r, -r*0.7))
}

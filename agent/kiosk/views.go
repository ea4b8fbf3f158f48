// SPDX-License-Identifier: Apache-2.0

package kiosk

import (
	"image"
	"strings"

	"sdbox/agent/screen"
	"sdbox/internal/refusal"
)

// moment lays out a screen with one picture, one headline and one line below.
func (p *page) moment(lift float64, draw func(m vec), greeting, headline, more string) {
	p.ground()
	s := p.s
	if p.Large && lift > 0 {
		p.s /= largeScale // the words grow, the picture makes room for them
	}
	draw(vec{float64(p.middle()), float64(p.y(390-lift)) + (s-p.s)*40})
	p.s = s
	if greeting != "" {
		k := p.face(medium, 34)
		p.textMiddle(k, p.middle(), p.y(620-lift), accent, p.kiosk.fonts.shorten(k, greeting, p.px(1400)))
	}
	k := p.face(bold, 68)
	p.textMiddle(k, p.middle(), p.y(706-lift), ink, p.kiosk.fonts.shorten(k, headline, p.px(1600)))
	p.textMiddle(p.face(regular, 32), p.middle(), p.y(768-lift), soft, more)
}

// room says how far a moment rises for the notice under it, and where that begins. Large, there is less of it.
func (p *page) room(r *refusal.Refusal) (lift float64, under int) {
	switch {
	case r == nil:
		return 0, 0
	case p.Large:
		return 150, p.y(650)
	}
	return 120, p.y(700)
}

func (v Boot) draw(p *page) {
	lift, under := p.room(v.Refusal)
	p.moment(lift, p.waiting(p.drawBox), "", p.say.connecting, p.say.connectingMore)
	if v.Refusal != nil {
		p.notice(*v.Refusal, under, 1168)
	}
}

func (Ready) draw(p *page) {
	p.moment(0, p.drawCardIn, "", p.say.ready+" "+p.say.insert, p.say.readyMore)
	small, code := p.face(regular, 22), string(refusal.Ready)
	wide := p.width(p.face(medium, 22), p.say.white) + p.px(68+24) + p.width(small, p.say.code+" "+code)
	at := p.pill(refusal.White, p.middle()-wide/2, p.y(806))
	p.text(small, at.Max.X+p.px(24), at.Min.Y+p.px(30), soft, p.say.code+" "+code)
}

func (ReadingCard) draw(p *page) {
	p.moment(0, p.waiting(p.drawCard), "", p.say.reading, p.say.readingMore)
}

func (v Finger) draw(p *page) {
	lift, under := p.room(v.Refusal)
	more := p.say.fingerMore
	if v.Second {
		more = p.say.fingerSecond
	}
	p.moment(lift, p.drawFinger, oneLine(v.Name), p.say.finger, more)
	if v.Refusal != nil {
		p.notice(*v.Refusal, under, 1168)
	}
}

func (v Verifying) draw(p *page) {
	p.moment(0, p.waiting(p.drawFinger), oneLine(v.Name), p.say.verifying, p.say.verifyingMore)
}

func (v Opening) draw(p *page) {
	lift, under := p.room(v.Refusal)
	p.moment(lift, p.waiting(func(m vec) { p.drawDesktop(m, v.Colour) }), oneLine(v.Title), p.say.opening, p.say.openingMore)
	if v.Refusal != nil {
		p.notice(*v.Refusal, under, 1168)
	}
}

func (v EndDesktop) draw(p *page) {
	p.moment(60, func(m vec) { p.drawDesktop(m, v.Colour) }, oneLine(v.Title), p.say.endAsk, p.say.endMore)
	middle, y := p.middle(), p.y(830)
	k := p.face(medium, 30)
	for i, choice := range []struct{ en, fr, does string }{{"Enter", "Entrée", p.say.endYes}, {"Esc", "Échap", p.say.endNo}} {
		p.keycapLeft(choice.en, choice.fr, middle-p.px(40), y+i*p.px(70))
		p.text(k, middle-p.px(16), y+i*p.px(70)+k.size*3/8, ink, choice.does)
	}
}

func (CardOut) draw(p *page) {
	p.fill(p.img.Bounds(), 0)
	p.textMiddle(p.face(medium, 52), p.middle(), p.y(530), 0xe6ebf0, p.say.goesOn)
	p.textMiddle(p.face(regular, 34), p.middle(), p.y(596), 0xa3b0bd, p.say.comeBack)
}

func (v Message) draw(p *page) {
	p.ground()
	band := p.message(v.Refusal, v.Refusal.Words(p.Language), "")
	if v.Share <= 0 {
		return
	}
	bar := image.Rect(band.Min.X, band.Min.Y-p.px(26), band.Max.X, band.Min.Y-p.px(16))
	p.round(bar, p.s*5, accentBg)
	bar.Max.X = bar.Min.X + max(bar.Dy(), int(min(v.Share, 1)*float64(bar.Dx())))
	p.round(bar, p.s*5, accent)
}

func (v Ended) draw(p *page) {
	p.ground()
	words, reason := v.Refusal.Words(p.Language), oneLine(v.Reason)
	if reason != "" {
		reason = p.say.reason + colon(p.Language) + reason
	}
	if strings.Contains(words.Text, reason) { // the refusal's own words carry it
		reason = ""
	}
	p.message(v.Refusal, words, reason)
}

func colon(lang refusal.Lang) string {
	if lang == refusal.French {
		return " : "
	}
	return ": "
}

// message draws a refusal as one sheet in the middle of the screen, and returns where in it the next step stands.
func (p *page) message(r refusal.Refusal, w refusal.Words, extra string) (band image.Rectangle) {
	f, width := p.kiosk.fonts, p.px(1040)
	title, text, next := p.face(bold, 50), p.face(regular, 32), p.face(medium, 34)
	height := func(k faceKey, s string, limit int) int { return len(f.wrap(k, s, width, limit)) * k.size * 11 / 8 }
	body := height(title, w.Title, 3) + height(text, w.Text, 3) + height(text, extra, 3)
	foot := p.px(46) + height(next, w.Next, 3)
	full := p.px(204) + body + foot + p.px(88)
	top := max((p.img.Height-full)/2-p.px(10), p.px(150))
	left := p.middle() - width/2
	sheetAt := image.Rect(left-p.px(72), top, left+width+p.px(72), top+full)
	p.card(sheetAt, 28)

	p.pill(w.Light, left, top+p.px(60))
	p.code(r, left+width, top+p.px(60))
	y := top + p.px(184)
	y = p.paragraph(title, left, y, width, 3, ink, w.Title, false)
	y = p.paragraph(text, left, y-p.px(4), width, 3, soft, w.Text, false)
	p.paragraph(text, left, y, width, 3, soft, extra, false)

	lamp := p.lamp(w.Light)
	band = image.Rect(left-p.px(32), sheetAt.Max.Y-foot-p.px(88), left+width+p.px(32), sheetAt.Max.Y-p.px(40))
	p.round(band, p.s*16, lamp.ground)
	y = band.Min.Y + p.px(52)
	p.text(p.face(medium, 22), left, y, lamp.ink, p.say.next)
	p.paragraph(next, left, y+p.px(50), width, 3, ink, w.Next, false)
	return band
}

// code writes "Code C05-7K2", right-aligned: the string a person reads over the telephone.
func (p *page) code(r refusal.Refusal, right, top int) {
	k := p.face(bold, 34)
	code := p.kiosk.fonts.shorten(k, r.Error(), p.px(300))
	x := right - p.width(k, code)
	base := top + p.px(34)
	p.text(k, x, base, ink, code)
	p.textRight(p.face(regular, 22), x-p.px(12), base, soft, p.say.code)
}

// notice draws a refusal as a strip in the middle, of an upper edge in pixels and a width, and returns its lower edge.
func (p *page) notice(r refusal.Refusal, top int, across float64) int {
	w, width := r.Words(p.Language), p.px(across-88)
	title, text := p.face(medium, 30), p.face(regular, 26)
	first := strings.TrimSpace(w.Title + " " + w.Text)
	lines := len(p.kiosk.fonts.wrap(title, first, width, 2))*title.size + len(p.kiosk.fonts.wrap(text, w.Next, width, 2))*text.size
	left := p.middle() - width/2
	r0 := image.Rect(left-p.px(44), top, left+width+p.px(44), top+p.px(98)+lines*11/8)
	p.card(r0, 22)
	p.pill(w.Light, left, r0.Min.Y+p.px(24))
	p.code(r, left+width, r0.Min.Y+p.px(24))
	y := p.paragraph(title, left, r0.Min.Y+p.px(108), width, 2, ink, first, false)
	p.paragraph(text, left, y, width, 2, soft, w.Next, false)
	return r0.Max.Y
}

// card paints a white sheet with a fine edge and a soft shadow.
func (p *page) card(r image.Rectangle, radius float64) {
	p.shadow(r, radius*p.s, p.s*36, 0.10)
	p.frame(r, radius*p.s, max(p.s, 1), edge, sheet)
}

// Cover darkens a picture and says over it that the link is lost (or another overlay row of package refusal), and
// returns what changed. Draw it over a fresh picture: each call darkens again.
func (k *Kiosk) Cover(dst *screen.Image, r refusal.Refusal, a Around) []image.Rectangle {
	p := k.page(dst, a)
	p.canvas = canvas{img: dst, clip: dst.Bounds()}
	p.shade(dst.Bounds(), 0x0b1420, 0.62)
	w, width := r.Words(a.Language), p.px(720)
	left, top := p.middle()-width/2, p.y(400)
	at := image.Rect(left-p.px(64), top, left+width+p.px(64), top+p.px(290))
	p.shadow(at, p.s*28, p.s*48, 0.4)
	p.round(at, p.s*28, sheet)
	p.pill(w.Light, left, top+p.px(48))
	p.code(r, left+width, top+p.px(48))
	title, text := p.face(bold, 46), p.face(regular, 30)
	y := p.paragraph(title, left, top+p.px(164), width, 1, ink, w.Title, false)
	p.paragraph(text, left, y, width, 2, soft, strings.TrimSpace(w.Text+" "+w.Next), false)
	return []image.Rectangle{dst.Bounds()}
}

// SPDX-License-Identifier: Apache-2.0

package kiosk

import (
	"image"
	"strconv"
	"strings"
	"time"

	"sdbox/internal/refusal"
	"sdbox/internal/wire"
)

// Measures of the list, in pixels of a 1920x1080 screen.
const (
	listWidth             = 1240
	listTop, listEnd      = 264, 910 // of the first row and the last, on the smallest screen
	rowHeight, tallHeight = 92, 116  // a project that can be opened, and one that cannot
	rowGap                = 10
)

func (v List) draw(p *page) {
	p.ground()
	left := p.middle() - p.px(listWidth)/2
	bottom := p.img.Height - p.px(1080-listEnd)
	top := p.px(listTop) + v.spare(p)
	k := p.face(medium, 30)
	p.text(k, left, top-p.px(92), accent, p.kiosk.fonts.shorten(k, p.say.hello+" "+oneLine(v.Name), p.px(listWidth)))
	p.text(p.face(bold, 52), left, top-p.px(32), ink, p.say.projects)
	if v.Refusal != nil {
		top = p.notice(*v.Refusal, top, listWidth) + p.px(16)
	}
	if len(v.Bubbles) == 0 {
		p.paragraph(p.face(regular, 32), left, top+p.px(60), p.px(listWidth), 2, soft, p.say.noProjects, false)
		return
	}
	selected := min(max(v.Selected, 0), len(v.Bubbles)-1)
	first, last := p.window(v.Bubbles, selected, bottom-top)
	y := top
	for i := first; i < last; i++ {
		at := image.Rect(left, y, left+p.px(listWidth), y+p.rowHeight(v.Bubbles[i]))
		p.project(v.Bubbles[i], i, i == selected, at)
		p.kiosk.rows = append(p.kiosk.rows, row{i, at})
		y = at.Max.Y + p.px(rowGap)
	}
	base := bottom + p.px(40)
	p.text(p.face(regular, 22), left, base, soft, p.say.pick)
	var more []string
	if first > 0 {
		more = append(more, strconv.Itoa(first)+" "+p.say.above)
	}
	if rest := len(v.Bubbles) - last; rest > 0 {
		more = append(more, strconv.Itoa(rest)+" "+p.say.below)
	}
	p.textRight(p.face(medium, 22), left+p.px(listWidth), base, accent, strings.Join(more, " · "))
}

// spare returns how much lower a short list may begin, so that it stands with air around it.
func (v List) spare(p *page) int {
	free := p.img.Height - p.px(1080-listEnd) - p.px(listTop)
	for _, b := range v.Bubbles {
		if free -= p.rowHeight(b) + p.px(rowGap); free <= 0 {
			return 0
		}
	}
	if v.Refusal != nil {
		free -= p.px(230)
	}
	return max(0, min(free/2, p.px(70)))
}

func (p *page) rowHeight(b wire.Bubble) int {
	if b.Refusal != nil {
		return p.px(tallHeight)
	}
	return p.px(rowHeight)
}

// window returns which rows are shown in a height so that the selected one is among them.
func (p *page) window(list []wire.Bubble, selected, height int) (first, last int) {
	used := 0
	for last = 0; last < len(list); last++ {
		used += p.rowHeight(list[last])
		for ; used > height && last > first; first++ {
			if last > selected {
				return first, last
			}
			used -= p.rowHeight(list[first]) + p.px(rowGap)
		}
		used += p.px(rowGap)
	}
	return first, last
}

// project draws one row of the list.
func (p *page) project(b wire.Bubble, index int, selected bool, at image.Rectangle) {
	radius := p.s * 18
	switch {
	case selected:
		p.shadow(at, radius, p.s*28, 0.14)
		p.frame(at, radius, max(3*p.s, 2), accent, sheet)
	case b.Refusal != nil:
		p.frame(at, radius, max(p.s, 1), edge, paper)
	default:
		p.frame(at, radius, max(p.s, 1), edge, sheet)
	}
	middle := (at.Min.Y + at.Max.Y) / 2
	if index < 9 {
		p.keycap(strconv.Itoa(index+1), at.Min.X+p.px(26), middle)
	}
	stripe := image.Rect(at.Min.X+p.px(90), at.Min.Y+p.px(20), at.Min.X+p.px(100), at.Max.Y-p.px(20))
	p.round(stripe, p.s*5, b.Colour&0xffffff)
	x, right := at.Min.X+p.px(126), at.Max.X-p.px(36)
	if selected && b.Refusal == nil {
		right = p.keycapLeft("Enter", "Entrée", right, middle) - p.px(20)
	}
	title, small := p.face(medium, 30), p.face(regular, 23)
	if b.Refusal != nil {
		p.code(*b.Refusal, right, at.Min.Y+p.px(8))
		name := p.kiosk.fonts.shorten(title, oneLine(b.Title), right-x-p.px(260))
		p.text(title, x, at.Min.Y+p.px(40), soft, name)
		w := b.Refusal.Words(p.Language)
		lamp := p.lamp(w.Light)
		p.sign(w.Light, vec{float64(x) + 11*p.s, float64(at.Min.Y) + 64*p.s}, 11*p.s)
		p.text(p.face(medium, 23), x+p.px(34), at.Min.Y+p.px(72), lamp.ink, p.kiosk.fonts.shorten(p.face(medium, 23), w.Title, right-x-p.px(34)))
		p.text(small, x+p.px(34), at.Min.Y+p.px(101), soft, p.kiosk.fonts.shorten(small, w.Next, right-x-p.px(34)))
		return
	}
	p.text(title, x, at.Min.Y+p.px(42), ink, p.kiosk.fonts.shorten(title, oneLine(b.Title), right-x))
	dot := vec{float64(x) + 8*p.s, float64(at.Min.Y) + 65*p.s}
	state := p.say.asleep
	if b.State == wire.Open {
		state = p.say.open
		p.disc(dot, 8*p.s, 0x1d8a5b)
	} else {
		p.ring(dot, 6.5*p.s, 3*p.s, soft)
	}
	line := strings.Join([]string{state, p.end(b), p.where(b)}, "  ·  ")
	p.text(small, x+p.px(28), at.Min.Y+p.px(73), soft, p.kiosk.fonts.shorten(small, line, right-x-p.px(28)))
}

// end says until when a project is open to the person.
func (p *page) end(b wire.Bubble) string {
	if b.Until == 0 {
		return p.say.noEnd
	}
	return p.say.until + refusal.Day(p.Language, time.UnixMilli(b.Until).In(p.Now.Location()))
}

// where says from which countries a project may be opened.
func (p *page) where(b wire.Bubble) string {
	if len(b.Countries) == 0 {
		return p.say.anywhere
	}
	return p.say.from + refusal.Countries(p.Language, b.Countries)
}

// keycap draws a key with its name, left edge at x.
func (p *page) keycap(name string, x, middle int) {
	k := p.face(medium, 22)
	w := max(p.width(k, name)+p.px(24), p.px(42))
	at := image.Rect(x, middle-p.px(21), x+w, middle+p.px(21))
	p.frame(at, p.s*9, max(p.s*1.5, 1), 0xc3ccd6, paper)
	p.textMiddle(k, x+w/2, middle+k.size*3/8, soft, name)
}

// keycapLeft draws a key in the page's language with its right edge at x and returns its left edge.
func (p *page) keycapLeft(en, fr string, x, middle int) int {
	if p.Language == refusal.French {
		en = fr
	}
	x -= max(p.width(p.face(medium, 22), en)+p.px(24), p.px(42))
	p.keycap(en, x, middle)
	return x
}

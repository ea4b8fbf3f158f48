// SPDX-License-Identifier: Apache-2.0

package rfb

import (
	"image"
)

const (
	maxRects  = 128 // rectangles of damage kept apart
	maxCopies = 32  // copies kept apart
	maxHoles  = 512 // rectangles of a picture that is not whole yet
)

// screen is the framebuffer and what changed in it since the last take.
type screen struct {
	pix       []byte
	size      image.Point
	holes     []image.Rectangle // never sent yet, after the start or a new size
	damage    []image.Rectangle // changed since the last take, the targets of copies included
	copies    []Copy            // from the picture of the last take; later ones win
	cursor    *Cursor
	newCursor bool
	leds      LEDs
	newLEDs   bool
}

func (s *screen) bounds() image.Rectangle { return image.Rectangle{Max: s.size} }

// row returns the bytes of one row of r.
func (s *screen) row(r image.Rectangle, y int) []byte {
	at := (y*s.size.X + r.Min.X) * 4
	return s.pix[at : at+r.Dx()*4]
}

// resize keeps what both sizes show and waits for all of the new one.
func (s *screen) resize(size image.Point) {
	old := *s
	s.pix, s.size = make([]byte, size.X*size.Y*4), size
	both := old.bounds().Intersect(s.bounds())
	for y := range both.Dy() {
		copy(s.row(both, y), old.row(both, y))
	}
	s.holes = []image.Rectangle{s.bounds()}
	s.damage, s.copies = []image.Rectangle{s.bounds()}, nil
}

// ready says whether there is something to take, and all of it.
func (s *screen) ready() bool {
	return len(s.holes) == 0 && (len(s.damage) > 0 || s.newCursor || s.newLEDs)
}

func (s *screen) take() Update {
	u := Update{Pix: s.pix, Size: s.size, Damage: s.damage, Copies: s.copies, LEDs: s.leds}
	if s.newCursor {
		u.Cursor = s.cursor
	}
	s.damage, s.copies, s.newCursor, s.newLEDs = nil, nil, false, false
	return u
}

func (s *screen) refresh() {
	s.damage, s.copies = []image.Rectangle{s.bounds()}, nil
	s.newCursor = s.cursor != nil
}

// drawn records that r has new pixels.
func (s *screen) drawn(r image.Rectangle) {
	s.fill(r)
	kept := s.copies[:0]
	for _, c := range s.copies {
		if !c.Dst.In(r) {
			kept = append(kept, c)
		}
	}
	s.copies = kept
	s.hurt(r)
}

// hurt adds r to the damage, as few rectangles as are cheap to find.
func (s *screen) hurt(r image.Rectangle) {
	kept := s.damage[:0]
	for _, d := range s.damage {
		if r.In(d) {
			return
		}
		if !d.In(r) {
			kept = append(kept, d)
		}
	}
	s.damage = append(kept, r)
	if len(s.damage) <= maxRects {
		return
	}
	all := image.Rectangle{}
	for _, d := range s.damage {
		all = all.Union(d)
	}
	s.damage = append(s.damage[:0], all)
}

// fill takes r out of what was never sent.
func (s *screen) fill(r image.Rectangle) {
	if len(s.holes) == 0 {
		return
	}
	s.holes = subtract(s.holes, r)
	if len(s.holes) <= maxHoles {
		return
	}
	all := image.Rectangle{}
	for _, h := range s.holes {
		all = all.Union(h)
	}
	s.holes = []image.Rectangle{all} // asks for too much rather than showing too little
}

// copyRect moves pixels inside the framebuffer and records it in terms of the picture of the last take.
func (s *screen) copyRect(c Copy) {
	src := c.Dst.Sub(c.Dst.Min).Add(c.Src)
	if src.Min.Y >= c.Dst.Min.Y {
		for y := range c.Dst.Dy() {
			copy(s.row(c.Dst, c.Dst.Min.Y+y), s.row(src, src.Min.Y+y))
		}
	} else {
		for y := c.Dst.Dy() - 1; y >= 0; y-- {
			copy(s.row(c.Dst, c.Dst.Min.Y+y), s.row(src, src.Min.Y+y))
		}
	}
	if len(s.holes) > 0 { // pixels that were never sent cannot be hints
		s.hurt(c.Dst)
		return
	}
	s.compose(c, src)
}

// compose rewrites a copy so that it reads from the picture of the last take: what an earlier copy brought to its
// source came from further away, and what was drawn there since is no hint at all.
func (s *screen) compose(c Copy, src image.Rectangle) {
	move := c.Dst.Min.Sub(c.Src)
	direct := []image.Rectangle{src}
	var moved []Copy
	var kept []Copy
	for _, e := range s.copies {
		if over := src.Intersect(e.Dst); !over.Empty() {
			moved = append(moved, Copy{over.Add(move), over.Min.Add(e.Src).Sub(e.Dst.Min)})
			direct = subtract(direct, over)
		}
		if !e.Dst.In(c.Dst) {
			kept = append(kept, e)
		}
	}
	for _, d := range s.damage {
		direct = subtract(direct, d)
	}
	for _, r := range direct {
		kept = append(kept, Copy{r.Add(move), r.Min})
	}
	s.copies = append(kept, moved...)
	s.hurt(c.Dst)
	if len(s.copies) > maxCopies {
		s.copies = nil // their targets are damage already
	}
}

// subtract takes r out of each rectangle of list.
func subtract(list []image.Rectangle, r image.Rectangle) []image.Rectangle {
	var rest []image.Rectangle
	for _, a := range list {
		cut := a.Intersect(r)
		if cut.Empty() {
			rest = append(rest, a)
			continue
		}
		for _, p := range []image.Rectangle{
			image.Rect(a.Min.X, a.Min.Y, a.Max.X, cut.Min.Y), image.Rect(a.Min.X, cut.Max.Y, a.Max.X, a.Max.Y),
			image.Rect(a.Min.X, cut.Min.Y, cut.Min.X, cut.Max.Y), image.Rect(cut.Max.X, cut.Min.Y, a.Max.X, cut.Max.Y),
		} {
			if !p.Empty() {
				rest = append(rest, p)
			}
		}
	}
	return rest
}

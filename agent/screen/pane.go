// SPDX-License-Identifier: Apache-2.0

package screen

import "image"

// pane is what every screen is made of: the picture that is drawn into, the surface a person sees, and the pointer over it. The
// surface is written and never read, for reading display memory is slow.
type pane struct {
	image, front *Image
	cursor       *Cursor // nil while none is drawn
	at           image.Point
	clip         image.Rectangle
}

func newPane(front *Image) pane {
	return pane{image: NewImage(front.Width, front.Height), front: front}
}

// Image implements Screen.
func (p *pane) Image() *Image { return p.image }

// put brings a part of the picture to the surface, under the pointer.
func (p *pane) put(r image.Rectangle) {
	p.front.Copy(p.image, r)
	if p.cursor != nil {
		p.cursor.draw(p.front, p.image, p.at, p.clip.Intersect(r))
	}
}

// covered is what the pointer covers.
func (p *pane) covered() image.Rectangle {
	if p.cursor == nil {
		return image.Rectangle{}
	}
	return p.cursor.Bounds(p.at).Intersect(p.clip).Intersect(p.image.Bounds())
}

// point changes the pointer and returns what must be put to be seen.
func (p *pane) point(c *Cursor, at image.Point, clip image.Rectangle) (changed []image.Rectangle) {
	if c == p.cursor && (c == nil || at == p.at && clip == p.clip) {
		return nil
	}
	before := p.covered()
	p.cursor, p.at, p.clip = c, at, clip
	after := p.covered()
	if before.Overlaps(after) {
		return []image.Rectangle{before.Union(after)}
	}
	for _, r := range []image.Rectangle{before, after} {
		if !r.Empty() {
			changed = append(changed, r)
		}
	}
	return changed
}

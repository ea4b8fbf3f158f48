// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"
	"image"
	"slices"
	"time"

	"sdbox/agent/kiosk"
	"sdbox/agent/screen"
	"sdbox/agent/viewer"
	"sdbox/internal/refusal"
	"sdbox/internal/wire"
)

// face is everything a person sees: the kiosk's views and the bubble's picture on one screen. It belongs to the loop.
type face struct {
	screen screen.Screen
	kiosk  *kiosk.Kiosk
	viewer *viewer.Viewer
	around kiosk.Around
	site   refusal.Lang // the language while no person is known
	view   kiosk.View   // nil while the picture is shown
	still  bool         // what is on the screen stays as it is, covered
	bar    kiosk.Bar
	arrow  *screen.Cursor // over the views
	mouse  *image.Point   // nil until it moves
	notes  []note         // over whatever is shown: the first of them
}

func newFace(s screen.Screen, language refusal.Lang, support string) (*face, error) {
	k, err := kiosk.New()
	if err != nil {
		return nil, err
	}
	f := &face{screen: s, kiosk: k, arrow: screen.Arrow(min(float64(s.Image().Width)/1920, float64(s.Image().Height)/1080) * 1.25), site: language, around: kiosk.Around{Language: language, Support: support, Now: time.Now()}}
	f.viewer = viewer.New(s, func(dst *screen.Image, r image.Rectangle) []image.Rectangle {
		if f.still {
			return nil
		}
		return f.kiosk.Bar(dst, r, f.bar, f.around)
	})
	return f, nil
}

// show draws a view in place of whatever is on the screen.
func (f *face) show(v kiosk.View) error {
	f.view, f.still = v, false
	changed := f.kiosk.Draw(f.screen.Image(), v, f.around)
	if len(f.notes) > 0 {
		changed = append(changed, f.drawNote())
	}
	if err := f.screen.Flush(changed...); err != nil {
		return fmt.Errorf("show %T: %w", v, err)
	}
	return f.point()
}

// greet takes what the gateway says of the site.
func (f *face) greet(h *wire.Hello) {
	if h.Language == refusal.French || h.Language == refusal.English {
		f.site, f.around.Language = h.Language, h.Language
	}
	if h.Support != "" {
		f.around.Support = h.Support
	}
	f.around.Box = h.Box
}

// speak takes the person's own language.
func (f *face) speak(p *wire.Person) {
	if p.Language == refusal.French || p.Language == refusal.English {
		f.around.Language = p.Language
	}
}

// dark turns the screen black and wipes the picture, before anything else is done or drawn.
func (f *face) dark() error {
	f.view, f.still = nil, false
	return f.viewer.Close()
}

// cover leaves what is shown where it is, dimmed, and says over it why nothing moves. It may be called again.
func (f *face) cover(r refusal.Refusal) error {
	if f.still {
		return nil
	}
	f.still = true
	if err := f.viewer.Mask(f.screen.Image().Bounds()); err != nil { // what still comes is kept, not shown
		return err
	}
	if err := f.screen.Flush(f.kiosk.Cover(f.screen.Image(), r, f.around)...); err != nil {
		return fmt.Errorf("cover: %w", err)
	}
	return nil
}

// uncover shows again what lies under the cover, as it is now.
func (f *face) uncover() error {
	if !f.still {
		return nil
	}
	f.still = false
	if f.view != nil {
		return f.show(f.view)
	}
	if err := f.viewer.Mask(image.Rectangle{}); err != nil {
		return err
	}
	return errors.Join(f.viewer.Redraw(), f.placeNote())
}

// forget drops the person's language and whatever was shown of her.
func (f *face) forget() {
	f.notes = slices.DeleteFunc(f.notes, func(n note) bool { return !n.stands })
	f.around.Language, f.around.Watched, f.bar = f.site, false, kiosk.Bar{}
}

// watch says on the bar, and on every screen of the box's own, whether an operator looks at this session.
func (f *face) watch(on bool) error {
	if f.around.Watched == on {
		return nil
	}
	f.around.Watched = on
	switch {
	case f.still:
		return nil // uncover draws both anew
	case f.view != nil:
		return f.show(f.view)
	}
	return f.viewer.Bar()
}

// open makes ready for a bubble's stream: black first, then the words that it opens.
func (f *face) open(stream uint16, b wire.Bubble, person string) error {
	if err := f.viewer.Open(stream, b.Colour); err != nil {
		return err
	}
	f.bar = kiosk.Bar{Title: b.Title, Person: person, Colour: b.Colour, Delay: f.bar.Delay}
	return f.show(kiosk.Opening{Title: b.Title, Colour: b.Colour})
}

// frame gives the viewer one frame; from the first shown on, the picture has the screen.
func (f *face) frame(data []byte) (viewer.Result, error) {
	r, err := f.viewer.Frame(data)
	if err == nil && r.Shown {
		f.view = nil
		err = errors.Join(f.placeNote(), f.point())
	}
	return r, err
}

// point shows the mouse pointer where it is now, once the mouse has moved: the box's arrow over a view, the bubble's over a picture.
func (f *face) point() error {
	if f.mouse == nil {
		return nil
	}
	if f.view == nil {
		return f.viewer.Pointer(f.mouse.X, f.mouse.Y)
	}
	if err := f.screen.Point(f.arrow, *f.mouse, f.screen.Image().Bounds()); err != nil {
		return fmt.Errorf("show pointer: %w", err)
	}
	return nil
}

// tick turns the clock, and the delay in the bar when it changed by a millisecond.
func (f *face) tick(now time.Time, delay time.Duration) error {
	minute := f.around.Now.Truncate(time.Minute)
	f.around.Now = now
	if err := f.expire(now); err != nil {
		return err
	}
	switch {
	case f.still:
		return nil
	case f.view != nil && !f.kiosk.Turns() && now.Truncate(time.Minute).Equal(minute):
		return nil
	case f.view != nil:
		return f.show(f.view)
	}
	if d := delay.Round(time.Millisecond); d != f.bar.Delay {
		f.bar.Delay = d
		return f.viewer.Bar()
	}
	return nil
}

// area is where a bubble's picture lies.
func (f *face) area() image.Rectangle {
	b := f.screen.Image().Bounds()
	return viewer.Area(b.Dx(), b.Dy())
}

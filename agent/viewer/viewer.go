// SPDX-License-Identifier: Apache-2.0

// Package viewer shows the picture of one bubble on an SD-Box: inside a frame of the bubble's colour, under a bar that
// somebody else draws, with the mouse pointer moved on the spot.
package viewer

import (
	"errors"
	"fmt"
	"image"
	"math"
	"time"

	"sdbox/agent/keys"
	"sdbox/agent/screen"
	"sdbox/internal/stream"
	"sdbox/internal/tile"
)

// refreshEvery is how often a missing key frame is asked for, at most.
const refreshEvery = 150 * time.Millisecond

// Measures on a 1920x1080 screen, in pixels.
const frameWidth, barHeight = 4, 40

// measures scales frame and bar to a screen.
func measures(w, h int) (frame, bar int) {
	scale := max(0.7, min(float64(w)/1920, float64(h)/1080))
	return int(math.Round(frameWidth * scale)), int(math.Round(barHeight * scale))
}

// Area returns where a bubble's picture lies on a screen of w x h pixels; its size is the one to ask the bubble for.
func Area(w, h int) image.Rectangle {
	frame, bar := measures(w, h)
	return image.Rect(frame, bar, w-frame, h-frame)
}

// BarArea returns where the bar lies: the whole width, above the picture.
func BarArea(w, h int) image.Rectangle {
	_, bar := measures(w, h)
	return image.Rect(0, 0, w, bar)
}

// Bar paints the bar into r of dst and returns what changed; it is kiosk.Kiosk.Bar with what the agent knows of the bubble.
type Bar func(dst *screen.Image, r image.Rectangle) []image.Rectangle

// Viewer shows one stream at a time. It is owned by the goroutine that owns the screen.
//
//	Open: black -> frames of the stream, none shown before a whole one -> Close: black
type Viewer struct {
	screen  screen.Screen
	bar     Bar
	area    image.Rectangle
	arrow   *screen.Cursor
	stream  uint16
	colour  uint32
	decoder *tile.Decoder // nil while nothing is open
	shown   bool          // a picture of the stream is on the screen
	stale   bool          // the decoder's memory is not to be shown: the screen keeps what it has until a key frame
	cursor  *screen.Cursor
	pointer image.Point
	mask    image.Rectangle // left to somebody else
	asked   time.Time       // when a key frame was asked for last
	rects   []image.Rectangle
}

// Result says what became of a frame.
type Result struct {
	Shown   bool // it is on the screen, and is the first of its stream: the whole picture appeared with it
	Decoded bool // the picture is the bubble's as of frame N: acknowledge it
	N       uint32
	Refresh bool        // the picture is not to be trusted: ask for a key frame
	Lights  keys.Lights // of Decoded: what the bubble wants lit on the keyboard
}

// New makes a viewer that shows nothing yet.
func New(s screen.Screen, bar Bar) *Viewer {
	b := s.Image().Bounds()
	area := Area(b.Dx(), b.Dy())
	arrow := screen.Arrow(float64(b.Dy()) / 1080)
	return &Viewer{screen: s, bar: bar, area: area, arrow: arrow, pointer: b.Max.Div(2)}
}

// Open begins a stream in a frame of a colour 0xRRGGBB. Before anything else the screen goes black and the old picture is
// wiped from memory; the new one appears with its first key frame. The kiosk may draw meanwhile.
func (v *Viewer) Open(stream uint16, colour uint32) error {
	if err := v.Close(); err != nil {
		return err
	}
	b := v.screen.Image().Bounds()
	d, err := tile.NewDecoder(b.Dx(), b.Dy())
	if err != nil {
		return fmt.Errorf("open viewer: %w", err)
	}
	v.decoder, v.stream, v.colour = d, stream, colour&0xffffff
	return nil
}

// Close turns the screen black at once, then wipes the picture. Frames that still come are dropped. It may be called again.
func (v *Viewer) Close() error {
	img := v.screen.Image()
	img.Fill(img.Bounds(), 0)
	err := v.screen.Flush(img.Bounds())
	if v.decoder != nil {
		pix, _, _ := v.decoder.Pixels()
		clear(pix)
		v.decoder.Close()
		v.decoder = nil
	}
	v.shown, v.stale, v.cursor, v.mask, v.asked = false, false, v.arrow, image.Rectangle{}, time.Time{}
	if err = errors.Join(err, v.point()); err != nil {
		return fmt.Errorf("wipe screen: %w", err)
	}
	return nil
}

// Frame takes one frame of the stream, as it came, and brings what it changed to the screen. A frame of another stream
// is dropped without a word. The error is the screen's: a bad frame is no error but a Result that asks for a refresh.
func (v *Viewer) Frame(frame []byte) (Result, error) {
	if v.decoder == nil {
		return Result{}, nil
	}
	h, err := tile.ParseHeader(frame)
	if err != nil {
		return v.refresh(), nil
	}
	if h.Stream != v.stream {
		return Result{}, nil
	}
	u, err := v.decoder.Decode(frame)
	if err != nil {
		return v.refresh(), nil
	}
	result := Result{Decoded: true, N: u.N, Shown: !v.shown, Lights: keys.Lights(u.Lights)}
	v.stale = false
	v.rects = v.rects[:0]
	if u.Cursor != nil {
		v.cursor = &screen.Cursor{Pix: u.Cursor.Pix, Width: u.Cursor.Width, Height: u.Cursor.Height, Hot: u.Cursor.Hot}
	}
	if !v.shown || u.Key {
		v.shown = true
		return result, v.Redraw()
	}
	for _, r := range u.Damage {
		v.rects = append(v.rects, r.Add(v.area.Min))
	}
	return result, errors.Join(v.paint(v.rects...), v.point())
}

// refresh stops painting and asks for a key frame, but not with every frame that needs one.
func (v *Viewer) refresh() Result {
	v.stale = true
	if !v.asked.IsZero() && time.Since(v.asked) < refreshEvery {
		return Result{}
	}
	v.asked = time.Now()
	return Result{Refresh: true}
}

// Redraw paints frame, bar and picture again, after somebody else drew over them. It does nothing before the first picture,
// nor while a key frame is awaited: that will paint everything.
func (v *Viewer) Redraw() error {
	if !v.shown || v.stale {
		return nil
	}
	img := v.screen.Image()
	b := img.Bounds()
	for _, side := range []image.Rectangle{
		{Max: image.Pt(b.Max.X, v.area.Min.Y)}, {Min: image.Pt(0, v.area.Max.Y), Max: b.Max},
		{Max: image.Pt(v.area.Min.X, b.Max.Y)}, {Min: image.Pt(v.area.Max.X, 0), Max: b.Max},
	} {
		for _, part := range without(side, v.mask) {
			img.Fill(part, v.colour)
		}
	}
	if v.bar != nil {
		v.bar(img, BarArea(b.Dx(), b.Dy()))
	}
	v.draw(v.area)
	if err := v.screen.Flush(b); err != nil {
		return fmt.Errorf("show picture: %w", err)
	}
	return v.point()
}

// Bar paints the bar alone again, for a new delay. It does nothing before the first picture.
func (v *Viewer) Bar() error {
	if !v.shown || v.bar == nil {
		return nil
	}
	b := v.screen.Image().Bounds()
	if err := v.screen.Flush(v.bar(v.screen.Image(), BarArea(b.Dx(), b.Dy()))...); err != nil {
		return fmt.Errorf("show bar: %w", err)
	}
	return nil
}

// Pointer moves the mouse pointer to a place of the screen, held to the picture.
func (v *Viewer) Pointer(x, y int) error {
	v.pointer = image.Pt(min(max(x, v.area.Min.X), v.area.Max.X-1), min(max(y, v.area.Min.Y), v.area.Max.Y-1))
	return v.point()
}

// point shows the pointer: none before the first picture. A bubble's shape stays inside the picture, and near what somebody
// else draws the pointer is the box's arrow: no bubble may paint over the words of the box.
func (v *Viewer) point() error {
	c, clip := v.cursor, v.area
	switch {
	case !v.shown:
		c = nil
	case v.pointer.In(v.mask) || c.Bounds(v.pointer).Overlaps(v.mask): // a bubble may hide its own
		c = v.arrow
	}
	if err := v.screen.Point(c, v.pointer, clip); err != nil {
		return fmt.Errorf("show pointer: %w", err)
	}
	return nil
}

// Mask leaves a rectangle of the screen to somebody else's drawing, such as a message over the picture; an empty one
// gives it back and paints the picture there.
func (v *Viewer) Mask(r image.Rectangle) error {
	old := v.mask
	v.mask = r
	if !v.shown || v.stale {
		return nil
	}
	return errors.Join(v.paint(without(old, r)...), v.point())
}

// paint brings rectangles of the screen to the picture and flushes them.
func (v *Viewer) paint(rects ...image.Rectangle) error {
	kept := rects[:0:len(rects)]
	for _, r := range rects {
		if r = r.Intersect(v.area); !r.Empty() {
			v.draw(r)
			kept = append(kept, r)
		}
	}
	if err := v.screen.Flush(kept...); err != nil {
		return fmt.Errorf("show picture: %w", err)
	}
	return nil
}

// draw puts the picture into the screen's image, outside the mask. r lies in the area.
func (v *Viewer) draw(r image.Rectangle) {
	img := v.screen.Image()
	pix, w, h := v.decoder.Pixels()
	picture := image.Rect(0, 0, w, h).Add(v.area.Min)
	for _, part := range without(r, v.mask) {
		for _, dark := range without(part, picture) { // a desktop smaller than the area
			img.Fill(dark, 0)
		}
		lit := part.Intersect(picture)
		for y := lit.Min.Y; y < lit.Max.Y; y++ {
			from := ((y-v.area.Min.Y)*w + lit.Min.X - v.area.Min.X) * 4
			copy(img.Row(y, lit.Min.X, lit.Max.X), pix[from:])
		}
	}
}

// without returns the parts of r outside hole: at most four.
func without(r, hole image.Rectangle) []image.Rectangle {
	hole = hole.Intersect(r)
	if r.Empty() {
		return nil
	}
	if hole.Empty() {
		return []image.Rectangle{r}
	}
	var out []image.Rectangle
	for _, part := range [...]image.Rectangle{
		{Min: r.Min, Max: image.Pt(r.Max.X, hole.Min.Y)},
		{Min: image.Pt(r.Min.X, hole.Max.Y), Max: r.Max},
		{Min: image.Pt(r.Min.X, hole.Min.Y), Max: image.Pt(hole.Min.X, hole.Max.Y)},
		{Min: image.Pt(hole.Max.X, hole.Min.Y), Max: image.Pt(r.Max.X, hole.Max.Y)},
	} {
		if !part.Empty() {
			out = append(out, part)
		}
	}
	return out
}

// Input turns an event into what the stream carries: scancodes as they are, places in pixels of the picture, held to it. ok is
// false for events that stay on the box.
func Input(area image.Rectangle, e keys.Event) (in stream.Input, ok bool) {
	switch e.Kind {
	case keys.KeyEvent:
		return stream.Input{Kind: stream.Key, Code: uint16(e.XT), Down: e.Down}, true
	case keys.PointerEvent:
		x, y := min(max(e.X-area.Min.X, 0), area.Dx()-1), min(max(e.Y-area.Min.Y, 0), area.Dy()-1)
		return stream.Input{Kind: stream.Pointer, X: uint16(x), Y: uint16(y), Buttons: uint8(e.Buttons), Wheel: int8(e.Wheel)}, true
	}
	return stream.Input{}, false
}

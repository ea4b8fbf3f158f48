// SPDX-License-Identifier: Apache-2.0

// Package kiosk draws what a person reads on an SD-Box before, around and after the desktop of a bubble, in French and
// English: one View per moment, and the bar above a bubble's picture.
package kiosk

import (
	"bytes"
	"image"
	"time"

	"sdbox/agent/screen"
	"sdbox/internal/refusal"
	"sdbox/internal/wire"
)

// Around is what stands on every screen, whatever the moment.
type Around struct {
	Language refusal.Lang // the site's before a card is in, the person's after
	Support  string       // whom to call: a telephone number or an address
	Box      string       // the box's serial
	Now      time.Time    // shown as given, in its own zone; zero = no clock. Its milliseconds turn the waiting ring
	Large    bool         // everything a quarter larger, for whoever reads badly
	Watched  bool         // an operator looks at exactly this session

	Slow refusal.Refusal // slow mode (N08), while UDP is blocked; else zero
}

// View is one moment of the box's life as a person sees it. Views are plain values: draw the same one again at will.
type View interface{ draw(p *page) }

// The views.
type (
	// Boot is shown until the line to the centre is up: "Connecting to the centre...".
	Boot struct{ Refusal *refusal.Refusal } // why it takes long, if known

	// Ready is shown while no card is in: "Ready. Insert your card."
	Ready struct{}

	// ReadingCard is shown from the card's arrival until the centre knows whose it is.
	ReadingCard struct{}

	// Finger asks for a finger.
	Finger struct {
		Name    string           // of the person
		Second  bool             // the second enrolled finger is awaited
		Refusal *refusal.Refusal // of the finger before: wrong finger, with the tries left
	}

	// Verifying is shown while the card compares, the card signs and the centre decides.
	Verifying struct{ Name string }

	// List offers a person her projects.
	List struct {
		Name     string
		Bubbles  []wire.Bubble
		Selected int
		Refusal  *refusal.Refusal // why the last choice was not opened, over the rows
	}

	// Opening is shown from the choice of a bubble to its first picture.
	Opening struct {
		Title   string
		Colour  uint32           // 0xRRGGBB of the bubble's frame
		Refusal *refusal.Refusal // why it takes long (U01), if known
	}

	// EndDesktop asks whether the person's desktop in a bubble shall really end.
	EndDesktop struct {
		Title  string
		Colour uint32
	}

	// CardOut is black but for one sentence: "Your work goes on. Insert your card to come back."
	CardOut struct{}

	// Message says a refusal on a screen of its own: light, words, next step, code and support.
	Message struct {
		Refusal refusal.Refusal
		Share   float64 // of a work that goes on, 0 to 1, drawn as a bar; 0 = none
	}

	// Ended says that the session was ended, and why.
	Ended struct {
		Refusal refusal.Refusal
		Reason  string // the operator's own words
	}
)

// Kiosk draws views. It is owned by one goroutine.
type Kiosk struct {
	fonts *fonts
	back  *screen.Image
	rows  []row // of the last List drawn
	turns bool  // the last view drawn has a waiting ring
}

// row is where one project of a List stands on the screen.
type row struct {
	index int
	at    image.Rectangle
}

// New makes a kiosk; its fonts are part of the program.
func New() (*Kiosk, error) {
	f, err := newFonts()
	if err != nil {
		return nil, err
	}
	return &Kiosk{fonts: f}, nil
}

// Draw brings dst, whatever it shows, to the view and returns the rectangles that changed, for Flush.
func (k *Kiosk) Draw(dst *screen.Image, v View, a Around) []image.Rectangle {
	p := k.page(dst, a)
	k.rows, k.turns = k.rows[:0], false
	v.draw(p)
	return replace(dst, k.back)
}

// Turns says whether the view drawn last moves with the time: then it wants to be drawn again, not only when the clock's minute is over.
func (k *Kiosk) Turns() bool { return k.turns }

// Hit returns which project of the List drawn last lies under a point of the screen.
func (k *Kiosk) Hit(x, y int) (index int, ok bool) {
	for _, r := range k.rows {
		if (image.Point{X: x, Y: y}).In(r.at) {
			return r.index, true
		}
	}
	return 0, false
}

// largeScale is how much larger everything is with Around.Large. The list shows fewer rows then, and rolls.
const largeScale = 1.25

// page prepares the back image for a screen of dst's size.
func (k *Kiosk) page(dst *screen.Image, a Around) *page {
	scale := min(float64(dst.Width)/1920, float64(dst.Height)/1080)
	larger := scale
	if a.Large {
		larger *= largeScale
	}
	if k.back == nil || k.back.Width != dst.Width || k.back.Height != dst.Height {
		k.back = screen.NewImage(dst.Width, dst.Height)
		k.fonts.reset()
	}
	return &page{
		canvas: canvas{img: k.back, clip: k.back.Bounds()},
		kiosk:  k, Around: a, say: wordsIn(a.Language), s: larger,
	}
}

// bands is how finely replace looks for changes, in pixels.
const bandHeight, bandWidth = 16, 64

// same says whether two images show the same in r.
func same(a, b *screen.Image, r image.Rectangle) bool {
	for y := r.Min.Y; y < r.Max.Y; y++ {
		if !bytes.Equal(a.Row(y, r.Min.X, r.Max.X), b.Row(y, r.Min.X, r.Max.X)) {
			return false
		}
	}
	return true
}

// replace copies into dst what differs in src, of the same size, and returns where.
func replace(dst, src *screen.Image) []image.Rectangle {
	var out []image.Rectangle
	for y0 := 0; y0 < src.Height; y0 += bandHeight {
		y1 := min(y0+bandHeight, src.Height)
		if same(dst, src, image.Rect(0, y0, src.Width, y1)) {
			continue
		}
		left, right := src.Width, 0
		for x0 := 0; x0 < src.Width; x0 += bandWidth {
			x1 := min(x0+bandWidth, src.Width)
			if !same(dst, src, image.Rect(x0, y0, x1, y1)) {
				left, right = min(left, x0), x1
			}
		}
		r := image.Rect(left, y0, right, y1)
		dst.Copy(src, r)
		if n := len(out); n > 0 && out[n-1].Max.Y == y0 && out[n-1].Min.X == left && out[n-1].Max.X == right {
			out[n-1].Max.Y = y1
			continue
		}
		out = append(out, r)
	}
	return out
}

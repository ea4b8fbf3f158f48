// SPDX-License-Identifier: Apache-2.0

// Package desktoptest is a desktop.Desktop that draws a known pattern, for tests of what stands between a desktop and a
// screen.
package desktoptest

import (
	"context"
	"encoding/binary"
	"errors"
	"image"
	"math/rand/v2"
	"sync"

	"sdbox/gateway/desktop"
)

// ErrClosed is what a closed Desktop answers.
var ErrClosed = errors.New("test desktop is closed")

// Pattern is the picture a seed stands for: BGRX blocks of 16 x 16 pixels in random colours, with random pixels in one
// block of eight.
func Pattern(seed uint64, w, h int) []byte {
	r := rand.New(rand.NewPCG(seed, 0))
	pix := make([]byte, w*h*4)
	across := (w + 15) / 16
	colours := make([]uint32, across*((h+15)/16))
	noisy := make([]bool, len(colours))
	for i := range colours {
		colours[i], noisy[i] = r.Uint32()&0xffffff, r.IntN(8) == 0
	}
	for y := range h {
		for x := range w {
			block := y/16*across + x/16
			v := colours[block]
			if noisy[block] {
				v = r.Uint32() & 0xffffff
			}
			binary.LittleEndian.PutUint32(pix[(y*w+x)*4:], v)
		}
	}
	return pix
}

// Desktop is drawn on by a test and read by the code under test.
type Desktop struct {
	w, h    int
	changed chan struct{}
	ended   chan struct{}
	once    sync.Once

	mu     sync.Mutex
	pix    []byte            // guarded by mu
	damage []image.Rectangle // guarded by mu
	inputs []desktop.Input   // guarded by mu
	lights desktop.Lights    // guarded by mu
	err    error             // guarded by mu
}

var _ desktop.Desktop = (*Desktop)(nil)

// New returns a desktop that shows Pattern(0).
func New(w, h int) *Desktop {
	d := &Desktop{w: w, h: h, changed: make(chan struct{}, 1), ended: make(chan struct{})}
	d.Draw(0)
	return d
}

// Draw fills the desktop with the seed's pattern.
func (d *Desktop) Draw(seed uint64) { d.DrawIn(image.Rect(0, 0, d.w, d.h), seed) }

// DrawIn draws the seed's pattern inside r only.
func (d *Desktop) DrawIn(r image.Rectangle, seed uint64) {
	p := Pattern(seed, d.w, d.h)
	r = r.Intersect(image.Rect(0, 0, d.w, d.h))
	d.mu.Lock()
	if d.pix == nil {
		d.pix = make([]byte, len(p))
	}
	for y := r.Min.Y; y < r.Max.Y; y++ {
		copy(d.pix[(y*d.w+r.Min.X)*4:(y*d.w+r.Max.X)*4], p[(y*d.w+r.Min.X)*4:])
	}
	d.damage = append(d.damage, r)
	d.mu.Unlock()
	d.signal()
}

// Light has the desktop want these lights lit on the keyboard.
func (d *Desktop) Light(l desktop.Lights) {
	d.mu.Lock()
	d.lights = l
	d.mu.Unlock()
	d.signal()
}

// Lights returns what Light was told last.
func (d *Desktop) Lights() desktop.Lights {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.lights
}

// Pixels returns a copy of what the desktop shows.
func (d *Desktop) Pixels() []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]byte(nil), d.pix...)
}

// Inputs returns all input so far.
func (d *Desktop) Inputs() []desktop.Input {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]desktop.Input(nil), d.inputs...)
}

// Break ends the desktop as a lost bubble does: Next and Input return err.
func (d *Desktop) Break(err error) {
	d.once.Do(func() {
		d.mu.Lock()
		d.err = err
		d.mu.Unlock()
		close(d.ended)
	})
}

func (d *Desktop) signal() {
	select {
	case d.changed <- struct{}{}:
	default:
	}
}

// Next implements desktop.Desktop.
func (d *Desktop) Next(ctx context.Context, show func(desktop.Update) error) error {
	select {
	case <-d.ended:
		return d.reason()
	default:
	}
	select {
	case <-d.changed:
	case <-d.ended:
		return d.reason()
	case <-ctx.Done():
		return ctx.Err()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	u := desktop.Update{Pix: d.pix, Size: image.Pt(d.w, d.h), Damage: d.damage, Lights: d.lights}
	d.damage = nil
	return show(u)
}

// Refresh implements desktop.Desktop.
func (d *Desktop) Refresh() {
	d.mu.Lock()
	d.damage = []image.Rectangle{image.Rect(0, 0, d.w, d.h)}
	d.mu.Unlock()
	d.signal()
}

// Input implements desktop.Desktop.
func (d *Desktop) Input(in desktop.Input) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err != nil {
		return d.err
	}
	d.inputs = append(d.inputs, in)
	return nil
}

// Close implements desktop.Desktop.
func (d *Desktop) Close() error {
	d.Break(ErrClosed)
	return nil
}

func (d *Desktop) reason() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.err
}

// SPDX-License-Identifier: Apache-2.0

package day

import (
	"context"
	"fmt"
	"image"
	"time"

	"sdbox/agent/keys"
	"sdbox/agent/screen"
	"sdbox/internal/lab/house"
)

// calm returns when a region of box 1's screen has not changed for a while.
func (m *measurement) calm(ctx context.Context, region image.Rectangle) error {
	ctx, cancel := context.WithTimeout(ctx, sampleTimeout)
	defer cancel()
	e := m.eyes[0]
	if err := e.watcher.Now(ctx); err != nil {
		return err
	}
	for {
		before := part(e.watcher.Image, region, 1)
		timer := time.NewTimer(keyPause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("screen of %s does not come to rest: %w", e.box.Serial, ctx.Err())
		case <-timer.C:
		}
		if err := e.watcher.Now(ctx); err != nil {
			return err
		}
		if sameRegion(before, e.watcher.Image, region) {
			return nil
		}
	}
}

// sameRegion compares a picture with a region of another.
func sameRegion(want, img *screen.Image, region image.Rectangle) bool {
	differ, _ := samePixels(want, img, region, image.Rectangle{})
	return differ == 0
}

// moments compares the whole desktop with what xwd reads in the bubble, each time after something moved there.
func (m *measurement) moments(ctx context.Context) error {
	if err := m.park(0); err != nil {
		return err
	}
	var took []float64
	for i := range m.Samples.Pixels {
		limited, cancel := context.WithTimeout(ctx, sampleTimeout)
		what, at := newPattern(), m.anywhere()
		began := time.Now()
		err := m.painters[m.shown].draw(what, at)
		if err == nil {
			_, err = m.showing(limited, what, at)
		}
		if err == nil {
			var equal time.Time
			equal, err = m.equalPixels(limited, 0, m.site.Bubbles[m.shown])
			took = append(took, milliseconds(equal.Sub(began)))
		}
		cancel()
		if err != nil {
			m.report.PixelsEqual = false
			return fmt.Errorf("moment %d: %w", i+1, err)
		}
	}
	f := newFigure("picture equal to the bubble's framebuffer after motion", "ms", 500, 150, took)
	f.OK = f.OK && f.Max <= f.Must
	m.report.Figures = append(m.report.Figures, f)
	return m.painters[m.shown].clear()
}

// park moves the pointer into the lower right corner: the box draws it itself, and there almost nothing of it is seen.
func (p *player) park(box int) error {
	return p.press(box, keys.Move(keys.AbsMax, keys.AbsMax)...)
}

// parked is the part of a desktop in which the parked pointer may be seen; xwd does not show it.
func (p *player) parked() image.Rectangle {
	size := p.area.Size()
	return image.Rect(size.X-24, size.Y-24, size.X, size.Y)
}

// equalPixels waits until the picture on a box equals what xwd reads in the bubble, and returns when that picture came.
func (p *player) equalPixels(ctx context.Context, box int, bubble *house.Bubble) (time.Time, error) {
	e := p.eyes[box]
	err := p.equalTo(ctx, bubble, func() (*screen.Image, error) { return e.watcher.Image, e.watcher.Now(ctx) })
	if err != nil {
		return time.Time{}, err
	}
	return e.clock.at(e.watcher.Sequence()), nil
}

// pixels is the step of the day that proves equality once, with the job's terminal in motion.
func (p *player) pixels(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	if err := p.park(0); err != nil {
		return 0, err
	}
	_, err := p.equalPixels(ctx, 0, p.site.Bubbles[0])
	p.report.PixelsEqual = err == nil
	return time.Since(began), err
}

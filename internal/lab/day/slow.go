// SPDX-License-Identifier: Apache-2.0

package day

import (
	"context"
	"errors"
	"fmt"
	"image"
	"time"

	"sdbox/agent/screen"
	"sdbox/agent/viewer"
	"sdbox/internal/lab/house"
)

// slowMode is what the bar says while UDP is blocked.
const slowMode = "slow mode N08"

// pillWidth is the part of the bar's right end in which the delay stands, light on dark.
const pillWidth = 384

// readPill looks at the bar's delay until done likes what it says, and returns when that picture came.
func (p *player) readPill(ctx context.Context, done func(text string) bool) (time.Time, error) {
	e := p.eyes[0]
	where := viewer.BarArea(house.ScreenWidth, house.ScreenHeight).Inset(6)
	where.Min.X = where.Max.X - pillWidth
	text := ""
	err := e.watcher.Now(ctx)
	for err == nil {
		came := e.clock.at(e.watcher.Sequence())
		if text, err = recogniseAs(ctx, part(e.watcher.Image, where, 2), "6"); err != nil { // one line
			break
		}
		if done(text) {
			return came, nil
		}
		err = e.watcher.Next(ctx)
	}
	return time.Time{}, fmt.Errorf("read the bar's delay: %w; it says %q", err, text)
}

// slow waits until the bar says that UDP is blocked, fast until it says the delay and no such thing.
func (p *player) slow(ctx context.Context) (time.Time, error) {
	return p.readPill(ctx, func(text string) bool { return holds(text, []string{slowMode}) })
}

func (p *player) fast(ctx context.Context) (time.Time, error) {
	return p.readPill(ctx, func(text string) bool { return holds(text, []string{"Delay"}) && !holds(text, []string{"slow mode"}) })
}

// blockUDP has a box's link drop UDP, or carry it again.
func (p *player) blockUDP(box int, block bool) (time.Time, error) {
	link := p.site.Boxes[box].Link
	c := link.Conditions()
	c.NoUDP = block
	return time.Now(), link.Set(c)
}

// bootWithoutUDP boots box 2 at a site that lets no UDP pass, and gives it UDP once it is ready.
func (p *player) bootWithoutUDP(ctx context.Context) (time.Duration, error) {
	if _, err := p.blockUDP(1, true); err != nil {
		return 0, err
	}
	took, err := p.boot(1)(ctx)
	if err == nil {
		_, err = p.blockUDP(1, false)
	}
	return took, err
}

// withoutUDP blocks UDP in the middle of a session, types on, and waits for the shell's answer and for what the bar says.
func (p *player) withoutUDP(ctx context.Context) (time.Duration, error) {
	began, err := p.blockUDP(0, true)
	if err != nil {
		return 0, err
	}
	if p.site.Form() == house.ImageForm { // a machine's keyboard takes seconds for this: nobody types on while the box says that it waits
		if _, err := p.slow(ctx); err != nil {
			return 0, err
		}
	}
	if err := p.enter(0, "clear; echo Carried $((4321*1234))\n"); err != nil {
		return 0, err
	}
	came, err := p.eyes[0].readIn(ctx, p.terminal(), "Carried 5332114")
	if err == nil {
		_, err = p.slow(ctx)
	}
	return came.Sub(began), err
}

// withUDP lets UDP pass again and waits until the bar says nothing of slow mode.
func (p *player) withUDP(ctx context.Context) (time.Duration, error) {
	began, err := p.blockUDP(0, false)
	if err != nil {
		return 0, err
	}
	came, err := p.fast(ctx)
	return came.Sub(began), err
}

// blocks measures what a person sees when UDP is blocked while she types, and how long UDP is not used once it is back. The
// picture must be whole by either.
func (m *measurement) blocks(ctx context.Context) error {
	if err := m.focusTerminal(ctx, 0); err != nil {
		return err
	}
	if err := m.enter(0, "clear\n"); err != nil {
		return err
	}
	if err := m.park(0); err != nil {
		return err
	}
	var silence, back []float64
	for i := range m.Samples.Block {
		s, b, err := m.block(ctx)
		if err != nil {
			_, again := m.blockUDP(0, false)
			return errors.Join(fmt.Errorf("UDP blocked, time %d: %w", i+1, err), again)
		}
		fmt.Fprintf(m.Print, "UDP blocked: %4d ms to the pixel; UDP back: %5d ms to the bar without slow mode; pixels equal by both\n", s.Milliseconds(), b.Milliseconds())
		silence, back = append(silence, milliseconds(s)), append(back, milliseconds(b))
	}
	m.add("UDP blocked: key press to its pixel, by TLS then", "ms", 3000, 2000, silence)
	f := newFigure("UDP back: until it carries again (bar, read each second)", "ms", 30000, 25000, back)
	f.OK = f.OK && f.Max <= f.Must
	m.report.Figures = append(m.report.Figures, f)
	return nil
}

func (m *measurement) block(ctx context.Context) (silence, back time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, 3*sampleTimeout)
	defer cancel()
	region := house.Terminal().Add(m.area.Min)
	if err := m.calm(ctx, region); err != nil {
		return 0, 0, err
	}
	before := part(m.eyes[0].watcher.Image, region, 1)
	began, err := m.blockUDP(0, true)
	if err != nil {
		return 0, 0, err
	}
	if err := m.press(0, house.Tap(30)...); err != nil { // a
		return 0, 0, err
	}
	came, err := m.eyes[0].await(ctx, func(img *screen.Image) bool { return terminalWrote(before, img, region) })
	if err != nil {
		return 0, 0, err
	}
	silence = came.Sub(began)
	if _, err := m.slow(ctx); err != nil {
		return 0, 0, err
	}
	if err := m.stillWhole(ctx); err != nil {
		return 0, 0, fmt.Errorf("by TLS: %w", err)
	}
	began, err = m.blockUDP(0, false)
	if err != nil {
		return 0, 0, err
	}
	if came, err = m.fast(ctx); err != nil {
		return 0, 0, err
	}
	if err := m.stillWhole(ctx); err != nil {
		return 0, 0, fmt.Errorf("by UDP again: %w", err)
	}
	return silence, came.Sub(began), nil
}

// stillWhole draws in the bubble and compares the whole desktop with xwd.
func (m *measurement) stillWhole(ctx context.Context) error {
	what, at := newPattern(), m.anywhere()
	if err := m.painters[m.shown].draw(what, at); err != nil {
		return err
	}
	if _, err := m.showing(ctx, what, at); err != nil {
		return err
	}
	_, err := m.equalPixels(ctx, 0, m.site.Bubbles[m.shown])
	m.report.PixelsEqual = m.report.PixelsEqual && err == nil
	return errors.Join(err, m.painters[m.shown].clear())
}

// terminalWrote says that a letter has come, and nothing else has changed: words laid over a darkened picture are not the answer.
func terminalWrote(before, img *screen.Image, region image.Rectangle) bool {
	const letter = 1500 // pixels of the letter's place and of the cursor's, at most
	differ, _ := samePixels(before, img, region, image.Rectangle{})
	return differ > 0 && differ < letter
}

// SPDX-License-Identifier: Apache-2.0

package day

import (
	"context"
	"fmt"
	"image"
	"runtime"

	"sdbox/agent/screen"
	"sdbox/internal/lab/house"
)

// measureMachines takes the figures of boxes that are machines: how long they take from the kernel's first moment to "Ready" by their own
// clock, from a card pulled out of the reader to a black display, and that the display holds the bubble's pixels. What a person waits
// for in a session is measured in the process form, where no machine is emulated.
func (p *player) measureMachines(ctx context.Context) error {
	fmt.Fprintf(p.Print, "\nmeasuring on %d cores, load %s\n", runtime.NumCPU(), load())
	if err := p.site.Tray.Eject(p.person.GUID); err != nil {
		return err
	}
	painters, err := p.openPainters(ctx)
	if err != nil {
		return err
	}
	defer func() {
		for _, d := range painters {
			_ = d.Close() // the desktop outlives its client
		}
	}()
	m := &measurement{player: p, painters: painters}
	for _, part := range []func(context.Context) error{m.boots, m.removals, m.displays} {
		if err := part(ctx); err != nil {
			return fmt.Errorf("measure: %w", err)
		}
	}
	m.add("memory of a machine that plays the day", "MB", 512, 256, []float64{float64(house.MachineMemory)})
	return nil
}

// boots reads in the boxes' logs when they were ready. They started beside a gateway, its bubbles and one another, on the same processors;
// what a machine takes that is alone is measured by its own tests.
func (m *measurement) boots(context.Context) error {
	var took []float64
	for _, b := range m.site.Boxes {
		ready, err := b.ReadyAfter()
		if err != nil {
			return err
		}
		took = append(took, milliseconds(ready))
	}
	m.add("kernel start to ready beside the whole house, own clock", "ms", 20000, 4000, took)
	return nil
}

// removals measures a card pulled out of the USB reader to the black screen.
func (m *measurement) removals(ctx context.Context) error {
	var took []float64
	for i := range m.Samples.Login {
		if _, _, err := m.login(ctx); err != nil {
			return fmt.Errorf("login %d: %w", i+1, err)
		}
		limited, cancel := context.WithTimeout(ctx, emulatedTimeout)
		pulled, err := m.site.Tray.Pull(m.person.GUID)
		if err == nil {
			black, awaitErr := m.eyes[0].await(limited, dark)
			took, err = append(took, milliseconds(black.Sub(pulled))), awaitErr
		}
		cancel()
		if err != nil {
			return fmt.Errorf("card out %d: %w", i+1, err)
		}
	}
	m.add("card out of the USB reader to black screen", "ms", 200, 100, took)
	_, _, err := m.login(ctx)
	return err
}

// displays compares what QEMU shows (screendump) with what xwd reads in the bubble, each time after something moved there.
func (m *measurement) displays(ctx context.Context) error {
	if err := m.park(0); err != nil {
		return err
	}
	equal := 0
	for i := range m.Samples.Pixels {
		limited, cancel := context.WithTimeout(ctx, emulatedTimeout)
		what, at := newPattern(), m.anywhere()
		err := m.painters[m.shown].draw(what, at)
		if err == nil {
			_, err = m.showing(limited, what, at)
		}
		if err == nil {
			err = m.sameDisplay(limited, m.site.Bubbles[m.shown])
		}
		cancel()
		if err != nil {
			m.report.PixelsEqual = false
			return fmt.Errorf("display %d: %w", i+1, err)
		}
		equal++
	}
	fmt.Fprintf(m.Print, "QEMU's screendump equal to the bubble's framebuffer, every pixel but the parked pointer's: %d of %d\n", equal, m.Samples.Pixels)
	return m.painters[m.shown].clear()
}

// sameDisplay waits until screendump and xwd agree.
func (m *measurement) sameDisplay(ctx context.Context, bubble *house.Bubble) error {
	return m.equalTo(ctx, bubble, func() (*screen.Image, error) { return m.site.Boxes[0].Screendump(ctx) })
}

// equalTo waits until a picture of the box equals what xwd reads in the bubble.
func (p *player) equalTo(ctx context.Context, bubble *house.Bubble, picture func() (*screen.Image, error)) error {
	said := "nothing was compared"
	for {
		dump, err := bubble.Xwd(ctx, p.person)
		if ctx.Err() != nil {
			return fmt.Errorf("compare with xwd in %s: %w: %s", bubble.Name, ctx.Err(), said)
		}
		if err != nil {
			return err
		}
		inside, err := parseXWD(dump)
		if err != nil {
			return err
		}
		shown, err := picture()
		if err != nil {
			return err
		}
		if shown.Bounds() != image.Rect(0, 0, house.ScreenWidth, house.ScreenHeight) {
			return fmt.Errorf("the display has %v pixels", shown.Bounds().Size())
		}
		differ, where := samePixels(inside, shown, p.area, p.parked())
		if differ == 0 {
			return nil
		}
		said = fmt.Sprintf("%d pixels differ, within %v of the desktop", differ, where)
	}
}

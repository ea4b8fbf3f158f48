// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"context"
	"errors"
	"fmt"
	"image"
	"os"
	"time"

	"sdbox/agent/kiosk"
	"sdbox/agent/screen"
	"sdbox/internal/refusal"

	"golang.org/x/sys/unix"
)

// safe is the screen while no agent draws on it: when the machine starts, and between two agents.
type safe struct {
	display *screen.Display
	kiosk   *kiosk.Kiosk
	around  kiosk.Around
}

// openSafe opens the display and draws the first thing a person sees. The framebuffer that the firmware left is taken only when nothing
// better can come: a display's driver that is loaded later takes it away.
func openSafe(language refusal.Lang, whole bool) (*safe, error) {
	open := func() (*screen.Display, error) { return screen.OpenDRM("/dev/dri/card0") }
	if whole {
		open = func() (*screen.Display, error) { return screen.Open("/dev") }
	}
	display, err := open()
	if err != nil {
		return nil, err
	}
	k, err := kiosk.New()
	if err != nil {
		return nil, errors.Join(err, display.Close())
	}
	s := &safe{display: display, kiosk: k, around: kiosk.Around{Language: language}}
	return s, s.show(kiosk.Boot{})
}

// show draws over whatever the agent left. What PID 1 drew before is of no help to know what is there now: all of it is flushed.
func (s *safe) show(v kiosk.View) error {
	s.around.Now = time.Time{} // no clock: nobody turns it
	s.kiosk.Draw(s.display.Image(), v, s.around)
	err := errors.Join(s.display.Flush(s.display.Image().Bounds()), s.display.Point(nil, image.Point{}, image.Rectangle{})) // the agent's pointer, too
	if err != nil {
		return fmt.Errorf("safe screen: %w", err)
	}
	return nil
}

// hand is what the agent needs to draw into the same buffer.
func (s *safe) hand() (*screen.Geometry, *os.File) {
	g := s.display.Geometry()
	return &g, s.display.File()
}

// lookForDisplay opens the display when there is one, and another one when the monitor was changed for one of another kind. An agent
// that runs without it, or with the old one, is asked to end: the next one gets it.
func (m *machine) lookForDisplay(ctx context.Context) error {
	if m.safe != nil && m.replug.Swap(false) {
		if err := m.safe.display.Reconnect(); errors.Is(err, screen.ErrOtherDisplay) {
			m.log.Info("another monitor")
			_ = m.safe.display.Close() // the agent may draw into it until it ends
			m.safe = nil
		}
	}
	if m.safe != nil {
		return nil
	}
	s, err := openSafe(m.settings.Language, m.whole)
	if err != nil {
		if text := err.Error(); text != m.noDisplay && !errors.Is(err, os.ErrNotExist) {
			m.noDisplay = text
			m.log.Warn("no display", "err", err)
		}
		return nil
	}
	m.safe = s
	m.step("first screen")
	if m.agent != nil {
		m.agent.child.asked = true
		m.nursery.end(m.agent.child, unix.SIGTERM)
	}
	return m.people(ctx)
}

// cover draws the safe screen over whatever stands there: what the box says when it starts, or that a person's work goes on.
func (m *machine) cover() {
	if m.safe == nil {
		return
	}
	view := kiosk.Boot{}
	if len(m.kept) > 0 {
		view.Refusal = &refusal.Refusal{Code: refusal.LinkLost}
	}
	if err := m.safe.show(view); err != nil {
		m.log.Warn("safe screen", "err", err)
	}
}

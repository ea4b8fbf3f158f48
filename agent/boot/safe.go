// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"errors"
	"fmt"
	"os"
	"time"

	"sdbox/agent/kiosk"
	"sdbox/agent/screen"
	"sdbox/internal/refusal"
)

// adapter is where the kernel puts the machine's display.
const adapter = "/dev/dri/card0"

// safe is the screen while no agent draws on it: when the machine starts, and between two agents.
type safe struct {
	display *screen.Display
	kiosk   *kiosk.Kiosk
	around  kiosk.Around
}

// openSafe opens the display and draws the first thing a person sees.
func openSafe(path string, language refusal.Lang) (*safe, error) {
	display, err := screen.OpenDRM(path)
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
	if err := s.display.Flush(s.display.Image().Bounds()); err != nil {
		return fmt.Errorf("safe screen: %w", err)
	}
	return nil
}

// hand is what the agent needs to draw into the same buffer.
func (s *safe) hand() (*screen.Geometry, *os.File) {
	g := s.display.Geometry()
	return &g, s.display.File()
}

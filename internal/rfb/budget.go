// SPDX-License-Identifier: Apache-2.0

package rfb

import (
	"image"
	"time"
)

// What a server may have us do with a few bytes of its own, in pixels moved. Sixty whole scrolls of 1920 x 1080 a second are half of
// it; more only comes later.
const (
	workRate = 256 << 20 // a second
	maxSaved = workRate / 4
	rectWork = 4096 // a rectangle, for the list it goes into
	sizeWork = 8    // each pixel of a new framebuffer: cleared, copied, and thrown away
)

// budget is the work that a server may still cause at once.
type budget struct {
	saved int
	at    time.Time
}

// spend waits until the server may cause the work of this rectangle. Pixels that it sends itself cost it as much as us.
func (c *Client) spend(encoding int32, size image.Point) error {
	pixels := min(size.X, c.max.X) * min(size.Y, c.max.Y) // a larger one is refused below
	work := rectWork
	switch encoding {
	case encCopyRect:
		work += pixels
	case encDesktopSize, encExtendedDesktop:
		if size != c.screen.size {
			work += sizeWork * pixels
		}
	}
	b, now := &c.budget, time.Now()
	b.saved = min(maxSaved, b.saved+int(now.Sub(b.at).Seconds()*workRate)) - work
	b.at = now
	if b.saved >= 0 {
		return nil
	}
	pause := time.NewTimer(time.Duration(-b.saved) * time.Second / workRate)
	defer pause.Stop()
	select {
	case <-pause.C:
		return nil
	case <-c.quit:
		return ErrClosed
	}
}

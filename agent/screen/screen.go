// SPDX-License-Identifier: Apache-2.0

// Package screen puts pixels in front of a person. It knows nothing of what they show: the kiosk and the viewer draw
// into a Screen's image, then flush what changed.
package screen

import (
	"errors"
	"fmt"
	"image"
)

// MaxSide is the largest width or height of a screen, in pixels.
const MaxSide = 8192

// ErrClosed is returned by the methods of a closed screen.
var ErrClosed = errors.New("screen is closed")

// Screen is one screen. It is owned by one goroutine: nothing here locks.
type Screen interface {
	// Image is what the owner draws into: memory of the process, of the screen's size for the screen's whole life. Nothing
	// drawn is seen before Flush.
	Image() *Image
	// Flush brings the rectangles of Image, clipped to the screen, before the person's eyes. Without rectangles it does nothing.
	Flush(rects ...image.Rectangle) error
	// Point shows the pointer c, its hot spot at a place of the screen, over the image and inside clip only; nil shows none. It is
	// seen at once, without Flush. The image has no pointer in it. c must not change while it is shown.
	Point(c *Cursor, at image.Point, clip image.Rectangle) error
	// Close blackens the screen and lets it go.
	Close() error
}

// checkSize accepts a size a screen may have.
func checkSize(width, height int) error {
	if width < 1 || height < 1 || width > MaxSide || height > MaxSide {
		return fmt.Errorf("screen of %dx%d pixels: want 1 to %d each way", width, height, MaxSide)
	}
	return nil
}

// SPDX-License-Identifier: Apache-2.0

package screen

import (
	"image"
	"unsafe"
)

// defaultCursorSide is the pointer's side with drivers that do not say (drm.h, DRM_CAP_CURSOR_WIDTH).
const defaultCursorSide = 64

// pointer makes a buffer for the hardware's pointer and hides it; side is 0 with hardware that has none.
func (d driver) pointer(crtc uint32) (b Buffer, side int) {
	side = defaultCursorSide
	for _, capability := range []uint64{capCursorWidth, capCursorHeight} {
		c := drmCap{capability: capability}
		if err := d.call(drmGetCap, unsafe.Pointer(&c)); err == nil && c.value > 0 {
			side = int(min(uint64(side), c.value))
		}
	}
	if d.call(drmCursor2, unsafe.Pointer(&drmCursor{flags: cursorShape, crtc: crtc})) != nil {
		return Buffer{}, 0
	}
	b, err := d.buffer(side, side)
	if err != nil {
		return Buffer{}, 0
	}
	return b, side
}

// Point implements Screen. The hardware's pointer is used for a shape that it holds and that the clip does not cut; the others
// are drawn. Without a pointer the hardware's is hidden even if another process showed it.
func (d *Display) Point(c *Cursor, at image.Point, clip image.Rectangle) error {
	if d.closed {
		return ErrClosed
	}
	if d.fits(c, at, clip) && d.aim(c, at) {
		c = nil // nothing to draw
	} else if d.geometry.CursorSide > 0 && (d.shape != nil || c == nil) {
		d.shape = nil
		d.tell(&drmCursor{flags: cursorShape})
	}
	return d.Flush(d.point(c, at, clip)...)
}

// fits says whether the hardware can show the pointer as it is to be seen.
func (d *Display) fits(c *Cursor, at image.Point, clip image.Rectangle) bool {
	if c == nil || c.Width == 0 || c.Height == 0 || max(c.Width, c.Height) > d.geometry.CursorSide {
		return false
	}
	return c.Bounds(at).Intersect(d.image.Bounds()).In(clip)
}

// aim gives the hardware's pointer its shape, if it has another one, and its place. It says whether it stands there.
func (d *Display) aim(c *Cursor, at image.Point) bool {
	corner := c.Bounds(at).Min
	move := &drmCursor{flags: cursorMove, x: int32(corner.X), y: int32(corner.Y)}
	if c != d.shape {
		d.sprite.Fill(d.sprite.Bounds(), 0)
		for y := range c.Height {
			copy(d.sprite.Row(y, 0, c.Width), c.Pix[y*c.Width*4:])
		}
		side := uint32(d.geometry.CursorSide)
		move.flags |= cursorShape
		move.width, move.height, move.handle = side, side, d.geometry.Cursor.Handle
		move.hotX, move.hotY = int32(c.Hot.X), int32(c.Hot.Y)
	} else if at == d.spot {
		return true
	}
	d.shape, d.spot = c, at
	return d.tell(move)
}

// tell asks the driver to change its pointer. One that once could not is not asked again: the pointer is drawn from then on.
func (d *Display) tell(c *drmCursor) bool {
	c.crtc = d.geometry.CRTC
	if d.driver.call(drmCursor2, unsafe.Pointer(c)) != nil {
		d.geometry.CursorSide, d.shape = 0, nil
		return false
	}
	return true
}

// SPDX-License-Identifier: Apache-2.0

package rfb

import (
	"encoding/binary"
	"fmt"
	"image"
	"slices"
)

// Client to server messages (RFC 6143, 7.5, and the community's rfbproto.rst for those above 7).
const (
	msgSetPixelFormat     = 0
	msgSetEncodings       = 2
	msgUpdateRequest      = 3
	msgPointer            = 5
	msgContinuousUpdates  = 150
	msgFence              = 248
	msgSetDesktopSize     = 251
	msgQEMU               = 255
	maxScancode           = 0xff
	fenceRequest          = 1 << 31
	fenceKnown            = 7
	resizeByMe, screenLen = 1, 16
)

// Key presses or releases the key with this XT scancode; extended codes have bit 7 set (0xC8 is the upper arrow).
// A second press of a held key types again. ErrNoKeys means that the desktop understands no scancodes.
func (c *Client) Key(xt uint32, down bool) error {
	if xt == 0 || xt > maxScancode {
		return fmt.Errorf("scancode %#x: want 1 to %#x", xt, maxScancode)
	}
	if !c.keys.Load() {
		return ErrNoKeys
	}
	c.mu.Lock()
	if down {
		c.held[xt] = struct{}{}
	} else {
		delete(c.held, xt)
	}
	c.mu.Unlock()
	return c.send(keyMessage(xt, down))
}

func keyMessage(xt uint32, down bool) []byte {
	b := []byte{msgQEMU, 0, 0, 0}
	if down {
		b[3] = 1
	}
	b = binary.BigEndian.AppendUint32(b, 0) // no keysym: the layout lives in the desktop
	return binary.BigEndian.AppendUint32(b, xt)
}

// Pointer moves the pointer and says which buttons are down: bit 0 left, 1 middle, 2 right, 3 wheel up, 4 wheel down.
// A position outside the desktop means its edge.
func (c *Client) Pointer(x, y int, buttons uint8) error {
	c.mu.Lock()
	size := c.layout.size
	p := image.Pt(min(max(x, 0), max(size.X-1, 0)), min(max(y, 0), max(size.Y-1, 0)))
	c.pointer, c.buttons = p, buttons
	c.mu.Unlock()
	return c.send(pointerMessage(p, buttons))
}

func pointerMessage(p image.Point, buttons uint8) []byte {
	b := []byte{msgPointer, buttons}
	b = binary.BigEndian.AppendUint16(b, uint16(p.X))
	return binary.BigEndian.AppendUint16(b, uint16(p.Y))
}

// ReleaseAll lets go of every key and button that is down.
func (c *Client) ReleaseAll() error {
	c.mu.Lock()
	keys := make([]uint32, 0, len(c.held))
	for xt := range c.held {
		keys = append(keys, xt)
	}
	clear(c.held)
	pressed, at := c.buttons != 0, c.pointer
	c.buttons = 0
	c.mu.Unlock()
	slices.Sort(keys)
	for _, xt := range keys {
		if err := c.send(keyMessage(xt, false)); err != nil {
			return err
		}
	}
	if pressed {
		return c.send(pointerMessage(at, 0))
	}
	return nil
}

// Resize asks the desktop for a size, now or as soon as it says that it can change. The new size shows in an Update;
// a desktop that refuses keeps the old one.
func (c *Client) Resize(w, h int) error {
	if w < 1 || h < 1 || w > c.max.X || h > c.max.Y {
		return fmt.Errorf("resize desktop to %d x %d pixels: want 1 to %d x %d: %w", w, h, c.max.X, c.max.Y, ErrTooBig)
	}
	c.mu.Lock()
	c.layout.wanted = image.Pt(w, h)
	ask := c.layout.known && c.layout.size != c.layout.wanted
	id := c.layout.id
	c.mu.Unlock()
	if !ask {
		return nil
	}
	return c.send(resizeMessage(id, image.Pt(w, h)))
}

func resizeMessage(id uint32, size image.Point) []byte {
	be := binary.BigEndian
	b := []byte{msgSetDesktopSize, 0}
	b = be.AppendUint16(b, uint16(size.X))
	b = be.AppendUint16(b, uint16(size.Y))
	b = append(b, 1, 0)
	b = be.AppendUint32(b, id)
	b = append(b, 0, 0, 0, 0)
	b = be.AppendUint16(b, uint16(size.X))
	b = be.AppendUint16(b, uint16(size.Y))
	return be.AppendUint32(b, 0)
}

func updateRequest(incremental bool, size image.Point) []byte {
	b := []byte{msgUpdateRequest, 0}
	if incremental {
		b[1] = 1
	}
	return appendArea(b, size)
}

func continuousUpdates(size image.Point) []byte {
	return appendArea([]byte{msgContinuousUpdates, 1}, size)
}

func appendArea(b []byte, size image.Point) []byte {
	b = append(b, 0, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(size.X))
	return binary.BigEndian.AppendUint16(b, uint16(size.Y))
}

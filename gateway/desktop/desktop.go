// SPDX-License-Identifier: Apache-2.0

// Package desktop gives the gateway's sessions a bubble's desktop as a framebuffer with damage, and input as scancodes.
// The desktop may lie: whatever it sends is bounded here and in the packages below.
package desktop

import (
	"context"
	"image"
)

// Kind says what an Input is.
type Kind uint8

// The kinds of input.
const (
	Key Kind = iota + 1
	Pointer
	ReleaseAll // let go of every key and button: on focus loss, switch, freeze, detach
)

// Buttons of a pointer; several may be down.
const (
	Left uint8 = 1 << iota
	Middle
	Right
)

// Input is one thing a person did. A key is an XT scancode, bit 7 set for extended keys; a held key repeats as Down
// again. A pointer carries its position, the buttons that are down, and how many notches the wheel turned since the
// last one: positive is away from the person.
type Input struct {
	Kind    Kind
	XT      uint32
	Down    bool
	X, Y    int
	Buttons uint8
	Wheel   int
}

// Copy says that the pixels of Dst were those of the rectangle of the same size at Src in the last Update. It converts
// to a tile.Copy.
type Copy struct {
	Dst image.Rectangle
	Src image.Point
}

// Cursor is the pointer's shape: premultiplied BGRA; 0 x 0 hides it. It converts to a tile.Cursor.
type Cursor struct {
	Width, Height int
	Hot           image.Point
	Pix           []byte
}

// Update is a desktop's picture and what changed in it since the last Update.
//
// Pix is BGRX, Size.X*Size.Y*4 bytes, and belongs to the desktop: it stands still while the function it was lent to
// runs, and must not be kept. Damage covers every changed pixel, the targets of Copies included; Copies are hints.
// Cursor is nil when its shape is as before. Lights is as it is now.
type Update struct {
	Pix    []byte
	Size   image.Point
	Damage []image.Rectangle
	Copies []Copy
	Cursor *Cursor
	Lights Lights
}

// Lights is the set of a keyboard's lights that are lit, in the bits of rfb.LEDs. It converts to tile.Lights.
type Lights uint8

// Desktop is one attached desktop. Next is called by one goroutine; the other methods by any.
type Desktop interface {
	// Next waits until the picture has changed since the last Next, lets a burst of changes settle for Settle, and
	// lends the newest picture to show. A caller whose frames are not acknowledged yet just calls Next later: changes
	// are merged, never queued. The error is show's, the context's, or why the desktop is gone.
	Next(ctx context.Context, show func(Update) error) error
	// Refresh makes the next Next return at once with everything marked as changed, for a key frame. It never waits.
	Refresh()
	// Input never waits. A desktop that does not take its input is cut off.
	Input(Input) error
	// Close lets go of keys and buttons and detaches. What runs in the desktop goes on.
	Close() error
}

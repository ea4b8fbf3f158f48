// SPDX-License-Identifier: Apache-2.0

// Package rfb is the gateway's client of a desktop that speaks RFB 3.8 (RFC 6143): Xvnc, QEMU. It keeps the desktop's
// framebuffer and what changed in it, and sends keys as scancodes. The server is taken for hostile: every length is
// checked, every wait ends, and there is no clipboard.
package rfb

import (
	"errors"
	"image"
	"time"
)

// Limits of what a server may make this client hold.
const (
	MaxSide   = 8192
	MaxCursor = 256     // side of a cursor shape, in pixels
	maxName   = 4096    // bytes of the desktop's name
	maxReason = 4096    // bytes of a refusal's text
	maxCut    = 1 << 20 // bytes of a cut text, which are thrown away
	maxFence  = 64      // bytes of a fence's payload
	maxQueue  = 1024    // messages that wait for a server that does not read
)

// Times a server may take.
const (
	handshakeTime = 10 * time.Second
	messageTime   = 10 * time.Second // from a message's first byte to its last
	writeTime     = 2 * time.Second
	closeTime     = 500 * time.Millisecond
)

// The reasons a caller branches on.
var (
	ErrStalled = errors.New("desktop does not read its input")
	ErrClosed  = errors.New("desktop connection is closed")
	ErrNoKeys  = errors.New("desktop takes no scancodes")
	ErrTooBig  = errors.New("desktop is larger than allowed")
)

// Copy says that the pixels of Dst were those of the rectangle of the same size at Src when the last Take ended.
type Copy struct {
	Dst image.Rectangle
	Src image.Point
}

// Cursor is the pointer's shape: premultiplied BGRA. A shape of 0 x 0 hides the pointer.
type Cursor struct {
	Width, Height int
	Hot           image.Point
	Pix           []byte
}

// LEDs are the keyboard's lights as the desktop wants them (QEMU LED state pseudo-encoding -261).
type LEDs uint8

// The lights.
const (
	ScrollLock LEDs = 1 << iota
	NumLock
	CapsLock
)

// Update is what Take lends: the framebuffer as it is, and what changed in it since the last Take.
//
// Pix is BGRX, Size.X*Size.Y*4 bytes. Damage covers every changed pixel, the targets of Copies included; Copies are
// hints. Cursor is nil when its shape is as before.
type Update struct {
	Pix    []byte
	Size   image.Point
	Damage []image.Rectangle
	Copies []Copy
	Cursor *Cursor
	LEDs   LEDs
}

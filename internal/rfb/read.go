// SPDX-License-Identifier: Apache-2.0

package rfb

import (
	"encoding/binary"
	"errors"
	"fmt"
	"image"
	"io"
	"time"
)

// Server to client messages (RFC 6143, 7.6, and rfbproto.rst).
const (
	msgUpdate        = 0
	msgColourMap     = 1
	msgBell          = 2
	msgCutText       = 3
	msgEndContinuous = 150
)

// Encodings asked for; those below zero are pseudo-encodings.
const (
	encRaw             = 0
	encCopyRect        = 1
	encDesktopSize     = -223
	encLastRect        = -224
	encCursor          = -239
	encQEMUKey         = -258
	encLED             = -261
	encExtendedDesktop = -308
	encFence           = -312
	encContinuous      = -313
	encCursorAlpha     = -314
	untilLastRect      = 65535
)

const protocolVersion = "RFB 003.008\n"

// handshake is RFC 6143, 7.1 to 7.3: version, no security (the connection is protected and authenticated already),
// shared desktop, then our pixel format and encodings.
func (c *Client) handshake() error {
	if err := c.conn.SetDeadline(time.Now().Add(handshakeTime)); err != nil {
		return fmt.Errorf("handshake: %w", err)
	}
	if err := c.agree(); err != nil {
		return err
	}
	var init [24]byte
	if _, err := io.ReadFull(c.in, init[:]); err != nil {
		return fmt.Errorf("read desktop's size: %w", err)
	}
	size := image.Pt(int(binary.BigEndian.Uint16(init[0:])), int(binary.BigEndian.Uint16(init[2:])))
	if err := c.setSize(size); err != nil {
		return err
	}
	if err := c.discard(binary.BigEndian.Uint32(init[20:]), maxName, "name"); err != nil {
		return err
	}
	if _, err := c.conn.Write(openingMessages(size)); err != nil {
		return fmt.Errorf("ask for the picture: %w", err)
	}
	return c.conn.SetDeadline(time.Time{})
}

// agree settles version and security, and asks for a shared desktop.
func (c *Client) agree() error {
	var version [len(protocolVersion)]byte
	if _, err := io.ReadFull(c.in, version[:]); err != nil {
		return fmt.Errorf("read version: %w", err)
	}
	if string(version[:]) != protocolVersion {
		return fmt.Errorf("desktop speaks %q: want RFB 3.8", version)
	}
	if _, err := c.conn.Write([]byte(protocolVersion)); err != nil {
		return fmt.Errorf("send version: %w", err)
	}
	n, err := c.in.ReadByte()
	if err != nil {
		return fmt.Errorf("read security types: %w", err)
	}
	if n == 0 {
		return c.refused()
	}
	types := make([]byte, n)
	if _, err := io.ReadFull(c.in, types); err != nil {
		return fmt.Errorf("read security types: %w", err)
	}
	const none = 1
	if !contains(types, none) {
		return fmt.Errorf("desktop wants security types %v: want 1 (none)", types)
	}
	if _, err := c.conn.Write([]byte{none}); err != nil {
		return fmt.Errorf("send security type: %w", err)
	}
	result, err := c.uint32()
	if err != nil {
		return fmt.Errorf("read security result: %w", err)
	}
	if result != 0 {
		return c.refused()
	}
	const shared = 1
	if _, err := c.conn.Write([]byte{shared}); err != nil {
		return fmt.Errorf("ask for a shared desktop: %w", err)
	}
	return nil
}

func contains(list []byte, want byte) bool {
	for _, b := range list {
		if b == want {
			return true
		}
	}
	return false
}

// refused reads why the server lets nobody in.
func (c *Client) refused() error {
	n, err := c.uint32()
	if err != nil {
		return fmt.Errorf("read refusal: %w", err)
	}
	reason := make([]byte, min(n, maxReason))
	if _, err := io.ReadFull(c.in, reason); err != nil {
		return fmt.Errorf("read refusal: %w", err)
	}
	return fmt.Errorf("desktop refuses: %q", reason)
}

// openingMessages are SetPixelFormat (32 bits, depth 24, little-endian BGRX), SetEncodings and the first request.
func openingMessages(size image.Point) []byte {
	b := []byte{msgSetPixelFormat, 0, 0, 0, 32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0}
	encodings := []int32{
		encCopyRect, encRaw, encLastRect, encCursor, encCursorAlpha, encDesktopSize, encExtendedDesktop,
		encQEMUKey, encContinuous, encFence, encLED,
	}
	b = append(b, msgSetEncodings, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(len(encodings)))
	for _, e := range encodings {
		b = binary.BigEndian.AppendUint32(b, uint32(e))
	}
	return append(b, updateRequest(false, size)...)
}

func (c *Client) uint32() (uint32, error) {
	var b [4]byte
	_, err := io.ReadFull(c.in, b[:])
	return binary.BigEndian.Uint32(b[:]), err
}

// discard throws n bytes away if they are at most limit.
func (c *Client) discard(n, limit uint32, what string) error {
	if n > limit {
		return fmt.Errorf("%s of %d bytes: more than %d", what, n, limit)
	}
	if _, err := c.in.Discard(int(n)); err != nil {
		return fmt.Errorf("skip %s: %w", what, err)
	}
	return nil
}

// message waits, for ever, for the next message, and handles it within messageTime.
func (c *Client) message() error {
	kind, err := c.in.ReadByte()
	if err != nil {
		return err
	}
	if err := c.conn.SetReadDeadline(time.Now().Add(messageTime)); err != nil {
		return err
	}
	switch kind {
	case msgUpdate:
		err = c.update()
	case msgColourMap: // we asked for true colour: nothing in it matters
		err = c.colourMap()
	case msgBell:
	case msgCutText:
		err = c.cutText()
	case msgEndContinuous:
		err = c.endContinuous()
	case msgFence:
		err = c.fence()
	default:
		err = fmt.Errorf("message type %d: unknown", kind)
	}
	if err != nil {
		return err
	}
	return c.conn.SetReadDeadline(time.Time{})
}

func (c *Client) colourMap() error {
	var b [5]byte
	if _, err := io.ReadFull(c.in, b[:]); err != nil {
		return fmt.Errorf("read colour map: %w", err)
	}
	return c.discard(uint32(binary.BigEndian.Uint16(b[3:]))*6, 6*65535, "colour map")
}

// cutText drops what the desktop copied: nothing leaves a bubble by the clipboard. Extended clipboard messages have a
// negative length.
func (c *Client) cutText() error {
	var b [7]byte
	if _, err := io.ReadFull(c.in, b[:]); err != nil {
		return fmt.Errorf("read cut text: %w", err)
	}
	n := int64(int32(binary.BigEndian.Uint32(b[3:])))
	return c.discard(uint32(max(n, -n)), maxCut, "cut text")
}

// endContinuous is the server's word that it can update continuously (after SetEncodings), or that it stopped.
func (c *Client) endContinuous() error {
	if c.continuous {
		return nil
	}
	c.continuous = true
	return c.send(continuousUpdates(c.size()))
}

// fence answers a request with the bits we understand. A server that gets no answer sends nothing more.
func (c *Client) fence() error {
	var b [8]byte
	if _, err := io.ReadFull(c.in, b[:]); err != nil {
		return fmt.Errorf("read fence: %w", err)
	}
	flags, n := binary.BigEndian.Uint32(b[3:]), b[7]
	if n > maxFence {
		return fmt.Errorf("fence of %d bytes: more than %d", n, maxFence)
	}
	payload := make([]byte, n)
	if _, err := io.ReadFull(c.in, payload); err != nil {
		return fmt.Errorf("read fence: %w", err)
	}
	if flags&fenceRequest == 0 {
		return nil
	}
	reply := []byte{msgFence, 0, 0, 0}
	reply = binary.BigEndian.AppendUint32(reply, flags&fenceKnown)
	return c.send(append(append(reply, n), payload...))
}

func (c *Client) size() image.Point {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.layout.size
}

// setSize accepts a new size and makes the framebuffer for it.
func (c *Client) setSize(size image.Point) error {
	if size.X < 1 || size.Y < 1 {
		return fmt.Errorf("desktop of %d x %d pixels", size.X, size.Y)
	}
	if size.X > c.max.X || size.Y > c.max.Y {
		return fmt.Errorf("%w: %d x %d pixels, at most %d x %d", ErrTooBig, size.X, size.Y, c.max.X, c.max.Y)
	}
	c.mu.Lock()
	c.layout.size = size
	c.mu.Unlock()
	c.screen.resize(size)
	return nil
}

// update reads one FramebufferUpdate (RFC 6143, 7.6.1) while it has the screen, so that nobody sees half of it.
func (c *Client) update() error {
	var b [3]byte
	if _, err := io.ReadFull(c.in, b[:]); err != nil {
		return fmt.Errorf("read update: %w", err)
	}
	<-c.lock // a taker holds the screen for as long as it encodes
	defer c.release()
	n := int(binary.BigEndian.Uint16(b[1:]))
	for i := 0; i < n || n == untilLastRect; i++ {
		last, err := c.rectangle()
		if err != nil {
			return fmt.Errorf("rectangle %d: %w", i, err)
		}
		if last {
			break
		}
	}
	c.signal()
	if c.continuous {
		return nil
	}
	return c.send(updateRequest(true, c.screen.size))
}

// rectangle reads one rectangle of an update; last says that it was the end marker.
func (c *Client) rectangle() (last bool, err error) {
	var b [12]byte
	if _, err := io.ReadFull(c.in, b[:]); err != nil {
		return false, err
	}
	be := binary.BigEndian
	x, y, w, h := int(be.Uint16(b[0:])), int(be.Uint16(b[2:])), int(be.Uint16(b[4:])), int(be.Uint16(b[6:]))
	r := image.Rect(x, y, x+w, y+h)
	encoding := int32(be.Uint32(b[8:]))
	if err := c.spend(encoding, image.Pt(w, h)); err != nil {
		return false, err
	}
	switch encoding {
	case encRaw:
		return false, c.raw(r)
	case encCopyRect:
		return false, c.copyRect(r)
	case encLastRect:
		return true, nil
	case encCursor:
		return false, c.cursor(image.Pt(x, y), w, h)
	case encCursorAlpha:
		return false, c.cursorAlpha(image.Pt(x, y), w, h)
	case encDesktopSize:
		return false, c.newSize(image.Pt(w, h))
	case encExtendedDesktop:
		return false, c.extendedSize(x, y, image.Pt(w, h))
	case encQEMUKey:
		c.keys.Store(true)
		return false, nil
	case encLED:
		lights, err := c.in.ReadByte()
		c.screen.leds, c.screen.newLEDs = LEDs(lights)&(ScrollLock|NumLock|CapsLock), true
		return false, err
	default:
		return false, fmt.Errorf("encoding %d: not asked for", encoding)
	}
}

func (c *Client) raw(r image.Rectangle) error {
	if r.Empty() {
		return nil
	}
	if !r.In(c.screen.bounds()) {
		return fmt.Errorf("pixels for %v: %w", r, errOutside)
	}
	for y := r.Min.Y; y < r.Max.Y; y++ {
		if _, err := io.ReadFull(c.in, c.screen.row(r, y)); err != nil {
			return fmt.Errorf("read pixels: %w", err)
		}
	}
	c.screen.drawn(r)
	return nil
}

func (c *Client) copyRect(r image.Rectangle) error {
	b, err := c.uint32()
	if err != nil {
		return fmt.Errorf("read copy: %w", err)
	}
	if r.Empty() {
		return nil
	}
	src := image.Pt(int(b>>16), int(b&0xffff))
	if !r.In(c.screen.bounds()) || !r.Sub(r.Min).Add(src).In(c.screen.bounds()) {
		return fmt.Errorf("copy to %v from %v: %w", r, src, errOutside)
	}
	c.screen.copyRect(Copy{r, src})
	return nil
}

// newSize follows the desktop to another size: from here on it must be asked again, or pixels outside the old area
// would never come.
func (c *Client) newSize(size image.Point) error {
	if size == c.screen.size {
		return nil
	}
	if err := c.setSize(size); err != nil {
		return err
	}
	if c.continuous {
		if err := c.send(continuousUpdates(size)); err != nil {
			return err
		}
	}
	return c.send(updateRequest(false, size))
}

// extendedSize reads an ExtendedDesktopSize rectangle: reason 1 answers our own SetDesktopSize, with its status.
func (c *Client) extendedSize(reason, status int, size image.Point) error {
	var b [4]byte
	if _, err := io.ReadFull(c.in, b[:]); err != nil {
		return fmt.Errorf("read screens: %w", err)
	}
	id := uint32(0)
	for i := range int(b[0]) {
		var s [screenLen]byte
		if _, err := io.ReadFull(c.in, s[:]); err != nil {
			return fmt.Errorf("read screens: %w", err)
		}
		if i == 0 {
			id = binary.BigEndian.Uint32(s[:])
		}
	}
	refused := reason == resizeByMe && status != 0
	if !refused {
		if err := c.newSize(size); err != nil {
			return err
		}
	}
	c.mu.Lock()
	first := !c.layout.known
	c.layout.known, c.layout.id = true, id
	wanted, now := c.layout.wanted, c.layout.size
	if refused {
		c.layout.wanted = now
	}
	c.mu.Unlock()
	if first && wanted != (image.Point{}) && wanted != now {
		return c.send(resizeMessage(id, wanted))
	}
	return nil
}

func (c *Client) cursorShape(hot image.Point, w, h int) (*Cursor, error) {
	if w > MaxCursor || h > MaxCursor {
		return nil, fmt.Errorf("cursor of %d x %d pixels: more than %d", w, h, MaxCursor)
	}
	if w == 0 || h == 0 {
		return &Cursor{}, nil
	}
	if !hot.In(image.Rect(0, 0, w, h)) {
		return nil, errors.New("cursor's hot spot is outside of it")
	}
	return &Cursor{Width: w, Height: h, Hot: hot, Pix: make([]byte, w*h*4)}, nil
}

// cursor reads a shape with a mask (RFC 6143, 7.8.1).
func (c *Client) cursor(hot image.Point, w, h int) error {
	shape, err := c.cursorShape(hot, w, h)
	if err != nil {
		return err
	}
	if _, err := io.ReadFull(c.in, shape.Pix); err != nil {
		return fmt.Errorf("read cursor: %w", err)
	}
	stride := (shape.Width + 7) / 8
	mask := make([]byte, stride*shape.Height)
	if _, err := io.ReadFull(c.in, mask); err != nil {
		return fmt.Errorf("read cursor's mask: %w", err)
	}
	for i := range shape.Width * shape.Height {
		x, y := i%shape.Width, i/shape.Width
		p := shape.Pix[i*4 : i*4+4]
		if mask[y*stride+x/8]&(0x80>>(x%8)) == 0 {
			clear(p)
			continue
		}
		p[3] = 0xff
	}
	c.screen.cursor, c.screen.newCursor = shape, true
	return nil
}

// cursorAlpha reads a shape with alpha: an encoding, which must be Raw, then premultiplied RGBA.
func (c *Client) cursorAlpha(hot image.Point, w, h int) error {
	encoding, err := c.uint32()
	if err != nil {
		return fmt.Errorf("read cursor: %w", err)
	}
	if encoding != encRaw {
		return fmt.Errorf("cursor in encoding %d: want raw", int32(encoding))
	}
	shape, err := c.cursorShape(hot, w, h)
	if err != nil {
		return err
	}
	if _, err := io.ReadFull(c.in, shape.Pix); err != nil {
		return fmt.Errorf("read cursor: %w", err)
	}
	for i := 0; i < len(shape.Pix); i += 4 {
		shape.Pix[i], shape.Pix[i+2] = shape.Pix[i+2], shape.Pix[i]
	}
	c.screen.cursor, c.screen.newCursor = shape, true
	return nil
}

// SPDX-License-Identifier: Apache-2.0

package day

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"image"
	"io"
	"math/rand/v2"
	"net"
	"time"

	"sdbox/agent/screen"
)

// The pattern is patternCells x patternCells squares of cellSize pixels, each of a random colour.
const (
	patternCells = 16
	cellSize     = 8
	patternSize  = patternCells * cellSize
)

// pattern is a random picture that nothing else on a screen looks like.
type pattern [patternCells * patternCells]uint32 // 0xRRGGBB

func newPattern() *pattern {
	var p pattern
	for i := range p {
		p[i] = rand.Uint32() & 0xffffff
	}
	return &p
}

// bgrx is the pattern as rows of pixels.
func (p *pattern) bgrx() []byte {
	out := make([]byte, 0, patternSize*patternSize*4)
	for y := range patternSize {
		for x := range patternSize {
			out = binary.LittleEndian.AppendUint32(out, p[y/cellSize*patternCells+x/cellSize])
		}
	}
	return out
}

// shows says whether the picture holds the whole pattern with its corner at the point.
func (p *pattern) shows(img *screen.Image, at image.Point) bool {
	if !image.Rect(at.X, at.Y, at.X+patternSize, at.Y+patternSize).In(img.Bounds()) {
		return false
	}
	for y := range patternSize {
		row := img.Row(at.Y+y, at.X, at.X+patternSize)
		for x := range patternSize {
			rgb := uint32(row[4*x]) | uint32(row[4*x+1])<<8 | uint32(row[4*x+2])<<16
			if rgb != p[y/cellSize*patternCells+x/cellSize] {
				return false
			}
		}
	}
	return true
}

// painter is a plain X client with one window that lies above all others: what draws the patterns by which a right frame is
// known. It speaks the X Window System Protocol, version 11, appendix B, and shares no code with what carries the picture.
type painter struct {
	conn       net.Conn
	window, gc uint32
}

// The requests used, by opcode.
const (
	xCreateWindow, xMapWindow, xUnmapWindow, xConfigureWindow = 1, 8, 10, 12
	xGetInputFocus, xCreateGC, xPutImage                      = 43, 55, 72
)

const xTimeout = 5 * time.Second

// newPainter connects with the content of an Xauthority file.
func newPainter(conn net.Conn, authority []byte) (*painter, error) {
	p := &painter{conn: conn}
	if err := conn.SetDeadline(time.Now().Add(xTimeout)); err != nil {
		return nil, err
	}
	root, base, err := xSetup(conn, authority)
	if err != nil {
		return nil, fmt.Errorf("connect to X: %w", err)
	}
	p.window, p.gc = base, base+1
	create := xRequest(xCreateWindow, 0, p.window, root, uint32(0), uint16(patternSize), uint16(patternSize), uint16(0), uint16(1), uint32(0),
		uint32(1<<1|1<<9), uint32(0), uint32(1)) // background pixel, override-redirect: no window manager moves it
	gc := xRequest(xCreateGC, 0, p.gc, p.window, uint32(0))
	if _, err := conn.Write(append(create, gc...)); err != nil {
		return nil, fmt.Errorf("make X window: %w", err)
	}
	return p, p.sync()
}

// draw shows a pattern with its corner at the point, on top.
func (p *painter) draw(what *pattern, at image.Point) error {
	requests := xRequest(xConfigureWindow, 0, p.window, uint16(1|2|64), uint16(0), uint32(at.X), uint32(at.Y), uint32(0)) // x, y, stack above
	requests = append(requests, xRequest(xMapWindow, 0, p.window)...)
	requests = append(requests, xRequest(xPutImage, 2, p.window, p.gc, uint16(patternSize), uint16(patternSize), uint32(0), byte(0), byte(24), uint16(0), what.bgrx())...)
	if err := p.conn.SetDeadline(time.Now().Add(xTimeout)); err != nil {
		return err
	}
	if _, err := p.conn.Write(requests); err != nil {
		return fmt.Errorf("draw pattern: %w", err)
	}
	return nil
}

// clear takes the window away.
func (p *painter) clear() error {
	if err := p.conn.SetDeadline(time.Now().Add(xTimeout)); err != nil {
		return err
	}
	if _, err := p.conn.Write(xRequest(xUnmapWindow, 0, p.window)); err != nil {
		return fmt.Errorf("clear pattern: %w", err)
	}
	return p.sync()
}

// sync returns when the server has done all requests so far, or with its error.
func (p *painter) sync() error {
	if _, err := p.conn.Write(xRequest(xGetInputFocus, 0)); err != nil {
		return fmt.Errorf("ask X: %w", err)
	}
	var message [32]byte
	for {
		if _, err := io.ReadFull(p.conn, message[:]); err != nil {
			return fmt.Errorf("ask X: %w", err)
		}
		switch message[0] {
		case 0:
			return fmt.Errorf("ask X: error %d for request %d", message[1], message[10])
		case 1:
			return nil
		}
	}
}

// Close ends the client; its window goes with it.
func (p *painter) Close() error { return p.conn.Close() }

// xRequest packs one request, little-endian: opcode, a byte, the length in words, then the fields.
func xRequest(opcode, data byte, fields ...any) []byte {
	out := []byte{opcode, data, 0, 0}
	for _, f := range fields {
		switch v := f.(type) {
		case byte:
			out = append(out, v)
		case uint16:
			out = binary.LittleEndian.AppendUint16(out, v)
		case uint32:
			out = binary.LittleEndian.AppendUint32(out, v)
		case []byte:
			out = append(out, v...)
		}
	}
	out = append(out, make([]byte, -len(out)&3)...)
	if len(out)/4 > 0xffff {
		panic("day: X request too long")
	}
	binary.LittleEndian.PutUint16(out[2:], uint16(len(out)/4))
	return out
}

// xSetup opens the connection and returns the first screen's root window and the first identifier that is ours.
func xSetup(conn net.Conn, authority []byte) (root, base uint32, err error) {
	name, cookie, err := xCookie(authority)
	if err != nil {
		return 0, 0, err
	}
	hello := []byte{'l', 0, 11, 0, 0, 0}
	hello = binary.LittleEndian.AppendUint16(hello, uint16(len(name)))
	hello = binary.LittleEndian.AppendUint16(hello, uint16(len(cookie)))
	hello = append(hello, 0, 0)
	for _, part := range [][]byte{name, cookie} {
		hello = append(hello, part...)
		hello = append(hello, make([]byte, -len(part)&3)...)
	}
	if _, err := conn.Write(hello); err != nil {
		return 0, 0, err
	}
	var head [8]byte
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		return 0, 0, err
	}
	body := make([]byte, 4*int(binary.LittleEndian.Uint16(head[6:])))
	if _, err := io.ReadFull(conn, body); err != nil {
		return 0, 0, err
	}
	if head[0] != 1 {
		return 0, 0, fmt.Errorf("the server refuses: %.80q", body)
	}
	if len(body) < 32 {
		return 0, 0, errors.New("the server's answer is short")
	}
	vendor, formats := int(binary.LittleEndian.Uint16(body[16:])), int(body[21])
	at := 32 + (vendor+3)&^3 + 8*formats
	if at+40 > len(body) {
		return 0, 0, errors.New("the server's answer is short")
	}
	if depth := body[at+38]; depth != 24 {
		return 0, 0, fmt.Errorf("screen of depth %d, want 24", depth)
	}
	return binary.LittleEndian.Uint32(body[at:]), binary.LittleEndian.Uint32(body[4:]), nil
}

// xCookie reads the first entry of an Xauthority file: family, then four counted strings, big-endian.
func xCookie(file []byte) (name, cookie []byte, err error) {
	r := bytes.NewReader(file)
	var family uint16
	if err := binary.Read(r, binary.BigEndian, &family); err != nil {
		return nil, nil, fmt.Errorf("Xauthority: %w", err)
	}
	var parts [4][]byte
	for i := range parts {
		var n uint16
		if err := binary.Read(r, binary.BigEndian, &n); err != nil {
			return nil, nil, fmt.Errorf("Xauthority: %w", err)
		}
		parts[i] = make([]byte, n)
		if _, err := io.ReadFull(r, parts[i]); err != nil {
			return nil, nil, fmt.Errorf("Xauthority: %w", err)
		}
	}
	return parts[2], parts[3], nil
}

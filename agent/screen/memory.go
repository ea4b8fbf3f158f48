// SPDX-License-Identifier: Apache-2.0

package screen

import "image"

// Memory is a screen nobody sees, for tests.
type Memory struct {
	pane
	flushes uint64
	closed  bool
}

// NewMemory makes a black screen in memory.
func NewMemory(width, height int) (*Memory, error) {
	if err := checkSize(width, height); err != nil {
		return nil, err
	}
	return &Memory{pane: newPane(NewImage(width, height))}, nil
}

// Flush implements Screen.
func (m *Memory) Flush(rects ...image.Rectangle) error {
	if m.closed {
		return ErrClosed
	}
	if len(rects) > 0 {
		for _, r := range rects {
			m.put(r)
		}
		m.flushes++
	}
	return nil
}

// Point implements Screen.
func (m *Memory) Point(c *Cursor, at image.Point, clip image.Rectangle) error {
	return m.Flush(m.point(c, at, clip)...)
}

// Front is what a person would see: all that was flushed, and nothing that was only drawn.
func (m *Memory) Front() *Image { return m.front }

// Flushes counts the flushes that carried something.
func (m *Memory) Flushes() uint64 { return m.flushes }

// Close implements Screen.
func (m *Memory) Close() error {
	if m.closed {
		return ErrClosed
	}
	m.front.Fill(m.front.Bounds(), 0)
	m.closed = true
	return nil
}

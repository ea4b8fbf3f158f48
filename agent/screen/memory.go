// SPDX-License-Identifier: Apache-2.0

package screen

import "image"

// Memory is a screen nobody sees, for tests.
type Memory struct {
	image, front *Image
	flushes      uint64
	closed       bool
}

// NewMemory makes a black screen in memory.
func NewMemory(width, height int) (*Memory, error) {
	if err := checkSize(width, height); err != nil {
		return nil, err
	}
	return &Memory{image: NewImage(width, height), front: NewImage(width, height)}, nil
}

// Image implements Screen.
func (m *Memory) Image() *Image { return m.image }

// Flush implements Screen.
func (m *Memory) Flush(rects ...image.Rectangle) error {
	if m.closed {
		return ErrClosed
	}
	if len(rects) > 0 {
		for _, r := range rects {
			m.front.Copy(m.image, r)
		}
		m.flushes++
	}
	return nil
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

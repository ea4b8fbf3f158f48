// SPDX-License-Identifier: Apache-2.0

package finger

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
)

// Unix returns a finger source that dials a Unix socket for each finger asked and reads one frame from it: the number of
// minutiae as a 16-bit big-endian integer, then Size bytes for each. A call blocks until a finger is placed; when ctx ends
// it returns an error wrapping ctx's cause. The source may be called again at once, from one goroutine at a time.
func Unix(path string) func(ctx context.Context) (Template, error) {
	return func(ctx context.Context) (Template, error) {
		t, err := receive(ctx, path)
		if err != nil && ctx.Err() != nil {
			return nil, fmt.Errorf("wait for a finger: %w", context.Cause(ctx))
		}
		if err != nil {
			return nil, fmt.Errorf("wait for a finger: %w", err)
		}
		return t, nil
	}
}

func receive(ctx context.Context, path string) (Template, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("reach the sensor: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	defer conn.Close()
	return ReadFrame(conn)
}

// ReadFrame reads one frame from a sensor.
func ReadFrame(r io.Reader) (Template, error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, fmt.Errorf("read frame: %w", err)
	}
	n := int(binary.BigEndian.Uint16(head[:]))
	if n == 0 || n > MaxMinutiae {
		return nil, fmt.Errorf("read frame: %w: %d minutiae: want 1 to %d", errTemplate, n, MaxMinutiae)
	}
	body := make([]byte, n*Size)
	defer clear(body)
	if _, err := io.ReadFull(r, body); err != nil {
		return nil, fmt.Errorf("read frame: %w", err)
	}
	return Parse(body)
}

// WriteFrame writes one frame as a sensor does.
func WriteFrame(w io.Writer, t Template) error {
	body := t.Encode()
	frame := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(body)), uint16(len(body)/Size))
	frame = append(frame, body...)
	defer clear(frame)
	defer clear(body)
	if _, err := w.Write(frame); err != nil {
		return fmt.Errorf("write frame: %w", err)
	}
	return nil
}

// SPDX-License-Identifier: Apache-2.0

package page

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"image"
	"image/png"
	"io"
	"time"

	"sdbox/agent/screen"
	"sdbox/internal/lab/house"
)

const (
	framePeriod = 40 * time.Millisecond  // a browser is shown at most 25 pictures a second
	retryPeriod = 250 * time.Millisecond // how often a box without a screen is looked at again
	bandGap     = 24                     // rows that stand still between two changed bands before they are sent apart
)

// streamScreen writes what changes on a box's screen to w until ctx ends or w fails, the whole screen first. A message is, little-endian,
// u32 length of the rest | u16 screen width, height | u16 x, y | PNG.
func streamScreen(ctx context.Context, path string, w io.Writer, flush func() error) error {
	watcher, err := awaitScreen(ctx, path)
	if err != nil {
		return err
	}
	defer watcher.Close()
	var sent *screen.Image
	pace := time.NewTicker(framePeriod)
	defer pace.Stop()
	for {
		if sent == nil {
			err = watcher.Now(ctx)
		} else {
			err = watcher.Next(ctx)
		}
		if err != nil {
			return err
		}
		for _, r := range changed(sent, watcher.Image) {
			message, err := encode(watcher.Image, r)
			if err != nil {
				return err
			}
			if _, err := w.Write(message); err != nil {
				return fmt.Errorf("send picture: %w", err)
			}
		}
		if err := flush(); err != nil {
			return fmt.Errorf("send picture: %w", err)
		}
		if sent == nil {
			sent = screen.NewImage(watcher.Image.Width, watcher.Image.Height)
		}
		sent.Copy(watcher.Image, sent.Bounds())
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-pace.C:
		}
	}
}

// awaitScreen maps the screen file once the agent has made it, whole.
func awaitScreen(ctx context.Context, path string) (*house.Watcher, error) {
	tick := time.NewTicker(retryPeriod)
	defer tick.Stop()
	for {
		watcher, err := house.Watch(path, framePeriod)
		if err == nil {
			return watcher, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-tick.C:
		}
	}
}

// changed returns the parts of now that differ from before, as bands from top to bottom; all of it when there is no before.
func changed(before, now *screen.Image) []image.Rectangle {
	if before == nil {
		return []image.Rectangle{now.Bounds()}
	}
	var out []image.Rectangle
	for y := range now.Height {
		a, b := before.Row(y, 0, now.Width), now.Row(y, 0, now.Width)
		if bytes.Equal(a, b) {
			continue
		}
		x0, x1 := span(a, b)
		row := image.Rect(x0, y, x1, y+1)
		if last := len(out) - 1; last >= 0 && y-out[last].Max.Y < bandGap {
			out[last] = out[last].Union(row)
		} else {
			out = append(out, row)
		}
	}
	return out
}

// span is the first and one past the last pixel in which two different rows differ.
func span(a, b []byte) (int, int) {
	first, last := 0, len(a)
	for a[first] == b[first] {
		first++
	}
	for a[last-1] == b[last-1] {
		last--
	}
	return first / 4, (last + 3) / 4
}

// encode makes one message of a part of the screen.
func encode(img *screen.Image, r image.Rectangle) ([]byte, error) {
	part := image.NewRGBA(image.Rectangle{Max: r.Size()})
	for y := range r.Dy() {
		src, dst := img.Row(r.Min.Y+y, r.Min.X, r.Max.X), part.Pix[y*part.Stride:]
		for i := 0; i+3 < len(src); i += 4 {
			dst[i], dst[i+1], dst[i+2], dst[i+3] = src[i+2], src[i+1], src[i], 255
		}
	}
	head := make([]byte, 12)
	for i, v := range []int{img.Width, img.Height, r.Min.X, r.Min.Y} {
		binary.LittleEndian.PutUint16(head[4+2*i:], uint16(v))
	}
	out := bytes.NewBuffer(head)
	encoder := png.Encoder{CompressionLevel: png.BestSpeed}
	if err := encoder.Encode(out, part); err != nil {
		return nil, fmt.Errorf("encode picture: %w", err)
	}
	message := out.Bytes()
	binary.LittleEndian.PutUint32(message, uint32(len(message)-4))
	return message, nil
}

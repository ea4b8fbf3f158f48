// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"context"
	"errors"
	"fmt"
	"image"
	"net"
	"path/filepath"
	"time"

	"sdbox/agent/screen"
	"sdbox/internal/rfb"
)

// nudgeEvery is how often QEMU is kept from growing slack: its display server looks for changed pixels every 30 ms at first, then ever
// less often, until a message of its viewer makes it attentive again (QEMU, ui/vnc.c).
const nudgeEvery = 25 * time.Millisecond

// nudge is an empty clipboard (RFC 6143, 7.5.6): a message that changes nothing in the guest.
func nudge() []byte { return []byte{6, 0, 0, 0, 0, 0, 0, 0} }

// Show keeps the screen file at path (agent/screen's) as the machine's display is, always of Width x Height pixels: a smaller picture
// stands in its upper left corner. It sees what QEMU's display server sees, within some 40 ms of the guest's drawing, and returns
// when ctx ends (nil) or the machine does.
func (v *VM) Show(ctx context.Context, path string) (err error) {
	file, err := screen.OpenFile(path, Width, Height)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", filepath.Join(v.cfg.Dir, displaySocket))
	if err != nil {
		return fmt.Errorf("display of the machine: %w", err)
	}
	client, err := rfb.New(ctx, conn, screen.MaxSide/2, screen.MaxSide/2)
	if err != nil {
		return fmt.Errorf("display of the machine: %w", err)
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	tick := time.NewTicker(nudgeEvery)
	defer tick.Stop()
	size := image.Point{}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-client.Done():
			return fmt.Errorf("display of the machine: %w", client.Err())
		case <-tick.C:
			// The client writes each of its messages at once: this one comes between two of them.
			err := conn.SetWriteDeadline(time.Now().Add(qmpWithin))
			if err == nil {
				_, err = conn.Write(nudge())
			}
			if err != nil {
				return fmt.Errorf("display of the machine: %w", err)
			}
		case <-client.Changed():
			err := client.Take(ctx, func(u rfb.Update) error {
				damage := u.Damage
				if u.Size != size { // what a larger picture has left
					size, damage = u.Size, []image.Rectangle{file.Image().Bounds()}
					file.Image().Fill(damage[0], 0)
				}
				picture := &screen.Image{Pix: u.Pix, Stride: u.Size.X * 4, Width: u.Size.X, Height: u.Size.Y}
				for _, r := range damage {
					file.Image().Copy(picture, r)
				}
				return file.Flush(damage...)
			})
			if err != nil && ctx.Err() == nil {
				return err
			}
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package desktop

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"sdbox/internal/bubble"
	"sdbox/internal/rfb"
)

// Settle is how long Next lets changes gather after the first: a key's echo and the cursor behind it are one frame.
const Settle = 2 * time.Millisecond

// The times a desktop may take to show itself, and to say whether it can be resized.
const (
	openTime  = 10 * time.Second
	sizeTime  = time.Second
	maxWidth  = 4096
	maxHeight = 2400
	maxWheel  = 16 // notches of one Input
)

// RFB buttons that stand for the wheel (RFC 6143, 7.5.5).
const wheelUp, wheelDown = uint8(1 << 3), uint8(1 << 4)

// Target names a desktop. Conn is a connection made ahead of need, or nil: then Address and TLS say where to connect
// (bubble.ClientTLS). Layout is a keyboard layout ("fr", "us"), or empty to leave it.
type Target struct {
	Address       string
	TLS           *tls.Config
	Conn          *bubble.Conn
	Token         []byte
	Width, Height int
	Layout        string
}

// RFB is a desktop behind a bubble's RFB connection.
type RFB struct{ client *rfb.Client }

var _ Desktop = (*RFB)(nil)

// Open spends the token, attaches to the person's desktop and returns when its picture is whole and has the wanted
// size, or the size it insists on. Errors wrap those of package bubble.
func Open(ctx context.Context, t Target) (*RFB, error) {
	conn := t.Conn
	if conn == nil {
		var err error
		if conn, err = bubble.Dial(ctx, t.Address, t.TLS); err != nil {
			return nil, fmt.Errorf("attach desktop: %w", err)
		}
	}
	raw, err := conn.Open(ctx, t.Token, t.Width, t.Height, t.Layout)
	if err != nil {
		return nil, fmt.Errorf("attach desktop: %w", err)
	}
	d, err := Attach(ctx, raw, t.Width, t.Height)
	if err != nil {
		return nil, fmt.Errorf("attach desktop: %w", err)
	}
	return d, nil
}

// Attach speaks RFB over conn, which it owns, and returns when the picture is whole, as Open does. The pointer is in the
// middle then.
func Attach(ctx context.Context, conn net.Conn, width, height int) (*RFB, error) {
	ctx, cancel := context.WithTimeout(ctx, openTime)
	defer cancel()
	client, err := rfb.New(ctx, conn, maxWidth, maxHeight)
	if err != nil {
		return nil, err
	}
	d := &RFB{client}
	if err := d.begin(ctx, width, height); err != nil {
		client.Close()
		return nil, err
	}
	return d, nil
}

// begin places the pointer and waits for the picture. Xvnc draws its pointer into the picture until the client has placed it, and
// again when it finds it elsewhere: a busy server that takes the size late moves it, hence the second time.
func (d *RFB) begin(ctx context.Context, width, height int) error {
	if err := d.client.Pointer(width/2, height/2, 0); err != nil {
		return err
	}
	if err := d.settle(ctx, width, height); err != nil {
		return err
	}
	return d.client.Pointer(width/2, height/2, 0)
}

// settle waits for a whole picture of the wanted size and leaves all of it to the first Next.
func (d *RFB) settle(ctx context.Context, width, height int) error {
	if err := d.client.Resize(width, height); err != nil {
		return err
	}
	whole := false
	var patience <-chan time.Time // runs once the picture is there and the server has not spoken of its size
	for !whole || !d.client.Sized() {
		select {
		case <-d.client.Changed():
			if err := d.client.Take(ctx, func(rfb.Update) error { whole = true; return nil }); err != nil {
				return err
			}
			if patience == nil {
				patience = time.After(sizeTime)
			}
		case <-patience:
			d.client.Refresh()
			return nil
		case <-d.client.Done():
			return d.client.Err()
		case <-ctx.Done():
			return fmt.Errorf("wait for the desktop's picture: %w", ctx.Err())
		}
	}
	d.client.Refresh()
	return nil
}

// Next implements Desktop.
func (d *RFB) Next(ctx context.Context, show func(Update) error) error {
	for shown := false; !shown; {
		if err := d.wait(ctx); err != nil {
			return err
		}
		err := d.client.Take(ctx, func(u rfb.Update) error {
			shown = true
			return show(convert(u))
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// wait returns Settle after the first change.
func (d *RFB) wait(ctx context.Context) error {
	select {
	case <-d.client.Changed():
	case <-d.client.Done():
		return fmt.Errorf("desktop is gone: %w", d.client.Err())
	case <-ctx.Done():
		return ctx.Err()
	}
	settled := time.NewTimer(Settle)
	defer settled.Stop()
	select {
	case <-settled.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func convert(u rfb.Update) Update {
	v := Update{Pix: u.Pix, Size: u.Size, Damage: u.Damage, Copies: make([]Copy, len(u.Copies)), Lights: Lights(u.LEDs)}
	for i, c := range u.Copies {
		v.Copies[i] = Copy(c)
	}
	if u.Cursor != nil {
		c := Cursor(*u.Cursor)
		v.Cursor = &c
	}
	return v
}

// Refresh implements Desktop.
func (d *RFB) Refresh() { d.client.Refresh() }

// Input implements Desktop.
func (d *RFB) Input(in Input) error {
	switch in.Kind {
	case Key:
		return d.client.Key(in.XT, in.Down)
	case Pointer:
		return d.pointer(in)
	case ReleaseAll:
		return d.client.ReleaseAll()
	default:
		return fmt.Errorf("input of kind %d: unknown", in.Kind)
	}
}

func (d *RFB) pointer(in Input) error {
	buttons := in.Buttons & (Left | Middle | Right)
	if err := d.client.Pointer(in.X, in.Y, buttons); err != nil {
		return err
	}
	notch, n := wheelUp, in.Wheel
	if n < 0 {
		notch, n = wheelDown, -n
	}
	for range min(n, maxWheel) {
		if err := d.client.Pointer(in.X, in.Y, buttons|notch); err != nil {
			return err
		}
		if err := d.client.Pointer(in.X, in.Y, buttons); err != nil {
			return err
		}
	}
	return nil
}

// Close implements Desktop.
func (d *RFB) Close() error {
	err := d.client.ReleaseAll() // fails when the desktop is gone already: nothing to let go of then
	if gone := d.client.Err(); gone != nil {
		err = nil
	}
	return errors.Join(err, d.client.Close())
}

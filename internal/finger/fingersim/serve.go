// SPDX-License-Identifier: Apache-2.0

package fingersim

import (
	"context"
	"errors"
	"fmt"
	"net"

	"sdbox/internal/finger"
)

// Serve is the sensor: it takes clients of finger.Unix from l one at a time and hands each the next finger of placed. A
// finger is taken from placed only while a client waits, so that a sender on an unbuffered channel knows it was read. Serve
// closes l and returns when ctx ends (its cause), when placed is closed (nil), or when l fails.
func Serve(ctx context.Context, l net.Listener, placed <-chan finger.Template) error {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	defer l.Close()
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			if err == nil {
				conn.Close()
			}
			return fmt.Errorf("finger sensor: %w", context.Cause(ctx))
		}
		if err != nil {
			return fmt.Errorf("finger sensor: %w", err)
		}
		if err := serveOne(ctx, conn, placed); errors.Is(err, errSwitchedOff) {
			return nil
		}
	}
}

// errSwitchedOff ends Serve when no finger can come any more.
var errSwitchedOff = errors.New("no more fingers")

// serveOne waits for a finger, or for the client to stop waiting.
func serveOne(ctx context.Context, conn net.Conn, placed <-chan finger.Template) error {
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		var b [1]byte
		_, _ = conn.Read(b[:]) // a client never speaks: whatever comes, it is done waiting
	}()
	defer func() {
		conn.Close()
		<-gone
	}()
	select {
	case <-gone:
		return nil
	case <-ctx.Done():
		return nil
	case t, ok := <-placed:
		if !ok {
			return errSwitchedOff
		}
		return finger.WriteFrame(conn, t)
	}
}

// SPDX-License-Identifier: Apache-2.0

package fingersim

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"sdbox/internal/finger"
)

// restsFor is how long a finger stays on the sensor when the client that asked for it has just gone.
const restsFor = time.Second

// Serve is the sensor: it takes clients of finger.Unix from l one at a time and hands each the next finger of placed. A
// finger is taken from placed only while a client waits, so that a sender on an unbuffered channel knows it was read; if
// that client is gone, the finger rests for a second for the next one. Serve closes l and returns when ctx ends (its cause),
// when placed is closed (nil), or when l fails.
func Serve(ctx context.Context, l net.Listener, placed <-chan finger.Template) error {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	defer l.Close()
	var rests finger.Template
	var since time.Time
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
		if time.Since(since) > restsFor {
			rests = nil
		}
		rests, err = serveOne(ctx, conn, rests, placed)
		if errors.Is(err, errSwitchedOff) {
			return nil
		}
		since = time.Now()
	}
}

// errSwitchedOff ends Serve when no finger can come any more.
var errSwitchedOff = errors.New("no more fingers")

// serveOne waits for a finger, or for the client to stop waiting. A finger that could not be handed over comes back.
func serveOne(ctx context.Context, conn net.Conn, rests finger.Template, placed <-chan finger.Template) (finger.Template, error) {
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
	if rests == nil {
		select {
		case <-gone:
			return nil, nil
		case <-ctx.Done():
			return nil, nil
		case t, ok := <-placed:
			if !ok {
				return nil, errSwitchedOff
			}
			rests = t
		}
	}
	if err := finger.WriteFrame(conn, rests); err != nil {
		return rests, nil
	}
	return nil, nil
}

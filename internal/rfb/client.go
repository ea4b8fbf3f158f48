// SPDX-License-Identifier: Apache-2.0

package rfb

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"image"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Client is one connection to a desktop. Its methods may be called from any goroutine; Close ends its two goroutines.
type Client struct {
	conn net.Conn
	in   *bufio.Reader // owned by read
	max  image.Point

	out     chan []byte   // to the goroutine that writes
	quit    chan struct{} // closed by Close
	ended   chan struct{} // closed when read has ended
	once    sync.Once
	owned   sync.WaitGroup
	changed chan struct{} // holds one token while there is something to Take

	lock   chan struct{} // holds one token; who has it owns screen
	screen screen
	all    atomic.Bool // the next Take shows everything

	continuous bool        // owned by read
	budget     budget      // owned by read
	keys       atomic.Bool // the server takes scancodes

	mu      sync.Mutex
	err     error               // guarded by mu; the first reason of the end
	held    map[uint32]struct{} // guarded by mu; keys that are down
	buttons uint8               // guarded by mu
	pointer image.Point         // guarded by mu
	layout  layout              // guarded by mu
}

// layout is what the server said of its screens and what the caller wants of them.
type layout struct {
	known  bool // the server can be resized
	id     uint32
	size   image.Point
	wanted image.Point
}

// New shakes hands with the server behind conn and asks for the whole picture. The client owns conn from here on. A
// desktop of more than maxW x maxH pixels is refused, now and later.
func New(ctx context.Context, conn net.Conn, maxW, maxH int) (*Client, error) {
	if maxW < 1 || maxH < 1 || maxW > MaxSide || maxH > MaxSide {
		return nil, fmt.Errorf("desktop limit of %d x %d pixels: want 1 to %d", maxW, maxH, MaxSide)
	}
	c := &Client{
		conn: conn, in: bufio.NewReaderSize(conn, 1<<16), max: image.Pt(maxW, maxH),
		out: make(chan []byte, maxQueue), quit: make(chan struct{}), ended: make(chan struct{}),
		changed: make(chan struct{}, 1), lock: make(chan struct{}, 1), held: map[uint32]struct{}{}, budget: budget{saved: maxSaved, at: time.Now()},
	}
	c.lock <- struct{}{}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	err := c.handshake()
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("open desktop: %w", err)
	}
	c.owned.Add(2)
	go c.write()
	go c.read()
	return c, nil
}

// Changed holds a token while there is something to Take: not before the picture is whole, after the start and after each new
// size, unless somebody asked to Refresh.
func (c *Client) Changed() <-chan struct{} { return c.changed }

// Done is closed when the connection has ended; Err then says why.
func (c *Client) Done() <-chan struct{} { return c.ended }

// Err is why the connection ended, ErrClosed after Close, or nil while it lives.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Take lends show the framebuffer and what changed in it since the last Take. While show runs nothing is read from the
// desktop, so that the picture stands still; show must not keep any of it. Take waits for an update under way to end,
// and does not call show when the picture is not whole or nothing has changed.
func (c *Client) Take(ctx context.Context, show func(Update) error) error {
	select {
	case <-c.lock:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer c.release()
	select {
	case <-c.changed:
	default:
	}
	if len(c.screen.holes) == 0 && c.all.Swap(false) {
		c.screen.refresh()
	}
	if !c.screen.ready() {
		return nil
	}
	return show(c.screen.take())
}

// Sized says whether the desktop has the size that Resize asked for, or refused it. It is false until the server has
// said whether it can be resized at all.
func (c *Client) Sized() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.layout.known && (c.layout.wanted == image.Point{} || c.layout.wanted == c.layout.size)
}

// Refresh marks everything as changed, cursor included. It never waits, whatever the desktop is doing.
func (c *Client) Refresh() {
	c.all.Store(true)
	c.wake()
}

func (c *Client) release() { c.lock <- struct{}{} }

// signal tells a waiting taker that the picture is whole and has changed. The caller has the screen.
func (c *Client) signal() {
	if c.screen.ready() || len(c.screen.holes) == 0 && c.all.Load() {
		c.wake()
	}
}

func (c *Client) wake() {
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

// Close sends what is queued, waits for the client's goroutines, at most half a second, and closes the connection.
func (c *Client) Close() error {
	c.once.Do(func() {
		c.fail(ErrClosed)
		close(c.quit)
	})
	late := time.AfterFunc(closeTime, func() { c.conn.Close() })
	defer late.Stop()
	c.owned.Wait()
	return nil
}

// fail keeps the first reason.
func (c *Client) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
	}
}

// send queues a message. A server that lets the queue fill up is cut off.
func (c *Client) send(b []byte) error {
	if err := c.Err(); err != nil {
		return err
	}
	select {
	case c.out <- b:
		return nil
	default:
		c.fail(ErrStalled)
		c.conn.Close()
		return ErrStalled
	}
}

// write sends the queue until the connection ends.
func (c *Client) write() {
	defer c.owned.Done()
	defer c.conn.Close()
	for {
		select {
		case b := <-c.out:
			if !c.put(b) {
				return
			}
		case <-c.ended:
			return
		case <-c.quit:
			for {
				select {
				case b := <-c.out:
					if !c.put(b) {
						return
					}
				default:
					return
				}
			}
		}
	}
}

func (c *Client) put(b []byte) bool {
	if err := c.conn.SetWriteDeadline(time.Now().Add(writeTime)); err != nil {
		c.fail(fmt.Errorf("write to desktop: %w", err))
		return false
	}
	if _, err := c.conn.Write(b); err != nil {
		c.fail(fmt.Errorf("write to desktop: %w", err))
		return false
	}
	return true
}

// read handles messages until the connection ends.
func (c *Client) read() {
	defer c.owned.Done()
	defer close(c.ended)
	for {
		if err := c.message(); err != nil {
			c.fail(fmt.Errorf("read from desktop: %w", err))
			c.conn.Close()
			return
		}
	}
}

// errOutside is an answer that names pixels the desktop does not have.
var errOutside = errors.New("rectangle outside the desktop")

// SPDX-License-Identifier: Apache-2.0

// Package line carries wire messages over one connection between a box and a gateway: framing, beats and deadlines.
//
// A frame is a 4-byte big-endian length and that many bytes of one message. The length is checked before anything is
// allocated. Both ends send a Beat every 5 s, a box in a session every half second; an end that hears nothing for its silence limit
// gives the line up.
package line

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"sdbox/internal/wire"
)

// Times of a line (implementation).
const (
	BeatInterval = 5 * time.Second
	Silence      = 15 * time.Second // three beats missed
	writeLimit   = 5 * time.Second  // a peer that does not read is gone
)

// ErrSilent says that the other end sent nothing for the silence limit.
var ErrSilent = errors.New("the other end is silent")

// ErrVersion says that the other end speaks another version of the grammar.
var ErrVersion = errors.New("the other end speaks another version")

// Conn is one line. One goroutine reads; any goroutine writes.
type Conn struct {
	conn    net.Conn
	codec   *wire.Codec
	peer    wire.Origin
	silence time.Duration

	mu   sync.Mutex // serialises writes
	seq  atomic.Uint64
	sent atomic.Int64 // monotonic time of the last Beat sent, as a duration since start
	rtt  atomic.Int64
	last atomic.Int64 // when anything was read last, as a duration since zero
	zero time.Time
}

// New makes a line over a connection that the caller has dialled or accepted; peer is the other end, and silence the
// longest it may say nothing before Read fails.
func New(conn net.Conn, peer wire.Origin, silence time.Duration) (*Conn, error) {
	codec, err := wire.NewCodec()
	if err != nil {
		return nil, fmt.Errorf("line: %w", err)
	}
	return &Conn{conn: conn, codec: codec, peer: peer, silence: silence, zero: time.Now()}, nil
}

// Write sends one message. It may be called by several goroutines; a peer that does not read for 5 s makes it fail, after
// which the line is of no more use.
func (c *Conn) Write(m wire.Message) error {
	b, err := c.codec.Encode(m)
	if err != nil {
		return fmt.Errorf("line: %w", err)
	}
	frame := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(b)), uint32(len(b)))
	frame = append(frame, b...)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.conn.SetWriteDeadline(time.Now().Add(writeLimit)); err != nil {
		return fmt.Errorf("line: write %T: %w", m, err)
	}
	if _, err := c.conn.Write(frame); err != nil {
		return fmt.Errorf("line: write %T: %w", m, err)
	}
	return nil
}

// Read returns the next message that is not a Beat; beats are answered here. It fails with ErrSilent after the silence limit,
// with an error that wraps wire.ErrGrammar on bytes outside the grammar, and with io.EOF when the other end closed in peace.
// After an error the line is of no more use.
func (c *Conn) Read() (wire.Message, error) {
	for {
		m, err := c.readFrame()
		if err != nil {
			return nil, err
		}
		beat, isBeat := m.(*wire.Beat)
		if !isBeat {
			return m, nil
		}
		if err := c.heard(beat); err != nil {
			return nil, err
		}
	}
}

func (c *Conn) readFrame() (wire.Message, error) {
	if err := c.conn.SetReadDeadline(time.Now().Add(c.silence)); err != nil {
		return nil, readError(err)
	}
	var head [4]byte
	if _, err := io.ReadFull(c.conn, head[:]); err != nil {
		return nil, readError(err)
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > wire.MaxMessage {
		return nil, fmt.Errorf("line: %w: frame of %d bytes, limit %d", wire.ErrGrammar, n, wire.MaxMessage)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(c.conn, b); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, readError(err)
	}
	m, err := c.codec.Decode(b, c.peer)
	if err != nil {
		return nil, fmt.Errorf("line: %w", err)
	}
	c.last.Store(int64(time.Since(c.zero)))
	return m, nil
}

func readError(err error) error {
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrClosedPipe): // the latter is net.Pipe's word for it
		return io.EOF
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("line: %w", ErrSilent)
	default:
		return fmt.Errorf("line: read: %w", err)
	}
}

func (c *Conn) heard(b *wire.Beat) error {
	if !b.Echo {
		return c.Write(&wire.Beat{Seq: b.Seq, Echo: true})
	}
	if b.Seq == c.seq.Load() {
		c.rtt.Store(int64(time.Since(c.zero)) - c.sent.Load())
	}
	return nil
}

// Beats sends a Beat at once and then every 5 s until ctx ends or a write fails.
func (c *Conn) Beats(ctx context.Context) error {
	tick := time.NewTicker(BeatInterval)
	defer tick.Stop()
	for {
		if err := c.Beat(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Beat sends one Beat, for whoever keeps the pace himself. It is answered at once by an end that lives.
func (c *Conn) Beat() error {
	c.sent.Store(int64(time.Since(c.zero)))
	return c.Write(&wire.Beat{Seq: c.seq.Add(1)})
}

// Heard is when the other end was last heard, whatever it said; when the line was made, before it said anything.
func (c *Conn) Heard() time.Time { return c.zero.Add(time.Duration(c.last.Load())) }

// Delay is the round trip of the last answered Beat, 0 before the first.
func (c *Conn) Delay() time.Duration { return time.Duration(c.rtt.Load()) }

// Greet sends own Hello and returns the other end's, or an error that wraps ErrVersion.
func (c *Conn) Greet(own *wire.Hello) (*wire.Hello, error) {
	own.Version = wire.Version
	if err := c.Write(own); err != nil {
		return nil, err
	}
	m, err := c.Read()
	if err != nil {
		return nil, err
	}
	hello, ok := m.(*wire.Hello)
	if !ok {
		return nil, fmt.Errorf("line: %w: %T before Hello", wire.ErrGrammar, m)
	}
	if hello.Version != wire.Version {
		return nil, fmt.Errorf("line: %w: %d, ours is %d", ErrVersion, hello.Version, wire.Version)
	}
	return hello, nil
}

// Close closes the connection; a Read under way fails.
func (c *Conn) Close() error { return c.conn.Close() }

// SPDX-License-Identifier: Apache-2.0

package frontdoor

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"sdbox/gateway/registry"
	"sdbox/gateway/releases"
	"sdbox/internal/wire"
)

// Bounds of those who fetch files of a release. A file is no secret, and only who was offered its release knows its name; what is
// bounded is the gateway's line. A box that cannot show a certificate, because its TPM was cleared or it was long off, fetches too.
const (
	maxFetching  = 64      // boxes at once
	maxStrangers = 8       // those without a certificate, one from each address (a /64 for IPv6)
	boxRate      = 4 << 20 // bytes a second, each
	strangerRate = 1 << 20
	fetchChunk   = 64 << 10
	fetchTime    = 15 * time.Minute
)

// offer returns the signed note of what a registered box should run, or nil.
func (d *Door) offer(ctx context.Context, box registry.Box) []byte {
	if d.conf.Releases == nil || box.State == registry.Retired {
		return nil
	}
	note, err := d.conf.Releases.Offered(ctx, box.Model)
	if err != nil {
		d.conf.Log.Error("offered release", "room", "frontdoor", "box", box.Serial, "err", err)
	}
	return note
}

// offerTo is offer for a box that is refused, by its name.
func (d *Door) offerTo(ctx context.Context, serial string) []byte {
	if serial == "" {
		return nil // a machine that is not registered
	}
	box, err := d.conf.Registry.Box(ctx, serial)
	if err != nil {
		return nil
	}
	return d.offer(ctx, box)
}

// fetchers are the connections that fetch, each under the name of whose it is.
type fetchers struct {
	mu        sync.Mutex
	boxes     map[string]net.Conn       // guarded by mu; by serial
	strangers map[netip.Prefix]net.Conn // guarded by mu
}

// enterBox lets a box in; an older connection of the same box is closed, for it is dead or of no more use.
func (f *fetchers) enterBox(serial string, conn net.Conn) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	before, again := f.boxes[serial]
	if !again && len(f.boxes) >= maxFetching {
		return false
	}
	if again {
		before.Close()
	}
	f.boxes[serial] = conn
	return true
}

func (f *fetchers) leaveBox(serial string, conn net.Conn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.boxes[serial] == conn {
		delete(f.boxes, serial)
	}
}

// enterStranger lets one in unless another of the same source is: two behind one address must not end one another for ever.
func (f *fetchers) enterStranger(source netip.Prefix, conn net.Conn) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, again := f.strangers[source]; again || len(f.strangers) >= maxStrangers {
		return false
	}
	f.strangers[source] = conn
	return true
}

func (f *fetchers) leaveStranger(source netip.Prefix) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.strangers, source)
}

// hand answers one Fetch, and ends with its connection.
func (d *Door) hand(ctx context.Context, conn *tls.Conn, g *guest) error {
	ctx, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { conn.NetConn().Close() })
	defer stop()
	var ask wire.Fetch
	if err := conn.SetReadDeadline(time.Now().Add(handshakeTime)); err != nil {
		return err
	}
	if _, err := io.ReadFull(conn, ask[:]); err != nil {
		return fmt.Errorf("fetch: %w", err)
	}
	d.crowd.leave(g) // those who fetch have bounds of their own
	rate, who := strangerRate, "machine at "+g.source.String()
	if certs := conn.ConnectionState().PeerCertificates; len(certs) > 0 {
		box, err := d.registered(ctx, certs[0].Raw)
		if err != nil {
			return fmt.Errorf("fetch: %w", err)
		}
		if !d.fetching.enterBox(box.Serial, conn) {
			return answerFetch(conn, wire.FetchedLater)
		}
		defer d.fetching.leaveBox(box.Serial, conn)
		rate, who = boxRate, box.Serial
	} else {
		if !d.fetching.enterStranger(g.source, conn) {
			return answerFetch(conn, wire.FetchedLater)
		}
		defer d.fetching.leaveStranger(g.source)
	}
	return d.send(ctx, conn, ask, rate, who)
}

// registered is the box that a certificate names, if it is in use. Whether it is locked or intact does not matter here: a box that is
// refused needs its release most.
func (d *Door) registered(ctx context.Context, certificate []byte) (registry.Box, error) {
	named, err := d.conf.Trust.VerifyBox(certificate, time.Now())
	if err != nil {
		return registry.Box{}, err
	}
	box, err := d.conf.Registry.Box(ctx, named.Serial)
	if err == nil && box.State == registry.Retired {
		err = errors.New("the box is retired")
	}
	return box, err
}

func (d *Door) send(ctx context.Context, conn *tls.Conn, ask wire.Fetch, rate int, who string) error {
	if d.conf.Releases == nil {
		return answerFetch(conn, wire.FetchedNone)
	}
	file, size, err := d.conf.Releases.File(ctx, ask.SHA256(), ask.Offset())
	if errors.Is(err, releases.ErrFile) || errors.Is(err, releases.ErrMissing) {
		return answerFetch(conn, wire.FetchedNone)
	}
	if err != nil {
		return err
	}
	defer file.Close()
	if err := answerFetch(conn, wire.FetchedFile); err != nil {
		return err
	}
	begun := time.Now()
	err = pour(ctx, conn, io.LimitReader(file, size), rate)
	d.conf.Log.Info("release fetched", "room", "frontdoor", "box", who, "bytes", size, "ms", time.Since(begun).Milliseconds(), "err", err)
	return err
}

func answerFetch(conn net.Conn, answer wire.Fetched) error {
	if err := conn.SetWriteDeadline(time.Now().Add(silence)); err != nil {
		return err
	}
	_, err := conn.Write([]byte{byte(answer)})
	return err
}

// pour copies no faster than rate, in bytes a second, and gives up on a receiver that takes nothing for a while.
func pour(ctx context.Context, conn net.Conn, from io.Reader, rate int) error {
	chunk := make([]byte, fetchChunk)
	due := time.Now()
	for {
		n, err := io.ReadFull(from, chunk)
		if n > 0 {
			if err := conn.SetWriteDeadline(time.Now().Add(silence)); err != nil {
				return err
			}
			if _, err := conn.Write(chunk[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return err
		}
		due = due.Add(time.Duration(n) * time.Second / time.Duration(rate))
		wait := time.NewTimer(time.Until(due))
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return ctx.Err()
		}
	}
}

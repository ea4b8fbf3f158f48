// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"context"
	"math/rand/v2"
	"net"
	"time"
)

// How a box keeps its TLS connection (implementation).
const (
	firstRedial = 250 * time.Millisecond
	lastRedial  = 30 * time.Second
	hurryRedial = time.Second      // while UDP does not answer
	soundStream = 10 * time.Second // a connection that lasted this long was accepted

	workTime = time.Second // a box that sent something this long ago is busy

	// After a change of bearer the gateway must hear from the box by the new one, or it goes on sending by the old. A late
	// packet by the old one may pull it back, hence twice.
	secondWord = 200 * time.Millisecond
)

// climb is the ladder's goroutine: it sends probes, takes their answers, and moves the box from bearer to bearer.
func (b *Box) climb(ctx context.Context) {
	tick := time.NewTicker(ladderTick)
	defer tick.Stop()
	again := time.NewTimer(time.Hour)
	defer again.Stop()
	l := newLadder(time.Now())
	number := uint32(0)
	var stream *streamConn
	for {
		select {
		case h := <-b.bind.heard:
			road := &l.udp
			if h.by == TLS {
				road = &l.tls
			}
			road.answered(h.number, h.at)
			continue
		case <-again.C:
			b.speak()
			continue
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if s := b.bind.stream.Load(); s != stream {
			l.stream(s != nil)
			stream = s
			if l.onTLS {
				again.Reset(0) // the gateway learns of the new connection
			}
		}
		if b.bind.onTLS.Load() && !l.onTLS {
			l.prefer(time.Now())
		}
		before := l.onTLS
		o := l.step(time.Now(), time.Since(b.bind.start)-time.Duration(b.bind.spoke.Load()) < workTime)
		if l.onTLS != before {
			b.choose(l.onTLS)
			again.Reset(secondWord)
		}
		number = b.obey(l, o, number)
	}
}

// obey does what a step of the ladder ordered, and returns the last probe's number.
func (b *Box) obey(l *ladder, o orders, number uint32) uint32 {
	now := time.Now()
	if o.udp > 0 {
		number++
		l.udp.sent(number, now)
		b.bind.ask(UDP, number, o.udp)
	}
	if o.tls > 0 {
		number++
		l.tls.sent(number, now)
		b.bind.ask(TLS, number, o.tls)
	}
	if s := b.bind.stream.Load(); o.redial && s != nil {
		s.conn.Close()
	}
	if o.hurry {
		select {
		case b.hurry <- struct{}{}:
		default:
		}
	}
	return number
}

// choose makes a bearer carry.
func (b *Box) choose(tls bool) {
	b.bind.onTLS.Store(tls)
	b.log.Info("the tunnel changes its bearer", "room", "tunnel", "to", string(b.Bearer()))
	if tls {
		b.bind.repeatInitiation(b.bind.stream.Load())
	}
	b.speak()
}

// speak sends an empty packet by the active bearer.
func (b *Box) speak() {
	if peer := b.dev.LookupPeer(b.key); peer != nil {
		peer.SendKeepalive()
	}
}

// keepStream keeps one TLS connection to the gateway open, so that losing UDP costs no login.
func (b *Box) keepStream(ctx context.Context, dial func(context.Context) (net.Conn, error)) {
	wait := firstRedial
	for ctx.Err() == nil {
		began := time.Now()
		c, err := dial(ctx)
		if err == nil {
			err = b.bind.carry(ctx, c)
		}
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > soundStream {
			wait = firstRedial
		}
		b.log.Debug("no TLS bearer", "room", "tunnel", "err", err)
		b.pause(ctx, wait/2+rand.N(wait/2))
		wait = min(2*wait, lastRedial)
	}
}

// pause waits, but not longer than a box without UDP can bear.
func (b *Box) pause(ctx context.Context, wait time.Duration) {
	full, short := time.NewTimer(wait), time.NewTimer(min(wait, hurryRedial))
	defer full.Stop()
	defer short.Stop()
	select { // a wish from before this connection failed is old
	case <-b.hurry:
	default:
	}
	select {
	case <-ctx.Done():
		return
	case <-short.C:
	}
	select {
	case <-ctx.Done():
	case <-full.C:
	case <-b.hurry:
	}
}

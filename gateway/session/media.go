// SPDX-License-Identifier: Apache-2.0

package session

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"sdbox/gateway/desktop"
	"sdbox/internal/stream"
	"sdbox/internal/tile"
	"sdbox/internal/wire"
)

// maxInFlight is how many frames may be unacknowledged: one on its way, one being decoded. More would only make what a person sees
// older; what changes meanwhile is merged by the desktop.
const maxInFlight = 2

// ackPatience is how long a missing acknowledgement holds the picture back. The box repeats its acknowledgements; one that is
// later than this was lost with the link's state, and the box will ask for a key frame if it missed more.
const ackPatience = 500 * time.Millisecond

// doubtAfter is how long the newest frame may stay unacknowledged while nothing follows it. The box does not miss what it never heard
// of: an outage may take a frame with all its repeats. Each doubt doubles the time, up to sixteen times, so that a link too slow for
// a whole picture is not given more of them.
const (
	doubtAfter = time.Second
	maxDoubts  = 4
)

// keyPace is the least time between two key frames: a box may ask for one whenever it likes, and each costs a whole picture.
const keyPace = 150 * time.Millisecond

// media is a session's one connection for picture and input.
type media struct {
	gateway *stream.Gateway
	answer  string
	own     [32]byte // fingerprints of the two DTLS certificates
	box     [32]byte
	encoder *tile.Encoder // of the pump that runs; at most one does
}

func openMedia(ctx context.Context, mux *stream.Mux, m *wire.Offer) (*media, error) {
	if len(m.Fingerprint) != 32 {
		return nil, fmt.Errorf("offer: fingerprint of %d bytes", len(m.Fingerprint))
	}
	cert, err := stream.NewCertificate()
	if err != nil {
		return nil, err
	}
	encoder, err := tile.NewEncoder()
	if err != nil {
		return nil, err
	}
	limited, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	g, answer, err := mux.Answer(limited, cert, m.SDP, m.Fingerprint)
	if err != nil {
		return nil, err
	}
	return &media{gateway: g, answer: answer, own: cert.Fingerprint, box: [32]byte(m.Fingerprint), encoder: encoder}, nil
}

// flow is what the loop tells a pump.
type flow struct {
	newest atomic.Uint32 // number of the newest frame on the box's screen
	key    atomic.Bool   // the next frame must need no other
	wake   chan struct{} // holds one token
}

func newFlow() *flow { return &flow{wake: make(chan struct{}, 1)} }

func (f *flow) acked(n uint32) {
	f.newest.Store(n)
	f.poke()
}

func (f *flow) poke() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// pump carries one desktop's picture to the box under one stream number, from the attach on until it is stopped.
type pump struct {
	bubble string
	number uint16
	media  *media
	flow   *flow
	from   desktop.Desktop
	start  time.Time // of the session: the clock in the frames
	cancel context.CancelFunc
	done   chan struct{}
	sent   uint32
	frames int
	doubts int       // whole pictures sent for want of an acknowledgement, since the last one
	keyAt  time.Time // when the last key frame was begun
}

// pumped is the end of a pump that nobody stopped.
type pumped struct {
	pump *pump
	err  error
}

// run sends frames until ctx ends, the desktop is gone or the stream is.
func (p *pump) run(ctx context.Context) error {
	select {
	case <-p.media.gateway.Ready():
	case <-p.media.gateway.Done():
		return p.media.gateway.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
	p.flow.key.Store(true)
	for {
		if p.flow.key.Load() {
			if err := p.whole(ctx); err != nil {
				return err
			}
		}
		if err := p.frame(ctx); err != nil {
			return err
		}
		if err := p.credit(ctx); err != nil {
			return err
		}
	}
}

// whole has the next frame hold the whole picture, at its pace.
func (p *pump) whole(ctx context.Context) error {
	if wait := keyPace - time.Since(p.keyAt); wait > 0 {
		pause := time.NewTimer(wait)
		defer pause.Stop()
		select {
		case <-pause.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	p.keyAt = time.Now()
	p.from.Refresh()
	return nil
}

// frame waits for a change and sends it.
func (p *pump) frame(ctx context.Context) error {
	var frame []byte
	waiting, cancel := p.patient(ctx)
	defer cancel()
	err := p.from.Next(waiting, func(u desktop.Update) error {
		if ctx.Err() != nil {
			return ctx.Err() // a detach or switch came first: this picture goes nowhere
		}
		var err error
		frame, err = p.media.encoder.Encode(p.source(u))
		return err
	})
	if err != nil && ctx.Err() == nil && waiting.Err() != nil {
		p.doubt()
		return nil
	}
	if err != nil || frame == nil {
		return err
	}
	h, err := tile.ParseHeader(frame)
	if err != nil {
		return err
	}
	err = p.media.gateway.WriteFrame(h.N, frame)
	if errors.Is(err, stream.ErrBacklog) {
		p.flow.key.Store(true) // the frame is lost to the box, and with it what follows from it
		err = nil
	}
	p.sent = h.N
	p.frames++
	return err
}

// doubt has the whole picture sent again if the box still has not acknowledged the newest frame. If it has meanwhile, a change may
// have been under way when the wait ended: all is compared again.
func (p *pump) doubt() {
	if p.behind() {
		p.doubts = min(p.doubts+1, maxDoubts)
		p.flow.key.Store(true)
		return
	}
	p.from.Refresh()
}

// behind says whether the box has not acknowledged the newest frame.
func (p *pump) behind() bool { return int32(p.sent-p.flow.newest.Load()) > 0 }

// patient is ctx, bounded while an acknowledgement is missing.
func (p *pump) patient(ctx context.Context) (context.Context, context.CancelFunc) {
	if !p.behind() {
		p.doubts = 0
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, doubtAfter<<p.doubts)
}

func (p *pump) source(u desktop.Update) tile.Source {
	s := tile.Source{
		Stream: p.number, Millis: uint32(time.Since(p.start).Milliseconds()), Pix: u.Pix, Width: u.Size.X, Height: u.Size.Y,
		Damage: u.Damage, Copies: make([]tile.Copy, len(u.Copies)), Key: p.flow.key.Swap(false), Lights: tile.Lights(u.Lights),
	}
	for i, c := range u.Copies {
		s.Copies[i] = tile.Copy(c)
	}
	if u.Cursor != nil {
		c := tile.Cursor(*u.Cursor)
		s.Cursor = &c
	}
	return s
}

// credit waits until fewer than maxInFlight frames are unacknowledged, or the box has lost track and wants a key frame. Numbers
// count over all pumps of a session and wrap.
func (p *pump) credit(ctx context.Context) error {
	late := time.NewTimer(ackPatience)
	defer late.Stop()
	for !p.flow.key.Load() && int32(p.sent-p.flow.newest.Load()) >= maxInFlight {
		select {
		case <-p.flow.wake:
		case <-late.C:
			return nil
		case <-p.media.gateway.Done():
			return p.media.gateway.Err()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// stop ends the pump and returns when no pixel of its desktop can leave any more.
func (p *pump) stop() {
	p.cancel()
	<-p.done
}

// SPDX-License-Identifier: Apache-2.0

package stream

import (
	"context"
	"fmt"
	"time"

	"github.com/pion/datachannel"
	"github.com/pion/rtp"
	"github.com/pion/webrtc/v4"
)

const (
	frameQueueLength = 8   // frames WriteFrame takes before the first is on its way
	inputQueueLength = 256 // events a slow reader may leave; more wait at the box

	// A frame of up to smallFrame parts is sent twice, repeatAfter apart; of a larger one the last part, which shows
	// the box what is missing before it.
	smallFrame  = 4
	repeatAfter = 8 * time.Millisecond

	// The last part of all is sent again when nothing follows it, so that a frame that was lost whole is missed.
	firstTail, secondTail = 40 * time.Millisecond, 120 * time.Millisecond

	// A large frame leaves at 300 Mbit/s, in bursts, so that no queue on the way overflows.
	burst       = 32 // packets at once
	maxBurst    = 128
	burstPause  = time.Millisecond
	partsPerSec = 32_000
)

// Gateway is a gateway's end of a stream. All methods may be called from any goroutine.
type Gateway struct {
	peer    *peer
	track   *webrtc.TrackLocalStaticRTP
	queue   chan outFrame
	input   chan Input
	acks    chan uint32   // capacity 1, the newest
	refresh chan struct{} // capacity 1
}

type outFrame struct {
	n    uint32
	data []byte
}

// Answer takes a box's offer and returns the answer for it. fingerprint is SHA-256 of the box's certificate as the line
// carried it; the stream is refused when the offer or the handshake shows another one. ctx bounds this call only.
func (m *Mux) Answer(ctx context.Context, cert *Certificate, offer string, fingerprint []byte) (*Gateway, string, error) {
	p, err := newPeer(m.answer, cert)
	if err != nil {
		return nil, "", fmt.Errorf("answer stream: %w", err)
	}
	g := &Gateway{
		peer: p, queue: make(chan outFrame, frameQueueLength), input: make(chan Input, inputQueueLength),
		acks: make(chan uint32, 1), refresh: make(chan struct{}, 1),
	}
	sdp, err := g.answer(ctx, offer, fingerprint)
	if err != nil {
		p.close()
		return nil, "", fmt.Errorf("answer stream: %w", err)
	}
	p.running.Go(g.serve)
	return g, sdp, nil
}

func (g *Gateway) answer(ctx context.Context, offer string, fingerprint []byte) (string, error) {
	var err error
	if g.track, err = webrtc.NewTrackLocalStaticRTP(capability(), "desk", "desk"); err != nil {
		return "", err
	}
	sender, err := g.peer.pc.AddTrack(g.track)
	if err != nil {
		return "", err
	}
	if err := g.peer.accept(webrtc.SDPTypeOffer, offer, fingerprint); err != nil {
		return "", err
	}
	sdp, err := g.peer.pc.CreateAnswer(nil)
	if err != nil {
		return "", err
	}
	text, err := g.peer.describe(ctx, sdp)
	if err != nil {
		return "", err
	}
	g.peer.running.Go(func() { // requests for lost packets and receiver reports: the interceptors want them read
		buf := make([]byte, maxMessage)
		g.peer.drain(func() error {
			_, _, err := sender.Read(buf)
			return err
		})
	})
	return text, nil
}

// Ready is closed when the stream is up and the box's certificate was the right one.
func (g *Gateway) Ready() <-chan struct{} { return g.peer.ready }

// Done is closed when the stream has ended; Err says why.
func (g *Gateway) Done() <-chan struct{} { return g.peer.ctx.Done() }

// Err is why the stream ended, nil while it lives.
func (g *Gateway) Err() error { return g.peer.err() }

// WriteFrame sends a frame of at most MaxFrame bytes, number n, and does not wait; the frame is not to be changed any
// more. Numbers are the caller's own, the order of the calls is the order of the frames. Frames written before Ready
// wait for it. ErrBacklog says that this frame was not taken: keep one or two unacknowledged ones and it never comes.
func (g *Gateway) WriteFrame(n uint32, frame []byte) error {
	if len(frame) == 0 || len(frame) > MaxFrame {
		return fmt.Errorf("write frame %d: %d bytes, want 1 to %d", n, len(frame), MaxFrame)
	}
	if err := g.peer.err(); err != nil {
		return fmt.Errorf("write frame %d: %w", n, err)
	}
	select {
	case g.queue <- outFrame{n, frame}:
		return nil
	default:
		return fmt.Errorf("write frame %d: %w", n, ErrBacklog)
	}
}

// Input gives each of the box's events once and in order, and the newest place of the pointer between them. The channel
// is never closed: see Done.
func (g *Gateway) Input() <-chan Input { return g.input }

// Acks gives the number of the newest frame that is on the box's screen; older ones are left out.
func (g *Gateway) Acks() <-chan uint32 { return g.acks }

// Refresh gives a value when the box wants a frame that needs no earlier one.
func (g *Gateway) Refresh() <-chan struct{} { return g.refresh }

// Close ends the stream and returns when nothing of it runs any more.
func (g *Gateway) Close() error {
	g.peer.close()
	return nil
}

func (g *Gateway) serve() {
	channel := g.peer.open()
	if channel == nil {
		return
	}
	g.peer.running.Go(func() { g.hear(channel) })
	s := &sender{track: g.track, start: time.Now()}
	s.run(g.peer.ctx, g.queue)
}

// hear takes reports. One that is not a report is dropped, unanswered.
func (g *Gateway) hear(channel *datachannel.DataChannel) {
	var in inbox
	buf := make([]byte, 0, receiptSize)
	g.peer.receive(channel, func(message []byte) {
		r, err := parseReport(message)
		if err != nil {
			return
		}
		acked, refresh := in.apply(r, func(e Input) bool {
			select {
			case g.input <- e:
				return true
			default:
				return false
			}
		})
		if acked {
			select { // this goroutine alone sends: after making room there is some
			case <-g.acks:
			default:
			}
			g.acks <- r.ack
		}
		if refresh {
			select {
			case g.refresh <- struct{}{}:
			default:
			}
		}
		buf = in.taken.append(buf[:0])
		g.peer.send(channel, buf)
	})
}

// sender makes packets of frames, and sends some of them again. It is owned by run.
type sender struct {
	track    *webrtc.TrackLocalStaticRTP
	start    time.Time
	sequence uint16
	repeats  []repeat    // in the order of their times
	last     *rtp.Packet // the newest of all
	tails    int         // how often it has been sent again for want of a follower
	lastAt   time.Time
}

type repeat struct {
	at     time.Time
	packet *rtp.Packet
}

func (s *sender) run(ctx context.Context, queue <-chan outFrame) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	s.write(&rtp.Packet{Header: s.header(true), Payload: openingPart()})
	for {
		timer.Reset(s.wait(time.Now()))
		select {
		case <-ctx.Done():
			return
		case f := <-queue:
			s.send(ctx, timer, f)
		case <-timer.C:
			s.again(time.Now())
		}
	}
}

func (s *sender) header(marker bool) rtp.Header {
	s.sequence++
	return rtp.Header{
		Version: 2, PayloadType: payloadType, Marker: marker, SequenceNumber: s.sequence,
		Timestamp: uint32(time.Since(s.start).Milliseconds() * clockRate / 1000),
	}
}

// write sends a packet. An error is a packet lost on this machine, no worse than on the way.
func (s *sender) write(p *rtp.Packet) {
	_ = s.track.WriteRTP(p)
	s.last, s.lastAt, s.tails = p, time.Now(), 0
}

func (s *sender) send(ctx context.Context, timer *time.Timer, f outFrame) {
	count := partCount(len(f.data))
	allowed, since := burst, time.Now()
	for i := range count {
		for i >= allowed {
			timer.Reset(burstPause)
			select {
			case <-timer.C: // late, most often: the next burst makes up for it
			case <-ctx.Done():
				return
			}
			now := time.Now()
			allowed += min(maxBurst, int(now.Sub(since)*partsPerSec/time.Second))
			since = now
		}
		last := i == count-1
		p := &rtp.Packet{Header: s.header(last), Payload: appendPart(nil, f.n, f.data, i, count)}
		s.write(p)
		if last || count <= smallFrame {
			s.repeats = append(s.repeats, repeat{time.Now().Add(repeatAfter), p})
		}
	}
}

// wait is how long until something is to be sent again.
func (s *sender) wait(now time.Time) time.Duration {
	wait := time.Hour
	if len(s.repeats) > 0 {
		wait = s.repeats[0].at.Sub(now)
	}
	if at, due := s.tail(); due {
		wait = min(wait, at.Sub(now))
	}
	return max(0, wait)
}

func (s *sender) tail() (at time.Time, due bool) {
	switch {
	case s.last == nil:
		return at, false
	case s.tails == 0:
		return s.lastAt.Add(firstTail), true
	case s.tails == 1:
		return s.lastAt.Add(secondTail), true
	}
	return at, false
}

// again sends what is due: the very packet, sequence number and time stamp, so that SRTP encrypts it to the same bytes
// and the box drops the copy it does not need.
func (s *sender) again(now time.Time) {
	for len(s.repeats) > 0 && !s.repeats[0].at.After(now) {
		_ = s.track.WriteRTP(s.repeats[0].packet)
		s.repeats[0] = repeat{}
		s.repeats = s.repeats[1:]
	}
	if at, due := s.tail(); due && !at.After(now) {
		s.tails++
		_ = s.track.WriteRTP(s.last)
	}
}

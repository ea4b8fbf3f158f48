// SPDX-License-Identifier: Apache-2.0

package stream

import (
	"context"
	"fmt"
	"time"

	"github.com/pion/datachannel"
	"github.com/pion/webrtc/v4"
)

const (
	// reportGap bounds the reports of a fast mouse to 500 a second.
	reportGap = 2 * time.Millisecond

	// reportIdle is how often a box that has nothing to say speaks, so that the delay stays known.
	reportIdle = time.Second

	maxQueuedFrames = 64
	maxQueuedBytes  = 2 * MaxFrame
)

// again says how long after the last report the same is said again, by how often it has been: 8, 20, 40 ms after the
// first, then every 40 ms.
func again(times int) time.Duration {
	switch times {
	case 0:
		return 8 * time.Millisecond
	case 1:
		return 12 * time.Millisecond
	case 2:
		return 20 * time.Millisecond
	}
	return 40 * time.Millisecond
}

// Box is a box's end of a stream. All methods may be called from any goroutine.
type Box struct {
	peer   *peer
	out    *outbox
	track  chan received // capacity 1
	parts  chan arrived
	frames chan Frame
}

type received struct {
	track    *webrtc.TrackRemote
	receiver *webrtc.RTPReceiver
}

// arrived is a part with the RTP sequence number it came by.
type arrived struct {
	sequence uint16
	part     part
}

// Offer begins a stream and returns the offer for the gateway. ctx bounds this call only.
func (m *Mux) Offer(ctx context.Context, cert *Certificate) (*Box, string, error) {
	p, err := newPeer(m.offer, cert)
	if err != nil {
		return nil, "", fmt.Errorf("offer stream: %w", err)
	}
	b := &Box{
		peer: p, out: newOutbox(), track: make(chan received, 1),
		parts: make(chan arrived, 1024), frames: make(chan Frame),
	}
	p.pc.OnTrack(func(track *webrtc.TrackRemote, receiver *webrtc.RTPReceiver) {
		select {
		case b.track <- received{track, receiver}:
		default: // a second track: nobody reads it
		}
	})
	sdp, err := b.offer(ctx)
	if err != nil {
		p.close()
		return nil, "", fmt.Errorf("offer stream: %w", err)
	}
	p.running.Go(b.serveChannel)
	p.running.Go(b.serveTrack)
	p.running.Go(b.assemble)
	return b, sdp, nil
}

func (b *Box) offer(ctx context.Context) (string, error) {
	receive := webrtc.RTPTransceiverInit{Direction: webrtc.RTPTransceiverDirectionRecvonly}
	if _, err := b.peer.pc.AddTransceiverFromKind(webrtc.RTPCodecTypeVideo, receive); err != nil {
		return "", err
	}
	sdp, err := b.peer.pc.CreateOffer(nil)
	if err != nil {
		return "", err
	}
	return b.peer.describe(ctx, sdp)
}

// Accept takes the gateway's answer. fingerprint is SHA-256 of the gateway's certificate as the line carried it; the
// stream is refused when the answer or the handshake shows another one.
func (b *Box) Accept(answer string, fingerprint []byte) error {
	if err := b.peer.accept(webrtc.SDPTypeAnswer, answer, fingerprint); err != nil {
		return fmt.Errorf("accept stream answer: %w", err)
	}
	return nil
}

// Ready is closed when the stream is up and the gateway's certificate was the right one.
func (b *Box) Ready() <-chan struct{} { return b.peer.ready }

// Done is closed when the stream has ended; Err says why.
func (b *Box) Done() <-chan struct{} { return b.peer.ctx.Done() }

// Err is why the stream ended, nil while it lives.
func (b *Box) Err() error { return b.peer.err() }

// Frames gives whole frames in the order they were written, each once. A frame that could not be repaired is told by
// one Frame with Gap and without Data; frames after it follow. A reader that is too slow gets a Gap, too. The channel
// is never closed: see Done.
func (b *Box) Frames() <-chan Frame { return b.frames }

// SendInput takes an event; it does not wait. ErrBacklog says that the gateway has confirmed nothing for long and that
// this event is not taken: a person's keys would otherwise come down minutes later.
func (b *Box) SendInput(e Input) error {
	if err := b.peer.err(); err != nil {
		return err
	}
	return b.out.input(e)
}

// Waiting is how many events the gateway has not confirmed yet.
func (b *Box) Waiting() int { return b.out.waiting() }

// Ack tells the gateway that frame n, and all before it, are on the screen.
func (b *Box) Ack(n uint32) { b.out.acknowledge(n) }

// WantRefresh asks the gateway for a frame that needs no earlier one.
func (b *Box) WantRefresh() { b.out.wantRefresh() }

// Delay is the smoothed round trip between this process and the gateway's, measured by reports at least once a second;
// 0 before the first.
func (b *Box) Delay() time.Duration { return b.out.delay() }

// Close ends the stream and returns when nothing of it runs any more.
func (b *Box) Close() error {
	b.peer.close()
	return nil
}

// serveChannel sends reports and reads receipts.
func (b *Box) serveChannel() {
	channel := b.peer.open()
	if channel == nil {
		return
	}
	b.peer.running.Go(func() {
		b.peer.receive(channel, func(message []byte) {
			if r, err := parseReceipt(message); err == nil {
				b.out.confirm(r, time.Now())
			}
		})
	})
	b.report(channel)
}

func (b *Box) report(channel *datachannel.DataChannel) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	repeats := 0
	var last time.Time
	buf := make([]byte, 0, maxMessage)
	for {
		select {
		case <-b.peer.ctx.Done():
			return
		case <-b.out.changed:
			repeats = 0
			if wait := reportGap - time.Since(last); wait > 0 {
				timer.Reset(wait)
				continue
			}
		case <-timer.C:
		}
		last = time.Now()
		if b.out.settled() && repeats > 0 {
			timer.Reset(reportIdle)
			repeats = 0
		} else {
			timer.Reset(again(repeats))
			repeats++
		}
		buf = b.out.report(buf[:0], last)
		b.peer.send(channel, buf)
	}
}

// serveTrack reads the picture's packets. Whatever is not a part is dropped.
func (b *Box) serveTrack() {
	var in received
	select {
	case <-b.peer.ctx.Done():
		return
	case in = <-b.track:
	}
	b.peer.running.Go(func() { // sender reports; the interceptors want them read
		buf := make([]byte, maxMessage)
		b.peer.drain(func() error {
			_, _, err := in.receiver.Read(buf)
			return err
		})
	})
	b.peer.drain(func() error {
		packet, _, err := in.track.ReadRTP()
		if err != nil {
			return err
		}
		p, err := parsePart(packet.Payload, packet.Marker)
		if err != nil {
			return err
		}
		select {
		case b.parts <- arrived{packet.SequenceNumber, p}:
		case <-b.peer.ctx.Done():
		}
		return nil
	})
}

// assemble makes frames and hands them over. It never waits for their reader.
func (b *Box) assemble() {
	a := newAssembler()
	var queue frameQueue
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		var out chan Frame
		var head Frame
		if len(queue.frames) > 0 {
			out, head = b.frames, queue.frames[0]
		}
		now := time.Now()
		timer.Reset(a.wait(now))
		select {
		case <-b.peer.ctx.Done():
			return
		case out <- head:
			queue.pop()
			continue
		case in := <-b.parts:
			now = time.Now()
			a.add(in.sequence, in.part, now)
		case now = <-timer.C:
		}
		a.limit = repairTime + b.out.delay()
		for _, f := range a.take(now) {
			queue.push(f)
		}
	}
}

// frameQueue holds frames their reader has not taken. When it is full they are all dropped, for a Gap.
type frameQueue struct {
	frames []Frame
	bytes  int
}

func (q *frameQueue) push(f Frame) {
	if len(q.frames) == maxQueuedFrames || q.bytes+len(f.Data) > maxQueuedBytes {
		q.frames, q.bytes = []Frame{{Gap: true}}, 0
	}
	q.frames = append(q.frames, f)
	q.bytes += len(f.Data)
}

func (q *frameQueue) pop() {
	q.bytes -= len(q.frames[0].Data)
	q.frames[0] = Frame{}
	q.frames = q.frames[1:]
}

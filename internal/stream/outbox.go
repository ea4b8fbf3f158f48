// SPDX-License-Identifier: Apache-2.0

package stream

import (
	"sync"
	"time"
)

const (
	// maxUnconfirmed bounds the events the gateway has not confirmed. A person makes some 30 a second: the other end has
	// been silent for half a minute when it is full.
	maxUnconfirmed = 1000

	sentRing = 64 // reports whose time of sending is remembered
)

// outbox is what the box wants the gateway to know, until it knows it.
type outbox struct {
	changed chan struct{} // capacity 1

	mu        sync.Mutex // guards all below
	state     report     // without id and events
	unsent    []Input    // events without confirmation, oldest first; state.first numbers the first
	buttons   uint8      // after the last event
	confirmed receipt
	id        uint32
	sent      [sentRing]time.Time // when report id%sentRing went out
	rtt       time.Duration       // smoothed as in RFC 6298, 2; 0: not yet known
}

func newOutbox() *outbox {
	return &outbox{changed: make(chan struct{}, 1), state: report{first: 1}}
}

func (o *outbox) poke() {
	select {
	case o.changed <- struct{}{}:
	default:
	}
}

// input takes an event. A move without button or wheel replaces the move before it: only the newest place matters.
func (o *outbox) input(e Input) error {
	if err := e.check(); err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if e.Kind == Pointer && e.Buttons == o.buttons && e.Wheel == 0 {
		o.state.motion = motion{
			count: o.state.motion.count + 1, after: o.state.first + uint32(len(o.unsent)) - 1,
			stream: e.Stream, x: e.X, y: e.Y, buttons: e.Buttons,
		}
		o.poke()
		return nil
	}
	if len(o.unsent) >= maxUnconfirmed {
		return ErrBacklog
	}
	if e.Kind == Pointer {
		o.buttons = e.Buttons
	}
	o.unsent = append(o.unsent, e)
	o.poke()
	return nil
}

func (o *outbox) waiting() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.unsent)
}

func (o *outbox) acknowledge(n uint32) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.state.acks++
	o.state.ack = n
	o.poke()
}

func (o *outbox) wantRefresh() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.state.refresh++
	o.poke()
}

// report writes the next datagram.
func (o *outbox) report(to []byte, now time.Time) []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.id++
	o.sent[o.id%sentRing] = now
	r := o.state
	r.id = o.id
	r.events = o.unsent[:min(len(o.unsent), maxEvents)]
	return r.append(to)
}

// settled says whether the gateway has confirmed everything.
func (o *outbox) settled() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	c := o.confirmed
	return len(o.unsent) == 0 && c.acks == o.state.acks && c.refresh == o.state.refresh && c.motion == o.state.motion.count
}

// confirm takes a receipt. A receipt for what was never sent is ignored.
func (o *outbox) confirm(r receipt, now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if age := o.id - r.id; age < sentRing {
		o.measure(now.Sub(o.sent[r.id%sentRing]))
	}
	if done := r.applied - (o.state.first - 1); done <= uint32(len(o.unsent)) {
		o.unsent = o.unsent[done:]
		o.state.first += done
		if len(o.unsent) == 0 {
			o.unsent = nil // let go of the array behind it
		} else if done == maxEvents {
			o.poke() // more wait than one report holds
		}
	}
	c := &o.confirmed
	latest := func(have *uint32, got, last uint32) {
		if newer(got, *have) && !newer(got, last) {
			*have = got
		}
	}
	latest(&c.acks, r.acks, o.state.acks)
	latest(&c.refresh, r.refresh, o.state.refresh)
	latest(&c.motion, r.motion, o.state.motion.count)
}

func (o *outbox) measure(rtt time.Duration) {
	if rtt <= 0 || rtt > time.Minute {
		return
	}
	if o.rtt == 0 {
		o.rtt = rtt
		return
	}
	o.rtt += (rtt - o.rtt) / 8
}

func (o *outbox) delay() time.Duration {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.rtt
}

// inbox is what the gateway has taken of a box's reports. It is owned by the goroutine that reads them.
type inbox struct {
	taken   receipt
	pointer uint32 // the last pointer event applied
}

// apply hands over each event once and in order, and the motion where it belongs between them. deliver returns false
// when nobody takes it: then it is not confirmed, and the box says it again.
func (in *inbox) apply(r report, deliver func(Input) bool) (acked, refresh bool) {
	for _, e := range r.events {
		if e.Seq != in.taken.applied+1 {
			continue // taken before; or one before it is missing, which an honest box never leaves out
		}
		in.move(r.motion, deliver)
		if !deliver(e) {
			break
		}
		in.taken.applied++
		if e.Kind == Pointer {
			in.pointer = e.Seq
		}
	}
	in.move(r.motion, deliver)
	if acked = newer(r.acks, in.taken.acks); acked {
		in.taken.acks = r.acks
	}
	if refresh = newer(r.refresh, in.taken.refresh); refresh {
		in.taken.refresh = r.refresh
	}
	in.taken.id = r.id
	return acked, refresh
}

// move applies a motion that is new, unless an event it came after is still to come, or a pointer event that came
// after it has set the place.
func (in *inbox) move(m motion, deliver func(Input) bool) {
	if !newer(m.count, in.taken.motion) || newer(m.after, in.taken.applied) {
		return
	}
	overtaken := newer(in.pointer, m.after)
	if overtaken || deliver(Input{Seq: m.after, Stream: m.stream, Kind: Pointer, X: m.x, Y: m.y, Buttons: m.buttons}) {
		in.taken.motion = m.count
	}
}

// SPDX-License-Identifier: Apache-2.0

package stream

import "time"

const (
	// repairTime is how long a missing part may stay missing, beyond one round trip, before its frame is given up.
	repairTime = 150 * time.Millisecond

	// window is how far ahead of the next frame a part may be, in sequence numbers: the largest frame and one more.
	// The SRTP replay window is as large: one that is smaller loses repairs.
	window = 2 * maxParts
)

// Frame is one event of a box's picture.
type Frame struct {
	N    uint32 // the writer's number
	Data []byte // the whole frame as written; nil in a Gap
	Gap  bool   // something before what follows is lost for good: ask for a refresh
}

// assembler makes whole frames of parts, in order. It holds at most one window of parts, and does no I/O.
//
//	next         run                 highest
//	 | parts here | missing | parts    |       run-next parts of the next frame have come without a hole
//
// It is owned by one goroutine.
type assembler struct {
	limit   time.Duration // how long a hole may stay
	started bool
	next    uint64    // extended sequence number of the first part of the next frame
	run     uint64    // the first number from next on that has not come
	highest uint64    // the highest number that has come
	ring    []part    // the part with number seq in [next, next+window) is at seq%window; data nil: not come
	since   time.Time // when run last moved, or a hole opened
	ready   []Frame   // made, not yet taken
}

func newAssembler() *assembler {
	return &assembler{limit: repairTime, ring: make([]part, window)}
}

// at is the place of a part. Its number must lie in the window.
func (a *assembler) at(seq uint64) *part { return &a.ring[seq%window] }

// add takes a part that came with an RTP sequence number, and keeps its data. Old and repeated parts are dropped.
func (a *assembler) add(sequence uint16, p part, now time.Time) {
	seq := a.extend(sequence)
	if !a.started {
		a.started = true
		a.next = seq - uint64(p.index)
		a.run, a.highest, a.since = a.next, seq, now
	}
	if seq >= a.next+window {
		a.abandon(seq, now) // so much is missing that it cannot come any more
	}
	if seq < a.run || a.at(seq).data != nil {
		return
	}
	if !a.waiting() {
		a.since = now
	}
	a.highest = max(a.highest, seq)
	if p.data == nil {
		p.data = []byte{}
	}
	*a.at(seq) = p
	a.advance(now)
}

// extend makes a 16-bit sequence number a 64-bit one, the nearest to the highest seen (RFC 3711, 3.3.1).
func (a *assembler) extend(sequence uint16) uint64 {
	if !a.started {
		return 1<<32 + uint64(sequence) // far from zero: nothing underflows
	}
	return a.highest + uint64(int64(int16(sequence-uint16(a.highest))))
}

// waiting says whether a part is known to be missing.
func (a *assembler) waiting() bool { return a.started && (a.run > a.next || a.run <= a.highest) }

// advance moves run over what has come, and makes each frame that is whole.
func (a *assembler) advance(now time.Time) {
	for a.run <= a.highest && a.at(a.run).data != nil {
		p, first := a.at(a.run), a.at(a.next)
		if uint64(p.index) != a.run-a.next || p.n != first.n || p.count != first.count {
			a.abandon(a.run, now) // parts that do not belong together: a liar, or the rest of a frame given up
			continue
		}
		a.run++
		a.since = now
		if a.run-a.next == first.span() {
			a.finish()
		}
	}
}

// finish takes the parts of the next frame, all there, and moves on to the one after it.
func (a *assembler) finish() {
	first := *a.at(a.next)
	var data []byte
	for ; a.next < a.run; a.next++ {
		data = append(data, a.at(a.next).data...)
		*a.at(a.next) = part{}
	}
	if first.count > 0 {
		a.ready = append(a.ready, Frame{N: first.n, Data: data})
	}
}

// abandon gives up everything before from, and goes on at the first frame that begins there or later. All its steps
// together cost no more than the numbers it passes, however hostile the parts are.
func (a *assembler) abandon(from uint64, now time.Time) {
	start := from
	for start <= a.highest && (a.at(start).data == nil || a.at(start).index != 0) {
		start++
	}
	for seq := a.next; seq < min(start, a.highest+1); seq++ {
		*a.at(seq) = part{}
	}
	a.next, a.run, a.since = start, start, now
	a.highest = max(a.highest, start-1)
	if len(a.ready) == 0 || !a.ready[len(a.ready)-1].Gap {
		a.ready = append(a.ready, Frame{Gap: true})
	}
}

// take returns the events that are ready, and gives up a hole that is too old.
func (a *assembler) take(now time.Time) []Frame {
	for a.waiting() && now.Sub(a.since) >= a.limit {
		from := a.run + 1
		if a.run > a.next {
			from = a.next + a.at(a.next).span() // its first part is here and says where it ends
		}
		a.abandon(from, now)
		a.advance(now)
	}
	ready := a.ready
	a.ready = nil
	return ready
}

// wait is how long until take must be called again for the clock's sake.
func (a *assembler) wait(now time.Time) time.Duration {
	if !a.waiting() {
		return time.Hour
	}
	return max(0, a.limit-now.Sub(a.since))
}

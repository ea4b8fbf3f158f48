// SPDX-License-Identifier: Apache-2.0

package keys

import "time"

// What no person does at a keyboard (implementation). A finger holds a key for 30 ms or more, and two hands press 25 keys a second
// at their best. A device that types by itself, a barcode reader too, presses and lets go in two reports that follow one another
// by 1 to 10 ms. So a keyboard is refused
//
//	after shortStrokes keys within a second that were each let go less than shortest after they were pressed;
//	or after more presses than sustained a second and burst besides: two hands flat on the keyboard press 20 at once.
//
// What is typed before that, at most shortStrokes keys, has reached its reader.
const (
	shortest     = 15 * time.Millisecond
	shortStrokes = 10
	shortWithin  = time.Second

	sustained = 30 // presses a second
	burst     = 20
)

// maxKey is the first code that is a button and not a key (linux/input-event-codes.h, BTN_MISC).
const maxKey = 0x100

// pace watches how one keyboard types. Times are the kernel's, of when it heard of the event: reading late changes nothing.
type pace struct {
	down   [maxKey]time.Duration       // when each key was pressed; 0 = it is up
	shorts [shortStrokes]time.Duration // when the last short strokes ended, a ring
	next   int                         // place in shorts of the oldest
	full   float64                     // presses beyond what is sustained
	last   time.Duration               // of the press before
}

// human takes an event and says whether a person may have made it and those before.
func (p *pace) human(r Raw, at time.Duration) bool {
	if r.Type != evKey || r.Code >= maxKey {
		return true
	}
	switch r.Value {
	case 1:
		p.down[r.Code] = at
		p.full = max(0, p.full-sustained*(at-p.last).Seconds()) + 1
		p.last = at
		return p.full <= burst
	case 0:
		pressed := p.down[r.Code]
		p.down[r.Code] = 0
		if pressed == 0 || at-pressed >= shortest {
			return true
		}
		p.shorts[p.next] = at
		p.next = (p.next + 1) % shortStrokes
		oldest := p.shorts[p.next]
		return oldest == 0 || at-oldest > shortWithin
	}
	return true
}

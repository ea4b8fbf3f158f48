// SPDX-License-Identifier: Apache-2.0

package keys

import "time"

// What no person does at a keyboard (implementation). A finger holds a key for 30 ms or more, and two hands press 25 keys a second
// at their best. A device that types by itself, a barcode reader too, presses and lets go in two reports that follow one another
// by 1 to 10 ms. So a keyboard is refused
//
//	after shortStrokes keys in a row that were each let go less than shortest after they were pressed, with no rest between them;
//	or after more presses than sustained a second and burst besides: two hands flat on the keyboard press 20 at once.
//
// What is typed before that, at most shortStrokes keys, has reached its reader. A machine that stood still while a person typed reads
// what its keyboard kept at once, as short strokes: keyboards keep fewer.
const (
	shortest     = 15 * time.Millisecond
	shortStrokes = 10
	rest         = 100 * time.Millisecond

	sustained = 30 // presses a second
	burst     = 20
)

// maxKey is the first code that is a button and not a key (linux/input-event-codes.h, BTN_MISC).
const maxKey = 0x100

// pace watches how one keyboard types. Times are the kernel's, of when it heard of the event: reading late changes nothing.
type pace struct {
	down   [maxKey]time.Duration // when each key was pressed; 0 = it is up
	shorts int                   // short strokes in a row
	ended  time.Duration         // when the last stroke did
	full   float64               // presses beyond what is sustained
	last   time.Duration         // when the last key was pressed
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
		short := pressed != 0 && at-pressed < shortest
		if !short || pressed-p.ended > rest {
			p.shorts = 0
		}
		if short {
			p.shorts++
		}
		p.ended = at
		return p.shorts < shortStrokes
	}
	return true
}

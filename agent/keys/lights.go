// SPDX-License-Identifier: Apache-2.0

package keys

import (
	"io"
	"sync"
)

// Lights is the set of a keyboard's lights that are lit, in the bits of QEMU's LED state (RFB pseudo-encoding -261).
type Lights uint8

// The lights of a keyboard.
const (
	ScrollLock Lights = 1 << iota
	NumLock
	CapsLock
)

// raws writes the events that light them.
func (l Lights) raws() []Raw {
	led := func(code uint16, light Lights) Raw {
		r := Raw{Type: evLED, Code: code}
		if l&light != 0 {
			r.Value = 1
		}
		return r
	}
	return []Raw{led(ledNum, NumLock), led(ledCaps, CapsLock), led(ledScroll, ScrollLock), {evSyn, synReport, 0}}
}

// lamps tells every keyboard which lights to light, those that are plugged in later too.
type lamps struct {
	mu     sync.Mutex
	lit    Lights
	boards map[io.Writer]bool
}

func newLamps() *lamps { return &lamps{boards: map[io.Writer]bool{}} }

// Light implements Source.
func (l *lamps) Light(lit Lights) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lit == lit {
		return
	}
	l.lit = lit
	for w := range l.boards {
		l.tell(w)
	}
}

func (l *lamps) add(w io.Writer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.boards[w] = true
	l.tell(w)
}

func (l *lamps) remove(w io.Writer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.boards, w)
}

// tell writes to one keyboard. One that has no lights, or is being unplugged, does not show them: that is no error.
func (l *lamps) tell(w io.Writer) {
	var b []byte
	for _, r := range l.lit.raws() {
		b = r.Append(b)
	}
	_, _ = w.Write(b)
}

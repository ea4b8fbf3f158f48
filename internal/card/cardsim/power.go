// SPDX-License-Identifier: Apache-2.0

package cardsim

import (
	"errors"
	"fmt"

	"sdbox/internal/card"
)

// Moment is when in a command the power goes.
type Moment int

// The moments of a command.
const (
	BeforeCommand Moment = iota // the card never gets the command
	InsideCommand               // after the first thing it writes to its lasting memory; where it writes nothing, as BeforeAnswer
	BeforeAnswer                // everything is done and kept, the answer never leaves
)

// String names the moment.
func (m Moment) String() string {
	return [...]string{"before the command", "inside the command", "before the answer"}[m]
}

// errNoPower is a write of a card without power.
var errNoPower = errors.New("the card lost power")

// cut is a power cut to come.
type cut struct {
	commands int // until then
	when     Moment
}

// power is what keeps the card running; guarded by Sim.mu.
type power struct {
	cut   *cut // to come, or nil
	last  bool // the power goes with the next write
	dying bool // it went: nothing more is written
	dark  bool // no power until Reset or the next insertion
}

// CutPower takes the card's power away at the n-th command APDU from now (1 is the next; each part of a chain and each GET
// RESPONSE counts), as pulling it out of the reader does: Transmit then returns card.ErrRemoved, and the virtual reader sees
// the card leave. Reset, or putting it in again, gives the power back.
func (s *Sim) CutPower(n int, when Moment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.power.cut = &cut{commands: n, when: when}
}

// TearWrites makes PUT DATA write as its parts come in, as some cards do: a write cut off in the middle leaves a truncated
// object instead of the old one.
func (s *Sim) TearWrites() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tears = true
}

// poweredLocked runs one command under the power that there is.
func (s *Sim) poweredLocked(apdu []byte) ([]byte, status, error) {
	if s.power.dark {
		return nil, 0, fmt.Errorf("card without power: %w", card.ErrRemoved)
	}
	c := s.power.cut
	if c != nil {
		c.commands--
	}
	if c == nil || c.commands > 0 {
		data, sw := s.runLocked(apdu)
		return data, sw, nil
	}
	if c.when != BeforeCommand {
		s.power.last = c.when == InsideCommand
		s.runLocked(apdu)
	}
	s.ram, s.power = ram{}, power{dark: true}
	return nil, 0, fmt.Errorf("power cut %s: %w", c.when, card.ErrRemoved)
}

// resetLocked gives power to a card that has none, and clears what a reset clears. A cut to come still comes.
func (s *Sim) resetLocked() {
	s.ram, s.power.dark = ram{}, false
}

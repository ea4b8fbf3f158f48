// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"time"

	"sdbox/internal/refusal"
)

// readerPatience is how long there may be no card reader before a person is told: a start of the daemon, a reader put elsewhere.
const readerPatience = 8 * time.Second

// unread is a time without a card reader.
type unread struct {
	since time.Time       // zero while there is one
	said  refusal.Refusal // what stands on the screen of it; zero before patience has run out
}

// noteReader says that there is no card reader, for as long as there is none.
func (a *Agent) noteReader(now time.Time) error {
	u := &a.unread
	switch here := a.cfg.Cards.Readers() > 0; {
	case here && u.said.Code != "":
		said := u.said
		*u = unread{}
		return a.endTrouble(said)
	case here:
		*u = unread{}
	case u.since.IsZero():
		u.since = now
	case u.said.Code == "" && now.Sub(u.since) >= readerPatience:
		u.said = refusal.New(refusal.ReaderLost)
		return a.beginTrouble(u.said)
	}
	return nil
}

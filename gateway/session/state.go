// SPDX-License-Identifier: Apache-2.0

package session

import (
	"fmt"
	"strings"
	"time"

	"sdbox/gateway/store"
)

// State is where a session stands, as the store keeps it. Every state but Ended has a deadline, so that nothing waits for ever.
type State = store.SessionState

// The states of a session.
const (
	Absent     State = ""               // no card in the box
	Requested        = store.Requested  // a known card is in; nothing is granted
	Authorised       = store.Authorised // card and finger proved; the list is on the screen
	Starting         = store.Starting   // a bubble was chosen; no pixel of it has left yet
	Active           = store.Active     // a bubble's picture is on the screen
	Suspended        = store.Suspended  // the card is out or the line is lost; the desktops go on
	Ending           = store.Ending     // the box has been told; what is left is to close
	Ended            = store.Ended
)

// Happening is what moves a session from one state to the next.
type Happening string

// The happenings of a session.
const (
	CardCame    Happening = "card in"
	LoggedIn    Happening = "login"
	BubbleAsked Happening = "attach"
	BubbleShown Happening = "attached"
	BubbleLost  Happening = "bubble lost"
	BackToList  Happening = "menu"
	Renewed     Happening = "grant renewed"
	CardLeft    Happening = "card out"
	CameBack    Happening = "came back"
	LineLost    Happening = "line lost"
	Stopped     Happening = "stopped"  // an operator's cut, a lock, a takeover, a deadline that its line's loop keeps
	TimedOut    Happening = "deadline" // found by the sweep: no loop keeps it
	Closed      Happening = "closed"
)

// How long a session may stay in a state when nothing else limits it. The states in which a person may work end with their
// grant, which the box renews while the card stays.
const (
	requestedLife = 120 * time.Second
	startingLife  = 60 * time.Second
	suspendedLife = 12 * time.Hour
	endingLife    = 10 * time.Second
	grantLife     = 10 * time.Minute
)

// Step is one arrow of the picture.
type Step struct {
	From State
	On   Happening
	To   State
}

// Steps returns the whole state machine: what is not in this table does not happen.
func Steps() []Step {
	return []Step{
		{Absent, CardCame, Requested},
		{Requested, LoggedIn, Authorised},
		{Requested, CardLeft, Ended},
		{Requested, LineLost, Ended},
		{Requested, Stopped, Ending},
		{Authorised, BubbleAsked, Starting},
		{Authorised, Renewed, Authorised},
		{Authorised, CardLeft, Suspended},
		{Authorised, LineLost, Suspended},
		{Authorised, Stopped, Ending},
		{Starting, BubbleShown, Active},
		{Starting, BubbleAsked, Starting},
		{Starting, BubbleLost, Authorised},
		{Starting, BackToList, Authorised},
		{Starting, Renewed, Starting},
		{Starting, CardLeft, Suspended},
		{Starting, LineLost, Suspended},
		{Starting, Stopped, Ending},
		{Active, BubbleAsked, Starting},
		{Active, BubbleLost, Authorised},
		{Active, BackToList, Authorised},
		{Active, Renewed, Active},
		{Active, CardLeft, Suspended},
		{Active, LineLost, Suspended},
		{Active, Stopped, Ending},
		{Suspended, CameBack, Authorised},
		{Suspended, Stopped, Ended},
		{Suspended, TimedOut, Ended},
		{Ending, Closed, Ended},
		{Ending, LineLost, Ended},
		{Ending, TimedOut, Ended},
	}
}

// next finds the arrow from a state, or says that there is none.
func next(from State, on Happening) (State, error) {
	for _, s := range Steps() {
		if s.From == from && s.On == on {
			return s.To, nil
		}
	}
	return from, fmt.Errorf("session: no step %q from state %q", on, from)
}

// life is how long a session may stay in a state; grantEnd limits the states in which a person may work.
func life(s State, now, grantEnd time.Time) time.Time {
	switch s {
	case Requested:
		return now.Add(requestedLife)
	case Starting:
		return earlier(now.Add(startingLife), grantEnd)
	case Authorised, Active:
		return grantEnd
	case Suspended:
		return now.Add(suspendedLife)
	case Ending:
		return now.Add(endingLife)
	}
	return time.Time{}
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// Picture draws the table as a Mermaid state diagram; the README of this folder holds it and a test keeps it equal.
func Picture() string {
	var b strings.Builder
	b.WriteString("stateDiagram-v2\n")
	for _, s := range Steps() {
		from := string(s.From)
		if s.From == Absent {
			from = "[*]"
		}
		fmt.Fprintf(&b, "    %s --> %s: %s\n", from, s.To, s.On)
	}
	b.WriteString("    ended --> [*]\n")
	return b.String()
}

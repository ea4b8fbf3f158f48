// SPDX-License-Identifier: Apache-2.0

// Package admission decides who may log in and open what. Decide is pure: what it needs is in the request, what it found is
// in the decision. The invariants that no site may relax are Go and come first; the site's policies are Cedar files.
package admission

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"sdbox/internal/ident"
	"sdbox/internal/refusal"
	"sdbox/pki/profile"
)

// GrantLife is the longest a decision stands before it is taken again.
const GrantLife = 10 * time.Minute

// Action is what is asked for.
type Action string

// The actions.
const (
	Login  Action = "login"  // to use the box and see the list
	Attach Action = "attach" // to open a bubble
)

// Request is everything a decision rests on. Times that are zero are open ends.
type Request struct {
	Now        time.Time
	Action     Action
	Person     *Person // nil: nobody of the registry holds this card
	Card       Card
	Box        Box
	Bubble     *Bubble     // what Attach is about
	Membership *Membership // nil: the person is no member of Bubble
	Locks      []Lock      // locks in force on any of the above
}

// Person is who asks.
type Person struct {
	ID       ident.ID
	Name     string
	Language string
}

// CardState says whether the registry lets a card be used.
type CardState string

// The states of a card; the zero value is none of them and is refused.
const (
	CardValid   CardState = "valid"
	CardLocked  CardState = "locked"
	CardRevoked CardState = "revoked"
)

// Card is what the person asks with.
type Card struct {
	GUID      ident.GUID
	State     CardState
	Changed   time.Time      // since when it is in State
	NotBefore time.Time      // of its 9A certificate; zero is not checked
	NotAfter  time.Time      // of its 9A certificate
	Method    profile.Method // from the certificate's policy OID; empty is refused
}

// Box is where the person asks from.
type Box struct {
	Serial   string
	Country  string
	Site     string
	Attested time.Time // end of its attestation result; zero = it has none
	Revoked  bool      // its device certificate is revoked, or the box is retired
}

// Bubble is what the person wants to open.
type Bubble struct {
	Name          string
	Title         string
	Countries     []string // ISO 3166-1 alpha-2; empty = from anywhere
	Opens, Closes time.Time
}

// Membership is the person's right in the bubble.
type Membership struct {
	Role        string
	From, Until time.Time
}

// Lock is a lock in force.
type Lock struct {
	Target  string // "person:ID", "card:GUID", "box:SERIAL", "bubble:NAME", "site:NAME"
	Message string
	Since   time.Time
}

// Decision is the answer.
type Decision struct {
	Allowed    bool
	Refusal    refusal.Refusal // what the person reads; zero when allowed
	Invariant  string          // the invariant that refused, in words for the log; empty if a policy did
	Policies   []string        // ids of the policies that decided, in the order of the files
	Errors     []string        // what policies could not evaluate: any is a refusal. For the log, never shown
	ValidUntil time.Time       // when to decide again; zero when refused
}

// Decide answers a request. It never allows what an invariant forbids, and a policy that cannot be evaluated refuses.
func (p *Policies) Decide(r Request) Decision {
	if d, refused := invariants(r); refused {
		return d
	}
	return p.decide(r)
}

// invariants are the rules out of reach of policy files. They are in the order in which a person should read of them.
func invariants(r Request) (Decision, bool) {
	refuse := func(code refusal.Code, why string, pairs ...string) (Decision, bool) {
		return Decision{Refusal: refusal.New(code, pairs...), Invariant: why}, true
	}
	day := func(t time.Time) []string {
		if t.IsZero() {
			return nil
		}
		return []string{"date", t.UTC().Format(time.DateOnly)}
	}
	switch {
	case r.Now.IsZero() || (r.Action != Login && r.Action != Attach):
		return refuse(refusal.OurFault, "the request has no time or no known action")
	case r.Box.Revoked || r.Box.Serial == "":
		return refuse(refusal.NotIntact, "the box is revoked or unknown")
	case r.Box.Attested.IsZero():
		return refuse(refusal.NotIntact, "the box has no attestation result")
	case !r.Now.Before(r.Box.Attested):
		return refuse(refusal.NotIntact, "the box's attestation result has expired")
	case r.Card.State == CardRevoked:
		return refuse(refusal.CardRevoked, "the card is revoked", day(r.Card.Changed)...)
	case r.Person == nil || r.Person.ID.IsZero():
		return refuse(refusal.CardForeign, "the person is unknown")
	case r.Card.State == CardLocked:
		return refuse(refusal.CardLocked, "the card is locked")
	case r.Card.State != CardValid:
		return refuse(refusal.CardForeign, "the card is unknown")
	case r.Card.Method == "":
		return refuse(refusal.CardForeign, "the certificate names no method")
	case r.Card.NotAfter.IsZero() || r.Now.After(r.Card.NotAfter) || r.Now.Before(r.Card.NotBefore):
		return refuse(refusal.CardEnded, "the certificate is outside its validity", day(r.Card.NotAfter)...)
	case r.Action == Attach && r.Bubble == nil:
		return refuse(refusal.OurFault, "no bubble to attach")
	}
	return locks(r)
}

// locks refuses what a lock in force names.
func locks(r Request) (Decision, bool) {
	for _, l := range r.Locks {
		d := Decision{Invariant: "lock on " + l.Target}
		switch kind, name, _ := strings.Cut(l.Target, ":"); {
		case kind == "card" && name == r.Card.GUID.String(), kind == "person" && name == r.Person.ID.String(), kind == "certificate":
			d.Refusal = refusal.New(refusal.CardLocked)
		case kind == "box" && name == r.Box.Serial, kind == "site" && name == r.Box.Site:
			d.Refusal = refusal.New(refusal.NotIntact)
		case kind == "bubble" && r.Bubble != nil && name == r.Bubble.Name:
			pairs := []string{"bubble", r.Bubble.Title}
			if !l.Since.IsZero() {
				pairs = append(pairs, "since", refusal.Moment(l.Since))
			}
			d.Refusal = refusal.New(refusal.BubbleDown, pairs...)
		case kind == "bubble":
			continue // of another bubble: it stops only that one
		default:
			// A lock the caller found in force and we cannot place is obeyed: refusing too much is seen, allowing too much is not.
			d.Refusal = refusal.New(refusal.OurFault)
		}
		return d, true
	}
	return Decision{}, false
}

// params fills what the words of a code may take. Those a code has no use for do no harm.
func params(r Request) []string {
	var pairs []string
	if r.Bubble == nil {
		return pairs
	}
	pairs = append(pairs, "project", r.Bubble.Title)
	if len(r.Bubble.Countries) > 0 {
		countries := slices.Sorted(slices.Values(r.Bubble.Countries))
		pairs = append(pairs, "countries", strings.Join(countries, ","), "here", r.Box.Country)
	}
	if end := earliest(r.Bubble.Closes, until(r.Membership)); !end.IsZero() && !r.Now.Before(end) {
		pairs = append(pairs, "date", end.Add(-time.Millisecond).UTC().Format(time.DateOnly)) // the last day that was allowed
	}
	return pairs
}

func until(m *Membership) time.Time {
	if m == nil {
		return time.Time{}
	}
	return m.Until
}

// earliest returns the earliest of the times that are set.
func earliest(times ...time.Time) (first time.Time) {
	for _, t := range times {
		if !t.IsZero() && (first.IsZero() || t.Before(first)) {
			first = t
		}
	}
	return first
}

// quoted keeps policy ids readable in errors.
func quoted(id string) string { return strconv.QuoteToGraphic(id) }

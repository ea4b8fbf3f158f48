// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"time"

	"sdbox/internal/refusal"

	cedar "github.com/cedar-policy/cedar-go"
)

//go:embed policies/*.cedar
var shipped embed.FS

// Policies is a set of policies. It is not changed after it was loaded.
type Policies struct {
	set      *cedar.PolicySet
	order    map[cedar.PolicyID]int // position in the files
	refusals map[cedar.PolicyID]refusal.Code
}

// Shipped returns the policies every house begins with (policies/house.cedar).
func Shipped() (*Policies, error) {
	files, err := fs.Sub(shipped, "policies")
	if err != nil {
		return nil, fmt.Errorf("shipped policies: %w", err)
	}
	return Load(files)
}

// The bounds of policy files.
const (
	maxPolicyFile = 1 << 20 // bytes
	maxPolicies   = 1000
)

var idPattern = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,63}$`)

// Load reads every *.cedar file of a folder, in the order of their names. A policy without a unique @id, or with a @refusal
// that is no code of the list, is an error: what speaks in the log and on the screen must be known beforehand.
func Load(files fs.FS) (*Policies, error) {
	names, err := fs.Glob(files, "*.cedar")
	if err != nil {
		return nil, fmt.Errorf("policies: %w", err)
	}
	if len(names) == 0 {
		return nil, errors.New("policies: no *.cedar file")
	}
	slices.Sort(names)
	p := &Policies{set: cedar.NewPolicySet(), order: map[cedar.PolicyID]int{}, refusals: map[cedar.PolicyID]refusal.Code{}}
	for _, name := range names {
		text, err := fs.ReadFile(files, name)
		if err != nil {
			return nil, fmt.Errorf("policies: %w", err)
		}
		if len(text) > maxPolicyFile {
			return nil, fmt.Errorf("policies: %s has %d bytes: at most %d", name, len(text), maxPolicyFile)
		}
		list, err := cedar.NewPolicyListFromBytes(path.Base(name), text)
		if err != nil {
			return nil, fmt.Errorf("policies: %s: %w", name, err)
		}
		for _, policy := range list {
			if err := p.add(name, policy); err != nil {
				return nil, err
			}
		}
	}
	return p, nil
}

func (p *Policies) add(file string, policy *cedar.Policy) error {
	where := fmt.Sprintf("policies: %s:%d", file, policy.Position().Line)
	id := string(policy.Annotations()["id"])
	if !idPattern.MatchString(id) {
		return fmt.Errorf("%s: @id %s: want lower-case letters, digits and hyphens", where, quoted(id))
	}
	if len(p.order) >= maxPolicies {
		return fmt.Errorf("%s: more than %d policies", where, maxPolicies)
	}
	// The set's own loader would name policies by their position, and the reasons of a decision would say nothing.
	if !p.set.Add(cedar.PolicyID(id), policy) {
		return fmt.Errorf("%s: a second policy with @id %s", where, quoted(id))
	}
	p.order[cedar.PolicyID(id)] = len(p.order)
	if code, found := policy.Annotations()["refusal"]; found {
		if _, known := refusal.Lookup(refusal.Code(code)); !known || policy.Effect() != cedar.Forbid {
			return fmt.Errorf("%s: @refusal %s: want a code of the list, on a forbid", where, quoted(string(code)))
		}
		p.refusals[cedar.PolicyID(id)] = refusal.Code(code)
	}
	return nil
}

// decide asks the policies.
func (p *Policies) decide(r Request) Decision {
	request, entities := facts(r)
	verdict, diagnostic := cedar.Authorize(p.set, entities, request)
	d := Decision{}
	for _, e := range diagnostic.Errors {
		d.Errors = append(d.Errors, fmt.Sprintf("policy %s: %s", e.PolicyID, e.Message))
	}
	slices.Sort(d.Errors)
	ids := make([]cedar.PolicyID, 0, len(diagnostic.Reasons))
	for _, reason := range diagnostic.Reasons {
		ids = append(ids, reason.PolicyID)
	}
	slices.SortFunc(ids, func(a, b cedar.PolicyID) int { return p.order[a] - p.order[b] })
	for _, id := range ids {
		d.Policies = append(d.Policies, string(id))
	}
	switch {
	case len(d.Errors) > 0:
		// Cedar skips a policy it cannot evaluate: a forbid that reads a missing attribute would let pass what it forbids.
		d.Refusal = refusal.New(refusal.OurFault)
	case verdict != cedar.Allow:
		d.Refusal = refusal.New(p.code(r, ids), params(r)...)
	default:
		d.Allowed = true
		d.ValidUntil = earliest(r.Now.Add(GrantLife), r.Card.NotAfter, r.Box.Attested, until(r.Membership))
		if r.Bubble != nil {
			d.ValidUntil = earliest(d.ValidUntil, r.Bubble.Closes)
		}
	}
	return d
}

// code is that of the first forbid that has one. Where no policy permits, the right is missing.
func (p *Policies) code(r Request, ids []cedar.PolicyID) refusal.Code {
	for _, id := range ids {
		if code, found := p.refusals[id]; found {
			return code
		}
	}
	if r.Action == Attach {
		return refusal.ProjectEnded
	}
	return refusal.CardForeign
}

// never is what a policy reads for an end that is open, so that it need not test for one: 9999-12-31.
func never() time.Time { return time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC) }

func end(t time.Time) cedar.Datetime {
	if t.IsZero() {
		t = never()
	}
	return cedar.NewDatetime(t)
}

func begin(t time.Time) cedar.Datetime {
	if t.IsZero() {
		return cedar.NewDatetimeFromMillis(0) // before any clock of a house
	}
	return cedar.NewDatetime(t)
}

// facts is the request in Cedar's words. policies/house.cedar documents it.
func facts(r Request) (cedar.Request, cedar.EntityMap) {
	person := cedar.NewEntityUID("Person", cedar.String(r.Person.ID.String()))
	box := cedar.NewEntityUID("Box", cedar.String(r.Box.Serial))
	place := cedar.RecordMap{"country": cedar.String(r.Box.Country), "site": cedar.String(r.Box.Site)}
	entities := cedar.EntityMap{
		person: {UID: person, Attributes: cedar.NewRecord(cedar.RecordMap{"name": cedar.String(r.Person.Name), "language": cedar.String(r.Person.Language)})},
		box:    {UID: box, Attributes: cedar.NewRecord(place)},
	}
	resource := box
	if r.Action == Attach {
		resource = cedar.NewEntityUID("Bubble", cedar.String(r.Bubble.Name))
		countries := make([]cedar.Value, 0, len(r.Bubble.Countries))
		for _, c := range r.Bubble.Countries {
			countries = append(countries, cedar.String(c))
		}
		entities[resource] = cedar.Entity{UID: resource, Attributes: cedar.NewRecord(cedar.RecordMap{
			"title": cedar.String(r.Bubble.Title), "countries": cedar.NewSet(countries...), "opens": begin(r.Bubble.Opens), "closes": end(r.Bubble.Closes)})}
	}
	here := cedar.RecordMap{"serial": cedar.String(r.Box.Serial), "country": cedar.String(r.Box.Country), "site": cedar.String(r.Box.Site)}
	context := cedar.RecordMap{"now": cedar.NewDatetime(r.Now), "method": cedar.String(r.Card.Method), "box": cedar.NewRecord(here),
		"member": cedar.Boolean(r.Membership != nil)}
	if m := r.Membership; m != nil {
		context["membership"] = cedar.NewRecord(cedar.RecordMap{"role": cedar.String(m.Role), "from": begin(m.From), "until": end(m.Until)})
	}
	return cedar.Request{Principal: person, Action: cedar.NewEntityUID("Action", cedar.String(r.Action)), Resource: resource, Context: cedar.NewRecord(context)}, entities
}

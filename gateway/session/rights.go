// SPDX-License-Identifier: Apache-2.0

package session

import (
	"context"
	"errors"
	"strings"
	"time"

	"sdbox/gateway/admission"
	"sdbox/gateway/registry"
	"sdbox/gateway/store"
	"sdbox/internal/refusal"
	"sdbox/internal/wire"
)

// cause is what the log says of a decision that the screen does not.
func cause(d admission.Decision) string {
	switch {
	case d.Invariant != "":
		return d.Invariant
	case len(d.Errors) > 0:
		return strings.Join(d.Errors, "; ")
	case len(d.Policies) > 0:
		return "policy " + strings.Join(d.Policies, ", ")
	}
	return "no policy permits it"
}

func when(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}

// forProject makes a login request one for a bubble.
func (l *boxLine) forProject(ctx context.Context, r admission.Request, p registry.Project) (admission.Request, error) {
	b, m := p.Bubble, p.Membership
	r.Action = admission.Attach
	r.Bubble = &admission.Bubble{Name: b.Name, Title: b.Title, Countries: b.Countries, Opens: when(b.Opens), Closes: when(b.Closes)}
	r.Membership = &admission.Membership{Role: m.Role, From: when(m.From), Until: when(m.Until)}
	locks, err := l.srv.conf.Registry.LocksOn(ctx, registry.BubbleName(b.Name))
	for _, k := range locks {
		r.Locks = append(r.Locks[:len(r.Locks):len(r.Locks)], admission.Lock{Target: k.Target, Message: k.Message, Since: time.UnixMilli(k.Added)})
	}
	return r, err
}

// decideAll decides on the login and on every project of the person, keeps the rights, and returns the list that she reads.
// A *denial says that the login itself no longer stands.
func (l *boxLine) decideAll(ctx context.Context) ([]wire.Bubble, error) {
	s := l.s
	box, ok := l.srv.conf.Box(l.addr)
	if !ok {
		return nil, deny(refusal.NotIntact, "the attestation result has ended")
	}
	request, err := l.request(ctx, &s.holder, box, admission.Login)
	if err != nil {
		return nil, err
	}
	d := l.srv.conf.Policies.Decide(request)
	if !d.Allowed {
		return nil, &denial{d.Refusal, cause(d)}
	}
	s.loginEnd = d.ValidUntil
	if s.grantEnd.IsZero() {
		s.grantEnd = s.loginEnd
	}
	if s.projects, err = l.srv.conf.Registry.Projects(ctx, s.person.ID); err != nil {
		return nil, err
	}
	s.rights, s.causes = map[string]time.Time{}, map[string]string{}
	list := make([]wire.Bubble, 0, len(s.projects))
	for _, p := range s.projects {
		asked, err := l.forProject(ctx, request, p)
		if err != nil {
			return nil, err
		}
		list = append(list, s.lineFor(p, l.srv.conf.Policies.Decide(asked)))
	}
	return list, nil
}

// lineFor is one line of the list, and the right behind it.
func (s *session) lineFor(p registry.Project, d admission.Decision) wire.Bubble {
	b := wire.Bubble{Name: p.Bubble.Name, Title: p.Bubble.Title, Colour: p.Bubble.Colour, State: s.availability(p.Bubble.Name), Countries: p.Bubble.Countries, Until: p.Membership.Until}
	if c := p.Bubble.Closes; c != 0 && (b.Until == 0 || c < b.Until) {
		b.Until = c
	}
	if !d.Allowed {
		b.State, b.Refusal, s.causes[b.Name] = wire.Refuses, &d.Refusal, cause(d)
		return b
	}
	s.rights[b.Name] = d.ValidUntil
	return b
}

// mayOpen decides on one bubble now. A *denial is the answer no.
func (l *boxLine) mayOpen(ctx context.Context, name string) (registry.Project, time.Time, error) {
	s := l.s
	box, ok := l.srv.conf.Box(l.addr)
	if !ok {
		return registry.Project{}, time.Time{}, errors.New("attach: the attestation result has ended")
	}
	p, err := l.srv.conf.Registry.Project(ctx, s.person.ID, name)
	if errors.Is(err, store.ErrNotFound) {
		return p, time.Time{}, deny(refusal.ProjectEnded, "the person is no member of it, or there is no such bubble")
	}
	if err != nil {
		return p, time.Time{}, err
	}
	request, err := l.request(ctx, &s.holder, box, admission.Login)
	if err != nil {
		return p, time.Time{}, err
	}
	if request, err = l.forProject(ctx, request, p); err != nil {
		return p, time.Time{}, err
	}
	d := l.srv.conf.Policies.Decide(request)
	if !d.Allowed {
		return p, time.Time{}, &denial{d.Refusal, cause(d)}
	}
	return p, d.ValidUntil, nil
}

// again decides anew after something changed in the registry, or when a right may have ended. What no longer stands ends now.
func (l *boxLine) again(ctx context.Context) error {
	s := l.s
	if s == nil {
		return nil
	}
	if s.state == Requested {
		return l.againAtCard(ctx)
	}
	list, err := l.decideAll(ctx)
	var d *denial
	if errors.As(err, &d) {
		return l.stopped(ctx, stop{id: s.id, by: l.srv.actor(), why: d.why})
	}
	if err != nil {
		return err
	}
	for name, k := range s.desks {
		if _, stands := s.rights[name]; !stands && s.shown != k {
			delete(s.desks, name)
			l.closeLater(k.desktop)
		}
	}
	if err := l.renewList(ctx, list); err != nil {
		return err
	}
	if s.wish == nil {
		l.arm()
		return nil
	}
	name := s.wish.project.Bubble.Name
	for _, p := range s.projects {
		if p.Bubble.Name == name {
			s.wish.project = p // its dates may be others now
		}
	}
	if _, stands := s.rights[name]; stands {
		l.arm()
		return l.warn(ctx, time.Now())
	}
	why := refusal.New(refusal.ProjectEnded, "project", s.wish.project.Bubble.Title)
	for _, b := range list {
		if b.Name == name && b.Refusal != nil {
			why = *b.Refusal
		}
	}
	return l.expel(ctx, name, why)
}

// againAtCard looks at a card that waits for its finger.
func (l *boxLine) againAtCard(ctx context.Context) error {
	box, ok := l.srv.conf.Box(l.addr)
	if !ok {
		return errors.New("the attestation result has ended")
	}
	request, err := l.request(ctx, &l.s.holder, box, admission.Login)
	if err != nil {
		return err
	}
	if d := l.srv.conf.Policies.Decide(request); !d.Allowed {
		return l.stopped(ctx, stop{id: l.s.id, by: l.srv.actor(), why: d.Refusal})
	}
	return nil
}

// expel takes the bubble on the screen away because the right to it has ended; the others stay.
func (l *boxLine) expel(ctx context.Context, name string, why refusal.Refusal) error {
	s := l.s
	l.cover()
	s.wish = nil
	if k := s.desks[name]; k != nil {
		delete(s.desks, name)
		l.closeLater(k.desktop)
	}
	if err := l.happen(ctx, BubbleLost, change{why: why}); err != nil {
		return err
	}
	return l.refuse(ctx, &wire.Attach{}, name, why, "the right has ended")
}

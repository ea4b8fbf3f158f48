// SPDX-License-Identifier: Apache-2.0

package session

import (
	"context"
	"reflect"
	"slices"

	"sdbox/gateway/store"
	"sdbox/internal/wire"
)

// sendList gives the box its list and its grant.
func (l *boxLine) sendList(ctx context.Context, list []wire.Bubble, grant wire.Grant) error {
	list = l.s.same(list)
	if err := l.line.Write(&wire.Bubbles{List: list, Grant: grant}); err != nil {
		return err
	}
	return l.listed(ctx, list)
}

// renewList gives the box the list as it is now, if that is news to it. The grant stands.
func (l *boxLine) renewList(ctx context.Context, list []wire.Bubble) error {
	list = l.s.same(list)
	if l.s.state == Requested || l.s.told != nil && reflect.DeepEqual(list, l.s.told) {
		return nil
	}
	if err := l.line.Write(&wire.Bubbles{List: list}); err != nil {
		return err
	}
	return l.listed(ctx, list)
}

// renewStates is renewList when nothing but what runs has changed.
func (l *boxLine) renewStates(ctx context.Context) error {
	s := l.s
	if s == nil || s.told == nil {
		return nil
	}
	list := slices.Clone(s.told)
	for i := range list {
		if list[i].State != wire.Refuses {
			list[i].State = s.availability(list[i].Name)
		}
	}
	return l.renewList(ctx, list)
}

// availability is what the list says of a bubble that may be opened. One that did not answer will be started, for all that is known.
func (s *session) availability(name string) wire.Availability {
	if s.up[name] {
		return wire.Open
	}
	return wire.Asleep
}

// same leaves to a refusal the suffix under which the box has it already, so that it stays the one that the log knows.
func (s *session) same(list []wire.Bubble) []wire.Bubble {
	for i, b := range list {
		at := slices.IndexFunc(s.told, func(o wire.Bubble) bool { return o.Name == b.Name })
		if at < 0 || b.Refusal == nil || s.told[at].Refusal == nil {
			continue
		}
		if was := s.told[at].Refusal; was.Code == b.Refusal.Code && reflect.DeepEqual(was.Params, b.Refusal.Params) {
			list[i].Refusal = was
		}
	}
	return list
}

// listed keeps the list that the box has now, and audits each refusal that is new in it: its code with suffix is on the screen.
func (l *boxLine) listed(ctx context.Context, list []wire.Bubble) error {
	s := l.s
	had := s.told
	s.told = list
	for _, b := range list {
		if b.Refusal == nil || slices.ContainsFunc(had, func(o wire.Bubble) bool { return o.Refusal == b.Refusal }) {
			continue
		}
		e := store.Entry{Actor: l.srv.actor(), Action: "session.listed", Object: "session:" + s.id.String(), Session: s.id, Code: b.Refusal.Error(),
			Fields: map[string]string{"bubble": b.Name, "cause": s.causes[b.Name]}}
		if err := l.srv.conf.Store.Change(ctx, e, func(*store.Tx) error { return nil }); err != nil {
			return err
		}
	}
	return nil
}

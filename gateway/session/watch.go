// SPDX-License-Identifier: Apache-2.0

package session

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"sdbox/gateway/store"
	"sdbox/internal/ident"
	"sdbox/internal/wire"
)

// unwatchTime bounds the audit row that watching has ended, which is written when its request is over already.
const unwatchTime = 5 * time.Second

// Watch says that somebody looks at exactly this session, until stop is called: the person reads it at her box as long as anybody
// does, and the audit log has a row of when each looker began and ended, however many pages she has open. The caller calls stop
// once. ErrGone if the session has ended.
func (s *Server) Watch(ctx context.Context, id ident.ID, by string) (stop func() error, err error) {
	first, err := s.look(id, by)
	if err != nil {
		return nil, err
	}
	if first {
		if err := s.watching(ctx, "session.watched", id, by); err != nil {
			s.lookAway(id, by)
			return nil, err
		}
	}
	s.showWatched(id)
	return func() error {
		if !s.lookAway(id, by) {
			return nil
		}
		s.showWatched(id)
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), unwatchTime)
		defer cancel()
		return s.watching(ending, "session.unwatched", id, by)
	}, nil
}

// look counts one more page of a looker, and says whether it is her first.
func (s *Server) look(id ident.ID, by string) (first bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.entries[id] == nil {
		return false, fmt.Errorf("session %s: %w", id, ErrGone)
	}
	if s.watchers[id] == nil {
		s.watchers[id] = map[string]int{}
	}
	s.watchers[id][by]++
	return s.watchers[id][by] == 1, nil
}

// lookAway counts one less, and says whether it was the looker's last.
func (s *Server) lookAway(id ident.ID, by string) (last bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.watchers[id][by]--; s.watchers[id][by] > 0 {
		return false
	}
	if delete(s.watchers[id], by); len(s.watchers[id]) == 0 {
		delete(s.watchers, id)
	}
	return true
}

func (s *Server) watching(ctx context.Context, action string, id ident.ID, by string) error {
	e := store.Entry{Actor: by, Action: action, Object: "session:" + id.String(), Session: id}
	return s.conf.Store.Change(ctx, e, func(*store.Tx) error { return nil })
}

// showWatched has the session's line, if it has one, and every open page look at who watches.
func (s *Server) showWatched(id ident.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.entries[id]; e != nil && e.line != nil {
		select {
		case e.line.watched <- struct{}{}:
		default:
		}
	}
	s.wakeLocked()
}

// watchersLocked are those who look at a session, in alphabetical order.
func (s *Server) watchersLocked(id ident.ID) []string {
	return slices.Sorted(maps.Keys(s.watchers[id]))
}

// tellWatched tells the box whether anybody looks at its session, if that is news to it.
func (l *boxLine) tellWatched() error {
	if l.s == nil {
		return nil
	}
	l.srv.mu.Lock()
	on := len(l.srv.watchers[l.s.id]) > 0
	l.srv.mu.Unlock()
	if on == l.s.watched {
		return nil
	}
	l.s.watched = on
	return l.line.Write(&wire.Watched{Session: l.s.id, On: on})
}

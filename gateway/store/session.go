// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"fmt"
	"time"

	"sdbox/internal/ident"
)

// SessionState is where a session stands. Every state but Ended has a deadline in the store.
type SessionState string

// The states of a session, in the order of its life. Active and Suspended change to and fro: Suspended means that the line
// to the box is gone and the person may come back without a finger until the deadline.
const (
	Requested  SessionState = "requested"  // card in, finger not yet
	Authorised SessionState = "authorised" // logged in, nothing opened
	Starting   SessionState = "starting"   // a bubble is being reached
	Active     SessionState = "active"     // a picture is on the box
	Suspended  SessionState = "suspended"
	Ending     SessionState = "ending" // the box was told, things close
	Ended      SessionState = "ended"
)

// Session is the stored row of one login of a person with a card on a box.
type Session struct {
	ID       ident.ID
	Person   ident.ID
	Card     ident.GUID
	Box      string // serial
	Bubble   string // short name of the bubble attached; empty = none
	Gateway  string // who owns it: the name of a gateway
	Epoch    int64  // counts owners; a write with an older one is ErrConflict
	State    SessionState
	Deadline int64  // ms UTC; 0 only when ended
	Reason   string // refusal code with suffix, or the words of an operator, of the last change
	Started  int64  // ms UTC
	Changed  int64  // ms UTC
}

// next holds the allowed changes of state; a change to the same state renews the deadline.
func (s SessionState) next(to SessionState) bool {
	switch s {
	case Requested:
		return to == Requested || to == Authorised || to == Ending || to == Ended
	case Authorised, Starting, Active, Suspended:
		return to != Requested && to.known()
	case Ending:
		return to == Ended
	}
	return false
}

func (s SessionState) known() bool {
	switch s {
	case Requested, Authorised, Starting, Active, Suspended, Ending, Ended:
		return true
	}
	return false
}

// CreateSession stores a new session in state Requested with epoch 1. ID, Person, Card, Box, Gateway and Deadline are the caller's.
func (s *Store) CreateSession(ctx context.Context, actor string, ses Session) error {
	e := Entry{Actor: actor, Action: "session.create", Object: "session:" + ses.ID.String(), Session: ses.ID,
		Fields: map[string]string{"box": ses.Box, "gateway": ses.Gateway, "person": ses.Person.String(), "card": ses.Card.String()}}
	return s.Change(ctx, e, func(tx *Tx) error {
		if ses.ID.IsZero() || ses.Deadline <= 0 {
			return fmt.Errorf("a session needs an id and a deadline: %w", ErrConflict)
		}
		tx.Touch("person:"+ses.Person.String(), "box:"+ses.Box, "card:"+ses.Card.String())
		now := time.Now().UnixMilli()
		_, err := tx.Exec(`INSERT INTO session (id, person, card, box, bubble, gateway, owner_epoch, state, state_deadline, reason, started, changed)
			VALUES ($1, $2, $3, $4, '', $5, 1, $6, $7, '', $8, $8)`,
			ses.ID.String(), ses.Person.String(), ses.Card.String(), ses.Box, ses.Gateway, string(Requested), ses.Deadline, now)
		return err
	})
}

// SessionChange is one change of a session by the owner of Epoch.
type SessionChange struct {
	ID       ident.ID
	Epoch    int64
	State    SessionState
	Deadline int64  // ms UTC; must be set for every state but Ended
	Bubble   string // the bubble attached from now on; empty = none
	Reason   string
	Code     string // for the audit row: the refusal's code with suffix

	Evidence map[string]string // for the audit row: further fields, such as the grant that the change gives
}

// ChangeSession moves a session. A change the table of states does not allow, and one with an older epoch, is ErrConflict
// and leaves the row as it was: who reads ErrConflict no longer owns the session and drops it.
func (s *Store) ChangeSession(ctx context.Context, actor string, c SessionChange) error {
	e := Entry{Actor: actor, Action: "session." + string(c.State), Object: "session:" + c.ID.String(), Session: c.ID, Code: c.Code,
		Fields: map[string]string{"epoch": fmt.Sprint(c.Epoch)}}
	return s.Change(ctx, e, func(tx *Tx) error {
		var old Session
		if err := scanSession(tx.QueryRow(selectSession+` WHERE id = $1`, c.ID.String()), &old); err != nil {
			return err
		}
		switch {
		case old.Epoch != c.Epoch:
			return fmt.Errorf("session %s has epoch %d, not %d: %w", c.ID, old.Epoch, c.Epoch, ErrConflict)
		case !old.State.next(c.State):
			return fmt.Errorf("session %s is %s and cannot become %s: %w", c.ID, old.State, c.State, ErrConflict)
		case (c.State == Ended) != (c.Deadline == 0):
			return fmt.Errorf("session %s, state %s: a deadline belongs to every state but the last: %w", c.ID, c.State, ErrConflict)
		}
		tx.Touch("person:"+old.Person.String(), "box:"+old.Box, "card:"+old.Card.String())
		for _, b := range []string{old.Bubble, c.Bubble} {
			if b != "" {
				tx.Touch("bubble:" + b)
			}
		}
		tx.Note("from", string(old.State))
		if c.Bubble != "" {
			tx.Note("bubble", c.Bubble)
		}
		if c.Reason != "" {
			tx.Note("reason", c.Reason)
		}
		for name, value := range c.Evidence {
			tx.Note(name, value)
		}
		return tx.ExecOne(`UPDATE session SET state = $3, state_deadline = $4, bubble = $5, reason = $6, changed = $7 WHERE id = $1 AND owner_epoch = $2`,
			c.ID.String(), c.Epoch, string(c.State), c.Deadline, c.Bubble, c.Reason, time.Now().UnixMilli())
	})
}

// TakeSession makes gateway the owner of a session whose last seen epoch is seen, and returns the row with its new epoch.
func (s *Store) TakeSession(ctx context.Context, actor string, id ident.ID, gateway string, seen int64) (ses Session, err error) {
	e := Entry{Actor: actor, Action: "session.take", Object: "session:" + id.String(), Session: id, Fields: map[string]string{"gateway": gateway, "epoch": fmt.Sprint(seen + 1)}}
	err = s.Change(ctx, e, func(tx *Tx) error {
		err := tx.ExecOne(`UPDATE session SET gateway = $3, owner_epoch = owner_epoch + 1, changed = $4 WHERE id = $1 AND owner_epoch = $2 AND state <> 'ended'`,
			id.String(), seen, gateway, time.Now().UnixMilli())
		if err != nil {
			return fmt.Errorf("session %s with epoch %d: %w (%w)", id, seen, ErrConflict, err)
		}
		return scanSession(tx.QueryRow(selectSession+` WHERE id = $1`, id.String()), &ses)
	})
	return ses, err
}

// Sweep ends the sessions whose deadline has passed and returns them as they were, so that nothing stays half open.
func (s *Store) Sweep(ctx context.Context, actor string, now time.Time) ([]Session, error) {
	overdue, err := s.Sessions(ctx, SessionFilter{DeadlineBefore: now.UnixMilli()})
	if err != nil {
		return nil, err
	}
	var swept []Session
	for _, ses := range overdue {
		e := Entry{Actor: actor, Action: "session.ended", Object: "session:" + ses.ID.String(), Session: ses.ID,
			Fields:  map[string]string{"from": string(ses.State), "epoch": fmt.Sprint(ses.Epoch), "reason": "deadline"},
			Touches: []string{"person:" + ses.Person.String(), "box:" + ses.Box, "card:" + ses.Card.String()}}
		moved := false
		err := s.Change(ctx, e, func(tx *Tx) error {
			n, err := tx.Exec(`UPDATE session SET state = 'ended', state_deadline = 0, bubble = '', reason = 'deadline', changed = $3
				WHERE id = $1 AND owner_epoch = $2 AND state <> 'ended' AND state_deadline < $3`, ses.ID.String(), ses.Epoch, now.UnixMilli())
			if err == nil && n == 0 {
				return errNoChange // its owner was faster
			}
			moved = err == nil
			return err
		})
		if err != nil && !isNoChange(err) {
			return swept, err
		}
		if moved {
			swept = append(swept, ses)
		}
	}
	return swept, nil
}

// SessionFilter chooses sessions; an empty field chooses all. Ended sessions are left out unless Ended is set.
type SessionFilter struct {
	Person         ident.ID
	Box            string
	Gateway        string
	DeadlineBefore int64 // ms UTC
	Ended          bool
	Limit          int // at most; 0 = 10000
}

// Sessions lists sessions, the newest first.
func (s *Store) Sessions(ctx context.Context, f SessionFilter) (list []Session, err error) {
	query, args := selectSession+` WHERE true`, []any{}
	add := func(condition string, value any) {
		args = append(args, value)
		query += fmt.Sprintf(` AND `+condition, len(args))
	}
	if !f.Person.IsZero() {
		add(`person = $%d`, f.Person.String())
	}
	if f.Box != "" {
		add(`box = $%d`, f.Box)
	}
	if f.Gateway != "" {
		add(`gateway = $%d`, f.Gateway)
	}
	if f.DeadlineBefore != 0 {
		add(`state_deadline < $%d`, f.DeadlineBefore)
	}
	if !f.Ended {
		query += ` AND state <> 'ended'`
	}
	if f.Limit <= 0 {
		f.Limit = 10000
	}
	query += fmt.Sprintf(` ORDER BY started DESC, id LIMIT %d`, f.Limit)
	err = s.View(ctx, func(tx *Tx) error {
		return tx.Query(query, args, func(r Row) error {
			var ses Session
			if err := scanSession(r, &ses); err != nil {
				return err
			}
			list = append(list, ses)
			return nil
		})
	})
	return list, err
}

// Session reads one session.
func (s *Store) Session(ctx context.Context, id ident.ID) (ses Session, err error) {
	err = s.View(ctx, func(tx *Tx) error {
		return scanSession(tx.QueryRow(selectSession+` WHERE id = $1`, id.String()), &ses)
	})
	if err != nil {
		return Session{}, fmt.Errorf("session %s: %w", id, err)
	}
	return ses, nil
}

const selectSession = `SELECT id, person, card, box, bubble, gateway, owner_epoch, state, state_deadline, reason, started, changed FROM session`

func scanSession(r Row, ses *Session) error {
	var id, person, card, state string
	err := r.Scan(&id, &person, &card, &ses.Box, &ses.Bubble, &ses.Gateway, &ses.Epoch, &state, &ses.Deadline, &ses.Reason, &ses.Started, &ses.Changed)
	if err != nil {
		return err
	}
	ses.State = SessionState(state)
	if ses.ID, err = ident.ParseID(id); err != nil {
		return err
	}
	if ses.Person, err = ident.ParseID(person); err != nil {
		return err
	}
	ses.Card, err = ident.ParseGUID(card)
	return err
}

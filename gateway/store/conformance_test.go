// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"sdbox/gateway/store/storetest"
	"sdbox/internal/ident"

	"github.com/stretchr/testify/require"
)

// engine is a database the conformance suite runs on. dsn names a new, empty one.
type engine struct {
	name string
	dsn  func(t *testing.T) string
}

func engines() []engine {
	return []engine{
		{"sqlite", func(t *testing.T) string { return "sqlite:" + filepath.Join(t.TempDir(), "house.db") }},
		{"postgresql", postgres},
	}
}

// postgres makes an empty schema in the server that TestMain started.
func postgres(t *testing.T) (dsn string) {
	t.Helper()
	dsn, err := storetest.Schema(t.Context(), os.Getenv(serverEnv), "s"+strings.ToLower(ident.NewID().String()))
	require.NoError(t, err)
	return dsn
}

// each runs a test on every engine. open opens the same database each time it is called.
func each(t *testing.T, test func(t *testing.T, open func() *Store)) {
	for _, e := range engines() {
		t.Run(e.name, func(t *testing.T) {
			dsn := e.dsn(t)
			test(t, func() *Store {
				s, err := Open(t.Context(), dsn)
				require.NoError(t, err)
				t.Cleanup(func() { require.NoError(t, s.Close()) })
				return s
			})
		})
	}
}

func entry(object string) Entry {
	return Entry{Actor: "operator:olga", Action: "person.add", Object: object}
}

func addPerson(id ident.ID) func(*Tx) error {
	return func(tx *Tx) error {
		_, err := tx.Exec(`INSERT INTO person (id, name, language, added) VALUES ($1, $2, 'en', $3)`, id.String(), "P "+id.String(), 1)
		return err
	}
}

// whole checks what must hold after every step: as many audit rows and events as numbers given, dense, and one for each person.
func whole(t *testing.T, s *Store) (last int64) {
	t.Helper()
	var audits, lowest, highest, events, people int64
	require.NoError(t, s.View(t.Context(), func(tx *Tx) error {
		return tx.QueryRow(`SELECT (SELECT n FROM seqno), (SELECT count(*) FROM audit), (SELECT coalesce(min(seq), 1) FROM audit), (SELECT coalesce(max(seq), 0) FROM audit),
			(SELECT count(*) FROM outbox), (SELECT count(*) FROM person)`).Scan(&last, &audits, &lowest, &highest, &events, &people)
	}))
	require.Equal(t, last, audits)
	require.Equal(t, last, events)
	require.Equal(t, int64(1), lowest)
	require.Equal(t, last, highest)
	var added int64
	rows, err := s.Audit(t.Context(), AuditFilter{Limit: 1 << 20})
	require.NoError(t, err)
	for i, row := range rows {
		var leaf Leaf
		require.NoError(t, json.Unmarshal(row.Leaf, &leaf))
		require.Equal(t, int64(i+1), leaf.Seq)
		if leaf.Action == "person.add" {
			added++
		}
	}
	require.Equal(t, added, people, "a person without an audit row, or a row without its person")
	return last
}

func TestNumbersAreDenseAndInCommitOrderUnderConcurrentWriters(t *testing.T) {
	each(t, func(t *testing.T, open func() *Store) {
		s := open()
		refused := errors.New("changed my mind")
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for i := range 12 {
					id := ident.NewID()
					err := s.Change(t.Context(), entry("person:"+id.String()), func(tx *Tx) error {
						if err := addPerson(id)(tx); err != nil {
							return err
						}
						if i%3 == 0 {
							return refused
						}
						return nil
					})
					if i%3 == 0 && !errors.Is(err, refused) || i%3 != 0 && err != nil {
						t.Errorf("change %d: %v", i, err)
					}
				}
			})
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var seen int64
		for e, err := range s.Watch(ctx, 0) {
			require.NoError(t, err)
			require.Equal(t, seen+1, e.Seq, "a watcher sees every change, in order, while they are made")
			if seen = e.Seq; seen == 8*8 {
				break
			}
		}
		wg.Wait()
		require.Equal(t, int64(64), whole(t, s))
	})
}

func TestFailedChangeLeavesNothing(t *testing.T) {
	each(t, func(t *testing.T, open func() *Store) {
		s := open()
		id := ident.NewID()
		require.NoError(t, s.Change(t.Context(), entry("person:first"), addPerson(id)))

		require.ErrorIs(t, s.Change(t.Context(), entry("person:again"), addPerson(id)), ErrExists)
		require.ErrorIs(t, s.Change(t.Context(), entry("person:x"), func(tx *Tx) error {
			require.NoError(t, addPerson(ident.NewID())(tx))
			_, err := tx.Exec(`INSERT INTO membership (person, bubble, account, role, starts, ends, added) VALUES ($1, 'none', 'a', 'r', 0, 0, 0)`, id.String())
			return err
		}), ErrConflict, "a foreign key")
		require.ErrorIs(t, s.Change(t.Context(), entry("person:x"), func(tx *Tx) error {
			require.NoError(t, addPerson(ident.NewID())(tx))
			return tx.ExecOne(`UPDATE person SET name = 'x' WHERE id = 'nobody'`)
		}), ErrNotFound)
		require.Panics(t, func() {
			err := s.Change(t.Context(), entry("person:x"), func(tx *Tx) error {
				require.NoError(t, addPerson(ident.NewID())(tx))
				panic("a fault in the caller")
			})
			require.NoError(t, err)
		})
		ctx, cancel := context.WithCancel(t.Context())
		require.ErrorIs(t, s.Change(ctx, entry("person:x"), func(tx *Tx) error {
			require.NoError(t, addPerson(ident.NewID())(tx))
			cancel() // between the change and its audit row
			return nil
		}), context.Canceled)
		require.Equal(t, int64(1), whole(t, s))
		require.NoError(t, s.Change(t.Context(), entry("person:second"), addPerson(ident.NewID())), "the writer is free again")
		require.Equal(t, int64(2), whole(t, s))
		require.Equal(t, int64(2), whole(t, open()), "a second opening sees the same")
	})
}

func TestChangeWithABadAuditRowIsNotMade(t *testing.T) {
	each(t, func(t *testing.T, open func() *Store) {
		s := open()
		many := map[string]string{}
		for i := range maxFields + 1 {
			many[fmt.Sprintf("k%d", i)] = ""
		}
		for name, spoil := range map[string]func(*Entry){
			"no actor":       func(e *Entry) { e.Actor = "" },
			"bare actor":     func(e *Entry) { e.Actor = "olga" },
			"actor lines":    func(e *Entry) { e.Actor = "operator:ol\nga" },
			"action":         func(e *Entry) { e.Action = "Add a person" },
			"no object":      func(e *Entry) { e.Object = "" },
			"long object":    func(e *Entry) { e.Object = "person:" + strings.Repeat("x", 300) },
			"long code":      func(e *Entry) { e.Code = strings.Repeat("C", 17) },
			"field name":     func(e *Entry) { e.Fields = map[string]string{"A b": "x"} },
			"field of bytes": func(e *Entry) { e.Fields = map[string]string{"x": "\xff"} },
			"long value":     func(e *Entry) { e.Personal = map[string]string{"x": strings.Repeat("x", maxValue+1)} },
			"many fields":    func(e *Entry) { e.Fields = many },
		} {
			e := entry("person:x")
			spoil(&e)
			require.Error(t, s.Change(t.Context(), e, addPerson(ident.NewID())), name)
		}
		require.Zero(t, whole(t, s))
	})
}

func TestViewCannotWrite(t *testing.T) {
	each(t, func(t *testing.T, open func() *Store) {
		s := open()
		require.Error(t, s.View(t.Context(), addPerson(ident.NewID())))
		require.Error(t, s.View(t.Context(), func(tx *Tx) error { _, err := tx.Exec(`UPDATE seqno SET n = 7`); return err }))
		require.Zero(t, whole(t, s))
	})
}

func TestWatchContinuesWhereItStoppedAndSeesOtherProcesses(t *testing.T) {
	each(t, func(t *testing.T, open func() *Store) {
		s, other := open(), open()
		for i := range 300 { // more than one batch
			require.NoError(t, s.Change(t.Context(), entry(fmt.Sprintf("person:%d", i)), addPerson(ident.NewID())))
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		next := int64(290)
		for e, err := range s.Watch(ctx, next) {
			require.NoError(t, err)
			next++
			require.Equal(t, next, e.Seq)
			require.Equal(t, "person.add", e.Kind)
			if next == 300 { // caught up: the next one comes from elsewhere
				require.NoError(t, other.Change(t.Context(), Entry{Actor: "gateway:gw2", Action: "person.add", Object: "person:new", Touches: []string{"box:B", "box:A", "box:B"}}, addPerson(ident.NewID())))
			}
			if next == 301 {
				require.Equal(t, []string{"box:A", "box:B", "person:new"}, e.Touches)
				cancel() // ends the loop
			}
		}
		require.Equal(t, int64(301), next)
	})
}

func TestErasedValuesLeaveTheirCommitments(t *testing.T) {
	each(t, func(t *testing.T, open func() *Store) {
		s := open()
		e := entry("person:ada")
		e.Fields, e.Personal, e.Code, e.Session = map[string]string{"site": "<Île & co>"}, map[string]string{"name": "Ada"}, "C05-7K2", ident.NewID()
		require.NoError(t, s.Change(t.Context(), e, addPerson(ident.NewID())))
		read := func() (AuditRow, Leaf) {
			rows, err := s.Audit(t.Context(), AuditFilter{Code: "C05-7K2", Session: e.Session, Object: "person:ada", Newest: true})
			require.NoError(t, err)
			require.Len(t, rows, 1)
			var leaf Leaf
			require.NoError(t, json.Unmarshal(rows[0].Leaf, &leaf))
			return rows[0], leaf
		}
		row, leaf := read()
		require.NotContains(t, string(row.Leaf), "Ada")
		require.Contains(t, string(row.Leaf), `"site":"<Île & co>"`)
		require.Equal(t, Commit(row.Salt, "name", "Ada"), leaf.Personal["name"])
		require.NotEqual(t, Commit(row.Salt, "name", "Bob"), leaf.Personal["name"])
		again, err := leaf.Encode()
		require.NoError(t, err)
		require.Equal(t, row.Leaf, again, "a leaf has one encoding")

		require.NoError(t, s.ErasePersonal(t.Context(), "gateway:gw1", 1))
		erased, same := read()
		require.Empty(t, erased.Personal)
		require.Empty(t, erased.Salt)
		require.Equal(t, leaf, same)
		whole(t, s)
	})
}

// seed stores what a session needs to point at.
func seed(t *testing.T, s *Store) Session {
	t.Helper()
	ses := Session{ID: ident.NewID(), Person: ident.NewID(), Card: ident.GUID{1}, Box: "PARIS-0042", Gateway: "gw1", Deadline: time.Now().Add(time.Minute).UnixMilli()}
	require.NoError(t, s.Change(t.Context(), entry("person:"+ses.Person.String()), func(tx *Tx) error {
		if err := addPerson(ses.Person)(tx); err != nil {
			return err
		}
		if _, err := tx.Exec(`INSERT INTO card (guid, person, certificate, presence, state, changed, added) VALUES ($1, $2, $3, $3, 'valid', 1, 1)`, ses.Card.String(), ses.Person.String(), []byte{1}); err != nil {
			return err
		}
		_, err := tx.Exec(`INSERT INTO box (serial, ek, model, country, site, address, outer_nets, state, added) VALUES ($1, $2, 'm', 'FR', 's', 'fd00::1', '[]', 'registered', 1)`, ses.Box, []byte{1})
		return err
	}))
	return ses
}

func TestSessionsMoveByTheTableOnly(t *testing.T) {
	all := []SessionState{Requested, Authorised, Starting, Active, Suspended, Ending, Ended}
	allowed := map[SessionState]string{
		Requested:  "requested authorised ending ended",
		Authorised: "authorised starting active suspended ending ended",
		Starting:   "authorised starting active suspended ending ended",
		Active:     "authorised starting active suspended ending ended",
		Suspended:  "authorised starting active suspended ending ended",
		Ending:     "ended",
		Ended:      "",
	}
	each(t, func(t *testing.T, open func() *Store) {
		s := open()
		ses := seed(t, s)
		later := time.Now().Add(time.Minute).UnixMilli()
		for _, from := range all {
			for _, to := range append(all, "asleep") {
				ses.ID = ident.NewID()
				require.NoError(t, s.CreateSession(t.Context(), "gateway:gw1", ses))
				move := func(to SessionState) error {
					deadline := later
					if to == Ended {
						deadline = 0
					}
					return s.ChangeSession(t.Context(), "gateway:gw1", SessionChange{ID: ses.ID, Epoch: 1, State: to, Deadline: deadline, Bubble: "epi", Reason: "test"})
				}
				if from != Requested {
					if from != Ending && from != Ended {
						require.NoError(t, move(Authorised))
					}
					require.NoError(t, move(from))
				}
				err := move(to)
				now, read := s.Session(t.Context(), ses.ID)
				require.NoError(t, read)
				if strings.Contains(" "+allowed[from]+" ", " "+string(to)+" ") {
					require.NoError(t, err, "%s to %s", from, to)
					require.Equal(t, to, now.State)
					continue
				}
				require.ErrorIs(t, err, ErrConflict, "%s to %s", from, to)
				require.Equal(t, from, now.State)
			}
		}
		whole(t, s)
	})
}

func TestSessionKeepsEpochAndDeadline(t *testing.T) {
	each(t, func(t *testing.T, open func() *Store) {
		s := open()
		ses := seed(t, s)
		require.NoError(t, s.CreateSession(t.Context(), "gateway:gw1", ses))
		require.ErrorIs(t, s.CreateSession(t.Context(), "gateway:gw1", ses), ErrExists)
		require.ErrorIs(t, s.CreateSession(t.Context(), "gateway:gw1", Session{ID: ident.NewID(), Person: ses.Person, Card: ses.Card, Box: ses.Box}), ErrConflict, "no deadline")
		change := SessionChange{ID: ses.ID, Epoch: 1, State: Authorised, Deadline: ses.Deadline}
		require.NoError(t, s.ChangeSession(t.Context(), "gateway:gw1", change))
		change.Deadline = 0
		require.ErrorIs(t, s.ChangeSession(t.Context(), "gateway:gw1", change), ErrConflict, "open without a deadline")
		change.Deadline, change.ID = ses.Deadline, ident.NewID()
		require.ErrorIs(t, s.ChangeSession(t.Context(), "gateway:gw1", change), ErrNotFound)

		taken, err := s.TakeSession(t.Context(), "gateway:gw2", ses.ID, "gw2", 1)
		require.NoError(t, err)
		require.Equal(t, int64(2), taken.Epoch)
		_, err = s.TakeSession(t.Context(), "gateway:gw3", ses.ID, "gw3", 1)
		require.ErrorIs(t, err, ErrConflict, "two gateways saw epoch 1; one took it")
		change.ID = ses.ID
		require.ErrorIs(t, s.ChangeSession(t.Context(), "gateway:gw1", change), ErrConflict, "the old owner writes no more")

		swept, err := s.Sweep(t.Context(), "gateway:gw2", time.UnixMilli(ses.Deadline))
		require.NoError(t, err)
		require.Empty(t, swept, "at its deadline a session is still in time")
		swept, err = s.Sweep(t.Context(), "gateway:gw2", time.UnixMilli(ses.Deadline+1))
		require.NoError(t, err)
		require.Len(t, swept, 1)
		require.Equal(t, Authorised, swept[0].State)
		list, err := s.Sessions(t.Context(), SessionFilter{Person: ses.Person, Box: ses.Box, Gateway: "gw2"})
		require.NoError(t, err)
		require.Empty(t, list)
		list, err = s.Sessions(t.Context(), SessionFilter{Ended: true})
		require.NoError(t, err)
		require.Equal(t, "deadline", list[0].Reason)
		_, err = s.TakeSession(t.Context(), "gateway:gw3", ses.ID, "gw3", 2)
		require.ErrorIs(t, err, ErrConflict, "an ended session has no owner")
		whole(t, s)
	})
}

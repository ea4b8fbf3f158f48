// SPDX-License-Identifier: Apache-2.0

// Package store keeps what the gateway must not forget in one database. A write transaction is the change, its audit row
// and its outbox event together, or none of them; the sequence numbers it gives are dense and in commit order.
package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"sync"
	"time"

	"github.com/pressly/goose/v3"
)

// What a caller branches on. Every error of this package that has one of these causes wraps it.
var (
	// ErrNotFound says that no row has the name asked for.
	ErrNotFound = errors.New("not found")
	// ErrExists says that a row with this name, or another field that must be unique, is already there.
	ErrExists = errors.New("already there")
	// ErrConflict says that a row breaks a rule of the schema, or that it changed since it was read (an older owner epoch).
	ErrConflict = errors.New("conflicts with what is stored")
	// ErrFull says that the disk has no room. Nothing of the transaction was kept and everything before it was.
	ErrFull = errors.New("no room on the disk")
	// ErrUnknown says that the connection to the server broke during the commit and that the server could not be asked since: the
	// change was made whole, or not at all.
	ErrUnknown = errors.New("the database did not say whether it was done")
	// ErrServer says that the database is on a server, which has its own ways to copy it.
	ErrServer = errors.New("the database is on a PostgreSQL server")
	// ErrNewer says that a newer program wrote this database.
	ErrNewer = errors.New("the database was written by a newer version")
)

// Store is one open database. All methods may be called from any goroutine.
type Store struct {
	write   *sql.DB
	read    *sql.DB // cannot write
	dialect dialect
	stop    context.CancelFunc // ends what listens for other gateways
	heard   sync.WaitGroup     // and this waits for it

	mu      sync.Mutex
	changed chan struct{} // guarded by mu: closed and replaced after each commit
}

// dialect is where the two engines differ. The texts of the queries do not.
type dialect struct {
	goose  goose.Dialect
	folder string        // of the migrations
	turn   string        // with which a write transaction takes its turn among the writers; empty where the engine has one writer
	notify string        // tells other gateways at once of an urgent event, by its number; empty where there is no other
	view   sql.TxOptions // of a read transaction: one moment of the database
	doubt  bool          // a commit whose answer was lost may have been made
}

// Open opens or makes the database and brings its schema to this program's version. The data source name is
// "sqlite:PATH" or a plain path, made with mode 0600; or "postgres:KEY=VALUE ..." or "postgres://..." (libpq's parameters;
// several hosts and target_session_attrs=read-write for a fail-over). A commit is on the disk when Change returns.
func Open(ctx context.Context, dsn string) (*Store, error) {
	if err := Check(dsn); err != nil {
		return nil, err
	}
	s := &Store{changed: make(chan struct{}), stop: func() {}}
	open := s.openSQLite
	if isPostgres(dsn) {
		open = s.openPostgres
	}
	if err := open(ctx, dsn); err != nil {
		return nil, errors.Join(fmt.Errorf("store: %w", err), s.Close())
	}
	return s, nil
}

// Check says what is wrong with a data source name, without opening anything. It repeats no word of one that may hold a password.
func Check(dsn string) error {
	if isPostgres(dsn) {
		_, err := parsePostgres(dsn)
		return err
	}
	_, err := parseSQLite(dsn)
	return err
}

// Close waits for the transactions in progress and closes the database.
func (s *Store) Close() error {
	s.stop()
	s.heard.Wait()
	var errs []error
	for _, db := range []*sql.DB{s.read, s.write} {
		if db != nil {
			errs = append(errs, db.Close())
		}
	}
	return errors.Join(errs...)
}

// Change runs fn in the one write transaction and adds the audit row and the outbox event of e to it. When it returns nil
// all three are on the disk; when it returns an error none of them is, but for ErrUnknown. fn may add to the audit row by tx.Note
// and tx.Touch. It must not keep tx, nor call Change.
func (s *Store) Change(ctx context.Context, e Entry, fn func(tx *Tx) error) error {
	if err := s.change(ctx, e, fn); err != nil {
		return fmt.Errorf("%s: %w", e.Action, named(err))
	}
	s.wake()
	return nil
}

// wake makes watchers look for new events.
func (s *Store) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *Store) change(ctx context.Context, e Entry, fn func(tx *Tx) error) error {
	// Whoever calls off a change stops its statements, and never a commit in its middle.
	whole, cancel := context.WithTimeout(context.WithoutCancel(ctx), changeTime)
	defer cancel()
	conn, err := s.write.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close() // hands it back
	raw, err := conn.BeginTx(whole, nil)
	if err != nil {
		return err
	}
	defer raw.Rollback() // does nothing after a commit
	tx := &Tx{ctx: ctx, tx: raw, entry: e.clone(), notify: s.dialect.notify}
	if s.dialect.turn != "" {
		if _, err := tx.Exec(s.dialect.turn); err != nil {
			return fmt.Errorf("wait for the other writers: %w", err)
		}
	}
	if err := fn(tx); err != nil {
		return err
	}
	row, err := tx.seal(time.Now())
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	err = raw.Commit()
	if err != nil && s.dialect.doubt {
		return s.settle(whole, row, err)
	}
	return err
}

// changeTime is the longest a write transaction may take, all waiting included.
const changeTime = 60 * time.Second

// View runs fn in a read transaction: it sees one moment of the database. A write in it fails.
func (s *Store) View(ctx context.Context, fn func(tx *Tx) error) error {
	raw, err := s.read.BeginTx(ctx, &s.dialect.view)
	if err != nil {
		return fmt.Errorf("read the store: %w", named(err))
	}
	defer raw.Rollback()
	if err := fn(&Tx{ctx: ctx, tx: raw}); err != nil {
		return named(err)
	}
	return nil
}

// Watch yields the event of every committed change after seq, in commit order and without a gap, those already there
// first, and then waits for the next. It ends when ctx does, or after yielding an error. Events of this process come at once,
// those of another process within a second, and what takes rights away at once on PostgreSQL.
func (s *Store) Watch(ctx context.Context, after int64) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		poll := time.NewTicker(time.Second)
		defer poll.Stop()
		for {
			s.mu.Lock()
			changed := s.changed // taken before the query: a commit during it is not missed
			s.mu.Unlock()
			events, err := s.events(ctx, after)
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				yield(Event{}, fmt.Errorf("watch the store: %w", err))
				return
			}
			for _, e := range events {
				if !yield(e, nil) {
					return
				}
				after = e.Seq
			}
			if len(events) > 0 {
				continue
			}
			select {
			case <-ctx.Done():
				return
			case <-changed:
			case <-poll.C:
			}
		}
	}
}

// Last is the sequence number of the newest committed change; 0 before the first.
func (s *Store) Last(ctx context.Context) (int64, error) {
	var n int64
	err := s.View(ctx, func(tx *Tx) error { return tx.QueryRow(`SELECT n FROM seqno`).Scan(&n) })
	return n, err
}

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
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
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
	// ErrNewer says that a newer program wrote this database.
	ErrNewer = errors.New("the database was written by a newer version")
)

// Store is one open database. All methods may be called from any goroutine.
type Store struct {
	write *sql.DB // one connection: SQLite has one writer
	read  *sql.DB // query_only connections on the same file

	mu      sync.Mutex
	changed chan struct{} // guarded by mu: closed and replaced after each commit
}

// Open opens or makes the database and brings its schema to this program's version. The data source name is
// "sqlite:PATH" or a plain path; the file is made with mode 0600. A commit is on the disk when Change returns.
func Open(ctx context.Context, dsn string) (*Store, error) {
	path := strings.TrimPrefix(dsn, "sqlite:")
	if path == "" || strings.ContainsAny(path, "?#%") || strings.HasPrefix(path, "postgres:") || strings.HasPrefix(path, ":") {
		return nil, fmt.Errorf("store %.80q: want sqlite:PATH", dsn)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	if err := f.Close(); err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	path, err = filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	s := &Store{changed: make(chan struct{})}
	if err := s.open(ctx, path); err != nil {
		return nil, errors.Join(fmt.Errorf("store: %w", err), s.Close())
	}
	return s, nil
}

func (s *Store) open(ctx context.Context, path string) error {
	const common = "?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=busy_timeout(5000)&_pragma=foreign_keys(1)"
	var err error
	if s.write, err = sql.Open("sqlite", "file:"+path+common+"&_txlock=immediate"); err != nil {
		return err
	}
	s.write.SetMaxOpenConns(1)
	if err := migrate(ctx, s.write); err != nil {
		return fmt.Errorf("bring the schema up to date: %w", named(err))
	}
	if s.read, err = sql.Open("sqlite", "file:"+path+common+"&_pragma=query_only(1)"); err != nil {
		return err
	}
	s.read.SetMaxOpenConns(8)
	return nil
}

// Close waits for the transactions in progress and closes the database.
func (s *Store) Close() error {
	var errs []error
	for _, db := range []*sql.DB{s.read, s.write} {
		if db != nil {
			errs = append(errs, db.Close())
		}
	}
	return errors.Join(errs...)
}

// Change runs fn in the one write transaction and adds the audit row and the outbox event of e to it. When it returns nil
// all three are on the disk; when it returns an error none of them is. fn may add to the audit row by tx.Note and
// tx.Touch. It must not keep tx, nor call Change.
func (s *Store) Change(ctx context.Context, e Entry, fn func(tx *Tx) error) error {
	if err := s.change(ctx, e, fn); err != nil {
		return fmt.Errorf("%s: %w", e.Action, named(err))
	}
	s.mu.Lock()
	close(s.changed)
	s.changed = make(chan struct{})
	s.mu.Unlock()
	return nil
}

func (s *Store) change(ctx context.Context, e Entry, fn func(tx *Tx) error) error {
	raw, err := s.write.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer raw.Rollback() // does nothing after a commit
	tx := &Tx{ctx: ctx, tx: raw, entry: e.clone()}
	if err := fn(tx); err != nil {
		return err
	}
	if err := tx.seal(time.Now()); err != nil {
		return err
	}
	return raw.Commit()
}

// View runs fn in a read transaction: it sees one moment of the database. A write in it fails.
func (s *Store) View(ctx context.Context, fn func(tx *Tx) error) error {
	raw, err := s.read.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
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
// those of another process on the same file within a second.
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

// SPDX-License-Identifier: Apache-2.0

// Package audit seals the store's audit rows into a Merkle log, in the order of their numbers, and checks an export of it
// offline: a row that was altered, deleted, inserted, swapped or cut off is named.
package audit

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"sdbox/gateway/store"
	"sdbox/internal/merkle"
)

// ErrRolledBack says that the database no longer holds what was already sealed: an older copy was put in its place, or rows were changed.
var ErrRolledBack = errors.New("the database does not match the sealed audit log")

// Config is what a Log needs.
type Config struct {
	Store *store.Store
	Dir   string // the sealed log: tiles and checkpoint. Only this gateway writes there
	Key   string // the log's secret key, as merkle.GenerateKey made it
}

// Log seals the audit rows of a store. All methods may be called from any goroutine.
type Log struct {
	store *store.Store

	mu     sync.Mutex
	sealed *merkle.Log // guarded by mu
}

// Open reads the sealed log and checks that the store still holds its last row.
func Open(ctx context.Context, c Config) (*Log, error) {
	sealed, err := merkle.Open(c.Dir, c.Key)
	if err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	l := &Log{store: c.Store, sealed: sealed}
	if n := sealed.Size(); n > 0 {
		want, err := sealed.Leaf(n - 1)
		if err != nil {
			return nil, fmt.Errorf("audit log: %w", err)
		}
		rows, err := c.Store.Audit(ctx, store.AuditFilter{After: n - 1, Limit: 1})
		if err != nil {
			return nil, fmt.Errorf("audit log: %w", err)
		}
		if len(rows) != 1 || rows[0].Seq != n || merkle.LeafHash(rows[0].Leaf) != want {
			return nil, fmt.Errorf("audit row %d: %w", n, ErrRolledBack)
		}
	}
	return l, nil
}

// batch is how many rows one checkpoint covers at most.
const batch = 256

// Run seals each change as soon as it is committed, until ctx ends. A disk without room is not the end: it tries again
// with the next change, and says so through failed, which may be nil. Rows that no longer match the seals are the end.
func (l *Log) Run(ctx context.Context, failed func(error)) error {
	for _, err := range l.store.Watch(ctx, l.size()) {
		if err != nil {
			return fmt.Errorf("seal the audit log: %w", err)
		}
		err := l.Seal(ctx)
		switch {
		case err == nil || ctx.Err() != nil:
		case errors.Is(err, ErrRolledBack) || errors.Is(err, merkle.ErrDamaged):
			return err
		case failed != nil:
			failed(err)
		}
	}
	return nil
}

func (l *Log) size() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sealed.Size()
}

// Seal seals every row committed by now. On return they are under a checkpoint that is on the disk.
func (l *Log) Seal(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sealLocked(ctx)
}

func (l *Log) sealLocked(ctx context.Context) error {
	for {
		rows, err := l.store.Audit(ctx, store.AuditFilter{After: l.sealed.Size(), Limit: batch})
		if err != nil {
			return fmt.Errorf("seal the audit log: %w", err)
		}
		if len(rows) == 0 {
			return nil
		}
		leaves := make([][]byte, 0, len(rows))
		for i, row := range rows {
			if row.Seq != l.sealed.Size()+int64(i)+1 {
				return fmt.Errorf("audit row %d is missing: %w", l.sealed.Size()+int64(i)+1, ErrRolledBack)
			}
			leaves = append(leaves, row.Leaf)
		}
		if err := l.sealed.Append(leaves...); err != nil {
			return fmt.Errorf("seal the audit log: %w", err)
		}
	}
}

// exported is one line of rows.jsonl. Leaf holds the sealed bytes as text; Personal and Salt are gone after erasure.
type exported struct {
	Leaf     string            `json:"leaf"`
	Personal map[string]string `json:"personal,omitempty"`
	Salt     []byte            `json:"salt,omitempty"`
}

// rowsFile is the name of the rows in an export.
const rowsFile = "rows.jsonl"

// Export seals what is not sealed yet and writes the whole log into a new folder: rows.jsonl, tiles, checkpoint. Verify reads it.
func (l *Log) Export(ctx context.Context, dir string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.sealLocked(ctx); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("export the audit log: %w", err)
	}
	if err := l.sealed.Copy(dir); err != nil {
		return fmt.Errorf("export the audit log: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, rowsFile), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("export the audit log: %w", err)
	}
	err = l.writeRowsLocked(ctx, f)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("export the audit log: %w", err)
	}
	return nil
}

func (l *Log) writeRowsLocked(ctx context.Context, f *os.File) error {
	w := bufio.NewWriter(f)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	for done := int64(0); done < l.sealed.Size(); {
		rows, err := l.store.Audit(ctx, store.AuditFilter{After: done, Limit: int(min(batch, l.sealed.Size()-done))})
		if err != nil {
			return err
		}
		if len(rows) == 0 {
			return fmt.Errorf("audit row %d is missing: %w", done+1, ErrRolledBack)
		}
		for _, row := range rows {
			if err := enc.Encode(exported{string(row.Leaf), row.Personal, row.Salt}); err != nil {
				return err
			}
		}
		done = rows[len(rows)-1].Seq
	}
	return w.Flush()
}

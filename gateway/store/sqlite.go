// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/pressly/goose/v3"
	"modernc.org/sqlite"
	lib "modernc.org/sqlite/lib"
)

func parseSQLite(dsn string) (path string, err error) {
	path = strings.TrimPrefix(dsn, "sqlite:")
	if path == "" || strings.ContainsAny(path, "?#%") || strings.HasPrefix(path, ":") {
		return "", fmt.Errorf("store %.80q: want sqlite:PATH or postgres:host=... dbname=...", dsn)
	}
	return path, nil
}

// openSQLite opens one file. There is one connection that writes, which makes the writers' order, and some that cannot.
func (s *Store) openSQLite(ctx context.Context, dsn string) error {
	path, err := parseSQLite(dsn)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if path, err = filepath.Abs(path); err != nil {
		return err
	}
	s.dialect = dialect{goose: goose.DialectSQLite3, folder: "migrations/sqlite", view: sql.TxOptions{ReadOnly: true}}
	const common = "?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=busy_timeout(5000)&_pragma=foreign_keys(1)"
	if s.write, err = sql.Open("sqlite", "file:"+path+common+"&_txlock=immediate"); err != nil {
		return err
	}
	s.write.SetMaxOpenConns(1)
	if err := s.migrate(ctx); err != nil {
		return fmt.Errorf("bring the schema up to date: %w", named(err))
	}
	if s.read, err = sql.Open("sqlite", "file:"+path+common+"&_pragma=query_only(1)"); err != nil {
		return err
	}
	s.read.SetMaxOpenConns(8)
	return nil
}

// causeSQLite is the cause that callers branch on, nil if it is none of them or another engine's.
func causeSQLite(err error) error {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return nil
	}
	switch {
	case e.Code() == lib.SQLITE_CONSTRAINT_UNIQUE || e.Code() == lib.SQLITE_CONSTRAINT_PRIMARYKEY:
		return ErrExists
	case e.Code()&0xff == lib.SQLITE_CONSTRAINT:
		return ErrConflict
	case e.Code()&0xff == lib.SQLITE_FULL || strings.Contains(err.Error(), "no space left"):
		return ErrFull
	}
	return nil
}

// File is the file that a data source name keeps everything in; ErrServer if that is a server's business.
func File(dsn string) (string, error) {
	if err := Check(dsn); err != nil {
		return "", err
	}
	if isPostgres(dsn) {
		return "", fmt.Errorf("store: %w", ErrServer)
	}
	path, err := parseSQLite(dsn)
	if err != nil {
		return "", err
	}
	return filepath.Abs(path)
}

// Snapshot copies a SQLite database into a new file, as it is at one moment, while others read and write it. It changes nothing of it,
// and does not sync the copy.
func Snapshot(ctx context.Context, dsn, into string) (err error) {
	path, err := File(dsn)
	if err != nil {
		return err
	}
	if _, err := os.Stat(path); err != nil { // opening would make it
		return fmt.Errorf("store: %w", err)
	}
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=busy_timeout(5000)")
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if _, err := db.ExecContext(ctx, `VACUUM INTO $1`, into); err != nil {
		return fmt.Errorf("copy the database: %w", named(err))
	}
	return nil
}

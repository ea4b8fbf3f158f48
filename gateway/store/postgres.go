// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"golang.org/x/sys/unix"
)

// channel is where urgent events are told. The notification carries a number only; the outbox holds the event.
const channel = "sd_urgent"

// migrationLock keeps two gateways from changing the schema at once; any number that nobody else of this database locks will do.
const migrationLock = 0x5d_b0_01

// listenAgain is how long to wait before listening again after the connection broke. Watchers look every second meanwhile.
const listenAgain = time.Second

func isPostgres(dsn string) bool {
	return strings.HasPrefix(dsn, "postgres:") || strings.HasPrefix(dsn, "postgresql:")
}

// parsePostgres reads a data source name. What is not given comes from where libpq takes it: environment, ~/.pgpass.
func parsePostgres(dsn string) (*pgx.ConnConfig, error) {
	text := dsn
	if !strings.Contains(dsn, "://") {
		_, text, _ = strings.Cut(dsn, ":")
	}
	conf, err := pgx.ParseConfig(text)
	if err != nil || strings.TrimSpace(text) == "" {
		return nil, errors.New("store: the data source name does not read: want postgres:host=/run/postgresql dbname=sdbox, or postgres://USER@HOST/sdbox")
	}
	for key, value := range map[string]string{
		"application_name": "sdbox-gateway", "timezone": "UTC",
		"synchronous_commit":                  "on", // what is acknowledged is on the disk
		"lock_timeout":                        "10s",
		"idle_in_transaction_session_timeout": "15s", // a frozen gateway holds up the others no longer than this
	} {
		if _, given := conf.RuntimeParams[key]; !given {
			conf.RuntimeParams[key] = value
		}
	}
	dialer := &net.Dialer{Timeout: 5 * time.Second, Control: boundSilence, KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: time.Second, Count: 5}}
	conf.DialFunc = dialer.DialContext
	return conf, nil
}

// boundSilence lets a connection break 10 s after its other end went silent, in place of the kernel's quarter of an hour.
func boundSilence(network, _ string, c syscall.RawConn) error {
	if !strings.HasPrefix(network, "tcp") {
		return nil
	}
	var set error
	err := c.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 10_000) })
	return errors.Join(err, set)
}

// openPostgres opens a database on a server that may serve several gateways. Writers take turns on the counter's row, from their
// first statement on: each sees what the one before committed, as with SQLite's one writer.
func (s *Store) openPostgres(ctx context.Context, dsn string) error {
	conf, err := parsePostgres(dsn)
	if err != nil {
		return err
	}
	s.dialect = dialect{
		goose: goose.DialectPostgres, folder: "migrations/postgres", turn: `SELECT n FROM seqno WHERE id = 1 FOR UPDATE`,
		notify: `SELECT pg_notify('` + channel + `', $1)`, view: sql.TxOptions{ReadOnly: true, Isolation: sql.LevelRepeatableRead}, doubt: true,
	}
	s.write, s.read = stdlib.OpenDB(*conf), stdlib.OpenDB(*conf)
	s.write.SetMaxOpenConns(4)
	s.read.SetMaxOpenConns(8)
	s.read.SetMaxIdleConns(8)
	if err := s.migrateInTurn(ctx); err != nil {
		return fmt.Errorf("bring the schema up to date: %w", named(err))
	}
	inner, stop := context.WithCancel(context.WithoutCancel(ctx))
	s.stop = stop
	s.heard.Go(func() { s.listen(inner, conf) })
	return nil
}

func (s *Store) migrateInTurn(ctx context.Context) (err error) {
	conn, err := s.write.Conn(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	if _, err := conn.ExecContext(ctx, `SELECT pg_advisory_lock($1)`, migrationLock); err != nil {
		return err
	}
	err = s.migrate(ctx)
	_, freed := conn.ExecContext(context.WithoutCancel(ctx), `SELECT pg_advisory_unlock($1)`, migrationLock)
	return errors.Join(err, freed)
}

// listen wakes the watchers when another gateway tells of an urgent event, until ctx ends.
func (s *Store) listen(ctx context.Context, conf *pgx.ConnConfig) {
	for ctx.Err() == nil {
		if err := s.listenOnce(ctx, conf); err == nil {
			return
		}
		again := time.NewTimer(listenAgain)
		select {
		case <-ctx.Done():
		case <-again.C:
		}
		again.Stop()
	}
}

// listenOnce listens on one connection until it breaks, which is an error, or ctx ends.
func (s *Store) listenOnce(ctx context.Context, conf *pgx.ConnConfig) error {
	conn, err := pgx.ConnectConfig(ctx, conf)
	if err != nil {
		return err
	}
	defer func() {
		bye, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		conn.Close(bye) // a server that is gone is not waited for
	}()
	if _, err := conn.Exec(ctx, "LISTEN "+channel); err != nil {
		return err
	}
	for {
		s.wake() // first what came while nobody listened
		if _, err := conn.WaitForNotification(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
	}
}

// How long the server is asked whether a commit in doubt was made, and how often. A transaction of which the server heard no end
// holds the counter for at most idle_in_transaction_session_timeout.
const (
	settleTime  = 30 * time.Second
	settlePause = 200 * time.Millisecond
)

// settle finds out whether a commit whose answer was lost was made: its audit row is there, or it is not. The counter's row is
// waited for first, so that the transaction in doubt is over.
func (s *Store) settle(ctx context.Context, row AuditRow, lost error) error {
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTime)
	defer cancel()
	for {
		made, err := s.made(limited, row)
		switch {
		case err == nil && made:
			return nil
		case err == nil:
			return lost
		}
		pause := time.NewTimer(settlePause)
		select {
		case <-limited.Done():
			pause.Stop()
			return fmt.Errorf("%w: %w", ErrUnknown, errors.Join(lost, err))
		case <-pause.C:
		}
	}
}

func (s *Store) made(ctx context.Context, row AuditRow) (bool, error) {
	raw, err := s.write.BeginTx(ctx, nil)
	if err != nil {
		return false, err
	}
	defer raw.Rollback()
	if _, err := raw.ExecContext(ctx, s.dialect.turn); err != nil {
		return false, err
	}
	var n int
	err = raw.QueryRowContext(ctx, `SELECT count(*) FROM audit WHERE seq = $1 AND leaf = $2`, row.Seq, string(row.Leaf)).Scan(&n)
	return n == 1, err
}

// causePostgres is the cause that callers branch on, nil if it is none of them or another engine's (PostgreSQL 15, appendix A).
func causePostgres(err error) error {
	var e *pgconn.PgError
	if !errors.As(err, &e) {
		return nil
	}
	switch {
	case e.Code == "23505":
		return ErrExists
	case strings.HasPrefix(e.Code, "23"):
		return ErrConflict
	case e.Code == "53100":
		return ErrFull
	}
	return nil
}

// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Tx is one transaction. The queries over it live beside the owner of their tables. Parameters are written $1, $2, ...,
// so that one text serves every engine. A Tx belongs to the function it was given to.
type Tx struct {
	ctx   context.Context
	tx    *sql.Tx
	entry Entry // what Change writes at the end; unused in View

	notify string // the dialect's
}

// Exec runs a statement that returns no rows and says how many rows it changed.
func (t *Tx) Exec(query string, args ...any) (int64, error) {
	res, err := t.tx.ExecContext(t.ctx, query, args...)
	if err != nil {
		return 0, named(err)
	}
	return res.RowsAffected()
}

// ExecOne runs a statement that must change exactly one row; none is ErrNotFound.
func (t *Tx) ExecOne(query string, args ...any) error {
	n, err := t.Exec(query, args...)
	if err != nil {
		return err
	}
	if n != 1 {
		return fmt.Errorf("%d rows: %w", n, ErrNotFound)
	}
	return nil
}

// Query runs a statement and calls scan once for each row.
func (t *Tx) Query(query string, args []any, scan func(Row) error) error {
	rows, err := t.tx.QueryContext(t.ctx, query, args...)
	if err != nil {
		return named(err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return named(rows.Err())
}

// QueryRow runs a statement that returns at most one row; the row's Scan returns ErrNotFound if there is none.
func (t *Tx) QueryRow(query string, args ...any) Row {
	return oneRow{t.tx.QueryRowContext(t.ctx, query, args...)}
}

// Row is one row of a result.
type Row interface {
	Scan(dest ...any) error
}

type oneRow struct{ row *sql.Row }

func (r oneRow) Scan(dest ...any) error { return named(r.row.Scan(dest...)) }

// Note adds a field to the audit row of this change.
func (t *Tx) Note(key, value string) {
	if t.entry.Fields == nil {
		t.entry.Fields = map[string]string{}
	}
	t.entry.Fields[key] = value
}

// Touch names one more thing the change concerns, for example "person:ID", so that a watcher knows what to decide again.
func (t *Tx) Touch(names ...string) { t.entry.Touches = append(t.entry.Touches, names...) }

// seal writes the audit row and the outbox event under the next sequence number. The number is taken last: on every
// engine the counter's row stays locked until the commit, so order of numbers is order of commits.
func (t *Tx) seal(now time.Time) (AuditRow, error) {
	if err := t.entry.check(); err != nil {
		return AuditRow{}, err
	}
	var seq int64
	if err := t.QueryRow(`UPDATE seqno SET n = n + 1 RETURNING n`).Scan(&seq); err != nil {
		return AuditRow{}, fmt.Errorf("take a sequence number: %w", err)
	}
	row, err := t.entry.row(seq, now)
	if err != nil {
		return AuditRow{}, err
	}
	if _, err := t.Exec(`INSERT INTO audit (seq, at, actor, action, object, session, code, leaf, personal, salt)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`, seq, now.UnixMilli(), t.entry.Actor, t.entry.Action, t.entry.Object,
		t.entry.sessionText(), t.entry.Code, string(row.Leaf), row.personalText(), row.Salt); err != nil {
		return AuditRow{}, fmt.Errorf("write the audit row: %w", err)
	}
	return row, t.publish(seq, now)
}

// publish writes the outbox event.
func (t *Tx) publish(seq int64, now time.Time) error {
	touches := append([]string{t.entry.Object}, t.entry.Touches...)
	slices.Sort(touches)
	text, err := json.Marshal(slices.Compact(touches))
	if err != nil {
		return err
	}
	if _, err := t.Exec(`INSERT INTO outbox (seq, at, kind, touches) VALUES ($1, $2, $3, $4)`,
		seq, now.UnixMilli(), t.entry.Action, string(text)); err != nil {
		return fmt.Errorf("write the outbox event: %w", err)
	}
	if t.notify == "" || !urgent(t.entry.Action) {
		return nil
	}
	if _, err := t.Exec(t.notify, strconv.FormatInt(seq, 10)); err != nil {
		return fmt.Errorf("tell the other gateways: %w", err)
	}
	return nil
}

// urgent says whether a kind of event may take a right away: other gateways hear of it at once, not within a second. A
// notification makes commits wait for one another, so that the others do without.
func urgent(kind string) bool {
	noun, _, _ := strings.Cut(kind, ".")
	switch noun {
	case "lock", "card", "membership", "reference":
		return true
	}
	return kind == "box.retire" || kind == "session.take"
}

// Event is what a watcher reads of one change.
type Event struct {
	Seq     int64
	At      int64    // ms UTC
	Kind    string   // the action of the audit row: "lock.add"
	Touches []string // what it concerns, sorted: "box:PARIS-0042", "person:ID"
}

// events reads the next events after a number, at most 256.
func (s *Store) events(ctx context.Context, after int64) (events []Event, err error) {
	err = s.View(ctx, func(tx *Tx) error {
		return tx.Query(`SELECT seq, at, kind, touches FROM outbox WHERE seq > $1 ORDER BY seq LIMIT 256`, []any{after}, func(r Row) error {
			var e Event
			var touches string
			if err := r.Scan(&e.Seq, &e.At, &e.Kind, &touches); err != nil {
				return err
			}
			if err := json.Unmarshal([]byte(touches), &e.Touches); err != nil {
				return fmt.Errorf("outbox event %d: %w", e.Seq, err)
			}
			events = append(events, e)
			return nil
		})
	})
	return events, err
}

// named gives an engine's error the cause callers branch on.
func named(err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, sql.ErrNoRows) {
		return ErrNotFound
	}
	for _, known := range []error{ErrExists, ErrConflict, ErrFull, ErrUnknown} {
		if errors.Is(err, known) {
			return err
		}
	}
	if cause := errors.Join(causeSQLite(err), causePostgres(err)); cause != nil {
		return fmt.Errorf("%w (%w)", cause, err)
	}
	return err
}

func (e Entry) clone() Entry {
	e.Fields, e.Personal, e.Touches = maps.Clone(e.Fields), maps.Clone(e.Personal), slices.Clone(e.Touches)
	return e
}

// errNoChange rolls a transaction back because there was nothing to do.
var errNoChange = errors.New("nothing to change")

func isNoChange(err error) bool { return errors.Is(err, errNoChange) }

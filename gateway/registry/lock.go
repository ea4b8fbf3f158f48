// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"unicode/utf8"

	"sdbox/gateway/store"
	"sdbox/internal/ident"
)

// Lock stops one thing from being used, at once and until it is lifted or ends.
type Lock struct {
	ID      ident.ID
	Target  string // "person:ID", "card:GUID", "box:SERIAL", "bubble:NAME", "site:NAME", "certificate:SHA256"
	Message string // why, for people
	Ends    int64  // ms UTC; 0 = until lifted
	Added   int64  // ms UTC
}

// lockable counts the things of a kind that a lock by this name would stop; empty for what is no kind.
func lockable(kind string) string {
	switch kind {
	case "person":
		return `SELECT count(*) FROM person WHERE id = $1`
	case "card":
		return `SELECT count(*) FROM card WHERE guid = $1`
	case "box":
		return `SELECT count(*) FROM box WHERE serial = $1`
	case "bubble":
		return `SELECT count(*) FROM bubble WHERE name = $1`
	case "site":
		return `SELECT count(*) FROM box WHERE site = $1`
	case "certificate":
		return `SELECT count(*) FROM card WHERE certificate = $1`
	}
	return ""
}

// Lock puts a lock in force. Watchers read it as an event that touches the target. A lock on what is not there, or is written another
// way, would stop nothing and say that it does: it is ErrNotFound.
func (r *Registry) Lock(ctx context.Context, by string, l Lock) (Lock, error) {
	kind, name, _ := strings.Cut(l.Target, ":")
	count, key := lockable(kind), any(name)
	if kind == "certificate" {
		hash, err := hex.DecodeString(name)
		if err != nil || hex.EncodeToString(hash) != name {
			name = ""
		}
		key = hash
	}
	if count == "" || name == "" || len(l.Target) > 200 || strings.ContainsFunc(name, hidden) {
		return Lock{}, &InputError{"target", "person:ID, card:GUID, box:SERIAL, bubble:NAME, site:NAME or certificate:SHA256"}
	}
	if err := checkText("message", l.Message); err != nil {
		return Lock{}, err
	}
	l.ID, l.Added = ident.NewID(), nowMS()
	if l.Ends != 0 && l.Ends <= l.Added {
		return Lock{}, &InputError{"ends", "a time to come"}
	}
	e := store.Entry{Actor: by, Action: "lock.add", Object: l.Target, Fields: map[string]string{"lock": l.ID.String(), "message": l.Message, "ends": fmt.Sprint(l.Ends)}}
	err := r.store.Change(ctx, e, func(tx *store.Tx) error {
		var n int
		if err := tx.QueryRow(count, key).Scan(&n); err != nil {
			return err
		}
		if n == 0 {
			return fmt.Errorf("%s: %w", l.Target, store.ErrNotFound)
		}
		_, err := tx.Exec(`INSERT INTO lock (id, target, message, ends, lifted, added) VALUES ($1, $2, $3, $4, 0, $5)`,
			l.ID.String(), l.Target, l.Message, l.Ends, l.Added)
		return err
	})
	return l, err
}

// Unlock lifts a lock, for a reason the audit row keeps.
func (r *Registry) Unlock(ctx context.Context, by string, id ident.ID, reason string) error {
	if err := checkText("reason", reason); err != nil {
		return err
	}
	e := store.Entry{Actor: by, Action: "lock.lift", Object: "lock:" + id.String(), Fields: map[string]string{"reason": reason}}
	return r.store.Change(ctx, e, func(tx *store.Tx) error {
		l, err := scanLock(tx.QueryRow(selectLock+` WHERE id = $1 AND lifted = 0`, id.String()))
		if err != nil {
			return err
		}
		tx.Touch(l.Target)
		tx.Note("target", l.Target)
		return tx.ExecOne(`UPDATE lock SET lifted = $2 WHERE id = $1`, id.String(), nowMS())
	})
}

const selectLock = `SELECT id, target, message, ends, added FROM lock`

func scanLock(row store.Row) (l Lock, err error) {
	var id string
	if err := row.Scan(&id, &l.Target, &l.Message, &l.Ends, &l.Added); err != nil {
		return l, err
	}
	l.ID, err = ident.ParseID(id)
	return l, err
}

// LocksOn lists the locks in force now on any of the targets.
func (r *Registry) LocksOn(ctx context.Context, targets ...string) ([]Lock, error) {
	args, marks := []any{nowMS()}, []string{}
	for _, t := range targets {
		args = append(args, t)
		marks = append(marks, fmt.Sprintf("$%d", len(args)))
	}
	if len(marks) == 0 {
		return nil, nil
	}
	return query(r, ctx, "locks in force", selectLock+` WHERE lifted = 0 AND (ends = 0 OR ends > $1) AND target IN (`+strings.Join(marks, ", ")+`) ORDER BY added, id`, args, scanLock)
}

// Locks lists every lock in force now.
func (r *Registry) Locks(ctx context.Context) ([]Lock, error) {
	return query(r, ctx, "locks in force", selectLock+` WHERE lifted = 0 AND (ends = 0 OR ends > $1) ORDER BY added, id`, []any{nowMS()}, scanLock)
}

// Reference points at a signed note of reference values. Only the note's own signatures make it count: a row here can
// name a note, and cannot make a measurement allowed.
type Reference struct {
	Name    string // for example the image's version
	Model   string // the hardware model it is for
	Note    []byte // C2SP signed note, as its signers wrote it
	Retired int64  // ms UTC since when it is no longer accepted; 0 = accepted
	Added   int64  // ms UTC
}

// maxNote bounds a note of reference values, in bytes: reference.MaxNote, whoever cannot open it cannot use it either.
const maxNote = 16 << 10

// AddReference stores a note.
func (r *Registry) AddReference(ctx context.Context, by string, f Reference) (Reference, error) {
	if err := checkText("name", f.Name); err != nil {
		return Reference{}, err
	}
	if err := checkText("model", f.Model); err != nil {
		return Reference{}, err
	}
	if len(f.Note) == 0 || len(f.Note) > maxNote || !utf8.Valid(f.Note) {
		return Reference{}, &InputError{"note", fmt.Sprintf("a signed note of at most %d bytes", maxNote)}
	}
	f.Retired, f.Added = 0, nowMS()
	sum := sha256.Sum256(f.Note)
	e := store.Entry{Actor: by, Action: "reference.add", Object: "reference:" + f.Name, Fields: map[string]string{"model": f.Model, "note_sha256": hex.EncodeToString(sum[:]), "note": string(f.Note)}}
	err := r.store.Change(ctx, e, func(tx *store.Tx) error {
		_, err := tx.Exec(`INSERT INTO reference (name, model, note, retired, added) VALUES ($1, $2, $3, 0, $4)`, f.Name, f.Model, f.Note, f.Added)
		return err
	})
	return f, err
}

// RetireReference stops a note from being accepted.
func (r *Registry) RetireReference(ctx context.Context, by, name, reason string) error {
	if err := checkText("reason", reason); err != nil {
		return err
	}
	e := store.Entry{Actor: by, Action: "reference.retire", Object: "reference:" + name, Fields: map[string]string{"reason": reason}}
	return r.store.Change(ctx, e, func(tx *store.Tx) error {
		return tx.ExecOne(`UPDATE reference SET retired = $2 WHERE name = $1 AND retired = 0`, name, nowMS())
	})
}

// References lists the notes accepted for a model, or for every model when it is empty; the newest first.
func (r *Registry) References(ctx context.Context, model string) ([]Reference, error) {
	return query(r, ctx, "reference notes", `SELECT name, model, note, retired, added FROM reference WHERE retired = 0 AND ($1 = '' OR model = $1) ORDER BY added DESC, name`,
		[]any{model}, func(row store.Row) (f Reference, err error) {
			return f, row.Scan(&f.Name, &f.Model, &f.Note, &f.Retired, &f.Added)
		})
}

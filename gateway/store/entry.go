// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"regexp"
	"time"
	"unicode/utf8"

	"sdbox/internal/ident"
)

// Entry is the audit row a change brings with it: who did what to what. Fields stay in the log for ever; Personal is
// committed to by a salted hash, so that erasing the clear value later leaves the log verifiable.
type Entry struct {
	Actor    string            // who: "operator:NAME", "box:SERIAL", "person:ID", "gateway:NAME"
	Action   string            // what, noun.verb in lower case: "bubble.add"
	Object   string            // to what: "bubble:epi"
	Session  ident.ID          // zero if there is none
	Code     string            // refusal code with suffix, as on the screen: "C05-7K2"; empty if none
	Fields   map[string]string // anything else, not personal
	Personal map[string]string // personal values, for example the name of a person
	Touches  []string          // further things concerned, for watchers; not in the audit row
}

// The bounds of an entry: it is written by code, but its values come from outside.
const (
	maxFields = 64
	maxValue  = 128 << 10 // bytes of one value: a box's event log in hexadecimal fits
)

var (
	actionPattern = regexp.MustCompile(`^[a-z][a-z0-9-]{0,30}\.[a-z][a-z0-9-]{0,30}$`)
	namePattern   = regexp.MustCompile(`^[a-z][a-z0-9-]{0,30}:[^\x00-\x1f]{1,200}$`)
	keyPattern    = regexp.MustCompile(`^[a-z][a-z0-9_]{0,30}$`)
)

func (e *Entry) check() error {
	if !namePattern.MatchString(e.Actor) {
		return fmt.Errorf("audit actor %.60q: want KIND:NAME", e.Actor)
	}
	if !actionPattern.MatchString(e.Action) {
		return fmt.Errorf("audit action %.60q: want NOUN.VERB", e.Action)
	}
	if !namePattern.MatchString(e.Object) || len(e.Code) > 16 {
		return fmt.Errorf("audit object %.60q, code %.20q: want KIND:NAME, CODE-SUFFIX", e.Object, e.Code)
	}
	for _, fields := range []map[string]string{e.Fields, e.Personal} {
		if len(fields) > maxFields {
			return fmt.Errorf("audit row with %d fields: at most %d", len(fields), maxFields)
		}
		for k, v := range fields {
			if !keyPattern.MatchString(k) || len(v) > maxValue || !utf8.ValidString(v) {
				return fmt.Errorf("audit field %.40q of %d bytes: want a short lower-case name and at most %d bytes of UTF-8", k, len(v), maxValue)
			}
		}
	}
	return nil
}

func (e *Entry) sessionText() string {
	if e.Session.IsZero() {
		return ""
	}
	return e.Session.String()
}

// Leaf is what the audit log seals of a row. Its one encoding is Encode's: keys in the order of their bytes, no white space.
type Leaf struct {
	Action   string            `json:"action"`
	Actor    string            `json:"actor"`
	At       int64             `json:"at"` // ms UTC
	Code     string            `json:"code,omitempty"`
	Fields   map[string]string `json:"fields,omitempty"`
	Object   string            `json:"object"`
	Personal map[string]string `json:"personal,omitempty"` // name -> Commit(salt, name, value)
	Seq      int64             `json:"seq"`
	Session  string            `json:"session,omitempty"`
}

// Encode returns the leaf's bytes.
func (l Leaf) Encode() ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(l); err != nil {
		return nil, fmt.Errorf("encode audit leaf %d: %w", l.Seq, err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// Commit is the commitment to a personal value: base64url of HMAC-SHA256(salt, name || 0 || value). Without the salt, which
// is erased with the value, it says nothing about either.
func Commit(salt []byte, name, value string) string {
	mac := hmac.New(sha256.New, salt)
	mac.Write([]byte(name + "\x00" + value))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// AuditRow is one row of the audit table: the sealed leaf, and beside it what may be erased.
type AuditRow struct {
	Seq      int64
	Leaf     []byte            // exactly the bytes the log seals
	Personal map[string]string // clear values; empty after erasure
	Salt     []byte            // empty when there are no personal values, or after erasure
}

func (e *Entry) row(seq int64, now time.Time) (AuditRow, error) {
	row := AuditRow{Seq: seq, Personal: e.Personal}
	leaf := Leaf{Action: e.Action, Actor: e.Actor, At: now.UnixMilli(), Code: e.Code, Fields: e.Fields, Object: e.Object, Seq: seq, Session: e.sessionText()}
	if len(e.Personal) > 0 {
		row.Salt = make([]byte, 32)
		rand.Read(row.Salt)
		leaf.Personal = map[string]string{}
		for k, v := range e.Personal {
			leaf.Personal[k] = Commit(row.Salt, k, v)
		}
	}
	var err error
	row.Leaf, err = leaf.Encode()
	return row, err
}

func (r *AuditRow) personalText() any {
	if len(r.Personal) == 0 {
		return nil
	}
	text, err := json.Marshal(r.Personal)
	if err != nil {
		panic("store: a map of strings is always JSON: " + err.Error())
	}
	return string(text)
}

// AuditFilter chooses audit rows; an empty field chooses all.
type AuditFilter struct {
	After   int64  // only rows with a higher sequence number
	Object  string // "box:PARIS-0042"
	Session ident.ID
	Code    string // "C05-7K2"
	Newest  bool   // newest first instead of oldest first
	Limit   int    // at most; 0 = 1000
}

// Audit reads audit rows.
func (s *Store) Audit(ctx context.Context, f AuditFilter) (rows []AuditRow, err error) {
	query, args := `SELECT seq, leaf, personal, salt FROM audit WHERE seq > $1`, []any{f.After}
	for _, c := range []struct{ column, value string }{{"object", f.Object}, {"code", f.Code}, {"session", (&Entry{Session: f.Session}).sessionText()}} {
		if c.value != "" {
			args = append(args, c.value)
			query += fmt.Sprintf(` AND %s = $%d`, c.column, len(args))
		}
	}
	query += ` ORDER BY seq`
	if f.Newest {
		query += ` DESC`
	}
	if f.Limit <= 0 {
		f.Limit = 1000
	}
	query += fmt.Sprintf(` LIMIT %d`, f.Limit)
	err = s.View(ctx, func(tx *Tx) error {
		return tx.Query(query, args, func(r Row) error {
			var row AuditRow
			var leaf string
			var personal *string
			if err := r.Scan(&row.Seq, &leaf, &personal, &row.Salt); err != nil {
				return err
			}
			row.Leaf = []byte(leaf)
			if personal != nil {
				if err := json.Unmarshal([]byte(*personal), &row.Personal); err != nil {
					return fmt.Errorf("audit row %d: %w", row.Seq, err)
				}
			}
			rows = append(rows, row)
			return nil
		})
	})
	return rows, err
}

// ErasePersonal removes the personal values and salts of all audit rows up to seq. Their commitments stay, so the sealed log
// still verifies; what they committed to can no longer be found out.
func (s *Store) ErasePersonal(ctx context.Context, actor string, seq int64) error {
	e := Entry{Actor: actor, Action: "audit.erase", Object: "audit:rows", Fields: map[string]string{"up_to": fmt.Sprint(seq)}}
	return s.Change(ctx, e, func(tx *Tx) error {
		n, err := tx.Exec(`UPDATE audit SET personal = NULL, salt = NULL WHERE seq <= $1 AND salt IS NOT NULL`, seq)
		tx.Note("rows", fmt.Sprint(n))
		return err
	})
}

// SPDX-License-Identifier: Apache-2.0

// Package registry knows who and what belongs to the house: people and their cards, boxes, bubbles, who may enter which
// bubble, the reference values boxes are held to, and the locks in force. Each write names who did it and is audited.
package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"regexp"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"sdbox/gateway/store"
	"sdbox/internal/ident"
)

// Registry reads and writes the tables of this package. All methods may be called from any goroutine. Names that do not
// exist are store.ErrNotFound, names taken are store.ErrExists; what does not read well is an *InputError.
type Registry struct {
	store *store.Store
}

// New returns the registry over an open store.
func New(s *store.Store) *Registry { return &Registry{store: s} }

// InputError says which field of a row was refused and what it should look like. Its text is fit for an operator.
type InputError struct {
	Field string
	Want  string
}

// Error says field and form: "country: want a country of two capital letters (ISO 3166-1)".
func (e *InputError) Error() string { return e.Field + ": want " + e.Want }

// State says whether a card or a box is in use.
type State string

// The states of cards (Valid, Locked, Revoked) and boxes (Registered, Enrolled, Retired). Revoked and Retired are final.
const (
	Valid      State = "valid"
	Locked     State = "locked"
	Revoked    State = "revoked"
	Registered State = "registered" // its EK hash is known
	Enrolled   State = "enrolled"   // it has an AK and a device certificate
	Retired    State = "retired"
)

// The names locks, watchers and the audit log use for things.

// PersonName is "person:ID".
func PersonName(id ident.ID) string { return "person:" + id.String() }

// CardName is "card:GUID".
func CardName(guid ident.GUID) string { return "card:" + guid.String() }

// BoxName is "box:SERIAL".
func BoxName(serial string) string { return "box:" + serial }

// BubbleName is "bubble:NAME".
func BubbleName(name string) string { return "bubble:" + name }

var (
	countryPattern = regexp.MustCompile(`^[A-Z]{2}$`)
	rolePattern    = regexp.MustCompile(`^[a-z][a-z0-9-]{0,30}$`)
	accountPattern = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,31}$`)
)

// maxText bounds a name or title for people, in bytes.
const maxText = 120

func checkText(field, s string) error {
	if s == "" || len(s) > maxText || !utf8.ValidString(s) || strings.TrimSpace(s) != s || strings.ContainsFunc(s, hidden) {
		return &InputError{field, fmt.Sprintf("1 to %d bytes of printable text without spaces at its ends", maxText)}
	}
	return nil
}

// Plain takes out of a text what would deceive an eye, or steer a terminal: control, bidirectional and zero-width characters.
func Plain(s string) string {
	return strings.Map(func(r rune) rune {
		if hidden(r) {
			return -1
		}
		return r
	}, s)
}

// hidden says whether a rune is none to be seen.
func hidden(r rune) bool { return !unicode.IsGraphic(r) || unicode.Is(unicode.Cf, r) }

func checkCountry(field, s string) error {
	if !countryPattern.MatchString(s) {
		return &InputError{field, "a country of two capital letters (ISO 3166-1)"}
	}
	return nil
}

func checkHostPort(field, s string) error {
	host, port, err := net.SplitHostPort(s)
	if err != nil || host == "" || port == "" || len(s) > 260 {
		return &InputError{field, "HOST:PORT"}
	}
	return nil
}

func checkWindow(from, until int64) error {
	if from < 0 || until < 0 || (until != 0 && until <= from) {
		return &InputError{"until", "a time after from"}
	}
	return nil
}

func nowMS() int64 { return time.Now().UnixMilli() }

// list encodes a list for a TEXT column; reading it back is readList.
func list[T any](l []T) string {
	if len(l) == 0 {
		return "[]"
	}
	text, err := json.Marshal(l)
	if err != nil {
		panic("registry: a list of names is always JSON: " + err.Error())
	}
	return string(text)
}

func readList[T any](text string, into *[]T) error {
	var l []T
	if err := json.Unmarshal([]byte(text), &l); err != nil {
		return err
	}
	if len(l) > 0 {
		*into = l
	}
	return nil
}

func (r *Registry) view(ctx context.Context, what string, fn func(tx *store.Tx) error) error {
	if err := r.store.View(ctx, fn); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// query reads all rows of a query through one scan function.
func query[T any](r *Registry, ctx context.Context, what, text string, args []any, scan func(store.Row) (T, error)) (rows []T, err error) {
	err = r.view(ctx, what, func(tx *store.Tx) error {
		return tx.Query(text, args, func(row store.Row) error {
			v, err := scan(row)
			rows = append(rows, v)
			return err
		})
	})
	return rows, err
}

// queryOne reads the one row of a query.
func queryOne[T any](r *Registry, ctx context.Context, what, text string, args []any, scan func(store.Row) (T, error)) (v T, err error) {
	err = r.view(ctx, what, func(tx *store.Tx) error {
		var err error
		v, err = scan(tx.QueryRow(text, args...))
		return err
	})
	return v, err
}

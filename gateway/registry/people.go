// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"fmt"

	"sdbox/gateway/store"
	"sdbox/internal/ident"
)

// Person is someone who may hold a card.
type Person struct {
	ID       ident.ID
	Name     string // as the screen shows it
	Language string // "fr" or "en"
	Added    int64  // ms UTC
}

// AddPerson stores a person. A zero ID is drawn.
func (r *Registry) AddPerson(ctx context.Context, by string, p Person) (Person, error) {
	if err := checkText("name", p.Name); err != nil {
		return Person{}, err
	}
	if p.Language != "fr" && p.Language != "en" {
		return Person{}, &InputError{"language", "fr or en"}
	}
	if p.ID.IsZero() {
		p.ID = ident.NewID()
	}
	p.Added = nowMS()
	e := store.Entry{Actor: by, Action: "person.add", Object: PersonName(p.ID), Fields: map[string]string{"language": p.Language}, Personal: map[string]string{"name": p.Name}}
	err := r.store.Change(ctx, e, func(tx *store.Tx) error {
		_, err := tx.Exec(`INSERT INTO person (id, name, language, added) VALUES ($1, $2, $3, $4)`, p.ID.String(), p.Name, p.Language, p.Added)
		return err
	})
	return p, err
}

const selectPerson = `SELECT id, name, language, added FROM person`

func scanPerson(row store.Row) (p Person, err error) {
	var id string
	if err := row.Scan(&id, &p.Name, &p.Language, &p.Added); err != nil {
		return p, err
	}
	p.ID, err = ident.ParseID(id)
	return p, err
}

// Person reads one person.
func (r *Registry) Person(ctx context.Context, id ident.ID) (Person, error) {
	return queryOne(r, ctx, PersonName(id), selectPerson+` WHERE id = $1`, []any{id.String()}, scanPerson)
}

// People lists everybody by name.
func (r *Registry) People(ctx context.Context) ([]Person, error) {
	return query(r, ctx, "list people", selectPerson+` ORDER BY name, id`, nil, scanPerson)
}

// Card is a person's card as the desk certified it.
type Card struct {
	GUID        ident.GUID
	Person      ident.ID
	Certificate [32]byte // SHA-256 of the DER of the 9A certificate
	Presence    []byte   // SubjectPublicKeyInfo of key 9E: presence is checked with this key, never with one the card shows
	State       State
	Changed     int64 // ms UTC of the last change of State
	Added       int64 // ms UTC
}

// AddCard stores a card of a person in state Valid.
func (r *Registry) AddCard(ctx context.Context, by string, c Card) (Card, error) {
	if c.GUID == (ident.GUID{}) {
		return Card{}, &InputError{"guid", "the card's GUID"}
	}
	if c.Certificate == ([32]byte{}) {
		return Card{}, &InputError{"certificate", "the SHA-256 of the 9A certificate"}
	}
	if _, err := x509.ParsePKIXPublicKey(c.Presence); err != nil || len(c.Presence) > 1024 {
		return Card{}, &InputError{"presence", "the public key of 9E as SubjectPublicKeyInfo"}
	}
	c.State, c.Added = Valid, nowMS()
	c.Changed = c.Added
	e := store.Entry{Actor: by, Action: "card.add", Object: CardName(c.GUID), Touches: []string{PersonName(c.Person)},
		Fields: map[string]string{"person": c.Person.String(), "certificate_sha256": hex.EncodeToString(c.Certificate[:]), "presence_key": hex.EncodeToString(c.Presence)}}
	err := r.store.Change(ctx, e, func(tx *store.Tx) error {
		_, err := tx.Exec(`INSERT INTO card (guid, person, certificate, presence, state, changed, added) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
			c.GUID.String(), c.Person.String(), c.Certificate[:], c.Presence, string(c.State), c.Changed, c.Added)
		return err
	})
	return c, err
}

// SetCard moves a card to Valid, Locked or Revoked, for a reason the audit row keeps. A revoked card stays revoked.
func (r *Registry) SetCard(ctx context.Context, by string, guid ident.GUID, to State, reason string) error {
	if to != Valid && to != Locked && to != Revoked {
		return &InputError{"state", "valid, locked or revoked"}
	}
	if err := checkText("reason", reason); err != nil {
		return err
	}
	e := store.Entry{Actor: by, Action: "card." + string(to), Object: CardName(guid), Fields: map[string]string{"reason": reason}}
	return r.store.Change(ctx, e, func(tx *store.Tx) error {
		c, err := scanCard(tx.QueryRow(selectCard+` WHERE guid = $1`, guid.String()))
		if err != nil {
			return err
		}
		if c.State == Revoked {
			return fmt.Errorf("%s is revoked for good: %w", CardName(guid), store.ErrConflict)
		}
		tx.Note("from", string(c.State))
		tx.Touch(PersonName(c.Person))
		return tx.ExecOne(`UPDATE card SET state = $2, changed = $3 WHERE guid = $1`, guid.String(), string(to), nowMS())
	})
}

const selectCard = `SELECT guid, person, certificate, presence, state, changed, added FROM card`

func scanCard(row store.Row) (c Card, err error) {
	var guid, person, state string
	var certificate []byte
	if err := row.Scan(&guid, &person, &certificate, &c.Presence, &state, &c.Changed, &c.Added); err != nil {
		return c, err
	}
	c.State = State(state)
	copy(c.Certificate[:], certificate)
	if c.GUID, err = ident.ParseGUID(guid); err != nil {
		return c, err
	}
	c.Person, err = ident.ParseID(person)
	return c, err
}

// Holder reads a card by its GUID, and the person it belongs to.
func (r *Registry) Holder(ctx context.Context, guid ident.GUID) (c Card, p Person, err error) {
	err = r.view(ctx, CardName(guid), func(tx *store.Tx) error {
		if c, err = scanCard(tx.QueryRow(selectCard+` WHERE guid = $1`, guid.String())); err != nil {
			return err
		}
		p, err = scanPerson(tx.QueryRow(selectPerson+` WHERE id = $1`, c.Person.String()))
		return err
	})
	return c, p, err
}

// Cards lists every card.
func (r *Registry) Cards(ctx context.Context) ([]Card, error) {
	return query(r, ctx, "list cards", selectCard+` ORDER BY added, guid`, nil, scanCard)
}

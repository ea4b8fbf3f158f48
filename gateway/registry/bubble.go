// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"fmt"

	"sdbox/gateway/store"
	"sdbox/internal/ident"
)

// Bubble is one project's sealed environment.
type Bubble struct {
	Name      string
	Title     string   // the project's name for people
	Colour    uint32   // 0xRRGGBB of the frame
	Address   string   // host:port of its sdbox-bubble
	Account   string   // account rule: the account every member uses; empty = each membership names its own
	Countries []string // it may be opened from these, ISO 3166-1 alpha-2; empty = from anywhere
	Opens     int64    // ms UTC the project begins; 0 = it has
	Closes    int64    // ms UTC the project ends; 0 = open end
	Place     int64    // position in lists, lowest first
	Added     int64    // ms UTC
}

// AddBubble stores a bubble.
func (r *Registry) AddBubble(ctx context.Context, by string, b Bubble) (Bubble, error) {
	if err := checkBubble(b); err != nil {
		return Bubble{}, err
	}
	b.Added = nowMS()
	e := store.Entry{Actor: by, Action: "bubble.add", Object: BubbleName(b.Name), Fields: map[string]string{
		"title": b.Title, "address": b.Address, "countries": list(b.Countries), "opens": fmt.Sprint(b.Opens), "closes": fmt.Sprint(b.Closes)}}
	err := r.store.Change(ctx, e, func(tx *store.Tx) error {
		_, err := tx.Exec(`INSERT INTO bubble (name, title, colour, address, account, countries, opens, closes, place, added)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`,
			b.Name, b.Title, int64(b.Colour), b.Address, b.Account, list(b.Countries), b.Opens, b.Closes, b.Place, b.Added)
		return err
	})
	return b, err
}

func checkBubble(b Bubble) error {
	if err := ident.CheckBubble(b.Name); err != nil {
		return &InputError{"name", "2 to 32 lower-case letters, digits and hyphens"}
	}
	if err := checkText("title", b.Title); err != nil {
		return err
	}
	if b.Colour > 0xffffff {
		return &InputError{"colour", "six hexadecimal digits"}
	}
	if err := checkHostPort("address", b.Address); err != nil {
		return err
	}
	if b.Account != "" && !accountPattern.MatchString(b.Account) {
		return &InputError{"account", "a user name in lower case"}
	}
	if len(b.Countries) > 250 {
		return &InputError{"countries", "at most 250 countries"}
	}
	for _, c := range b.Countries {
		if err := checkCountry("countries", c); err != nil {
			return err
		}
	}
	return checkWindow(b.Opens, b.Closes)
}

const selectBubble = `SELECT name, title, colour, address, account, countries, opens, closes, place, added FROM bubble`

func scanBubble(row store.Row) (b Bubble, err error) {
	var countries string
	if err := row.Scan(&b.Name, &b.Title, &b.Colour, &b.Address, &b.Account, &countries, &b.Opens, &b.Closes, &b.Place, &b.Added); err != nil {
		return b, err
	}
	return b, readList(countries, &b.Countries)
}

// Bubbles lists every bubble in the order of the site.
func (r *Registry) Bubbles(ctx context.Context) ([]Bubble, error) {
	return query(r, ctx, "list bubbles", selectBubble+` ORDER BY place, name`, nil, scanBubble)
}

// Membership lets a person into a bubble for a time.
type Membership struct {
	Person  ident.ID
	Bubble  string
	Account string // the account in the bubble; filled from the bubble's account rule when it has one
	Role    string // "researcher" if empty
	From    int64  // ms UTC; 0 = always
	Until   int64  // ms UTC; 0 = open end
	Added   int64  // ms UTC
}

// AddMembership stores a membership, or replaces the one of the same person and bubble: an extension is a new window.
func (r *Registry) AddMembership(ctx context.Context, by string, m Membership) (Membership, error) {
	if m.Role == "" {
		m.Role = "researcher"
	}
	if !rolePattern.MatchString(m.Role) {
		return Membership{}, &InputError{"role", "a short lower-case word"}
	}
	if err := checkWindow(m.From, m.Until); err != nil {
		return Membership{}, err
	}
	m.Added = nowMS()
	e := store.Entry{Actor: by, Action: "membership.add", Object: PersonName(m.Person), Touches: []string{BubbleName(m.Bubble)}, Fields: map[string]string{
		"bubble": m.Bubble, "role": m.Role, "from": fmt.Sprint(m.From), "until": fmt.Sprint(m.Until)}}
	err := r.store.Change(ctx, e, func(tx *store.Tx) error {
		b, err := scanBubble(tx.QueryRow(selectBubble+` WHERE name = $1`, m.Bubble))
		if err != nil {
			return fmt.Errorf("%s: %w", BubbleName(m.Bubble), err)
		}
		if b.Account != "" {
			m.Account = b.Account
		}
		if !accountPattern.MatchString(m.Account) {
			return &InputError{"account", "a user name in lower case"}
		}
		tx.Note("account", m.Account)
		_, err = tx.Exec(`INSERT INTO membership (person, bubble, account, role, starts, ends, added) VALUES ($1, $2, $3, $4, $5, $6, $7)
			ON CONFLICT (person, bubble) DO UPDATE SET account = excluded.account, role = excluded.role, starts = excluded.starts, ends = excluded.ends`,
			m.Person.String(), m.Bubble, m.Account, m.Role, m.From, m.Until, m.Added)
		return err
	})
	if err != nil {
		return Membership{}, err
	}
	return m, nil
}

// RemoveMembership takes a person out of a bubble.
func (r *Registry) RemoveMembership(ctx context.Context, by string, person ident.ID, bubble, reason string) error {
	if err := checkText("reason", reason); err != nil {
		return err
	}
	e := store.Entry{Actor: by, Action: "membership.remove", Object: PersonName(person), Touches: []string{BubbleName(bubble)},
		Fields: map[string]string{"bubble": bubble, "reason": reason}}
	return r.store.Change(ctx, e, func(tx *store.Tx) error {
		return tx.ExecOne(`DELETE FROM membership WHERE person = $1 AND bubble = $2`, person.String(), bubble)
	})
}

// Project is a bubble a person is a member of.
type Project struct {
	Bubble     Bubble
	Membership Membership
}

const selectProject = `SELECT b.name, b.title, b.colour, b.address, b.account, b.countries, b.opens, b.closes, b.place, b.added,
	m.person, m.bubble, m.account, m.role, m.starts, m.ends, m.added FROM membership m JOIN bubble b ON b.name = m.bubble`

func scanProject(row store.Row) (p Project, err error) {
	var countries, person string
	b, m := &p.Bubble, &p.Membership
	if err := row.Scan(&b.Name, &b.Title, &b.Colour, &b.Address, &b.Account, &countries, &b.Opens, &b.Closes, &b.Place, &b.Added,
		&person, &m.Bubble, &m.Account, &m.Role, &m.From, &m.Until, &m.Added); err != nil {
		return p, err
	}
	if m.Person, err = ident.ParseID(person); err != nil {
		return p, err
	}
	return p, readList(countries, &b.Countries)
}

// Projects lists the bubbles a person is a member of, ended and coming ones too, in the order of the site.
func (r *Registry) Projects(ctx context.Context, person ident.ID) ([]Project, error) {
	return query(r, ctx, "projects of "+PersonName(person), selectProject+` WHERE m.person = $1 ORDER BY b.place, b.name`, []any{person.String()}, scanProject)
}

// Project reads one membership with its bubble; store.ErrNotFound if the person is no member of it.
func (r *Registry) Project(ctx context.Context, person ident.ID, bubble string) (Project, error) {
	return queryOne(r, ctx, PersonName(person)+" in "+BubbleName(bubble), selectProject+` WHERE m.person = $1 AND m.bubble = $2`, []any{person.String(), bubble}, scanProject)
}

// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"time"

	"sdbox/gateway/console"
)

type cli struct {
	Config string `help:"Configuration file: gateway, certificate, key, ca." default:"${config}" type:"path"`
	JSON   bool   `name:"json" help:"Answer in JSON."`

	Box       boxCmd       `cmd:"" help:"Boxes."`
	Person    personCmd    `cmd:"" help:"People."`
	Card      cardCmd      `cmd:"" help:"Cards."`
	Bubble    bubbleCmd    `cmd:"" help:"Bubbles."`
	Member    memberCmd    `cmd:"" help:"Who may enter which bubble."`
	Reference referenceCmd `cmd:"" help:"Signed notes of reference values: what an intact box measures."`
	Release   releaseCmd   `cmd:"" help:"Signed releases of the boxes' system."`
	Lock      lockCmd      `cmd:"" help:"Locks: stop one person, card, box or bubble at once."`
	Sessions  sessionsCmd  `cmd:"" help:"List the live sessions."`
	Message   messageCmd   `cmd:"" help:"Show the person at a session's screen a message."`
	Cut       cutCmd       `cmd:"" help:"End a session, for a reason the person reads."`
	Audit     auditCmd     `cmd:"" help:"The audit log."`
	Why       whyCmd       `cmd:"" help:"What stands behind a code on a screen, such as C05-7K2."`
}

// ask calls the API and prints the answer.
func ask[T any](ctx context.Context, c *cli, out *printer, method, path string, in any) error {
	cl, err := newClient(c.Config)
	if err != nil {
		return err
	}
	var answer T
	if err := cl.call(ctx, method, path, in, &answer); err != nil {
		return err
	}
	return out.print(answer)
}

type boxCmd struct {
	Add    boxAdd    `cmd:"" help:"Register a box by its endorsement key."`
	List   boxList   `cmd:"" help:"List the boxes."`
	Ping   boxPing   `cmd:"" help:"Measure a round trip to a box, through its tunnel."`
	Retire boxRetire `cmd:"" help:"Take a box out of use for good."`
}

type boxAdd struct {
	EK      string   `name:"ek" required:"" help:"SHA-256 of the endorsement key, 64 hexadecimal digits."`
	Serial  string   `required:"" help:"Serial, such as PARIS-0042."`
	Country string   `required:"" help:"Where it stands: two capital letters."`
	Model   string   `default:"generic" help:"Hardware profile of its image: which releases it is offered."`
	Site    string   `help:"Where it stands, for people. Default: the country."`
	Outer   []string `help:"Address prefixes it may connect from. Default: anywhere."`
}

// Run registers the box.
func (b *boxAdd) Run(ctx context.Context, c *cli, out *printer) error {
	if b.Site == "" {
		b.Site = b.Country
	}
	return ask[console.Box](ctx, c, out, "POST", "boxes", console.Box{Serial: b.Serial, EK: strings.ToLower(b.EK), Country: b.Country, Model: b.Model, Site: b.Site, Outer: b.Outer})
}

type boxList struct{}

// Run lists the boxes.
func (*boxList) Run(ctx context.Context, c *cli, out *printer) error {
	return ask[[]console.Box](ctx, c, out, "GET", "boxes", nil)
}

type boxPing struct {
	Serial string `arg:"" help:"Serial of the box."`
}

// Run measures a round trip.
func (b *boxPing) Run(ctx context.Context, c *cli, out *printer) error {
	return ask[console.Ping](ctx, c, out, "GET", "boxes/"+url.PathEscape(b.Serial)+"/ping", nil)
}

type boxRetire struct {
	Serial string `arg:"" help:"Serial of the box."`
	Reason string `required:"" help:"Why; kept in the audit log."`
}

// Run retires the box.
func (b *boxRetire) Run(ctx context.Context, c *cli, out *printer) error {
	return ask[struct{}](ctx, c, out, "POST", "boxes/"+url.PathEscape(b.Serial)+"/retire", console.Reason{Reason: b.Reason})
}

type personCmd struct {
	Add  personAdd  `cmd:"" help:"Register a person."`
	List personList `cmd:"" help:"List the people."`
}

type personAdd struct {
	Name     string `required:"" help:"Name, as the screen shows it."`
	Language string `default:"fr" enum:"fr,en" help:"Language of the screen: fr or en."`
	ID       string `name:"id" help:"26-character id. Default: drawn."`
}

// Run registers the person.
func (p *personAdd) Run(ctx context.Context, c *cli, out *printer) error {
	return ask[console.Person](ctx, c, out, "POST", "people", console.Person{ID: p.ID, Name: p.Name, Language: p.Language})
}

type personList struct{}

// Run lists the people.
func (*personList) Run(ctx context.Context, c *cli, out *printer) error {
	return ask[[]console.Person](ctx, c, out, "GET", "people", nil)
}

type cardCmd struct {
	Add    cardAdd    `cmd:"" help:"Register a person's card."`
	List   cardList   `cmd:"" help:"List the cards."`
	Revoke cardRevoke `cmd:"" help:"Cancel a card for good."`
}

type cardAdd struct {
	Person      string `required:"" help:"Id of the person."`
	Certificate string `required:"" type:"existingfile" help:"PEM file: certificate of key 9A."`
	Presence    string `required:"" type:"existingfile" help:"PEM file: certificate of key 9E."`
}

// Run registers the card.
func (k *cardAdd) Run(ctx context.Context, c *cli, out *printer) error {
	in := console.Card{Person: k.Person}
	for _, f := range []struct {
		path string
		into *string
	}{{k.Certificate, &in.Certificate}, {k.Presence, &in.Presence}} {
		text, err := readFile(f.path)
		if err != nil {
			return fmt.Errorf("certificate: %w", err)
		}
		*f.into = string(text)
	}
	return ask[console.Card](ctx, c, out, "POST", "cards", in)
}

type cardList struct{}

// Run lists the cards.
func (*cardList) Run(ctx context.Context, c *cli, out *printer) error {
	return ask[[]console.Card](ctx, c, out, "GET", "cards", nil)
}

type cardRevoke struct {
	GUID   string `arg:"" help:"GUID of the card."`
	Reason string `required:"" help:"Why; kept in the audit log."`
}

// Run revokes the card.
func (k *cardRevoke) Run(ctx context.Context, c *cli, out *printer) error {
	return ask[struct{}](ctx, c, out, "POST", "cards/"+url.PathEscape(k.GUID)+"/revoke", console.Reason{Reason: k.Reason})
}

type bubbleCmd struct {
	Add  bubbleAdd  `cmd:"" help:"Register a bubble."`
	List bubbleList `cmd:"" help:"List the bubbles."`
}

type bubbleAdd struct {
	Name      string    `arg:"" help:"Short name, such as epi."`
	Title     string    `required:"" help:"The project's name, for people."`
	Address   string    `required:"" help:"HOST:PORT of its sdbox-bubble."`
	Colour    string    `default:"#1b6fb8" help:"Colour of the frame."`
	Account   string    `help:"The account that all members use. Default: each membership names one."`
	Countries []string  `help:"From which it may be opened. Default: anywhere."`
	Closes    time.Time `help:"When the project ends, as 2026-06-30T22:00:00Z. Default: open end."`
	Place     int64     `help:"Position in a person's list, lowest first."`
}

// Run registers the bubble.
func (b *bubbleAdd) Run(ctx context.Context, c *cli, out *printer) error {
	return ask[console.Bubble](ctx, c, out, "POST", "bubbles", console.Bubble{Name: b.Name, Title: b.Title, Address: b.Address, Colour: b.Colour, Account: b.Account,
		Countries: b.Countries, Closes: b.Closes, Place: b.Place})
}

type bubbleList struct{}

// Run lists the bubbles.
func (*bubbleList) Run(ctx context.Context, c *cli, out *printer) error {
	return ask[[]console.Bubble](ctx, c, out, "GET", "bubbles", nil)
}

type memberCmd struct {
	Add    memberAdd    `cmd:"" help:"Let a person into a bubble, or change for how long."`
	List   memberList   `cmd:"" help:"List who may enter what."`
	Remove memberRemove `cmd:"" help:"Take a person out of a bubble, at once."`
}

type memberAdd struct {
	Person  string    `required:"" help:"Id of the person."`
	Bubble  string    `required:"" help:"Name of the bubble."`
	Account string    `help:"The person's account in the bubble."`
	From    time.Time `help:"First moment, as 2026-01-31T08:00:00Z. Default: now."`
	Until   time.Time `help:"Last moment. Default: open end."`
}

// Run stores the membership.
func (m *memberAdd) Run(ctx context.Context, c *cli, out *printer) error {
	return ask[console.Membership](ctx, c, out, "POST", "memberships", console.Membership{Person: m.Person, Bubble: m.Bubble, Account: m.Account, From: m.From, Until: m.Until})
}

type memberList struct{}

// Run lists the memberships.
func (*memberList) Run(ctx context.Context, c *cli, out *printer) error {
	return ask[[]console.Membership](ctx, c, out, "GET", "memberships", nil)
}

type memberRemove struct {
	Person string `required:"" help:"Id of the person."`
	Bubble string `required:"" help:"Name of the bubble."`
	Reason string `required:"" help:"Why; kept in the audit log."`
}

// Run removes the membership.
func (m *memberRemove) Run(ctx context.Context, c *cli, out *printer) error {
	return ask[struct{}](ctx, c, out, "POST", "memberships/remove", console.Removal{Person: m.Person, Bubble: m.Bubble, Reason: m.Reason})
}

type referenceCmd struct {
	Add    referenceAdd    `cmd:"" help:"Hand the gateway a signed note."`
	List   referenceList   `cmd:"" help:"List the notes in use."`
	Retire referenceRetire `cmd:"" help:"Accept a note no more; boxes let in by it stay until they attest again."`
}

type referenceAdd struct {
	Note  string `arg:"" type:"existingfile" help:"File with the signed note."`
	Name  string `help:"Name, for people. Default: name and version of the note."`
	Model string `default:"generic" help:"The hardware profile it is for."`
}

// Run stores the note.
func (r *referenceAdd) Run(ctx context.Context, c *cli, out *printer) error {
	text, err := readFile(r.Note)
	if err != nil {
		return fmt.Errorf("note: %w", err)
	}
	return ask[console.Reference](ctx, c, out, "POST", "references", console.Reference{Name: r.Name, Model: r.Model, Note: string(text)})
}

type referenceList struct{}

// Run lists the notes.
func (*referenceList) Run(ctx context.Context, c *cli, out *printer) error {
	return ask[[]console.Reference](ctx, c, out, "GET", "references", nil)
}

type referenceRetire struct {
	Name   string `arg:"" help:"Name of the note, as reference list has it."`
	Reason string `required:"" help:"Why; kept in the audit log."`
}

// Run retires the note.
func (r *referenceRetire) Run(ctx context.Context, c *cli, out *printer) error {
	return ask[struct{}](ctx, c, out, "POST", "references/retire", console.Retirement{Name: r.Name, Reason: r.Reason})
}

type lockCmd struct {
	Add  lockAdd  `cmd:"" help:"Put a lock in force; live sessions it touches end."`
	Lift lockLift `cmd:"" help:"Lift a lock."`
	List lockList `cmd:"" help:"List the locks in force."`
}

type lockAdd struct {
	Target string `arg:"" help:"person:ID, card:GUID, box:SERIAL, bubble:NAME or site:NAME."`
	Reason string `required:"" help:"Why; kept in the audit log."`
}

// Run puts the lock in force.
func (l *lockAdd) Run(ctx context.Context, c *cli, out *printer) error {
	return ask[console.Lock](ctx, c, out, "POST", "locks", console.Lock{Target: l.Target, Message: l.Reason})
}

type lockLift struct {
	ID     string `arg:"" name:"id" help:"Id of the lock."`
	Reason string `required:"" help:"Why; kept in the audit log."`
}

// Run lifts the lock.
func (l *lockLift) Run(ctx context.Context, c *cli, out *printer) error {
	return ask[struct{}](ctx, c, out, "POST", "locks/"+url.PathEscape(l.ID)+"/lift", console.Reason{Reason: l.Reason})
}

type lockList struct{}

// Run lists the locks.
func (*lockList) Run(ctx context.Context, c *cli, out *printer) error {
	return ask[[]console.Lock](ctx, c, out, "GET", "locks", nil)
}

type sessionsCmd struct{}

// Run lists the live sessions.
func (*sessionsCmd) Run(ctx context.Context, c *cli, out *printer) error {
	return ask[[]console.Session](ctx, c, out, "GET", "sessions", nil)
}

type messageCmd struct {
	Session string `arg:"" help:"Id of the session."`
	Text    string `required:"" help:"What the person reads over her work, 3 to 200 characters. It is kept in the audit log."`
}

// Run sends the message.
func (m *messageCmd) Run(ctx context.Context, c *cli, out *printer) error {
	return ask[struct{}](ctx, c, out, "POST", "sessions/"+url.PathEscape(m.Session)+"/message", console.Message{Text: m.Text})
}

type cutCmd struct {
	Session string `arg:"" help:"Id of the session."`
	Reason  string `required:"" help:"Why, 3 to 200 characters; the person reads it on the screen."`
}

// Run cuts the session.
func (s *cutCmd) Run(ctx context.Context, c *cli, out *printer) error {
	return ask[struct{}](ctx, c, out, "POST", "sessions/"+url.PathEscape(s.Session)+"/cut", console.Cut{Reason: s.Reason})
}

type whyCmd struct {
	Code string `arg:"" help:"Code with its suffix, such as C05-7K2."`
}

// Run says what the audit log knows.
func (w *whyCmd) Run(ctx context.Context, c *cli, out *printer) error {
	return ask[[]console.Why](ctx, c, out, "GET", "refusals/"+url.PathEscape(w.Code), nil)
}

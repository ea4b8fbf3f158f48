// SPDX-License-Identifier: Apache-2.0

package console

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"sdbox/gateway/registry"
	"sdbox/internal/ident"
)

func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func moment(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

func (c *Console) boxes(ctx context.Context) ([]Box, error) {
	rows, err := c.conf.Registry.Boxes(ctx)
	if err != nil {
		return nil, err
	}
	locks, err := c.conf.Registry.Locks(ctx)
	if err != nil {
		return nil, err
	}
	list := make([]Box, 0, len(rows))
	for _, row := range rows {
		b := c.box(row)
		for _, l := range locks {
			b.Locked = b.Locked || l.Target == registry.BoxName(row.Serial) || l.Target == "site:"+row.Site
		}
		list = append(list, b)
	}
	return list, nil
}

func (c *Console) box(row registry.Box) Box {
	b := Box{Serial: row.Serial, EK: hex.EncodeToString(row.EK[:]), Country: row.Country, Model: row.Model, Site: row.Site, Address: row.Address.String(),
		Outer: []string{}, Enrolled: row.State == registry.Enrolled, Locked: row.State == registry.Retired}
	for _, p := range row.Outer {
		b.Outer = append(b.Outer, p.String())
	}
	if l, ok := c.conf.Door.Lease(row.Address); ok {
		b.Attested, b.System, b.Until = true, l.Reference, l.Expires.UTC()
	}
	return b
}

func (c *Console) addBox(r *http.Request) (any, error) {
	in, err := read[Box](r)
	if err != nil {
		return nil, err
	}
	row := registry.Box{Serial: in.Serial, Country: in.Country, Model: in.Model, Site: in.Site}
	ek, err := hex.DecodeString(in.EK)
	if err != nil || len(ek) != len(row.EK) {
		return nil, wrong("it stands on the box's delivery note", "ek: want the SHA-256 of the endorsement key, 64 hexadecimal digits")
	}
	copy(row.EK[:], ek)
	for _, text := range in.Outer {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, wrong("for one address write 192.0.2.7/32", "outer: %v", err)
		}
		row.Outer = append(row.Outer, p)
	}
	row, err = c.conf.Registry.AddBox(r.Context(), by(r), row)
	return c.box(row), err
}

func (c *Console) retireBox(r *http.Request) (any, error) {
	in, err := read[Reason](r)
	if err != nil {
		return nil, err
	}
	return struct{}{}, c.conf.Registry.RetireBox(r.Context(), by(r), r.PathValue("name"), in.Reason)
}

// pingBox measures a round trip through the tunnel. The box need not hold a session, and nothing about it changes.
func (c *Console) pingBox(r *http.Request) (any, error) {
	row, err := c.conf.Registry.Box(r.Context(), r.PathValue("name"))
	if err != nil {
		return nil, err
	}
	took, err := c.conf.Door.Ping(r.Context(), row.Address)
	if err != nil {
		return nil, err
	}
	return Ping{Box: row.Serial, MS: float64(took.Microseconds()) / 1000}, nil
}

func (c *Console) people(r *http.Request) (any, error) {
	rows, err := c.conf.Registry.People(r.Context())
	list := make([]Person, 0, len(rows))
	for _, p := range rows {
		list = append(list, Person{ID: p.ID.String(), Name: p.Name, Language: p.Language})
	}
	return list, err
}

func (c *Console) addPerson(r *http.Request) (any, error) {
	in, err := read[Person](r)
	if err != nil {
		return nil, err
	}
	row := registry.Person{Name: in.Name, Language: in.Language}
	if in.ID != "" {
		if row.ID, err = ident.ParseID(in.ID); err != nil {
			return nil, wrong("leave it out and one is drawn", "id: %v", err)
		}
	}
	row, err = c.conf.Registry.AddPerson(r.Context(), by(r), row)
	return Person{ID: row.ID.String(), Name: row.Name, Language: row.Language}, err
}

func (c *Console) cards(r *http.Request) (any, error) {
	rows, err := c.conf.Registry.Cards(r.Context())
	list := make([]Card, 0, len(rows))
	for _, k := range rows {
		list = append(list, Card{GUID: k.GUID.String(), Person: k.Person.String(), State: string(k.State)})
	}
	return list, err
}

// addCard takes what the desk certified: the 9A certificate names the card, and both certificates must be this house's and of the
// same card, so that a slip of the hand at the desk cannot join two cards.
func (c *Console) addCard(r *http.Request) (any, error) {
	in, err := read[Card](r)
	if err != nil {
		return nil, err
	}
	person, err := ident.ParseID(in.Person)
	if err != nil {
		return nil, wrong("sdboxctl person list shows the ids", "person: %v", err)
	}
	der, err := onePEM("certificate", in.Certificate, "CERTIFICATE")
	if err != nil {
		return nil, err
	}
	facts, err := c.conf.Trust.VerifyPerson(der, time.Now())
	if err != nil {
		return nil, wrong("it must be issued by this house with sdbox-pki issue card", "certificate: %v", err)
	}
	der9E, err := onePEM("presence", in.Presence, "CERTIFICATE")
	if err != nil {
		return nil, err
	}
	presence, err := c.conf.Trust.VerifyPresence(der9E, time.Now())
	if err != nil {
		return nil, wrong("it is the second certificate that sdbox-pki issue card writes", "presence: %v", err)
	}
	if presence.GUID != facts.GUID {
		return nil, wrong("both certificates must come from the same card", "certificate is of card %s, presence of card %s", facts.GUID, presence.GUID)
	}
	spki, err := x509.MarshalPKIXPublicKey(presence.Key)
	if err != nil {
		return nil, err
	}
	row, err := c.conf.Registry.AddCard(r.Context(), by(r), registry.Card{GUID: facts.GUID, Person: person, Certificate: sha256.Sum256(der), Presence: spki})
	return Card{GUID: row.GUID.String(), Person: row.Person.String(), State: string(row.State)}, err
}

func onePEM(field, text, kind string) ([]byte, error) {
	block, _ := pem.Decode([]byte(text)) // issuers may follow; the first is the one
	if block == nil || block.Type != kind {
		return nil, wrong("it is the text of a file that sdbox-pki issue card makes", "%s: want a PEM block %s", field, kind)
	}
	return block.Bytes, nil
}

func (c *Console) revokeCard(r *http.Request) (any, error) {
	in, err := read[Reason](r)
	if err != nil {
		return nil, err
	}
	guid, err := ident.ParseGUID(r.PathValue("name"))
	if err != nil {
		return nil, wrong("sdboxctl card list shows them", "%v", err)
	}
	return struct{}{}, c.conf.Registry.SetCard(r.Context(), by(r), guid, registry.Revoked, in.Reason)
}

func (c *Console) bubbles(r *http.Request) (any, error) {
	rows, err := c.conf.Registry.Bubbles(r.Context())
	list := make([]Bubble, 0, len(rows))
	for _, b := range rows {
		list = append(list, bubbleOf(b))
	}
	return list, err
}

func bubbleOf(b registry.Bubble) Bubble {
	out := Bubble{Name: b.Name, Title: b.Title, Colour: fmt.Sprintf("#%06x", b.Colour), Address: b.Address, Account: b.Account, Countries: b.Countries,
		Opens: moment(b.Opens), Closes: moment(b.Closes), Place: b.Place}
	if out.Countries == nil {
		out.Countries = []string{}
	}
	return out
}

func (c *Console) addBubble(r *http.Request) (any, error) {
	in, err := read[Bubble](r)
	if err != nil {
		return nil, err
	}
	digits, found := strings.CutPrefix(in.Colour, "#")
	colour, err := strconv.ParseUint(digits, 16, 32)
	if err != nil || !found || len(digits) != 6 {
		return nil, wrong("for example #1b6fb8", "colour: want # and six hexadecimal digits")
	}
	row, err := c.conf.Registry.AddBubble(r.Context(), by(r), registry.Bubble{Name: in.Name, Title: in.Title, Colour: uint32(colour), Address: in.Address,
		Account: in.Account, Countries: in.Countries, Opens: millis(in.Opens), Closes: millis(in.Closes), Place: in.Place})
	return bubbleOf(row), err
}

func (c *Console) memberships(r *http.Request) (any, error) {
	people, err := c.conf.Registry.People(r.Context())
	if err != nil {
		return nil, err
	}
	list := []Membership{}
	for _, p := range people {
		projects, err := c.conf.Registry.Projects(r.Context(), p.ID)
		if err != nil {
			return nil, err
		}
		for _, j := range projects {
			list = append(list, membershipOf(j.Membership))
		}
	}
	return list, nil
}

func membershipOf(m registry.Membership) Membership {
	return Membership{Person: m.Person.String(), Bubble: m.Bubble, Account: m.Account, From: moment(m.From), Until: moment(m.Until)}
}

func (c *Console) addMembership(r *http.Request) (any, error) {
	in, err := read[Membership](r)
	if err != nil {
		return nil, err
	}
	person, err := ident.ParseID(in.Person)
	if err != nil {
		return nil, wrong("sdboxctl person list shows the ids", "person: %v", err)
	}
	row, err := c.conf.Registry.AddMembership(r.Context(), by(r), registry.Membership{Person: person, Bubble: in.Bubble, Account: in.Account,
		From: millis(in.From), Until: millis(in.Until)})
	return membershipOf(row), err
}

func (c *Console) removeMembership(r *http.Request) (any, error) {
	in, err := read[Removal](r)
	if err != nil {
		return nil, err
	}
	person, err := ident.ParseID(in.Person)
	if err != nil {
		return nil, wrong("sdboxctl person list shows the ids", "person: %v", err)
	}
	return struct{}{}, c.conf.Registry.RemoveMembership(r.Context(), by(r), person, in.Bubble, in.Reason)
}

func (c *Console) references(r *http.Request) (any, error) {
	rows, err := c.conf.Registry.References(r.Context(), "")
	list := make([]Reference, 0, len(rows))
	for _, f := range rows {
		list = append(list, Reference{Name: f.Name, Model: f.Model, Note: string(f.Note)})
	}
	return list, err
}

// addReference stores a note that the release keys signed and that a box can be held to: no operator can make a measurement allowed.
func (c *Console) addReference(r *http.Request) (any, error) {
	in, err := read[Reference](r)
	if err != nil {
		return nil, err
	}
	values, err := c.conf.References.Open([]byte(in.Note))
	if err != nil {
		return nil, wrong("sdbox-pki reference sign makes one from what an intact box measures; the release keys are those of this gateway's configuration", "note: %v", err)
	}
	if in.Name == "" {
		in.Name = values.String()
	}
	row, err := c.conf.Registry.AddReference(r.Context(), by(r), registry.Reference{Name: in.Name, Model: in.Model, Note: []byte(in.Note)})
	return Reference{Name: row.Name, Model: row.Model, Note: string(row.Note)}, err
}

func (c *Console) retireReference(r *http.Request) (any, error) {
	in, err := read[Retirement](r)
	if err != nil {
		return nil, err
	}
	return struct{}{}, c.conf.Registry.RetireReference(r.Context(), by(r), in.Name, in.Reason)
}

func (c *Console) locks(r *http.Request) (any, error) {
	rows, err := c.conf.Registry.Locks(r.Context())
	list := make([]Lock, 0, len(rows))
	for _, l := range rows {
		list = append(list, Lock{ID: l.ID.String(), Target: l.Target, Message: l.Message, Ends: moment(l.Ends)})
	}
	return list, err
}

func (c *Console) addLock(r *http.Request) (any, error) {
	in, err := read[Lock](r)
	if err != nil {
		return nil, err
	}
	row, err := c.conf.Registry.Lock(r.Context(), by(r), registry.Lock{Target: in.Target, Message: in.Message, Ends: millis(in.Ends)})
	return Lock{ID: row.ID.String(), Target: row.Target, Message: row.Message, Ends: moment(row.Ends)}, err
}

func (c *Console) liftLock(r *http.Request) (any, error) {
	in, err := read[Reason](r)
	if err != nil {
		return nil, err
	}
	id, err := ident.ParseID(r.PathValue("id"))
	if err != nil {
		return nil, wrong("sdboxctl lock list shows the ids", "%v", err)
	}
	return struct{}{}, c.conf.Registry.Unlock(r.Context(), by(r), id, in.Reason)
}

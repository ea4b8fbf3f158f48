// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sdbox/gateway/store"
	"sdbox/gateway/store/storetest"
	"sdbox/internal/ident"

	"github.com/stretchr/testify/require"
)

const olga = "operator:olga"

// serverEnv names the folder of a PostgreSQL server; without it the tests run on SQLite.
const serverEnv = "SDBOX_REGISTRY_SERVER"

func open(t *testing.T) (*Registry, *store.Store) {
	t.Helper()
	dsn := filepath.Join(t.TempDir(), "house.db")
	if server := os.Getenv(serverEnv); server != "" {
		var err error
		dsn, err = storetest.Schema(t.Context(), server, "s"+strings.ToLower(ident.NewID().String()))
		require.NoError(t, err)
	}
	s, err := store.Open(t.Context(), dsn)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return New(s), s
}

// Every query of this package is one text for both engines.
func TestRegistryIsTheSameOnPostgreSQL(t *testing.T) {
	server, err := storetest.Start()
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Stop()) })
	t.Setenv(serverEnv, server.Dir())
	for name, test := range map[string]func(*testing.T){
		"WhatIsAddedIsFoundAndAudited":    TestWhatIsAddedIsFoundAndAudited,
		"InnerAddressIsNeverGivenTwice":   TestInnerAddressIsNeverGivenTwice,
		"BoxKeepsItsAttestationKey":       TestBoxKeepsItsAttestationKey,
		"RevokedCardStaysRevoked":         TestRevokedCardStaysRevoked,
		"LockIsInForceUntilLiftedOrEnded": TestLockIsInForceUntilLiftedOrEnded,
		"MembershipIsExtendedAndRemoved":  TestMembershipIsExtendedAndRemoved,
		"RowsThatDoNotReadWellAreRefused": TestRowsThatDoNotReadWellAreRefused,
	} {
		t.Run(name, test)
	}
}

// last reads the newest audit row and the event that came with it.
func last(t *testing.T, s *store.Store) (leaf store.Leaf, event store.Event) {
	t.Helper()
	rows, err := s.Audit(t.Context(), store.AuditFilter{Newest: true, Limit: 1})
	require.NoError(t, err)
	require.Len(t, rows, 1)
	require.NoError(t, json.Unmarshal(rows[0].Leaf, &leaf))
	for e, err := range s.Watch(t.Context(), leaf.Seq-1) {
		require.NoError(t, err)
		return leaf, e
	}
	return leaf, event
}

func presenceKey(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	require.NoError(t, err)
	return der
}

func person() Person { return Person{Name: "Zoé Martin", Language: "fr"} }

func box(serial string, ek byte) Box {
	return Box{Serial: serial, EK: [32]byte{ek}, Model: "SDBOX-1", Country: "FR", Site: "Paris, tour 2", Outer: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}
}

func bubble(name string) Bubble {
	return Bubble{Name: name, Title: "Épidémies", Colour: 0x336699, Address: "[fd00::1]:7443", Countries: []string{"FR", "BE"}, Closes: 2000}
}

func TestWhatIsAddedIsFoundAndAudited(t *testing.T) {
	r, s := open(t)
	p, err := r.AddPerson(t.Context(), olga, person())
	require.NoError(t, err)
	leaf, event := last(t, s)
	require.Equal(t, "person.add", leaf.Action)
	require.Equal(t, olga, leaf.Actor)
	require.Equal(t, PersonName(p.ID), leaf.Object)
	require.NotContains(t, leaf.Fields, "name", "a name is a commitment in the log")
	require.Contains(t, leaf.Personal, "name")
	require.Equal(t, []string{PersonName(p.ID)}, event.Touches)
	found, err := r.Person(t.Context(), p.ID)
	require.NoError(t, err)
	require.Equal(t, p, found)

	c, err := r.AddCard(t.Context(), olga, Card{GUID: ident.GUID{1}, Person: p.ID, Certificate: [32]byte{2}, Presence: presenceKey(t)})
	require.NoError(t, err)
	require.Equal(t, Valid, c.State)
	card, holder, err := r.Holder(t.Context(), c.GUID)
	require.NoError(t, err)
	require.Equal(t, c, card)
	require.Equal(t, p, holder)

	b, err := r.AddBox(t.Context(), olga, box("PARIS-0042", 1))
	require.NoError(t, err)
	for name, find := range map[string]func() (Box, error){
		"serial": func() (Box, error) { return r.Box(t.Context(), "PARIS-0042") },
		"EK":     func() (Box, error) { return r.BoxByEK(t.Context(), b.EK) },
	} {
		found, err := find()
		require.NoError(t, err, name)
		require.Equal(t, b, found, name)
	}

	bub, err := r.AddBubble(t.Context(), olga, bubble("epi"))
	require.NoError(t, err)
	m, err := r.AddMembership(t.Context(), olga, Membership{Person: p.ID, Bubble: "epi", Account: "zoe", Until: 1000})
	require.NoError(t, err)
	_, event = last(t, s)
	require.Equal(t, []string{BubbleName("epi"), PersonName(p.ID)}, event.Touches)
	projects, err := r.Projects(t.Context(), p.ID)
	require.NoError(t, err)
	require.Equal(t, []Project{{bub, m}}, projects)
	one, err := r.Project(t.Context(), p.ID, "epi")
	require.NoError(t, err)
	require.Equal(t, projects[0], one)

	f, err := r.AddReference(t.Context(), olga, Reference{Name: "image-1", Model: "SDBOX-1", Note: []byte("a note")})
	require.NoError(t, err)
	notes, err := r.References(t.Context(), "SDBOX-1")
	require.NoError(t, err)
	require.Equal(t, []Reference{f}, notes)
	none, err := r.References(t.Context(), "SDBOX-2")
	require.NoError(t, err)
	require.Empty(t, none)
	require.NoError(t, r.RetireReference(t.Context(), olga, "image-1", "superseded"))
	require.ErrorIs(t, r.RetireReference(t.Context(), olga, "image-1", "superseded"), store.ErrNotFound)
	none, err = r.References(t.Context(), "")
	require.NoError(t, err)
	require.Empty(t, none)

	seq, err := s.Last(t.Context())
	require.NoError(t, err)
	require.Equal(t, int64(8), seq, "person, card, network, box, bubble, membership, reference, retired; a refused change has no row")
}

func TestInnerAddressIsNeverGivenTwice(t *testing.T) {
	r, s := open(t)
	n, err := r.Network(t.Context(), "gateway:gw1")
	require.NoError(t, err)
	require.Equal(t, 48, n.Prefix.Bits())
	require.True(t, netip.MustParsePrefix("fd00::/8").Contains(n.Prefix.Addr()))
	again, err := r.Network(t.Context(), "gateway:gw1")
	require.NoError(t, err)
	require.Equal(t, n, again)
	other, _ := open(t)
	elsewhere, err := other.Network(t.Context(), "gateway:gw1")
	require.NoError(t, err)
	require.NotEqual(t, n.Prefix, elsewhere.Prefix)

	seen := map[netip.Addr]bool{n.Gateway: true}
	for i, serial := range []string{"BOX-1", "BOX-2", "BOX-3", "BOX-4"} {
		b, err := r.AddBox(t.Context(), olga, box(serial, byte(i+1)))
		require.NoError(t, err)
		require.True(t, n.Prefix.Contains(b.Address))
		require.False(t, seen[b.Address])
		seen[b.Address] = true
		require.NoError(t, r.RetireBox(t.Context(), olga, serial, "broken"))
		require.NoError(t, s.Change(t.Context(), store.Entry{Actor: olga, Action: "box.delete", Object: BoxName(serial)}, func(tx *store.Tx) error {
			return tx.ExecOne(`DELETE FROM box WHERE serial = $1`, serial)
		}))
	}
}

func TestBoxKeepsItsAttestationKey(t *testing.T) {
	r, _ := open(t)
	_, err := r.AddBox(t.Context(), olga, box("PARIS-0042", 1))
	require.NoError(t, err)
	_, err = r.AddBox(t.Context(), olga, box("PARIS-0043", 1))
	require.ErrorIs(t, err, store.ErrExists, "one TPM, two boxes")
	ak := append([]byte{0, 11}, make([]byte, 32)...)
	require.NoError(t, r.EnrolBox(t.Context(), "gateway:gw1", "PARIS-0042", ak, [32]byte{1}))
	require.NoError(t, r.EnrolBox(t.Context(), "gateway:gw1", "PARIS-0042", ak, [32]byte{2}), "a renewed certificate")
	b, err := r.Box(t.Context(), "PARIS-0042")
	require.NoError(t, err)
	require.Equal(t, Enrolled, b.State)
	require.Equal(t, ak, b.AK)
	require.Equal(t, byte(2), b.Device[0])
	require.ErrorIs(t, r.EnrolBox(t.Context(), "gateway:gw1", "PARIS-0042", append([]byte{0, 11, 9}, make([]byte, 31)...), [32]byte{3}), store.ErrConflict)
	require.ErrorIs(t, r.EnrolBox(t.Context(), "gateway:gw1", "NOBODY", ak, [32]byte{3}), store.ErrNotFound)
	require.NoError(t, r.RetireBox(t.Context(), olga, "PARIS-0042", "stolen"))
	require.ErrorIs(t, r.EnrolBox(t.Context(), "gateway:gw1", "PARIS-0042", ak, [32]byte{3}), store.ErrConflict)
}

func TestRevokedCardStaysRevoked(t *testing.T) {
	r, s := open(t)
	p, err := r.AddPerson(t.Context(), olga, person())
	require.NoError(t, err)
	c, err := r.AddCard(t.Context(), olga, Card{GUID: ident.GUID{1}, Person: p.ID, Certificate: [32]byte{2}, Presence: presenceKey(t)})
	require.NoError(t, err)
	require.NoError(t, r.SetCard(t.Context(), olga, c.GUID, Locked, "lost for an hour"))
	require.NoError(t, r.SetCard(t.Context(), olga, c.GUID, Valid, "found"))
	require.NoError(t, r.SetCard(t.Context(), olga, c.GUID, Revoked, "lost for good"))
	leaf, event := last(t, s)
	require.Equal(t, "card.revoked", leaf.Action)
	require.Equal(t, "lost for good", leaf.Fields["reason"])
	require.Equal(t, []string{CardName(c.GUID), PersonName(p.ID)}, event.Touches)
	require.ErrorIs(t, r.SetCard(t.Context(), olga, c.GUID, Valid, "found after all"), store.ErrConflict)
	require.ErrorIs(t, r.SetCard(t.Context(), olga, ident.GUID{9}, Locked, "x"), store.ErrNotFound)
	require.Error(t, r.SetCard(t.Context(), olga, c.GUID, Revoked, ""), "a reason is asked for")
}

func TestLockIsInForceUntilLiftedOrEnded(t *testing.T) {
	r, s := open(t)
	_, err := r.AddBox(t.Context(), olga, Box{Serial: "PARIS-0042", EK: [32]byte{1}, Model: "lab", Country: "FR", Site: "Paris"})
	require.NoError(t, err)
	_, err = r.AddBubble(t.Context(), olga, Bubble{Name: "epi", Title: "Epi", Address: "epi:7443"})
	require.NoError(t, err)
	for _, nothing := range []string{"box:PARIS-42", "box:paris-0042", "site:paris", "person:" + ident.NewID().String(), "card:" + ident.GUID{1}.String(), "bubble:Epi",
		"certificate:" + strings.Repeat("ab", 32)} {
		_, err := r.Lock(t.Context(), olga, Lock{Target: nothing, Message: "stolen"})
		require.ErrorIs(t, err, store.ErrNotFound, nothing)
	}
	l, err := r.Lock(t.Context(), olga, Lock{Target: "box:PARIS-0042", Message: "stolen"})
	require.NoError(t, err)
	_, event := last(t, s)
	require.Equal(t, []string{"box:PARIS-0042"}, event.Touches)
	short, err := r.Lock(t.Context(), olga, Lock{Target: "bubble:epi", Message: "maintenance", Ends: time.Now().Add(time.Hour).UnixMilli()})
	require.NoError(t, err)
	inForce, err := r.LocksOn(t.Context(), "person:x", "box:PARIS-0042")
	require.NoError(t, err)
	require.Equal(t, []Lock{l}, inForce)
	none, err := r.LocksOn(t.Context())
	require.NoError(t, err)
	require.Empty(t, none)
	all, err := r.Locks(t.Context())
	require.NoError(t, err)
	require.Len(t, all, 2)

	require.NoError(t, r.Unlock(t.Context(), olga, l.ID, "found"))
	_, event = last(t, s)
	require.Contains(t, event.Touches, "box:PARIS-0042")
	require.ErrorIs(t, r.Unlock(t.Context(), olga, l.ID, "again"), store.ErrNotFound)
	all, err = r.Locks(t.Context())
	require.NoError(t, err)
	require.Equal(t, []Lock{short}, all)
	for _, target := range []string{"", "box", "box:", "moon:full", "certificate:AB", "box:" + strings.Repeat("x", 300)} {
		_, err := r.Lock(t.Context(), olga, Lock{Target: target, Message: "x"})
		require.Error(t, err, target)
	}
	_, err = r.Lock(t.Context(), olga, Lock{Target: "box:A1", Message: "x", Ends: 1})
	require.Error(t, err, "ended before it began")
}

func TestMembershipIsExtendedAndRemoved(t *testing.T) {
	r, _ := open(t)
	p, err := r.AddPerson(t.Context(), olga, person())
	require.NoError(t, err)
	q, err := r.AddPerson(t.Context(), olga, person())
	require.NoError(t, err)
	for place, name := range []string{"zeta", "epi"} {
		b := bubble(name)
		b.Place = int64(place)
		_, err = r.AddBubble(t.Context(), olga, b)
		require.NoError(t, err)
		_, err = r.AddMembership(t.Context(), olga, Membership{Person: p.ID, Bubble: name, Account: "zoe", Until: 1000})
		require.NoError(t, err)
	}
	_, err = r.AddMembership(t.Context(), olga, Membership{Person: p.ID, Bubble: "epi", Account: "zoe", Until: 9000, Role: "lead"})
	require.NoError(t, err)
	projects, err := r.Projects(t.Context(), p.ID)
	require.NoError(t, err)
	require.Len(t, projects, 2)
	require.Equal(t, "zeta", projects[0].Bubble.Name, "in the order of the site")
	require.Equal(t, int64(9000), projects[1].Membership.Until)
	require.Equal(t, "lead", projects[1].Membership.Role)

	_, err = r.AddMembership(t.Context(), olga, Membership{Person: q.ID, Bubble: "epi", Account: "zoe"})
	require.ErrorIs(t, err, store.ErrExists, "two people under one account")
	_, err = r.AddMembership(t.Context(), olga, Membership{Person: q.ID, Bubble: "none", Account: "quentin"})
	require.ErrorIs(t, err, store.ErrNotFound)
	_, err = r.AddMembership(t.Context(), olga, Membership{Person: ident.ID{9}, Bubble: "epi", Account: "quentin"})
	require.ErrorIs(t, err, store.ErrConflict, "a person nobody knows")
	require.NoError(t, r.RemoveMembership(t.Context(), olga, p.ID, "epi", "left the project"))
	_, err = r.Project(t.Context(), p.ID, "epi")
	require.ErrorIs(t, err, store.ErrNotFound)
}

func TestRowsThatDoNotReadWellAreRefused(t *testing.T) {
	r, s := open(t)
	ctx := t.Context()
	key := presenceKey(t)
	changed := func(b Box, f func(*Box)) Box { f(&b); return b }
	spoilt := func(f func(*Bubble)) Bubble { b := bubble("epi"); f(&b); return b }
	for field, add := range map[string]func() error{
		"name: empty": func() error { _, err := r.AddPerson(ctx, olga, Person{Language: "fr"}); return err },
		"name: long": func() error {
			_, err := r.AddPerson(ctx, olga, Person{Name: strings.Repeat("x", 121), Language: "fr"})
			return err
		},
		"name: bidi": func() error {
			_, err := r.AddPerson(ctx, olga, Person{Name: "Ada\u202etxt", Language: "fr"})
			return err
		},
		"name: zero width": func() error { _, err := r.AddPerson(ctx, olga, Person{Name: "A\u200bda", Language: "fr"}); return err },
		"name: bytes":      func() error { _, err := r.AddPerson(ctx, olga, Person{Name: "\xff", Language: "fr"}); return err },
		"name: newline":    func() error { _, err := r.AddPerson(ctx, olga, Person{Name: "Ada\nBob", Language: "fr"}); return err },
		"language: de":     func() error { _, err := r.AddPerson(ctx, olga, Person{Name: "Ada", Language: "de"}); return err },
		"guid: zero": func() error {
			_, err := r.AddCard(ctx, olga, Card{Certificate: [32]byte{1}, Presence: key})
			return err
		},
		"certificate: none": func() error { _, err := r.AddCard(ctx, olga, Card{GUID: ident.GUID{1}, Presence: key}); return err },
		"presence: no key": func() error {
			_, err := r.AddCard(ctx, olga, Card{GUID: ident.GUID{1}, Certificate: [32]byte{1}, Presence: []byte{1}})
			return err
		},
		"serial: small": func() error { _, err := r.AddBox(ctx, olga, box("paris", 1)); return err },
		"ek: none":      func() error { _, err := r.AddBox(ctx, olga, box("PARIS-0042", 0)); return err },
		"country: France": func() error {
			_, err := r.AddBox(ctx, olga, changed(box("A1", 1), func(b *Box) { b.Country = "France" }))
			return err
		},
		"model: none": func() error {
			_, err := r.AddBox(ctx, olga, changed(box("A1", 1), func(b *Box) { b.Model = "" }))
			return err
		},
		"site: none": func() error {
			_, err := r.AddBox(ctx, olga, changed(box("A1", 1), func(b *Box) { b.Site = "" }))
			return err
		},
		"outer: host bits": func() error {
			_, err := r.AddBox(ctx, olga, changed(box("A1", 1), func(b *Box) { b.Outer[0] = netip.MustParsePrefix("192.0.2.1/24") }))
			return err
		},
		"outer: zero": func() error {
			_, err := r.AddBox(ctx, olga, changed(box("A1", 1), func(b *Box) { b.Outer[0] = netip.Prefix{} }))
			return err
		},
		"outer: many": func() error {
			_, err := r.AddBox(ctx, olga, changed(box("A1", 1), func(b *Box) { b.Outer = make([]netip.Prefix, 33) }))
			return err
		},
		"name: capitals": func() error { _, err := r.AddBubble(ctx, olga, bubble("EPI")); return err },
		"title: none":    func() error { _, err := r.AddBubble(ctx, olga, spoilt(func(b *Bubble) { b.Title = "" })); return err },
		"colour: big": func() error {
			_, err := r.AddBubble(ctx, olga, spoilt(func(b *Bubble) { b.Colour = 1 << 24 }))
			return err
		},
		"address: no port": func() error {
			_, err := r.AddBubble(ctx, olga, spoilt(func(b *Bubble) { b.Address = "epi" }))
			return err
		},
		"account: root user": func() error {
			_, err := r.AddBubble(ctx, olga, spoilt(func(b *Bubble) { b.Account = "Root;" }))
			return err
		},
		"countries: fr": func() error {
			_, err := r.AddBubble(ctx, olga, spoilt(func(b *Bubble) { b.Countries = []string{"fr"} }))
			return err
		},
		"until: before from": func() error { _, err := r.AddBubble(ctx, olga, spoilt(func(b *Bubble) { b.Opens = 3000 })); return err },
		"until: negative":    func() error { _, err := r.AddMembership(ctx, olga, Membership{Until: -1}); return err },
		"role: sentence":     func() error { _, err := r.AddMembership(ctx, olga, Membership{Role: "The Boss"}); return err },
		"note: none":         func() error { _, err := r.AddReference(ctx, olga, Reference{Name: "a", Model: "m"}); return err },
		"ak: none":           func() error { return r.EnrolBox(ctx, olga, "A1", nil, [32]byte{}) },
	} {
		var input *InputError
		require.ErrorAs(t, add(), &input, field)
		want, _, _ := strings.Cut(field, ":")
		require.Equal(t, want, input.Field, field)
	}
	seq, err := s.Last(ctx)
	require.NoError(t, err)
	require.Zero(t, seq)
}

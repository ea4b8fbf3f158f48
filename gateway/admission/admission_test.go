// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"sdbox/internal/ident"
	"sdbox/internal/refusal"
	"sdbox/pki/profile"

	"github.com/stretchr/testify/require"
)

var (
	noon = time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)
	ada  = ident.ID{1}
)

// good is a request nothing speaks against: Ada opens epi from France.
func good() Request {
	return Request{
		Now: noon, Action: Attach,
		Person:     &Person{ID: ada, Name: "Ada", Language: "en"},
		Card:       Card{GUID: ident.GUID{1}, State: CardValid, NotBefore: noon.AddDate(-1, 0, 0), NotAfter: noon.AddDate(1, 0, 0), Method: profile.FingerOnCard},
		Box:        Box{Serial: "PARIS-0042", Country: "FR", Site: "Paris", Attested: noon.Add(time.Hour)},
		Bubble:     &Bubble{Name: "epi", Title: "Épidémies", Countries: []string{"FR", "BE"}, Closes: noon.AddDate(2, 0, 0)},
		Membership: &Membership{Role: "researcher", From: noon.AddDate(-1, 0, 0), Until: noon.AddDate(1, 0, 0)},
	}
}

func shippedPolicies(t *testing.T) *Policies {
	t.Helper()
	p, err := Shipped()
	require.NoError(t, err)
	return p
}

func TestGoodRequestIsAllowedForAWhile(t *testing.T) {
	p := shippedPolicies(t)
	d := p.Decide(good())
	require.True(t, d.Allowed, "%+v", d)
	require.Equal(t, []string{"member"}, d.Policies)
	require.Equal(t, noon.Add(GrantLife), d.ValidUntil)

	login := good()
	login.Action, login.Bubble, login.Membership = Login, nil, nil
	d = p.Decide(login)
	require.True(t, d.Allowed, "%+v", d)
	require.Equal(t, []string{"login"}, d.Policies)

	for name, shorten := range map[string]func(*Request){
		"membership":  func(r *Request) { r.Membership.Until = noon.Add(time.Minute) },
		"project":     func(r *Request) { r.Bubble.Closes = noon.Add(time.Minute) },
		"card":        func(r *Request) { r.Card.NotAfter = noon.Add(time.Minute) },
		"attestation": func(r *Request) { r.Box.Attested = noon.Add(time.Minute) },
	} {
		r := good()
		shorten(&r)
		require.Equal(t, noon.Add(time.Minute), p.Decide(r).ValidUntil, name)
	}
}

func TestWhatSpeaksAgainstARequestRefusesIt(t *testing.T) {
	p := shippedPolicies(t)
	for _, c := range []struct {
		name      string
		change    func(*Request)
		code      refusal.Code
		params    map[string]string
		invariant string
		policies  []string
	}{
		{"no attestation result", func(r *Request) { r.Box.Attested = time.Time{} }, "B03", nil, "no attestation result", nil},
		{"result expired", func(r *Request) { r.Box.Attested = noon }, "B03", nil, "expired", nil},
		{"box revoked", func(r *Request) { r.Box.Revoked = true }, "B03", nil, "revoked", nil},
		{"box unknown", func(r *Request) { r.Box.Serial = "" }, "B03", nil, "unknown", nil},
		{"person unknown", func(r *Request) { r.Person = nil }, "C02", nil, "person is unknown", nil},
		{"card revoked", func(r *Request) { r.Card.State, r.Card.Changed = CardRevoked, noon.AddDate(0, 0, -3) }, "C12", map[string]string{"date": "2026-06-28"}, "revoked", nil},
		{"card revoked, person gone", func(r *Request) { r.Card.State, r.Person = CardRevoked, nil }, "C12", nil, "revoked", nil},
		{"card locked", func(r *Request) { r.Card.State = CardLocked }, "C05", nil, "locked", nil},
		{"card without a state", func(r *Request) { r.Card.State = "" }, "C02", nil, "unknown", nil},
		{"no method", func(r *Request) { r.Card.Method = "" }, "C02", nil, "no method", nil},
		{"certificate ended", func(r *Request) { r.Card.NotAfter = noon.AddDate(0, -1, 0) }, "C11", map[string]string{"date": "2026-06-01"}, "validity", nil},
		{"certificate to come", func(r *Request) { r.Card.NotBefore = noon.Add(time.Second) }, "C11", map[string]string{"date": "2027-07-01"}, "validity", nil},
		{"certificate without end", func(r *Request) { r.Card.NotAfter = time.Time{} }, "C11", nil, "validity", nil},
		{"no bubble", func(r *Request) { r.Bubble = nil }, "G09", nil, "no bubble", nil},
		{"no time", func(r *Request) { r.Now = time.Time{} }, "G09", nil, "no time", nil},
		{"unknown action", func(r *Request) { r.Action = "look" }, "G09", nil, "no known action", nil},

		{"card under a lock", lock("card:01000000-0000-0000-0000-000000000000"), "C05", nil, "lock on card", nil},
		{"person under a lock", lock("person:" + ada.String()), "C05", nil, "lock on person", nil},
		{"certificate under a lock", lock("certificate:00"), "C05", nil, "lock on certificate", nil},
		{"box under a lock", lock("box:PARIS-0042"), "B03", nil, "lock on box", nil},
		{"site under a lock", lock("site:Paris"), "B03", nil, "lock on site", nil},
		{"bubble under a lock", lock("bubble:epi"), "U02", map[string]string{"bubble": "Épidémies", "since": "2026-07-01T10:12:00Z"}, "lock on bubble", nil},
		{"a lock we cannot place", lock("moon:full"), "G09", nil, "lock on moon", nil},
		{"someone else's lock", lock("person:" + ident.ID{2}.String()), "G09", nil, "lock on person", nil},

		{"no member", func(r *Request) { r.Membership = nil }, "P02", map[string]string{"project": "Épidémies", "countries": "BE,FR", "here": "FR"}, "", []string{"not-a-member"}},
		{"membership ended", func(r *Request) { r.Membership.Until = noon }, "P02", map[string]string{"project": "Épidémies", "countries": "BE,FR", "here": "FR", "date": "2026-07-01"}, "", []string{"membership-window"}},
		{"membership to come", func(r *Request) { r.Membership.From = noon.Add(time.Second) }, "P02", nil, "", []string{"membership-window"}},
		{"project ended at midnight", func(r *Request) { r.Bubble.Closes = noon.Truncate(24 * time.Hour) }, "P02",
			map[string]string{"project": "Épidémies", "countries": "BE,FR", "here": "FR", "date": "2026-06-30"}, "", []string{"project-window"}},
		{"not from here", func(r *Request) { r.Box.Country = "NL" }, "P05", map[string]string{"project": "Épidémies", "countries": "BE,FR", "here": "NL"}, "", []string{"country"}},
		{"ended, and not from here", func(r *Request) { r.Box.Country, r.Membership.Until = "NL", noon }, "P02", nil, "", []string{"membership-window", "country"}},
		{"box without a country", func(r *Request) { r.Box.Country = "" }, "P05", nil, "", []string{"country"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := good()
			c.change(&r)
			d := p.Decide(r)
			require.False(t, d.Allowed)
			require.Zero(t, d.ValidUntil)
			require.Empty(t, d.Errors)
			require.Equal(t, c.code, d.Refusal.Code)
			require.Len(t, d.Refusal.Suffix, 3)
			if c.params != nil {
				require.Equal(t, c.params, d.Refusal.Params)
			}
			require.Contains(t, d.Invariant, c.invariant)
			require.Equal(t, c.invariant == "", d.Invariant == "")
			require.Equal(t, c.policies, d.Policies)
		})
	}
}

func lock(target string) func(*Request) {
	return func(r *Request) {
		r.Locks = append(r.Locks, Lock{Target: "bubble:econ"}, Lock{Target: target, Since: time.Date(2026, 7, 1, 10, 12, 0, 0, time.UTC)})
	}
}

func TestOtherProjectsStayOpen(t *testing.T) {
	p := shippedPolicies(t)
	r := good()
	r.Bubble.Countries = nil
	r.Box.Country = "NL"
	require.True(t, p.Decide(r).Allowed, "a bubble without a country rule")
	r = good()
	r.Locks = []Lock{{Target: "bubble:econ"}}
	require.True(t, p.Decide(r).Allowed, "a lock on another bubble")
	r = good()
	r.Bubble.Closes, r.Membership.Until, r.Membership.From = time.Time{}, time.Time{}, time.Time{}
	require.True(t, p.Decide(r).Allowed, "open ends")
}

func load(t *testing.T, text string) *Policies {
	t.Helper()
	house, err := shipped.ReadFile("policies/house.cedar")
	require.NoError(t, err)
	p, err := Load(fstest.MapFS{"house.cedar": {Data: house}, "site.cedar": {Data: []byte(text)}})
	require.NoError(t, err)
	return p
}

func TestPolicyThatCannotBeEvaluatedRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"forbid reads what is not there":  `@id("x") forbid (principal, action, resource) when { context.training.until < context.now };`,
		"permit reads what is not there":  `@id("x") permit (principal, action, resource) when { principal.age > 3 };`,
		"types that do not go together":   `@id("x") forbid (principal, action, resource) when { context.now < 5 };`,
		"an entity nobody knows is asked": `@id("x") forbid (principal, action, resource) when { Person::"nobody".name == "x" };`,
	} {
		d := load(t, text).Decide(good())
		require.False(t, d.Allowed, name)
		require.Equal(t, refusal.OurFault, d.Refusal.Code, name)
		require.Len(t, d.Errors, 1, name)
		require.Contains(t, d.Errors[0], "policy x:", name)
	}
}

func TestSitePolicySpeaksWithItsOwnIDAndCode(t *testing.T) {
	p := load(t, `@id("pin-not-for-epi") @refusal("C02") forbid (principal, action == Action::"attach", resource == Bubble::"epi") when { context.method == "pin" };
		@id("weekend") forbid (principal, action, resource) when { context.box.site == "Lyon" };`)
	require.True(t, p.Decide(good()).Allowed)
	r := good()
	r.Card.Method = profile.PIN
	d := p.Decide(r)
	require.Equal(t, refusal.CardForeign, d.Refusal.Code)
	require.Equal(t, []string{"pin-not-for-epi"}, d.Policies)
	r = good()
	r.Box.Site = "Lyon"
	d = p.Decide(r)
	require.False(t, d.Allowed)
	require.Equal(t, refusal.ProjectEnded, d.Refusal.Code, "a forbid without a code")
	require.Equal(t, []string{"weekend"}, d.Policies)
	r.Action = Login
	require.Equal(t, refusal.CardForeign, p.Decide(r).Refusal.Code)
}

func TestNoPolicyRelaxesAnInvariant(t *testing.T) {
	p, err := Load(fstest.MapFS{"all.cedar": {Data: []byte(`@id("all") permit (principal, action, resource);`)}})
	require.NoError(t, err)
	r := good()
	require.True(t, p.Decide(r).Allowed)
	r.Card.State = CardRevoked
	require.Equal(t, refusal.CardRevoked, p.Decide(r).Refusal.Code)
}

func TestPolicyFilesThatCouldNotSpeakAreRefusedAtLoad(t *testing.T) {
	for name, text := range map[string]string{
		"no policies: syntax":  `permit (principal`,
		"no id":                `permit (principal, action, resource);`,
		"an id with spaces":    `@id("a b") permit (principal, action, resource);`,
		"one id twice":         `@id("a") permit (principal, action, resource); @id("a") forbid (principal, action, resource);`,
		"a code of no list":    `@id("a") @refusal("P99") forbid (principal, action, resource);`,
		"a code on a permit":   `@id("a") @refusal("P02") permit (principal, action, resource);`,
		"longer than the most": "//" + strings.Repeat("x", maxPolicyFile),
	} {
		_, err := Load(fstest.MapFS{"a.cedar": {Data: []byte(text)}})
		require.ErrorContains(t, err, "a.cedar", name)
	}
	_, err := Load(fstest.MapFS{"a.txt": {Data: []byte("x")}})
	require.ErrorContains(t, err, "no *.cedar file")
}

func FuzzLoad(f *testing.F) {
	house, err := shipped.ReadFile("policies/house.cedar")
	require.NoError(f, err)
	f.Add(string(house))
	f.Add(`@id("x") forbid (principal, action, resource) when { context.a.b like "*" };`)
	one := `@id("x") permit (principal, action, resource);`
	f.Add(one)
	f.Add(one + one)
	f.Add(string(house) + `@id("closed") @refusal("P05") forbid (principal, action, resource);` + `@id("shut") forbid (principal, action, resource);`)
	f.Add(`@id("x") @refusal("Z99") forbid (principal, action, resource);`)
	f.Add(`permit (principal, action, resource);`)
	f.Add(`permit (`)
	f.Add(strings.Repeat(" ", maxPolicyFile+1))
	f.Fuzz(func(t *testing.T, text string) {
		p, err := Load(fstest.MapFS{"a.cedar": {Data: []byte(text)}})
		if err != nil {
			return
		}
		r := good()
		if d := p.Decide(r); d.Allowed && (len(d.Errors) > 0 || d.ValidUntil.IsZero() || len(d.Policies) == 0) {
			t.Fatalf("allowed for no reason: %+v", d)
		}
		r.Box.Attested = time.Time{}
		if p.Decide(r).Allowed {
			t.Fatal("a policy file opened a box without an attestation result")
		}
	})
}

// SPDX-License-Identifier: Apache-2.0

package session

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"sdbox/gateway/registry"
	"sdbox/gateway/store"
	"sdbox/internal/ident"
	"sdbox/internal/refusal"
	"sdbox/internal/wire"

	"github.com/stretchr/testify/require"
)

// working is a box with a person at work in epi.
func (h *house) working() *testBox {
	b := h.boot(1)
	b.finger(h.card)
	b.attach("epi", 1)
	expect[*wire.Attached](b)
	b.sees("epi", 1)
	return b
}

func TestSessionComesBackWithoutAFingerAfterTheGatewayWasKilled(t *testing.T) {
	h := newHouse(t)
	b := h.working()
	h.kill()
	waitFor(t, "another run of the gateway knows the session", func() bool { return slices.Equal(h.states(), []string{"PARIS-1 suspended "}) })

	c := h.boot(1)
	resume := c.again(b, h.card)
	c.send(resume)
	list := expect[*wire.Bubbles](c)
	require.Equal(t, b.grant.Epoch+1, list.Grant.Epoch, "whoever held the session before holds nothing any more")
	require.NotEmpty(t, list.Grant.Statement)
	c.offer()
	c.attach("epi", 7)
	require.Equal(t, &wire.Attached{Bubble: "epi", Stream: 7}, expect[*wire.Attached](c))
	c.sees("epi", 7)
	require.Equal(t, []string{"PARIS-1 active epi"}, h.states())
	require.Contains(t, h.audit(b.person.Session), "login.resumed box:PARIS-1")
	require.Contains(t, h.audit(b.person.Session), "session.take box:PARIS-1")

	c.send(&wire.Presence{Session: b.person.Session, Nonce: list.Grant.Nonce, Signature: c.presence(h.card, list.Grant.Nonce, b.person.Session[:])})
	require.Equal(t, list.Grant.Epoch, expect[*wire.Grant](c).Epoch, "it is renewed as any other")

	// And it comes back again, with the epoch it has now, when only the link is cut.
	require.NoError(t, c.line.Close())
	c.grant = list.Grant
	d := h.boot(1)
	b.grant = list.Grant
	d.send(d.again(b, h.card))
	require.Equal(t, b.grant.Epoch+1, expect[*wire.Bubbles](d).Grant.Epoch)
}

// Each is wrong in one way, and none gets a session; afterwards the right one does.
func TestOnlyTheSameCardBoxAndLoginComeBack(t *testing.T) {
	h := newHouse(t)
	b := h.working()
	other := h.newCard("Marie Martin") // her second card
	h.register(other, h.person.ID)
	require.NoError(t, b.line.Close())
	waitFor(t, "the session is suspended", func() bool { return slices.Equal(h.states(), []string{"PARIS-1 suspended "}) })
	for name, spoil := range map[string]func(*testBox, *wire.Resume){
		"session":            func(_ *testBox, m *wire.Resume) { m.Session = ident.NewID() },
		"no session":         func(_ *testBox, m *wire.Resume) { m.Session = ident.ID{} },
		"epoch":              func(_ *testBox, m *wire.Resume) { m.Epoch++ },
		"no epoch":           func(_ *testBox, m *wire.Resume) { m.Epoch = 0 },
		"transcript":         func(_ *testBox, m *wire.Resume) { m.Transcript[0]++ },
		"no transcript":      func(_ *testBox, m *wire.Resume) { m.Transcript = nil },
		"nonce":              func(_ *testBox, m *wire.Resume) { m.Nonce[0]++ },
		"presence at a card": func(b *testBox, m *wire.Resume) { m.Presence = b.presence(h.card, m.Nonce, nil) },
		"no presence":        func(_ *testBox, m *wire.Resume) { m.Presence = nil },
		"certificate":        func(_ *testBox, m *wire.Resume) { m.Certificate = other.certificate },
		"another card of hers": func(b *testBox, m *wire.Resume) {
			m.Certificate, m.Presence = other.certificate, b.presence(other, m.Nonce, m.Session[:])
		},
	} {
		c := h.boot(1)
		m := c.again(b, h.card)
		spoil(c, m)
		c.send(m)
		require.Equal(t, wire.TypeOf(m), expect[*wire.Refused](c).Re, name)
		require.Equal(t, []string{"PARIS-1 suspended "}, h.states(), name)
		require.NoError(t, c.line.Close())
	}
	c := h.boot(2)
	c.send(c.again(b, h.card))
	require.Equal(t, refusal.LinkLost, expect[*wire.Refused](c).Refusal.Code, "another box asks for a finger")
	c = h.boot(1)
	m := c.again(b, h.card)
	c.send(m)
	expect[*wire.Bubbles](c)
	c.send(m) // once more, in a session: a stray
	require.NoError(t, c.line.Close())
	waitFor(t, "the session is suspended", func() bool { return slices.Equal(h.states(), []string{"PARIS-1 suspended "}) })
	c = h.boot(1)
	c.send(c.again(b, h.card))
	require.Equal(t, refusal.LinkLost, expect[*wire.Refused](c).Refusal.Code, "with the epoch of an owner before")
}

// A card that was out, a session whose time is over, one that an operator ended meanwhile and a right that is gone: a finger is asked.
func TestSessionThatWasLeftDoesNotComeBackWithoutAFinger(t *testing.T) {
	h := newHouse(t)
	refused := func(old *testBox, code refusal.Code) {
		t.Helper()
		c := h.boot(1)
		c.send(c.again(old, h.card))
		r := expect[*wire.Refused](c)
		require.Equal(t, code, r.Refusal.Code)
		rows, err := h.store.Audit(t.Context(), store.AuditFilter{Code: r.Refusal.Error()})
		require.NoError(t, err)
		require.Len(t, rows, 1)
		c.finger(h.card) // and the line is good for a login
		require.NoError(t, c.line.Close())
		waitFor(t, "the session is suspended", func() bool { return slices.Equal(h.states(), []string{"PARIS-1 suspended "}) })
	}
	b := h.working()
	b.send(&wire.Detach{Session: b.person.Session, Why: wire.CardOut})
	waitFor(t, "the session is suspended", func() bool { return slices.Equal(h.states(), []string{"PARIS-1 suspended "}) })
	require.NoError(t, b.line.Close())
	refused(b, refusal.LinkLost)
	h.kill()
	waitFor(t, "another run of the gateway knows the session", func() bool { return len(h.states()) == 1 })
	refused(b, refusal.LinkLost)

	b = h.working()
	require.NoError(t, b.line.Close())
	waitFor(t, "the session waits", func() bool { return h.waits(b) })
	h.server.mu.Lock()
	e := *h.server.entries[b.person.Session]
	e.back = time.Now().Add(-time.Second)
	h.server.entries[b.person.Session] = &e
	h.server.mu.Unlock()
	refused(b, refusal.LinkLost)

	b = h.working()
	require.NoError(t, b.line.Close())
	waitFor(t, "the session waits", func() bool { return h.waits(b) })
	require.NoError(t, h.server.Cut(t.Context(), b.person.Session, "operator:anna", "End of the day"))
	refused(b, refusal.LinkLost)

	b = h.working()
	require.NoError(t, b.line.Close())
	waitFor(t, "the session waits", func() bool { return h.waits(b) })
	lock, err := h.registry.Lock(t.Context(), "operator:test", registry.Lock{Target: registry.PersonName(h.person.ID), Message: "inquiry"})
	require.NoError(t, err)
	c := h.boot(1)
	c.send(c.again(b, h.card))
	expect[*wire.Refused](c)
	require.NoError(t, c.line.Close())
	require.NoError(t, h.registry.Unlock(t.Context(), "operator:test", lock.ID, "over"))
}

func (h *house) waits(b *testBox) bool {
	h.server.mu.Lock()
	defer h.server.mu.Unlock()
	e := h.server.entries[b.person.Session]
	return e != nil && e.line == nil
}

// Everything that ends a session ends it too while it is on its way back: the operator's cut finds it, whoever owns it then.
func TestCutFindsTheSessionThatIsComingBack(t *testing.T) {
	h := newHouse(t)
	b := h.working()
	require.NoError(t, b.line.Close())
	waitFor(t, "the session waits", func() bool { return h.waits(b) })
	c := h.boot(1)
	m := c.again(b, h.card)
	done := make(chan error, 1)
	go func() { done <- h.server.Cut(t.Context(), b.person.Session, "operator:anna", "End of the day") }()
	c.send(m)
	require.NoError(t, <-done)
	require.Empty(t, h.states())
	rows, err := h.store.Audit(t.Context(), store.AuditFilter{Session: b.person.Session, Newest: true, Limit: 1})
	require.NoError(t, err)
	var last store.Leaf
	require.NoError(t, json.Unmarshal(rows[0].Leaf, &last))
	require.Contains(t, []string{"session.ended", "session.refused"}, last.Action)
}

// SPDX-License-Identifier: Apache-2.0

package session

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"sdbox/gateway/registry"
	"sdbox/gateway/store"
	"sdbox/internal/refusal"
	"sdbox/internal/wire"

	"github.com/stretchr/testify/require"
)

// until sets when the right to a bubble ends.
func (h *house) until(bubble string, at time.Time) {
	h.t.Helper()
	_, err := h.registry.AddMembership(h.t.Context(), "operator:test", registry.Membership{Person: h.person.ID, Bubble: bubble, Account: "mmartin", Until: at.UnixMilli()})
	require.NoError(h.t, err)
}

// notice is the next one but for what is said of desktops that start.
func notice(b *testBox) *wire.Notice {
	for {
		if n := expect[*wire.Notice](b); n.Refusal == nil || n.Refusal.Code != refusal.BubbleStarting {
			return n
		}
	}
}

func TestRightThatEndsIsToldThenTakenOnTime(t *testing.T) {
	h := newHouse(t)
	told := func(b *testBox, minutes string) {
		t.Helper()
		n := notice(b)
		require.Equal(t, refusal.ProjectEnding, n.Refusal.Code)
		require.Equal(t, map[string]string{"project": "Epidemiology", "minutes": minutes}, n.Refusal.Params)
		rows, err := h.store.Audit(t.Context(), store.AuditFilter{Code: n.Refusal.Error()})
		require.NoError(t, err)
		require.Len(t, rows, 1)
	}
	h.until("epi", time.Now().Add(15*time.Minute+time.Second))
	b := h.boot(1)
	b.finger(h.card)
	b.attach("epi", 1)
	expect[*wire.Attached](b)
	told(b, "15") // at its time, not at the attach
	b.attach("econ", 2)
	expect[*wire.Attached](b)
	b.attach("epi", 3)
	expect[*wire.Attached](b)
	h.until("epi", time.Now().Add(time.Hour))      // made longer: the warnings begin anew
	h.until("epi", time.Now().Add(10*time.Minute)) // and shorter
	told(b, "10")
	h.until("epi", time.Now().Add(50*time.Second))
	told(b, "1")
	ends := time.Now().Add(time.Second)
	h.until("epi", ends)
	told(b, "1") // an earlier end is news
	r := expect[*wire.Refused](b)
	require.Equal(t, refusal.ProjectEnded, r.Refusal.Code)
	require.Equal(t, "epi", r.Bubble)
	require.False(t, time.Now().Before(ends), "taken too soon")
	require.False(t, slices.ContainsFunc(b.stash, func(m wire.Message) bool {
		n, is := m.(*wire.Notice)
		return is && n.Refusal.Code == refusal.ProjectEnding
	}), "each is said once")
	b.attach("epi", 4)
	require.Equal(t, refusal.ProjectEnded, expect[*wire.Refused](b).Refusal.Code)
	b.attach("econ", 5)
	require.Equal(t, &wire.Attached{Bubble: "econ", Stream: 5}, expect[*wire.Attached](b), "other bubbles stay open")
	b.sees("econ", 5)
}

func TestOperatorsMessageReachesTheScreenAndTheLog(t *testing.T) {
	h := newHouse(t)
	b := h.boot(1)
	b.identify(h.card)
	require.ErrorIs(t, h.server.Tell(t.Context(), b.person.Session, "operator:anna", "Nobody is logged in yet."), ErrAway)
	b.send(&wire.Login{Nonce: b.nonce, Signature: sign(t, h.card.auth, b.transcript(h.card))})
	expect[*wire.Bubbles](b)
	for i, text := range []string{"The centre closes at 20:00.", strings.Repeat("é", wire.MaxNotice/2)} {
		if i == 1 {
			b.attach("epi", 1)
			expect[*wire.Attached](b)
		}
		require.NoError(t, h.server.Tell(t.Context(), b.person.Session, "operator:anna", text))
		n := notice(b)
		require.Equal(t, text, n.Text)
		require.Nil(t, n.Refusal)
	}
	require.Contains(t, h.audit(b.person.Session), "session.message operator:anna")
	require.Error(t, h.server.Tell(t.Context(), b.person.Session, "operator:anna", ""))
	require.Error(t, h.server.Tell(t.Context(), b.person.Session, "operator:anna", strings.Repeat("x", wire.MaxNotice+1)))
	b.send(&wire.Detach{Session: b.person.Session, Why: wire.CardOut})
	waitFor(t, "the session is suspended", func() bool { return slices.Equal(h.states(), []string{"PARIS-1 suspended "}) })
	require.ErrorIs(t, h.server.Tell(t.Context(), b.person.Session, "operator:anna", "Hello?"), ErrAway)
	require.NoError(t, h.server.Cut(t.Context(), b.person.Session, "operator:anna", "End of the day"))
	require.ErrorIs(t, h.server.Tell(t.Context(), b.person.Session, "operator:anna", "Hello?"), ErrGone)
}

func TestPersonIsToldThatHerDesktopStarts(t *testing.T) {
	h := newHouse(t)
	b := h.boot(1)
	b.finger(h.card)
	waitFor(t, "the gateway knows where her desktops run", func() bool { return h.leaves() >= 4 })
	b.attach("epi", 1)
	n := expect[*wire.Notice](b)
	require.Equal(t, refusal.BubbleStarting, n.Refusal.Code)
	require.Equal(t, "20", n.Refusal.Params["seconds"])
	expect[*wire.Attached](b)
	b.attach("econ", 2)
	expect[*wire.Notice](b)
	expect[*wire.Attached](b)
	b.attach("epi", 3)
	expect[*wire.Attached](b)
	require.False(t, slices.ContainsFunc(b.stash, func(m wire.Message) bool { _, is := m.(*wire.Notice); return is }), "one that runs is just shown")
}

func TestPersonEndsHerDesktopFromTheList(t *testing.T) {
	h := newHouse(t)
	b := h.boot(1)
	b.finger(h.card)
	b.attach("epi", 1)
	expect[*wire.Attached](b)
	b.sees("epi", 1)
	b.send(&wire.EndDesktop{Session: b.person.Session, Bubble: "epi"}) // not while it is on the screen
	b.send(&wire.Detach{Session: b.person.Session, Why: wire.Menu})
	b.send(&wire.EndDesktop{Session: b.person.Session, Bubble: "old"})
	require.Equal(t, refusal.ProjectEnded, expect[*wire.Refused](b).Refusal.Code)
	require.NotNil(t, h.desktop("epi"))
	b.send(&wire.EndDesktop{Session: b.person.Session, Bubble: "epi"})
	b.lists(expect[*wire.Bubbles](b), "epi asleep", "econ asleep", "old refuses P02", "customs refuses P05")
	require.Nil(t, h.desktop("epi"))
	require.Contains(t, h.audit(b.person.Session), "desktop.end box:PARIS-1")
	b.attach("epi", 2)
	require.Equal(t, refusal.BubbleStarting, expect[*wire.Notice](b).Refusal.Code)
	expect[*wire.Attached](b)
	b.sees("epi", 2)
	b.send(&wire.Detach{Session: b.person.Session, Why: wire.Menu})
	h.mu.Lock()
	h.down["epi"] = errors.New("no route")
	h.mu.Unlock()
	b.send(&wire.EndDesktop{Session: b.person.Session, Bubble: "epi"})
	require.Equal(t, refusal.BubbleDown, expect[*wire.Refused](b).Refusal.Code)
}

// A bubble that died while another was on the screen opens at the next wish; the person reads nothing, for she has lost nothing.
func TestBubbleThatDiedUnseenOpensAgain(t *testing.T) {
	h := newHouse(t)
	b := h.working()
	b.attach("econ", 2)
	expect[*wire.Attached](b)
	b.sees("econ", 2)
	h.desktop("epi").Break(errors.New("connection reset"))
	b.attach("epi", 3)
	b.sees("epi", 3)
	h.desktop("epi").Break(errors.New("connection reset"))
	r := expect[*wire.Refused](b)
	require.Equal(t, refusal.BubbleDown, r.Refusal.Code, "one that dies on the screen is told")
	require.Equal(t, "epi", r.Bubble)
	b.attach("econ", 4)
	b.sees("econ", 4)
	b.attach("epi", 5)
	b.sees("epi", 5)
}

// SPDX-License-Identifier: Apache-2.0

package session

import (
	"encoding/json"
	"errors"
	"slices"
	"testing"

	"sdbox/gateway/registry"
	"sdbox/gateway/store"
	"sdbox/internal/refusal"
	"sdbox/internal/wire"

	"github.com/stretchr/testify/require"
)

// A finger may be quicker than the bubbles, a gateway may know nothing of the desktops after its return, and what a person may open
// changes while she looks: the list on the screen follows.
func TestListFollowsWhatRunsAndWhatIsAllowed(t *testing.T) {
	h := newHouse(t)
	b := h.working()
	b.lists(expect[*wire.Bubbles](b), "epi open", "econ asleep", "old refuses P02", "customs refuses P05")
	b.send(&wire.Detach{Session: b.person.Session, Why: wire.CardOut})
	quiet := make(chan struct{})
	h.mu.Lock()
	h.quiet = quiet
	h.mu.Unlock()
	b = h.boot(1)
	first := b.finger(h.card)
	require.Equal(t, "epi asleep", lines(first.List)[0], "nobody has answered yet")
	close(quiet)
	b.lists(first, "epi open", "econ asleep", "old refuses P02", "customs refuses P05")

	h.desktop("epi").Break(errors.New("ended")) // a desktop that is not on the screen may end unseen, until it is asked for
	b.attach("epi", 1)
	expect[*wire.Attached](b)
	h.desktop("epi").Break(errors.New("connection reset"))
	require.Equal(t, refusal.BubbleDown, expect[*wire.Refused](b).Refusal.Code)
	b.lists(expect[*wire.Bubbles](b), "epi asleep", "econ asleep", "old refuses P02", "customs refuses P05")

	require.NoError(t, h.registry.RemoveMembership(t.Context(), "operator:test", h.person.ID, "epi", "project moved"))
	b.lists(expect[*wire.Bubbles](b), "econ asleep", "old refuses P02", "customs refuses P05")
	_, err := h.registry.AddMembership(t.Context(), "operator:test", registry.Membership{Person: h.person.ID, Bubble: "epi", Account: "mmartin"})
	require.NoError(t, err)
	last := expect[*wire.Bubbles](b)
	require.Equal(t, []string{"epi asleep", "econ asleep", "old refuses P02", "customs refuses P05"}, lines(last.List))
	require.Equal(t, first.List[2].Refusal, last.List[2].Refusal, "what was refused before keeps its code")
	for _, line := range last.List[2:] {
		rows, err := h.store.Audit(t.Context(), store.AuditFilter{Code: line.Refusal.Error()})
		require.NoError(t, err)
		require.Len(t, rows, 1, "a code on the list is found in the log")
		var leaf store.Leaf
		require.NoError(t, json.Unmarshal(rows[0].Leaf, &leaf))
		require.Equal(t, line.Name, leaf.Fields["bubble"])
		require.NotEmpty(t, leaf.Fields["cause"])
	}
	require.Empty(t, b.stash)
}

func TestListOfASessionThatCameBackKnowsWhatRuns(t *testing.T) {
	h := newHouse(t)
	b := h.working()
	h.kill()
	waitFor(t, "another run of the gateway knows the session", func() bool { return slices.Equal(h.states(), []string{"PARIS-1 suspended "}) })
	live := h.server.Live()
	require.False(t, live[0].Lost.IsZero(), "its line is lost; the card is in")
	c := h.boot(1)
	c.send(c.again(b, h.card))
	c.lists(expect[*wire.Bubbles](c), "epi open", "econ asleep", "old refuses P02", "customs refuses P05")
}

// A bubble that says nothing is given up after its time, and holds up no other: neither the list nor the desktop that is asked for.
func TestSilentBubbleHoldsNobodyUp(t *testing.T) {
	h := newHouse(t)
	h.mu.Lock()
	h.quiet = make(chan struct{}) // for ever
	h.mu.Unlock()
	b := h.boot(1)
	b.finger(h.card)
	b.attach("epi", 1)
	require.Equal(t, &wire.Attached{Bubble: "epi", Stream: 1}, expect[*wire.Attached](b))
	b.sees("epi", 1)
	b.send(&wire.Detach{Session: b.person.Session, Why: wire.CardOut})
	waitFor(t, "the session is suspended", func() bool { return slices.Equal(h.states(), []string{"PARIS-1 suspended "}) })
	require.True(t, h.server.Live()[0].Lost.IsZero(), "the card is out: nothing is lost")
}

func TestWatchedSessionIsToldAndAudited(t *testing.T) {
	h := newHouse(t)
	b := h.working()
	id := b.person.Session
	watch := func(by string) func() error {
		t.Helper()
		stop, err := h.server.Watch(t.Context(), id, by)
		require.NoError(t, err)
		return stop
	}
	one := watch("operator:anna")
	require.Equal(t, &wire.Watched{Session: id, On: true}, expect[*wire.Watched](b))
	two, three := watch("operator:anna"), watch("operator:bea") // a second page, a second operator
	require.Equal(t, []string{"operator:anna", "operator:bea"}, h.server.Live()[0].Watchers)
	require.NoError(t, one())
	require.NoError(t, two())
	require.Equal(t, []string{"operator:bea"}, h.server.Live()[0].Watchers)

	require.NoError(t, b.line.Close()) // the page stays open over a lost line: the sign is there again
	waitFor(t, "the session waits", func() bool { return h.waits(b) })
	c := h.boot(1)
	c.send(c.again(b, h.card))
	require.Equal(t, &wire.Watched{Session: id, On: true}, expect[*wire.Watched](c))
	require.NoError(t, three())
	require.Equal(t, &wire.Watched{Session: id}, expect[*wire.Watched](c))
	last := watch("operator:anna")
	require.Equal(t, &wire.Watched{Session: id, On: true}, expect[*wire.Watched](c))
	require.NoError(t, h.server.Cut(t.Context(), id, "operator:anna", "End of the day"))
	require.NoError(t, last())
	_, err := h.server.Watch(t.Context(), id, "operator:anna")
	require.ErrorIs(t, err, ErrGone)
	var seen []string
	for _, row := range h.audit(id) {
		if row == "session.watched operator:anna" || row == "session.unwatched operator:anna" || row == "session.watched operator:bea" || row == "session.unwatched operator:bea" {
			seen = append(seen, row)
		}
	}
	require.Equal(t, []string{"session.watched operator:anna", "session.watched operator:bea", "session.unwatched operator:anna", "session.unwatched operator:bea",
		"session.watched operator:anna", "session.unwatched operator:anna"}, seen)
	require.Empty(t, h.server.watchers)
}

// SPDX-License-Identifier: Apache-2.0

package session

import (
	"fmt"
	"slices"
	"testing"

	"sdbox/gateway/desktop"
	"sdbox/gateway/registry"
	"sdbox/gateway/store"
	"sdbox/internal/ident"
	"sdbox/internal/refusal"
	"sdbox/internal/wire"

	"github.com/stretchr/testify/require"
)

// A hostile box says every message of the grammar in every state, with a session id of its own, of the session, and of nobody: it
// gets no pixel it has no right to, and the gateway goes on serving others.
func TestHostileBoxInEveryState(t *testing.T) {
	h := newHouse(t)
	stages := map[State]func(*testBox){
		Absent:     func(*testBox) {},
		Requested:  func(b *testBox) { b.identify(h.card) },
		Authorised: func(b *testBox) { b.finger(h.card) },
		Active: func(b *testBox) {
			b.finger(h.card)
			b.attach("epi", 1)
			expect[*wire.Attached](b)
		},
	}
	for _, stage := range []State{Absent, Requested, Authorised, Active} {
		for _, own := range []bool{true, false} {
			b := h.boot(1)
			stages[stage](b)
			opened := h.tokens
			id := ident.NewID()
			if own && b.person != nil {
				id = b.person.Session
			}
			for _, m := range hostile(id) {
				if b.line.Write(m) != nil {
					break // it was thrown out, which is an answer too
				}
			}
			b.line.Close()
			waitFor(t, "the line is over", func() bool { return len(active(h)) == 0 })
			h.mu.Lock()
			require.LessOrEqual(t, h.tokens-opened, allowed(stage, own), "state %q, own session %v", stage, own)
			require.Nil(t, h.desktops["old"], "a project that ended")
			require.Nil(t, h.desktops["customs"], "a project not allowed from here")
			h.mu.Unlock()
		}
	}
	b := h.boot(1)
	b.finger(h.card)
	b.attach("epi", 1)
	expect[*wire.Attached](b)
	b.sees("epi", 1)
}

// Who goes through many bubbles stays connected to so many of them: each is a picture in the gateway's memory.
func TestSessionKeepsSoManyDesktops(t *testing.T) {
	h := newHouse(t)
	names := []string{"epi", "econ"}
	for len(names) < maxDesks+2 {
		name := fmt.Sprintf("more-%d", len(names))
		_, err := h.registry.AddBubble(t.Context(), "operator:test", registry.Bubble{Name: name, Title: name, Address: "bubble.invalid:7443"})
		require.NoError(t, err)
		_, err = h.registry.AddMembership(t.Context(), "operator:test", registry.Membership{Person: h.person.ID, Bubble: name, Account: "mmartin"})
		require.NoError(t, err)
		names = append(names, name)
	}
	b := h.boot(1)
	b.finger(h.card)
	for i, name := range names {
		b.attach(name, uint16(i+1))
		expect[*wire.Attached](b)
	}
	closed := func(name string) bool { return h.desktop(name).Input(desktop.Input{Kind: desktop.ReleaseAll}) != nil }
	waitFor(t, "the oldest are let go", func() bool { return closed("epi") && closed("econ") })
	for _, name := range names[2:] {
		require.False(t, closed(name), name)
	}
	b.attach("epi", 100)
	expect[*wire.Attached](b)
	b.sees("epi", 100)
}

// A box that asks for one desktop after the other, each of another size, has few under way; one that comes back again and again does
// not fill the log.
func TestBoxThatAsksForTooMuchIsGivenUp(t *testing.T) {
	h := newHouse(t)
	slow := make(chan struct{})
	defer close(slow)
	h.mu.Lock()
	h.slow = slow
	h.mu.Unlock()
	b := h.boot(1)
	b.finger(h.card)
	for i := range 200 {
		if b.line.Write(&wire.Attach{Session: b.person.Session, Bubble: "epi", Stream: uint16(i + 1), Width: uint16(wide + i), Height: high}) != nil {
			break
		}
	}
	for range b.in { // until it is thrown out
	}
	h.mu.Lock()
	require.Equal(t, maxOpening, h.asked)
	h.mu.Unlock()
	rows := func() int {
		rows, err := h.store.Audit(t.Context(), store.AuditFilter{Object: "box:PARIS-1", Limit: 10000})
		require.NoError(t, err)
		return len(rows)
	}
	before := rows()
	for range 3 {
		again := h.boot(1)
		for range maxRefusals {
			if again.line.Write(&wire.Event{Refusal: refusal.Refusal{Code: refusal.CardForeign, Suffix: "7K2"}}) != nil {
				break
			}
		}
		for range again.in { // until it is thrown out
		}
	}
	require.Equal(t, before, rows())
}

func active(h *house) []Live {
	return slices.DeleteFunc(h.server.Live(), func(l Live) bool { return l.State == Suspended })
}

// allowed is how many desktops a box may open with these messages: none before a login, and none for a session that is not its own.
func allowed(s State, own bool) int {
	if own && (s == Authorised || s == Active) {
		return 1
	}
	return 0
}

// hostile is every message a box may send, in the order of the grammar and back, with contents that are wrong in some way.
func hostile(id ident.ID) []wire.Message {
	long := make([]byte, 200)
	list := []wire.Message{
		&wire.Hello{Version: wire.Version}, &wire.Beat{Seq: 1 << 60}, &wire.EnrolRequest{EKPublic: long}, &wire.EnrolAnswer{Secret: long[:32]},
		&wire.NonceRequest{}, &wire.Evidence{Quote: long, Signature: long}, &wire.CardIn{Certificate: long, Nonce: long[:32], Presence: long},
		&wire.Offer{SDP: "v=0\r\n", Fingerprint: long[:32]}, &wire.Offer{SDP: "", Fingerprint: nil}, &wire.Login{Nonce: long[:32], Signature: long[:72]},
		&wire.Attach{Session: id, Bubble: "old", Stream: 9, Width: wide, Height: high}, &wire.Attach{Session: id, Bubble: "customs", Stream: 10, Width: wide, Height: high},
		&wire.Attach{Session: id, Bubble: "../epi", Stream: 11, Width: wide, Height: high}, &wire.Attach{Session: id, Bubble: "econ", Stream: 12, Width: 1, Height: 65535},
		&wire.Attach{Session: id, Bubble: "econ", Stream: 13, Width: wide, Height: high, Layout: "fr; reboot -f now"}, &wire.Attach{Session: id, Bubble: "econ", Stream: 14, Width: wide, Height: high},
		&wire.Presence{Session: id, Nonce: long[:32], Signature: long}, &wire.Event{Session: id, Refusal: refusal.Refusal{Code: "X99", Suffix: "???"}},
		&wire.Event{Session: id, Refusal: refusal.Refusal{Code: "C03", Suffix: "7K2", Params: map[string]string{"left": "<script>"}}}, &wire.Detach{Session: id, Why: "never"},
		&wire.Detach{Session: id, Why: wire.Menu}, &wire.EndDesktop{Session: id, Bubble: "customs"}, &wire.EndDesktop{Session: id, Bubble: "../epi"},
		&wire.EndDesktop{Session: ident.NewID(), Bubble: "epi"},
		&wire.Resume{Session: id, Epoch: 1, Transcript: long[:32], Certificate: long, Nonce: long[:32], Presence: long}, &wire.Resume{Session: id, Epoch: 1 << 63},
	}
	back := slices.Clone(list)
	slices.Reverse(back)
	return append(list, back...)
}

// SPDX-License-Identifier: Apache-2.0

package session

import (
	"encoding/json"
	"errors"
	"flag"
	"net"
	"slices"
	"testing"
	"time"

	"sdbox/gateway/desktop"
	"sdbox/gateway/registry"
	"sdbox/gateway/store"
	"sdbox/internal/ident"
	"sdbox/internal/refusal"
	"sdbox/internal/stream"
	"sdbox/internal/wire"

	"github.com/stretchr/testify/require"
)

var updating = flag.Bool("update", false, "write golden files")

// waitFor polls a condition that another goroutine brings about.
func waitFor(t *testing.T, what string, is func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	late := time.After(10 * time.Second)
	for !is() {
		select {
		case <-tick.C:
		case <-late:
			require.Fail(t, "it did not happen: "+what)
		}
	}
}

func (h *house) states() []string {
	var list []string
	for _, l := range h.server.Live() {
		list = append(list, l.Box+" "+string(l.State)+" "+l.Bubble)
	}
	slices.Sort(list)
	return list
}

func TestDayFromCardToCut(t *testing.T) {
	h := newHouse(t)
	b := h.boot(1)
	list := b.finger(h.card)
	require.Equal(t, "Marie Martin", b.person.Name)
	require.Equal(t, []string{"epi asleep", "econ asleep", "old refuses P02", "customs refuses P05"}, lines(list.List))
	require.NotEmpty(t, list.Grant.Statement)

	b.attach("epi", 1)
	require.Equal(t, &wire.Attached{Bubble: "epi", Stream: 1}, expect[*wire.Attached](b))
	b.sees("epi", 1)
	h.desktop("epi").Draw(77)
	b.sees("epi", 1)

	require.NoError(t, b.media.SendInput(stream.Input{Stream: 1, Kind: stream.Key, Code: 0x1e, Down: true}))
	waitFor(t, "the key arrives", func() bool { return len(h.desktop("epi").Inputs()) == 1 })
	require.Equal(t, desktop.Input{Kind: desktop.Key, XT: 0x1e, Down: true}, h.desktop("epi").Inputs()[0])

	b.attach("econ", 2)
	expect[*wire.Attached](b)
	b.sees("econ", 2)
	require.Equal(t, desktop.ReleaseAll, h.desktop("epi").Inputs()[1].Kind)
	b.attach("epi", 3)
	expect[*wire.Attached](b)
	b.sees("epi", 3)
	require.Equal(t, 2, h.tokens, "the desktop that was left stays connected")
	require.Equal(t, []string{"PARIS-1 active epi"}, h.states())

	b.send(&wire.Detach{Session: b.person.Session, Why: wire.CardOut})
	waitFor(t, "the session is suspended", func() bool { return slices.Equal(h.states(), []string{"PARIS-1 suspended "}) })

	c := h.boot(2)
	c.lists(c.finger(h.card), "epi open", "econ open", "old refuses P02", "customs refuses P05")
	c.attach("epi", 1)
	expect[*wire.Attached](c)
	c.sees("epi", 1)
	require.Equal(t, []string{"AMS-2 active epi"}, h.states(), "the session that reported card-out is taken over in silence")

	require.NoError(t, h.server.Cut(t.Context(), c.person.Session, "operator:anna", "End of the day"))
	ended := expect[*wire.Ended](c)
	require.Equal(t, refusal.CutByOperator, ended.Refusal.Code)
	require.Equal(t, "End of the day", ended.Reason)
	require.Empty(t, h.states())
	require.ErrorIs(t, h.server.Cut(t.Context(), c.person.Session, "operator:anna", "again"), ErrGone)
	require.Contains(t, h.audit(c.person.Session), "session.ending operator:anna")
}

// lists waits until the box has this list: the one it was given, or the newest that it was sent since.
func (b *testBox) lists(m *wire.Bubbles, want ...string) {
	b.house.t.Helper()
	for !slices.Equal(lines(m.List), want) {
		m = expect[*wire.Bubbles](b)
		require.Nil(b.house.t, m.Grant.Statement, "the grant stands")
	}
}

func lines(list []wire.Bubble) []string {
	var out []string
	for _, b := range list {
		s := b.Name + " " + string(b.State)
		if b.Refusal != nil {
			s += " " + string(b.Refusal.Code)
		}
		out = append(out, s)
	}
	return out
}

func (h *house) audit(id ident.ID) []string {
	rows, err := h.store.Audit(h.t.Context(), store.AuditFilter{Session: id})
	require.NoError(h.t, err)
	var out []string
	for _, r := range rows {
		var l store.Leaf
		require.NoError(h.t, json.Unmarshal(r.Leaf, &l))
		out = append(out, l.Action+" "+l.Actor)
	}
	return out
}

// What was typed into one bubble never reaches another: not by the slow way while the switch took the fast one, not held back and sent
// after it, not by a box that counts wrong.
// TestFrameLostWithAllItsRepeatsIsMadeGood has the box take a frame and say nothing of it, as if it had never come; nothing moves on
// the desktop after it.
func TestFrameLostWithAllItsRepeatsIsMadeGood(t *testing.T) {
	h := newHouse(t)
	b := h.boot(1)
	b.finger(h.card)
	b.attach("epi", 1)
	expect[*wire.Attached](b)
	b.sees("epi", 1)
	h.desktop("epi").Light(4) // caps lock, and not one pixel
	b.sees("epi", 1)
	h.desktop("epi").Draw(99)
	require.False(t, (<-b.media.Frames()).Gap)
	b.sees("epi", 1)
}

func TestKeysOfOneBubbleNeverReachAnother(t *testing.T) {
	h := newHouse(t)
	b := h.boot(1)
	b.finger(h.card)
	b.attach("epi", 1)
	expect[*wire.Attached](b)
	b.sees("epi", 1)
	b.attach("econ", 2)
	expect[*wire.Attached](b) // the switch overtook everything below
	secret := func(number uint16) {
		for _, down := range []bool{true, false} {
			require.NoError(t, b.media.SendInput(stream.Input{Stream: number, Kind: stream.Key, Code: 0x1e, Down: down}))
		}
		require.NoError(t, b.media.SendInput(stream.Input{Stream: number, Kind: stream.Pointer, X: 7, Y: 7}))
		require.NoError(t, b.media.SendInput(stream.Input{Stream: number, Kind: stream.Pointer, X: 7, Y: 7, Buttons: 1}))
		require.NoError(t, b.media.SendInput(stream.Input{Stream: number, Kind: stream.Pointer, X: 7, Y: 7}))
	}
	secret(1)
	secret(3)
	require.NoError(t, b.media.SendInput(stream.Input{Stream: 2, Kind: stream.Key, Code: 0x30, Down: true}))
	secret(1)
	require.NoError(t, b.media.SendInput(stream.Input{Stream: 2, Kind: stream.Key, Code: 0x30}))
	waitFor(t, "her own key arrives", func() bool { return len(h.desktop("econ").Inputs()) >= 2 })
	require.Equal(t, []desktop.Input{{Kind: desktop.Key, XT: 0x30, Down: true}, {Kind: desktop.Key, XT: 0x30}}, h.desktop("econ").Inputs())
	b.attach("epi", 4)
	expect[*wire.Attached](b)
	require.NoError(t, b.media.SendInput(stream.Input{Stream: 4, Kind: stream.Key, Code: 0x1f, Down: true}))
	waitFor(t, "the key arrives", func() bool { return len(h.desktop("epi").Inputs()) == 2 })
	require.Equal(t, []desktop.Input{{Kind: desktop.ReleaseAll}, {Kind: desktop.Key, XT: 0x1f, Down: true}}, h.desktop("epi").Inputs())
}

// Each card is wrong in one way, and the person reads which.
func TestCardIsRefusedWithItsReason(t *testing.T) {
	h := newHouse(t)
	unknown := h.newCard("Nobody")
	revoked := h.newCard("Marie Martin")
	h.register(revoked, h.person.ID)
	require.NoError(t, h.registry.SetCard(t.Context(), "operator:test", revoked.guid, registry.Revoked, "lost"))
	locked := h.newCard("Marie Martin")
	h.register(locked, h.person.ID)
	_, err := h.registry.Lock(t.Context(), "operator:test", registry.Lock{Target: registry.CardName(locked.guid), Message: "found in a train"})
	require.NoError(t, err)
	fake := *h.card // her certificate, other keys
	fake.here = newKey(t)
	garbage := *h.card
	garbage.certificate = []byte("not a certificate")

	b := h.boot(1)
	for _, c := range []struct {
		card *card
		want refusal.Code
	}{{unknown, refusal.CardForeign}, {revoked, refusal.CardRevoked}, {locked, refusal.CardLocked}, {&fake, refusal.CardForeign}, {&garbage, refusal.CardForeign}} {
		b.insert(c.card)
		r := expect[*wire.Refused](b)
		require.Equal(t, c.want, r.Refusal.Code)
		rows, err := h.store.Audit(t.Context(), store.AuditFilter{Code: r.Refusal.Error()})
		require.NoError(t, err)
		require.Len(t, rows, 1, "the suffix on the screen is found in the audit log")
	}
	b.finger(h.card) // and the line is still good
}

// A login that is for anything else than what the gateway knows of this very session is not a login.
func TestLoginForAnythingElseIsRefused(t *testing.T) {
	h := newHouse(t)
	for name, spoil := range map[string]func(*wire.Transcript){
		"gateway certificate": func(x *wire.Transcript) { x.GatewayCertificate = make([]byte, 32) },
		"gateway tunnel key":  func(x *wire.Transcript) { x.GatewayTunnelKey[0]++ },
		"gateway stream":      func(x *wire.Transcript) { x.GatewayStream = make([]byte, 32) },
		"attestation result":  func(x *wire.Transcript) { x.Result = make([]byte, 32) },
		"device certificate":  func(x *wire.Transcript) { x.DeviceCertificate = make([]byte, 32) },
		"box tunnel key":      func(x *wire.Transcript) { x.BoxTunnelKey[0]++ },
		"box stream":          func(x *wire.Transcript) { x.BoxStream = make([]byte, 32) },
		"person":              func(x *wire.Transcript) { x.PersonCertificate = make([]byte, 32) },
		"context":             func(x *wire.Transcript) { x.Context = wire.PresenceContext },
	} {
		b := h.boot(1)
		b.identify(h.card)
		x := b.transcript(h.card)
		spoil(&x)
		b.send(&wire.Login{Nonce: b.nonce, Signature: sign(t, h.card.auth, x)})
		require.Equal(t, refusal.CardForeign, expect[*wire.Refused](b).Refusal.Code, name)
		b.send(&wire.Login{Nonce: b.nonce, Signature: sign(t, h.card.auth, b.transcript(h.card))})
		require.Equal(t, refusal.OurFault, expect[*wire.Refused](b).Refusal.Code, "a nonce is used once, whatever came of it")
	}
	require.Zero(t, h.tokens)
}

// A person whose desktop is on another screen is asked, and the same login again is the answer yes.
func TestDesktopElsewhereMovesOnlyWhenSaid(t *testing.T) {
	h := newHouse(t)
	first := h.boot(1)
	first.finger(h.card)
	first.attach("epi", 1)
	expect[*wire.Attached](first)
	second := h.boot(2)
	second.identify(h.card)
	login := &wire.Login{Nonce: second.nonce, Signature: sign(t, h.card.auth, second.transcript(h.card))}
	second.send(login)
	r := expect[*wire.Refused](second)
	require.Equal(t, refusal.OpenElsewhere, r.Refusal.Code)
	require.Equal(t, "PARIS-1", r.Refusal.Params["box"])
	require.Contains(t, h.states(), "PARIS-1 active epi", "nothing has happened to the first box yet")
	second.send(login)
	expect[*wire.Bubbles](second)
	require.Equal(t, refusal.Moved, expect[*wire.Ended](first).Refusal.Code)
	waitFor(t, "the first session ends", func() bool { return slices.Equal(h.states(), []string{"AMS-2 authorised "}) })
}

func TestLockEndsSessionAndRightEndsBubble(t *testing.T) {
	h := newHouse(t)
	b := h.boot(1)
	b.finger(h.card)
	b.attach("epi", 1)
	expect[*wire.Attached](b)
	require.NoError(t, h.registry.RemoveMembership(t.Context(), "operator:test", h.person.ID, "epi", "project moved"))
	r := expect[*wire.Refused](b)
	require.Equal(t, refusal.ProjectEnded, r.Refusal.Code)
	require.Equal(t, "epi", r.Bubble)
	waitFor(t, "she is back at the list", func() bool { return slices.Equal(h.states(), []string{"PARIS-1 authorised "}) })
	b.attach("epi", 2)
	require.Equal(t, refusal.ProjectEnded, expect[*wire.Refused](b).Refusal.Code)
	b.attach("econ", 3)
	expect[*wire.Attached](b)

	began := time.Now()
	_, err := h.registry.Lock(t.Context(), "operator:test", registry.Lock{Target: registry.PersonName(h.person.ID), Message: "inquiry"})
	require.NoError(t, err)
	require.Equal(t, refusal.CardLocked, expect[*wire.Ended](b).Refusal.Code)
	t.Logf("lock to ended: %v", time.Since(began))
	waitFor(t, "the session ends", func() bool { return len(h.states()) == 0 })
}

func TestGrantIsRenewedByPresenceOnly(t *testing.T) {
	h := newHouse(t)
	b := h.boot(1)
	b.finger(h.card)
	session := b.person.Session
	b.send(&wire.Presence{Session: session, Nonce: b.grant.Nonce, Signature: b.presence(h.card, b.grant.Nonce, session[:])})
	renewed := expect[*wire.Grant](b)
	require.NotEqual(t, b.grant.Statement, renewed.Statement)
	b.send(&wire.Presence{Session: session, Nonce: renewed.Nonce, Signature: b.presence(h.newCard("Other"), renewed.Nonce, session[:])})
	require.Equal(t, refusal.CardForeign, expect[*wire.Refused](b).Refusal.Code)
	expect[*wire.Ended](b)
}

func TestBubbleThatDoesNotAnswerSendsBackToTheList(t *testing.T) {
	h := newHouse(t)
	h.mu.Lock()
	h.down["econ"] = errors.New("no route")
	h.mu.Unlock()
	b := h.boot(1)
	b.finger(h.card)
	b.attach("econ", 1)
	require.Equal(t, refusal.BubbleDown, expect[*wire.Refused](b).Refusal.Code)
	b.attach("epi", 2)
	expect[*wire.Attached](b)
	b.sees("epi", 2)
	h.desktop("epi").Break(errors.New("connection reset"))
	require.Equal(t, refusal.BubbleDown, expect[*wire.Refused](b).Refusal.Code)
	b.attach("epi", 3)
	expect[*wire.Attached](b)
	b.sees("epi", 3)
}

// Whoever asks twice while a bubble is waking, or looks elsewhere meanwhile, sees what she asked for last.
func TestNewestAttachWinsWhileBubblesWake(t *testing.T) {
	h := newHouse(t)
	slow := make(chan struct{})
	h.mu.Lock()
	h.slow = slow
	h.mu.Unlock()
	b := h.boot(1)
	b.finger(h.card)
	b.attach("econ", 1)
	b.attach("epi", 2)
	b.attach("epi", 3)
	session := b.person.Session
	b.send(&wire.Presence{Session: session, Nonce: b.grant.Nonce, Signature: b.presence(h.card, b.grant.Nonce, session[:])})
	expect[*wire.Grant](b) // its answer says that the attaches before it were heard
	close(slow)
	require.Equal(t, &wire.Attached{Bubble: "epi", Stream: 3}, expect[*wire.Attached](b))
	b.attach("econ", 4)
	require.Equal(t, &wire.Attached{Bubble: "econ", Stream: 4}, expect[*wire.Attached](b), "the one that came late is kept")
	b.sees("econ", 4)
	h.mu.Lock()
	defer h.mu.Unlock()
	require.Equal(t, 2, h.tokens, "a desktop that is on its way is not asked for again")
}

func TestLineLostSuspendsAndBoxComesBack(t *testing.T) {
	h := newHouse(t)
	b := h.boot(1)
	b.finger(h.card)
	b.attach("epi", 1)
	expect[*wire.Attached](b)
	require.NoError(t, b.line.Close())
	waitFor(t, "the session is suspended", func() bool { return slices.Equal(h.states(), []string{"PARIS-1 suspended "}) })
	again := h.boot(1)
	again.finger(h.card)
	waitFor(t, "one session", func() bool { return slices.Equal(h.states(), []string{"PARIS-1 authorised "}) })
}

func TestAddressWithoutABoxGetsNoWord(t *testing.T) {
	h := newHouse(t)
	h.mu.Lock()
	clear(h.boxes)
	h.mu.Unlock()
	conn, err := net.Dial("tcp", h.address)
	require.NoError(t, err)
	defer conn.Close()
	n, err := conn.Read(make([]byte, 1))
	require.Zero(t, n)
	require.Error(t, err)
}

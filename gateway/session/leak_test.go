// SPDX-License-Identifier: Apache-2.0

package session

import (
	"errors"
	"os"
	"testing"

	"sdbox/internal/wire"
	"sdbox/test/leak"

	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) { os.Exit(leak.Main(m)) }

// A gateway that has served many is as it was: however a visit ends, no goroutine of it stays in the server that goes on.
func TestVisitsLeaveNothingInAServerThatGoesOn(t *testing.T) {
	h := newHouse(t)
	h.colleague() // everything a session needs runs, and goes on
	mux := newMux(t)
	leak.Check(t) // after the visits, before the server ends
	ends := map[string]func(*testBox){
		"card out": func(b *testBox) { b.send(&wire.Detach{Session: b.person.Session, Why: wire.CardOut}) },
		"cut": func(b *testBox) {
			require.NoError(t, h.server.Cut(t.Context(), b.person.Session, "operator:anna", "End of the day"))
		},
		"line lost":   func(b *testBox) { b.line.Close() },
		"stream lost": func(b *testBox) { b.media.Close() },
		"bubble lost": func(b *testBox) { h.desktop("epi").Break(errors.New("gone")); expect[*wire.Refused](b) },
		"switch": func(b *testBox) {
			b.attach("econ", 2)
			expect[*wire.Attached](b)
			b.sees("econ", 2)
			b.attach("epi", 3)
		},
	}
	visit := func(end func(*testBox)) {
		b := h.boot(1)
		b.mux = mux
		b.finger(h.card)
		b.attach("epi", 1)
		expect[*wire.Attached](b)
		b.sees("epi", 1)
		end(b)
		b.line.Close()
		require.NoError(t, b.media.Close())
		waitFor(t, "the line is over", func() bool { return len(active(h)) == 1 }) // the colleague
	}
	for range 2 {
		for _, end := range ends {
			visit(end)
		}
	}
}

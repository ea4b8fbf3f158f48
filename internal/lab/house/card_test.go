// SPDX-License-Identifier: Apache-2.0

package house

import (
	"context"
	"os"
	"testing"
	"time"

	"sdbox/internal/card/cardsim"
	"sdbox/internal/ident"

	"github.com/stretchr/testify/require"
)

// TestCardMovesBetweenBoxes: each box has a PC/SC daemon of its own that sees the card which is in it; opensc, an independent
// program, reads the card's ATR there and finds the reader empty after the card moved on.
func TestCardMovesBetweenBoxes(t *testing.T) {
	dir, err := os.MkdirTemp("", "house")
	require.NoError(t, err)
	defer os.RemoveAll(dir)
	h, err := Open(dir, "")
	require.NoError(t, err)
	defer h.Close()
	gateway, err := h.NewPlace("gw1")
	require.NoError(t, err)
	var boxes []*Box
	for i, serial := range []string{"AMS-0017", "AMS-0018"} {
		b, err := h.newBox(t.Context(), BoxSpec{Serial: serial, Country: "NL", Number: i + 1}, ProcessForm, gateway)
		require.NoError(t, err)
		defer b.close()
		boxes = append(boxes, b)
	}
	sim, err := cardsim.New(cardsim.NISTOCC, cardsim.Person{GUID: ident.GUID(ident.NewID()), Name: "Camille Durand"})
	require.NoError(t, err)
	var tray Tray
	defer tray.Close()
	tray.Add(sim)

	for _, b := range []*Box{boxes[0], boxes[1], boxes[0]} {
		require.NoError(t, tray.Insert(t.Context(), sim.Person().GUID, b))
		require.Equal(t, b.Serial, tray.Cards()[0].Box)
		require.Eventually(t, func() bool { return readers(t, b) == "Card present" }, 5*time.Second, 10*time.Millisecond)
		for _, other := range boxes {
			if other != b {
				require.Eventually(t, func() bool { return readers(t, other) == "empty" }, 5*time.Second, 10*time.Millisecond)
			}
		}
	}
	require.NoError(t, tray.Eject(sim.Person().GUID))
	require.Empty(t, tray.Cards()[0].Box)
	require.ErrorIs(t, tray.Eject(ident.GUID{1}), errNoCard)
}

// readers asks opensc-tool what is in the place's first reader.
func readers(t *testing.T, b *Box) string {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	out, err := b.Place.Run(ctx, Account{}, searchPath(), "/usr/bin/opensc-tool", "--reader", "0", "--atr")
	if err == nil && len(out) > 10 {
		return "Card present"
	}
	return "empty"
}

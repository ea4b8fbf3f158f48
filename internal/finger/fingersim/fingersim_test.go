// SPDX-License-Identifier: Apache-2.0

package fingersim

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"path/filepath"
	"testing"

	"sdbox/internal/finger"

	"github.com/stretchr/testify/require"
)

func TestSeedIsOneFinger(t *testing.T) {
	require.Equal(t, NewFinger(1).Reference(), NewFinger(1).Reference())
	require.NotEqual(t, NewFinger(1).Reference(), NewFinger(2).Reference())
}

func TestImpressionsDiffer(t *testing.T) {
	f, r := NewFinger(1), rand.New(rand.NewPCG(1, 1))
	first, second := f.Impression(r), f.Impression(r)
	same := 0
	for _, m := range first {
		for _, n := range second {
			if m == n {
				same++
			}
		}
	}
	require.Less(t, same, len(first)/4)
}

func TestTemplatesFitAnyCard(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 2))
	for seed := range uint64(300) {
		f := NewFinger(seed)
		for _, m := range []finger.Template{f.Reference(), f.Impression(r)} {
			require.GreaterOrEqual(t, len(m), 14, "seed %d", seed)
			require.LessOrEqual(t, len(m), most)
			_, err := finger.Parse(m.Encode())
			require.NoError(t, err)
		}
	}
}

func TestSensorServesTheOneWhoWaits(t *testing.T) {
	path := filepath.Join(t.TempDir(), "finger.sock")
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	placed := make(chan finger.Template)
	ctx, cancel := context.WithCancelCause(t.Context())
	served := make(chan error, 1)
	go func() { served <- Serve(ctx, l, placed) }()
	select {
	case placed <- nil:
		require.FailNow(t, "a finger was taken that nobody asked for")
	default:
	}
	gone, err := net.Dial("unix", path) // asks, then loses interest
	require.NoError(t, err)
	require.NoError(t, gone.Close())

	ask, want := finger.Unix(path), NewFinger(1).Reference()
	for range 2 {
		got := make(chan finger.Template, 1)
		failed := make(chan error, 1)
		go func() {
			m, err := ask(t.Context())
			got <- m
			failed <- err
		}()
		placed <- want
		require.NoError(t, <-failed)
		require.Equal(t, want, <-got)
	}
	stop := errors.New("power off")
	cancel(stop)
	require.ErrorIs(t, <-served, stop)
	_, err = ask(t.Context())
	require.Error(t, err)
}

func TestClosedSensorEnds(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "finger.sock"))
	require.NoError(t, err)
	placed := make(chan finger.Template)
	close(placed)
	served := make(chan error, 1)
	go func() { served <- Serve(t.Context(), l, placed) }()
	_, err = finger.Unix(l.Addr().String())(t.Context())
	require.Error(t, err)
	require.NoError(t, <-served)
}

// SPDX-License-Identifier: Apache-2.0

package store

import (
	"iter"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"sdbox/internal/ident"
)

// BenchmarkChange is one durable change with its audit row and event, the disk synced.
func BenchmarkChange(b *testing.B) {
	s, err := Open(b.Context(), filepath.Join(b.TempDir(), "a house.db"))
	require.NoError(b, err)
	for b.Loop() {
		require.NoError(b, s.Change(b.Context(), entry("person:x"), addPerson(ident.NewID())))
	}
	require.NoError(b, s.Close())
}

// BenchmarkWatch is the time from the start of a change to a watcher that has read its event.
func BenchmarkWatch(b *testing.B) {
	s, err := Open(b.Context(), filepath.Join(b.TempDir(), "house.db"))
	require.NoError(b, err)
	next, stop := iter.Pull2(s.Watch(b.Context(), 0))
	for b.Loop() {
		require.NoError(b, s.Change(b.Context(), entry("person:x"), addPerson(ident.NewID())))
		_, err, _ := next()
		require.NoError(b, err)
	}
	stop()
	require.NoError(b, s.Close())
}

// SPDX-License-Identifier: Apache-2.0

package store

import (
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sdbox/gateway/store/storetest"
	"sdbox/internal/ident"

	"github.com/stretchr/testify/require"
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

// BenchmarkUrgentReachesAnotherGateway is the time from the start of a lock on one PostgreSQL store to a watcher of another that has
// read its event.
func BenchmarkUrgentReachesAnotherGateway(b *testing.B) {
	dsn, err := storetest.Schema(b.Context(), os.Getenv(serverEnv), "bench"+strings.ToLower(ident.NewID().String()))
	require.NoError(b, err)
	one, err := Open(b.Context(), dsn)
	require.NoError(b, err)
	two, err := Open(b.Context(), dsn)
	require.NoError(b, err)
	lock := Entry{Actor: "operator:olga", Action: "lock.add", Object: "box:A1"}
	next, stop := iter.Pull2(one.Watch(b.Context(), 0))
	var took []time.Duration
	for b.Loop() {
		began := time.Now()
		require.NoError(b, two.Change(b.Context(), lock, func(*Tx) error { return nil }))
		_, err, _ := next()
		require.NoError(b, err)
		took = append(took, time.Since(began))
	}
	stop()
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)*95/100].Microseconds())/1000, "p95-ms")
	require.NoError(b, one.Close())
	require.NoError(b, two.Close())
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

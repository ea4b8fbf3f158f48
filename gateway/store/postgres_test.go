// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"sdbox/internal/ident"

	"github.com/stretchr/testify/require"
)

func TestUrgentEventsWakeTheOtherGatewayAndOthersDoNot(t *testing.T) {
	dsn := postgres(t)
	open := func() *Store {
		s, err := Open(t.Context(), dsn)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, s.Close()) })
		return s
	}
	one, two := open(), open()
	lock := Entry{Actor: "operator:olga", Action: "lock.add", Object: "box:A1"}
	nothing := func(*Tx) error { return nil }
	require.Eventually(t, func() bool { // until it listens
		woken := one.woken()
		require.NoError(t, two.Change(t.Context(), lock, nothing))
		return closed(woken, 100*time.Millisecond)
	}, 20*time.Second, time.Millisecond)
	for closed(one.woken(), 300*time.Millisecond) { // what was told before it listened, and comes late
	}
	woken := one.woken()
	require.NoError(t, two.Change(t.Context(), entry("person:x"), addPerson(ident.NewID())))
	require.False(t, closed(woken, 200*time.Millisecond), "what is not urgent waits for the poll")
	require.NoError(t, two.Change(t.Context(), lock, nothing))
	require.True(t, closed(woken, 10*time.Second))
}

func (s *Store) woken() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

func closed(c <-chan struct{}, in time.Duration) bool {
	select {
	case <-c:
		return true
	case <-time.After(in):
		return false
	}
}

// breaker stands before the server. It cuts a connection when it carries the word commit, before the server reads it or after.
type breaker struct {
	ln     net.Listener
	server string
	all    sync.WaitGroup

	mu   sync.Mutex
	mode string // guarded by mu: "", "before", "after"
}

func newBreaker(t *testing.T, dsn string) (*breaker, string) {
	dir, server := t.TempDir(), os.Getenv(serverEnv)
	b := &breaker{server: filepath.Join(server, ".s.PGSQL.5432")}
	var err error
	b.ln, err = net.Listen("unix", filepath.Join(dir, ".s.PGSQL.5432"))
	require.NoError(t, err)
	b.all.Go(func() {
		for {
			conn, err := b.ln.Accept()
			if err != nil {
				return
			}
			b.all.Go(func() { b.serve(conn) })
		}
	})
	t.Cleanup(func() {
		require.NoError(t, b.ln.Close())
		b.all.Wait()
	})
	return b, strings.Replace(dsn, server, dir, 1)
}

func (b *breaker) take() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	mode := b.mode
	b.mode = ""
	return mode
}

func (b *breaker) set(mode string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mode = mode
}

func (b *breaker) serve(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("unix", b.server)
	if err != nil {
		return
	}
	defer server.Close()
	b.all.Go(func() {
		io.Copy(client, server)
		client.Close()
	})
	buf := make([]byte, 64<<10)
	for {
		n, err := client.Read(buf)
		if err != nil {
			return
		}
		mode := ""
		if bytes.Contains(buf[:n], []byte("commit")) {
			mode = b.take()
		}
		if mode == "before" {
			return
		}
		if mode == "after" {
			client.Close() // the answer finds nobody
		}
		if _, err := server.Write(buf[:n]); err != nil || mode != "" {
			return
		}
	}
}

func TestCommitWhoseAnswerIsLostIsKnownAllTheSame(t *testing.T) {
	b, dsn := newBreaker(t, postgres(t))
	s, err := Open(t.Context(), dsn)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	add := func() error { return s.Change(t.Context(), entry("person:x"), addPerson(ident.NewID())) }
	require.NoError(t, add())
	b.set("before")
	require.Error(t, add(), "the server never read it")
	require.Equal(t, int64(1), whole(t, s))
	b.set("after")
	require.NoError(t, add(), "the server did it, and is asked")
	require.Equal(t, int64(2), whole(t, s))
	require.NoError(t, add())
	require.Equal(t, int64(3), whole(t, s))
}

// Two gateways that both read a session before they write it must not both win.
func TestWritersOfTwoGatewaysTakeTurns(t *testing.T) {
	dsn := postgres(t)
	var stores []*Store
	for range 2 {
		s, err := Open(t.Context(), dsn)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, s.Close()) })
		stores = append(stores, s)
	}
	ses := seed(t, stores[0])
	require.NoError(t, stores[0].CreateSession(t.Context(), "gateway:gw1", ses))
	won := make(chan error, 16)
	var all sync.WaitGroup
	for i := range cap(won) {
		all.Go(func() {
			_, err := stores[i%2].TakeSession(context.Background(), "gateway:gw2", ses.ID, "gw2", 1)
			won <- err
		})
	}
	all.Wait()
	close(won)
	winners := 0
	for err := range won {
		if err == nil {
			winners++
		} else if !errors.Is(err, ErrConflict) {
			t.Error(err)
		}
	}
	require.Equal(t, 1, winners)
	whole(t, stores[1])
}

// SPDX-License-Identifier: Apache-2.0

package frontdoor

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"sdbox/firmware/reference"
	"sdbox/firmware/release"
	"sdbox/gateway/registry"
	"sdbox/gateway/releases"
	"sdbox/internal/attest"
	"sdbox/internal/wire"

	"github.com/stretchr/testify/require"
)

func newDepot(t *testing.T, dir string, reg *registry.Registry) (string, *releases.Depot) {
	secret, public, err := reference.GenerateKey("release-1.lab")
	require.NoError(t, err)
	trust, err := reference.NewTrust(1, public)
	require.NoError(t, err)
	depot, err := releases.Open(filepath.Join(dir, "releases"), reg, trust)
	require.NoError(t, err)
	return secret, depot
}

// offer has the boxes of the lab's model offered a release of one file, and returns its note.
func (g *gate) offer(full []byte) []byte {
	ctx, image := g.t.Context(), release.Digest{SHA256: [32]byte{1}, Size: 512}
	hash := sha256.Sum256(full)
	note, err := release.Sign(release.Release{Model: "lab", Version: "2026.11.24", Minimum: "2026.11.24", Expires: time.Now().Add(time.Hour).Truncate(time.Second),
		Image: image, UKI: image, Full: release.Digest{SHA256: hash, Size: int64(len(full))}, PCRs: []reference.PCR{{Index: 4}}}, g.secret)
	require.NoError(g.t, err)
	_, err = g.depot.Add(ctx, "operator:test", note)
	require.NoError(g.t, err)
	require.NoError(g.t, g.depot.Put(ctx, "operator:test", hash, bytes.NewReader(full)))
	require.NoError(g.t, g.depot.Offer(ctx, "operator:test", "lab", "2026.11.24"))
	return note
}

// fetch opens a connection for files, asks, and returns it with the answer.
func (g *gate) fetch(identity *tls.Certificate, hash [32]byte, offset int64) (*tls.Conn, wire.Fetched) {
	conf := &tls.Config{RootCAs: g.trust.Roots(), ServerName: "gw1.lab", NextProtos: []string{wire.ReleaseProtocol}, MinVersion: tls.VersionTLS13}
	if identity != nil {
		conf.Certificates = []tls.Certificate{*identity}
	}
	conn, err := tls.Dial("tcp", g.address, conf)
	require.NoError(g.t, err)
	g.t.Cleanup(func() { conn.Close() })
	ask := wire.NewFetch(hash, offset)
	_, err = conn.Write(ask[:])
	require.NoError(g.t, err)
	answer := make([]byte, 1)
	_, err = io.ReadFull(conn, answer)
	require.NoError(g.t, err)
	return conn, wire.Fetched(answer[0])
}

func TestReleaseIsOfferedToRegisteredBoxesWhateverTheirState(t *testing.T) {
	g := newGate(t, 16)
	m := newMachine(t)
	box := g.register(m, "PARIS-1")
	identity := g.enrol(m)
	c := g.call(identity)
	lease, ok := c.ask(c.evidence(m, c.nonce(), nil)).(*wire.Lease)
	require.True(t, ok)
	require.Empty(t, lease.Release, "none is offered yet")

	full := bytes.Repeat([]byte("0123456789abcdef"), 20_000)
	note := g.offer(full)
	c = g.call(identity)
	lease, ok = c.ask(c.evidence(m, c.nonce(), nil)).(*wire.Lease)
	require.True(t, ok)
	require.Equal(t, note, lease.Release)
	_, err := g.registry.Lock(t.Context(), "operator:test", registry.Lock{Target: registry.BoxName(box.Serial), Message: "too old"})
	require.NoError(t, err)
	c = g.call(identity)
	refused, ok := c.ask(c.evidence(m, c.nonce(), nil)).(*wire.Refused)
	require.True(t, ok)
	require.Equal(t, note, refused.Release, "a box without a result")

	stranger := newMachine(t)
	require.Empty(t, g.refusedEnrolment(stranger).Release, "a machine nobody registered")

	// The file comes whole, and from any byte on; with the certificate of a box that is refused, and without any.
	hash := sha256.Sum256(full)
	for _, who := range []*tls.Certificate{identity, nil} {
		for _, offset := range []int64{0, 70_001, int64(len(full))} {
			require.Eventually(t, func() bool { return g.idle() }, 10*time.Second, time.Millisecond)
			conn, answer := g.fetch(who, hash, offset)
			require.Equal(t, wire.FetchedFile, answer)
			got, err := io.ReadAll(conn)
			require.NoError(t, err)
			require.True(t, bytes.Equal(full[offset:], got), "from %d", offset)
		}
	}
	for _, ask := range []struct {
		hash   [32]byte
		offset int64
	}{{[32]byte{9}, 0}, {hash, int64(len(full)) + 1}, {hash, -1}} {
		require.Eventually(t, func() bool { return g.idle() }, 10*time.Second, time.Millisecond)
		conn, answer := g.fetch(identity, ask.hash, ask.offset)
		require.Equal(t, wire.FetchedNone, answer)
		rest, err := io.ReadAll(conn)
		require.NoError(t, err)
		require.Empty(t, rest)
	}
	require.NoError(t, g.registry.RetireBox(t.Context(), "operator:test", box.Serial, "gone"))
	conn, err := tls.Dial("tcp", g.address, &tls.Config{RootCAs: g.trust.Roots(), ServerName: "gw1.lab", NextProtos: []string{wire.ReleaseProtocol}, Certificates: []tls.Certificate{*identity}})
	require.NoError(t, err)
	defer conn.Close()
	ask := wire.NewFetch(hash, 0)
	_, err = conn.Write(ask[:])
	require.NoError(t, err)
	rest, _ := io.ReadAll(conn)
	require.Empty(t, rest, "a retired box")
}

// idle says whether nobody fetches: a stranger may come again only then.
func (g *gate) idle() bool {
	g.door.fetching.mu.Lock()
	defer g.door.fetching.mu.Unlock()
	return len(g.door.fetching.boxes)+len(g.door.fetching.strangers) == 0
}

func TestFetchersAreBounded(t *testing.T) {
	g := newGate(t, 16)
	m := newMachine(t)
	g.register(m, "PARIS-1")
	identity := g.enrol(m)
	full := make([]byte, 8<<20) // longer than the buffers between the ends, and than the rate of a second
	g.offer(full)
	hash := sha256.Sum256(full)

	// One connection of a box: the newest. One of a source of strangers: the first.
	old, answer := g.fetch(identity, hash, 0)
	require.Equal(t, wire.FetchedFile, answer)
	_, answer = g.fetch(identity, hash, 0)
	require.Equal(t, wire.FetchedFile, answer)
	n, err := io.Copy(io.Discard, old)
	require.NoError(t, err)
	require.Less(t, n, int64(len(full)))
	_, answer = g.fetch(nil, hash, 0)
	require.Equal(t, wire.FetchedFile, answer)
	_, answer = g.fetch(nil, hash, 0)
	require.Equal(t, wire.FetchedLater, answer)

	var f fetchers
	f.boxes, f.strangers = g.door.fetching.boxes, g.door.fetching.strangers
	g.door.fetching.mu.Lock()
	defer g.door.fetching.mu.Unlock()
	conn, err := tls.Dial("tcp", g.address, &tls.Config{RootCAs: g.trust.Roots(), ServerName: "gw1.lab", NextProtos: []string{wire.ReleaseProtocol}})
	require.NoError(t, err)
	defer conn.Close()
	for i := len(f.boxes); i < maxFetching; i++ {
		require.True(t, f.enterBox(string(rune('a'+i)), conn))
	}
	require.False(t, f.enterBox("one more", conn))
	for i := len(f.strangers); i < maxStrangers; i++ {
		require.True(t, f.enterStranger(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 32), conn))
	}
	require.False(t, f.enterStranger(netip.MustParsePrefix("10.0.1.0/32"), conn))
}

func TestFetchersShareTheLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		begun, done := time.Now(), make(chan error, 1)
		go func() { done <- pour(t.Context(), near, io.LimitReader(zeros{}, 4*fetchChunk), 2*fetchChunk) }()
		_, err := io.CopyN(io.Discard, far, 4*fetchChunk)
		require.NoError(t, err)
		require.NoError(t, <-done)
		require.Equal(t, 2*time.Second, time.Since(begun), "twice the rate takes two seconds")

		// Who takes nothing for a while is given up.
		go func() { done <- pour(t.Context(), near, zeros{}, boxRate) }()
		require.ErrorIs(t, <-done, os.ErrDeadlineExceeded)
		require.NoError(t, errors.Join(near.Close(), far.Close()))
	})
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

// refusedEnrolment is the answer to a machine that is not registered.
func (g *gate) refusedEnrolment(m *machine) *wire.Refused {
	request, err := attest.NewEnrolment(m.tpm)
	require.NoError(g.t, err)
	refused, ok := g.call(nil).ask(request).(*wire.Refused)
	require.True(g.t, ok)
	return refused
}

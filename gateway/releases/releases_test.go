// SPDX-License-Identifier: Apache-2.0

package releases

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sdbox/firmware/reference"
	"sdbox/firmware/release"
	"sdbox/gateway/registry"
	"sdbox/gateway/store"

	"github.com/stretchr/testify/require"
)

const by = "operator:test"

// house is a depot, and the holder of its one release key.
type house struct {
	t      *testing.T
	depot  *Depot
	store  *store.Store
	secret string
}

func newHouse(t *testing.T) *house {
	t.Helper()
	dir := t.TempDir()
	secret, public, err := reference.GenerateKey("release-1.lab")
	require.NoError(t, err)
	trust, err := reference.NewTrust(1, public)
	require.NoError(t, err)
	h := &house{t: t, secret: secret}
	h.store, err = store.Open(t.Context(), filepath.Join(dir, "gateway.db"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, h.store.Close()) })
	h.depot, err = Open(filepath.Join(dir, "releases"), registry.New(h.store), trust)
	require.NoError(t, err)
	return h
}

func digest(b []byte) release.Digest {
	return release.Digest{SHA256: sha256.Sum256(b), Size: int64(len(b))}
}

// note signs a release of these files: the full one, and a delta.
func (h *house) note(version string, full, delta []byte, change func(*release.Release)) []byte {
	image := release.Digest{SHA256: [32]byte{1}, Size: 512}
	r := release.Release{Model: "qemu", Version: version, Minimum: "2026.11.20", Expires: time.Now().Add(time.Hour).Truncate(time.Second), Image: image,
		UKI: image, Full: digest(full), PCRs: []reference.PCR{{Index: 4}}}
	if delta != nil {
		r.Deltas = []release.Delta{{From: "2026.11.20", Base: image, File: digest(delta)}}
	}
	if change != nil {
		change(&r)
	}
	note, err := release.Sign(r, h.secret)
	require.NoError(h.t, err)
	return note
}

func (h *house) put(content []byte) error {
	return h.depot.Put(h.t.Context(), by, sha256.Sum256(content), bytes.NewReader(content))
}

func (h *house) files() int {
	list, err := os.ReadDir(h.depot.dir)
	if os.IsNotExist(err) {
		return 0
	}
	require.NoError(h.t, err)
	return len(list)
}

func (h *house) actions() string {
	rows, err := h.store.Audit(h.t.Context(), store.AuditFilter{Limit: 100})
	require.NoError(h.t, err)
	var out []string
	for _, r := range rows {
		for _, a := range []string{"add", "file", "offer", "retire"} {
			if strings.Contains(string(r.Leaf), `"release.`+a+`"`) {
				out = append(out, a)
			}
		}
	}
	return strings.Join(out, " ")
}

func TestReleaseIsKeptOfferedServedAndRetired(t *testing.T) {
	h, ctx := newHouse(t), t.Context()
	full, delta := bytes.Repeat([]byte("full"), 1000), []byte("delta")
	note := h.note("2026.11.24", full, delta, nil)
	kept, err := h.depot.Add(ctx, by, note)
	require.NoError(t, err)
	require.Len(t, kept.Files, 2)
	require.False(t, kept.Files[0].Present)
	require.ErrorIs(t, h.depot.Offer(ctx, by, "qemu", "2026.11.24"), ErrMissing)
	require.NoError(t, h.put(full))
	require.ErrorIs(t, h.depot.Offer(ctx, by, "qemu", "2026.11.24"), ErrMissing, "the delta")
	require.NoError(t, h.put(delta))
	require.NoError(t, h.put(delta), "it is there")
	_, _, err = h.depot.File(ctx, sha256.Sum256(full), 0)
	require.ErrorIs(t, err, ErrMissing, "nobody is offered it")
	offered, err := h.depot.Offered(ctx, "qemu")
	require.NoError(t, err)
	require.Nil(t, offered)

	require.NoError(t, h.depot.Offer(ctx, by, "qemu", "2026.11.24"))
	offered, err = h.depot.Offered(ctx, "qemu")
	require.NoError(t, err)
	require.Equal(t, note, offered)
	offered, err = h.depot.Offered(ctx, "intel")
	require.NoError(t, err)
	require.Nil(t, offered, "another model")
	f, n, err := h.depot.File(ctx, sha256.Sum256(full), 10)
	require.NoError(t, err)
	got, err := io.ReadAll(f)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	require.Equal(t, full[10:], got)
	require.Equal(t, int64(len(got)), n)
	for _, offset := range []int64{-1, int64(len(full)) + 1} {
		_, _, err = h.depot.File(ctx, sha256.Sum256(full), offset)
		require.ErrorIs(t, err, ErrFile)
	}

	// The next one is offered in its place; both name the same delta.
	next := []byte("next")
	_, err = h.depot.Add(ctx, by, h.note("2026.11.25", next, delta, nil))
	require.NoError(t, err)
	require.NoError(t, h.put(next))
	require.NoError(t, h.depot.Offer(ctx, by, "qemu", "2026.11.25"))
	list, err := h.depot.List(ctx)
	require.NoError(t, err)
	require.Len(t, list, 2)
	require.True(t, list[0].Offered != list[1].Offered)
	require.Equal(t, 3, h.files())
	require.NoError(t, h.depot.Retire(ctx, by, "qemu", "2026.11.24", "too old"))
	require.Equal(t, 2, h.files())
	require.NoError(t, h.depot.Retire(ctx, by, "qemu", "2026.11.25", "broken"))
	require.Zero(t, h.files())
	offered, err = h.depot.Offered(ctx, "qemu")
	require.NoError(t, err)
	require.Nil(t, offered)
	_, err = h.depot.Add(ctx, by, note)
	require.ErrorIs(t, err, store.ErrExists, "what is retired does not come back")
	require.Equal(t, "add file file offer add file offer retire retire", h.actions())
}

func TestNothingIsKeptThatTheReleaseKeysDidNotSign(t *testing.T) {
	h, ctx := newHouse(t), t.Context()
	full := []byte("full")
	stranger, _, err := reference.GenerateKey("release-1.lab")
	require.NoError(t, err)
	mine := h.secret
	h.secret = stranger
	foreign := h.note("2026.11.24", full, nil, nil)
	h.secret = mine
	expired := h.note("2026.11.24", full, nil, func(r *release.Release) { r.Expires = time.Now().Add(-time.Hour).Truncate(time.Second) })
	good := h.note("2026.11.24", full, nil, nil)
	for _, bad := range [][]byte{nil, foreign, expired, good[:len(good)-9], append([]byte("x"), good...)} {
		_, err := h.depot.Add(ctx, by, bad)
		require.ErrorIs(t, err, ErrNote)
	}
	require.ErrorIs(t, h.put(full), ErrFile, "no release names it")
	_, err = h.depot.Add(ctx, by, good)
	require.NoError(t, err)
	_, err = h.depot.Add(ctx, by, good)
	require.NoError(t, err, "the same again")
	_, err = h.depot.Add(ctx, by, h.note("2026.11.24", []byte("other"), nil, nil))
	require.ErrorIs(t, err, store.ErrExists, "another of the same version")
	hash := sha256.Sum256(full)
	for _, content := range []string{"", "ful", "fulL", "full and more"} {
		require.ErrorIs(t, h.depot.Put(ctx, by, hash, strings.NewReader(content)), ErrFile, content)
	}
	require.Error(t, h.depot.Put(ctx, by, hash, io.MultiReader(strings.NewReader("fu"), brokenReader{})))
	require.Zero(t, h.files(), "nothing half-stored is left")
	require.Equal(t, "add", h.actions())
	require.ErrorIs(t, h.depot.Offer(ctx, by, "qemu", "2026.11.23"), store.ErrNotFound)
	require.ErrorIs(t, h.depot.Retire(ctx, by, "qemu", "2026.11.23", "why"), store.ErrNotFound)
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, context.Canceled }

func TestStorageIsBounded(t *testing.T) {
	h, ctx := newHouse(t), t.Context()
	for i := range maxLive {
		_, err := h.depot.Add(ctx, by, h.note(fmt.Sprintf("2026.12.%d", i), []byte{byte(i)}, nil, nil))
		require.NoError(t, err)
	}
	_, err := h.depot.Add(ctx, by, h.note("2027.1.1", []byte("more"), nil, nil))
	require.ErrorIs(t, err, ErrMany)

	// One file comes at a time.
	in, out := io.Pipe()
	stored := make(chan error, 1)
	go func() { stored <- h.depot.Put(ctx, by, sha256.Sum256([]byte{0}), in) }()
	_, err = out.Write([]byte{0})
	require.NoError(t, err)
	require.ErrorIs(t, h.put([]byte{1}), ErrBusy)
	require.NoError(t, out.Close())
	require.NoError(t, <-stored)
	require.NoError(t, h.put([]byte{1}))

	// What was coming when the gateway stopped is dropped at its next start.
	require.NoError(t, os.WriteFile(filepath.Join(h.depot.dir, "coming-1"), []byte("half"), 0o600))
	_, err = Open(h.depot.dir, h.depot.registry, h.depot.trust)
	require.NoError(t, err)
	require.Equal(t, 2, h.files())
}

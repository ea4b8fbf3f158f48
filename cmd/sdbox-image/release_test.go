// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"sdbox/firmware/reference"
	"sdbox/firmware/release"

	"github.com/stretchr/testify/require"
)

// Two holders of keys, who never meet, sign a release; and neither signs one whose files are not what its note says.
func TestReleaseIsSignedByOneHolderAfterTheOther(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	image := bytes.Repeat([]byte("the system of a box "), 4096)
	var full, delta bytes.Buffer
	require.NoError(t, release.Encode(&full, image, nil))
	require.NoError(t, release.Encode(&delta, image, image))
	r := release.Release{
		Model: "qemu", Version: "2026.11.24", Minimum: "2026.11.24", Expires: time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC),
		Image: release.DigestOf(image), UKI: release.DigestOf(image), Full: release.DigestOf(full.Bytes()), PCRs: []reference.PCR{{Index: 4}},
		Deltas: []release.Delta{{From: "2026.11.20", Base: release.DigestOf(image), File: release.DigestOf(delta.Bytes())}},
	}
	text, err := r.Text()
	require.NoError(t, err)
	put(t, at(release.FileNote), text)
	put(t, at(release.FileFull), full.Bytes())
	put(t, at(release.FileDelta("2026.11.20")), delta.Bytes())
	keys := "threshold 2\n"
	for _, name := range []string{"one", "two"} {
		secret, public, err := reference.GenerateKey("release-" + name + ".lab")
		require.NoError(t, err)
		put(t, at(name), []byte(secret+"\n"))
		keys += public + "\n"
	}
	trust, err := release.ParseKeys([]byte(keys))
	require.NoError(t, err)

	require.Contains(t, call(t, 0, "release", "sign", dir, "--key", at("one")), "signed release 2026.11.24 for qemu, which expires on 2027-01-01")
	note, err := os.ReadFile(at(release.FileNote))
	require.NoError(t, err)
	_, err = release.Open(trust, note)
	require.ErrorIs(t, err, reference.ErrUnsigned)

	for _, name := range []string{release.FileFull, release.FileDelta("2026.11.20")} {
		good, err := os.ReadFile(at(name))
		require.NoError(t, err)
		put(t, at(name), append(bytes.Clone(good), 0))
		require.Contains(t, call(t, 1, "release", "sign", dir, "--key", at("two")), "is not the file that the note names")
		put(t, at(name), good)
	}
	require.Contains(t, call(t, 1, "release", "sign", dir, "--key", at(release.FileFull)), "hint:")
	require.Contains(t, call(t, 1, "release", "make", dir, "--out", at("new")), "hint: BUILT and --from name folders")

	call(t, 0, "release", "sign", dir, "--key", at("two"))
	note, err = os.ReadFile(at(release.FileNote))
	require.NoError(t, err)
	got, err := release.Open(trust, note)
	require.NoError(t, err)
	require.Equal(t, r, got)
}

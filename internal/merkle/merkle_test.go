// SPDX-License-Identifier: Apache-2.0

package merkle

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/mod/sumdb/note"
)

func newKey(t *testing.T) (secret, verifier string) {
	t.Helper()
	secret, verifier, err := GenerateKey("gw1.lab/audit")
	require.NoError(t, err)
	return secret, verifier
}

func leafText(n int) []byte { return fmt.Appendf(nil, "leaf %d", n) }

func files(t *testing.T, dir string) (names []string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, err := filepath.Rel(dir, path)
			names = append(names, rel)
			return err
		}
		return err
	}))
	return names
}

func TestRootIsThatOfRFC6962(t *testing.T) {
	// The test vectors of the certificate-transparency reference implementation (merkletree, "Known inputs"), for 0 to 8 leaves.
	var leaves []Hash
	for _, s := range []string{"", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"} {
		raw, err := hex.DecodeString(s)
		require.NoError(t, err)
		leaves = append(leaves, LeafHash(raw))
	}
	for n, want := range map[int]string{
		0: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
		1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
		2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
		3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
		5: "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
		8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
	} {
		root := RootOf(leaves[:n])
		require.Equal(t, want, hex.EncodeToString(root[:]), n)
	}
}

func TestLogGrownInAnyStepsVerifiesAndKeepsNoOldTiles(t *testing.T) {
	secret, verifier := newKey(t)
	dir := filepath.Join(t.TempDir(), "log")
	var all []Hash
	var kept []byte
	for _, step := range []int{1, 1, 3, 250, 1, 1, 255, 1, 513} {
		l, err := Open(dir, secret) // each time as after a restart
		require.NoError(t, err)
		require.Equal(t, int64(len(all)), l.Size())
		var leaves [][]byte
		for range step {
			leaves = append(leaves, leafText(len(all)))
			all = append(all, LeafHash(leafText(len(all))))
		}
		require.NoError(t, l.Append(leaves...))
		s, err := Read(os.DirFS(dir), verifier)
		require.NoError(t, err)
		require.Equal(t, all, s.Leaves)
		require.Equal(t, RootOf(all), s.Root, "tiles and leaves agree on the root")
		if kept != nil {
			require.NoError(t, s.Extends(kept, verifier))
		}
		kept = l.Checkpoint()
		last, err := l.Leaf(l.Size() - 1)
		require.NoError(t, err)
		require.Equal(t, all[len(all)-1], last)
	}
	require.ElementsMatch(t, []string{"checkpoint", "tile/0/000", "tile/0/001", "tile/0/002", "tile/0/003", "tile/0/004.p/2", "tile/1/000.p/4"}, files(t, dir))

	l, err := Open(dir, secret)
	require.NoError(t, err)
	out := filepath.Join(t.TempDir(), "copy")
	require.NoError(t, l.Copy(out))
	require.ElementsMatch(t, files(t, dir), files(t, out))
}

func TestChangedTilesAndCheckpointsAreDamage(t *testing.T) {
	secret, verifier := newKey(t)
	other, otherVerifier := newKey(t)
	for name, spoil := range map[string]func(t *testing.T, dir string){
		"a bit in a tile": func(t *testing.T, dir string) {
			edit(t, dir+"/tile/0/000", func(b []byte) []byte { b[40] ^= 1; return b })
		},
		"a bit in the last": func(t *testing.T, dir string) {
			edit(t, dir+"/tile/0/001.p/44", func(b []byte) []byte { b[3] ^= 1; return b })
		},
		"a short tile": func(t *testing.T, dir string) { edit(t, dir+"/tile/0/000", func(b []byte) []byte { return b[:64] }) },
		"a long tile": func(t *testing.T, dir string) {
			edit(t, dir+"/tile/0/000", func(b []byte) []byte { return append(b, 0) })
		},
		"a missing tile":      func(t *testing.T, dir string) { require.NoError(t, os.Remove(dir+"/tile/0/000")) },
		"no checkpoint":       func(t *testing.T, dir string) { require.NoError(t, os.Remove(dir+"/checkpoint")) },
		"another size":        func(t *testing.T, dir string) { edit(t, dir+"/checkpoint", replace("\n300\n", "\n299\n")) },
		"another name":        func(t *testing.T, dir string) { edit(t, dir+"/checkpoint", replace("gw1", "gw2")) },
		"a negative size":     func(t *testing.T, dir string) { edit(t, dir+"/checkpoint", replace("\n300\n", "\n-1\n")) },
		"a checkpoint of air": func(t *testing.T, dir string) { edit(t, dir+"/checkpoint", func([]byte) []byte { return nil }) },
		"an endless one": func(t *testing.T, dir string) {
			edit(t, dir+"/checkpoint", func([]byte) []byte { return make([]byte, 1<<17) })
		},
		"another signer": func(t *testing.T, dir string) {
			l, err := Open(t.TempDir(), other)
			require.NoError(t, err)
			require.NoError(t, l.Append(leafText(0)))
			edit(t, dir+"/checkpoint", func([]byte) []byte { return l.Checkpoint() })
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "log")
			l, err := Open(dir, secret)
			require.NoError(t, err)
			var leaves [][]byte
			for n := range 300 {
				leaves = append(leaves, leafText(n))
			}
			require.NoError(t, l.Append(leaves...))
			spoil(t, dir)
			_, err = Read(os.DirFS(dir), verifier)
			require.ErrorIs(t, err, ErrDamaged)
			_, err = Read(os.DirFS(dir), otherVerifier)
			require.Error(t, err)
			_, err = Read(os.DirFS(dir), "gw1.lab/audit+zz")
			require.ErrorContains(t, err, "verifier key")
		})
	}
}

func edit(t *testing.T, file string, change func([]byte) []byte) {
	t.Helper()
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file, change(data), 0o600))
}

func replace(old, with string) func([]byte) []byte {
	return func(b []byte) []byte { return []byte(strings.Replace(string(b), old, with, 1)) }
}

func TestLogSealedAnewDoesNotExtendWhatSomeoneKept(t *testing.T) {
	secret, verifier := newKey(t)
	grow := func(texts ...string) (*Sealed, []byte) {
		dir := t.TempDir()
		l, err := Open(dir, secret)
		require.NoError(t, err)
		for _, s := range texts {
			require.NoError(t, l.Append([]byte(s)))
		}
		s, err := Read(os.DirFS(dir), verifier)
		require.NoError(t, err)
		return s, l.Checkpoint()
	}
	_, kept := grow("a", "b", "c")
	longer, _ := grow("a", "b", "c", "d")
	require.NoError(t, longer.Extends(kept, verifier))
	cut, _ := grow("a", "b")
	require.ErrorIs(t, cut.Extends(kept, verifier), ErrDamaged)
	rewritten, _ := grow("a", "X", "c", "d")
	require.ErrorIs(t, rewritten.Extends(kept, verifier), ErrDamaged)
}

func TestAppendInterruptedAnywhereLeavesALogThatVerifies(t *testing.T) {
	secret, verifier := newKey(t)
	dir := filepath.Join(t.TempDir(), "log")
	l, err := Open(dir, secret)
	require.NoError(t, err)
	require.NoError(t, l.Append(leafText(0), leafText(1)))
	old := l.Checkpoint()
	require.NoError(t, l.Append(leafText(2)))

	// The new tiles are there and the checkpoint is the old one: stopped before its rename. The old partial tile is still there then.
	require.NoError(t, os.WriteFile(filepath.Join(dir, "checkpoint"), old, 0o600))
	three, err := os.ReadFile(filepath.Join(dir, "tile/0/000.p/3"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "tile/0/000.p/2"), three[:64], 0o600))
	s, err := Read(os.DirFS(dir), verifier)
	require.NoError(t, err)
	require.Len(t, s.Leaves, 2)
	again, err := Open(dir, secret)
	require.NoError(t, err)
	require.NoError(t, again.Append([]byte("another third leaf"), leafText(3)))
	s, err = Read(os.DirFS(dir), verifier)
	require.NoError(t, err)
	require.Len(t, s.Leaves, 4)
}

func TestFailedAppendCanBeMadeAgain(t *testing.T) {
	secret, verifier := newKey(t)
	dir := filepath.Join(t.TempDir(), "log")
	l, err := Open(dir, secret)
	require.NoError(t, err)
	require.NoError(t, l.Append(leafText(0)))
	// A folder stands where the tile is to be written: the write fails, as on a full disk.
	blocked := filepath.Join(dir, "tile/0/000.p/2")
	require.NoError(t, os.MkdirAll(filepath.Join(blocked, "x"), 0o700))
	require.Error(t, l.Append(leafText(1)))
	require.Equal(t, int64(1), l.Size())
	require.NoError(t, os.RemoveAll(blocked))
	require.NoError(t, l.Append(leafText(1)))
	s, err := Read(os.DirFS(dir), verifier)
	require.NoError(t, err)
	require.Len(t, s.Leaves, 2)
}

func TestLogIsContinuedByItsOwnKeyOnly(t *testing.T) {
	secret, verifier := newKey(t)
	derived, err := VerifierKey(secret)
	require.NoError(t, err)
	require.Equal(t, verifier, derived)
	_, err = VerifierKey("PRIVATE+KEY+x")
	require.Error(t, err)
	_, _, err = GenerateKey("a name with spaces")
	require.Error(t, err)
	dir := t.TempDir()
	l, err := Open(dir, secret)
	require.NoError(t, err)
	require.Error(t, l.Copy(t.TempDir()), "nothing is sealed")
	_, err = l.Leaf(0)
	require.Error(t, err)
	require.NoError(t, l.Append(leafText(0)))
	other, _ := newKey(t)
	_, err = Open(dir, other)
	require.ErrorIs(t, err, ErrDamaged, "a log is continued by its own key only")
}

func FuzzRead(f *testing.F) {
	secret, verifier, err := GenerateKey("gw1.lab/audit")
	require.NoError(f, err)
	dir := f.TempDir()
	l, err := Open(dir, secret)
	require.NoError(f, err)
	require.NoError(f, l.Append(leafText(0), leafText(1)))
	tile, err := os.ReadFile(filepath.Join(dir, "tile/0/000.p/2"))
	require.NoError(f, err)
	f.Add(l.Checkpoint(), tile)
	f.Add([]byte("gw1.lab/audit\n2\n\n\n"), []byte{})
	f.Add(l.Checkpoint(), tile[1:])
	f.Add(l.Checkpoint(), append(bytes.Clone(tile[:len(tile)-1]), 0))
	f.Add(make([]byte, 1<<16+1), tile)
	signer, err := note.NewSigner(secret)
	require.NoError(f, err)
	for _, text := range []string{"gw1.lab/audit\n0\n" + base64.StdEncoding.EncodeToString(make([]byte, 32)) + "\n",
		"gw1.lab/audit\n99999999999\n" + base64.StdEncoding.EncodeToString(make([]byte, 32)) + "\n", "other\n0\n" + base64.StdEncoding.EncodeToString(make([]byte, 32)) + "\n"} {
		signed, err := note.Sign(&note.Note{Text: text}, signer)
		require.NoError(f, err)
		f.Add(signed, tile)
	}
	f.Fuzz(func(t *testing.T, checkpoint, tile []byte) {
		dir := t.TempDir()
		require.NoError(t, os.MkdirAll(filepath.Join(dir, "tile/0/000.p"), 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "checkpoint"), checkpoint, 0o600))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "tile/0/000.p/2"), tile, 0o600))
		s, err := Read(os.DirFS(dir), verifier)
		if err == nil && len(s.Leaves) > 0 && RootOf(s.Leaves) != s.Root || err != nil && !errors.Is(err, ErrDamaged) && !strings.Contains(err.Error(), "at most") {
			t.Fatalf("root and leaves differ, or an error without its kind: %v", err)
		}
	})
}

// SPDX-License-Identifier: Apache-2.0

package disk

import (
	"bytes"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/diskfs/go-diskfs"
	"github.com/diskfs/go-diskfs/partition/gpt"
	"github.com/stretchr/testify/require"
)

// image is n bytes that no file system would leave out.
func image(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{}).Read(b)
	return b
}

func TestSameImageMakesTheSameDiskAndComesBackFromIt(t *testing.T) {
	built := time.Date(2026, 11, 24, 13, 0, 7, 0, time.FixedZone("CET", 3600))
	uki, config := image(3<<20+77), image(128<<10)
	var sums [2][32]byte
	var path string
	for n := range sums {
		esp, err := ESP(uki, built)
		require.NoError(t, err)
		path = filepath.Join(t.TempDir(), "sdbox.img")
		require.NoError(t, Build(path, esp, config))
		raw, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Len(t, raw, Size)
		sums[n] = sha256.Sum256(raw)
	}
	require.Equal(t, sums[0], sums[1])

	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	parts, err := Partitions(f)
	require.NoError(t, err)
	require.Equal(t, config, parts[2][:len(config)])
	for _, esp := range parts[:2] {
		got, err := UKI(esp)
		require.NoError(t, err)
		require.True(t, bytes.Equal(uki, got))
	}
	require.ErrorIs(t, Build(path, parts[0], nil), os.ErrExist)
}

// The library's own reader, which knows nothing of how the disk was made, finds the same.
func TestAnotherReaderFindsTheFileAndItsTime(t *testing.T) {
	built := time.Date(2026, 11, 24, 12, 0, 6, 0, time.UTC)
	uki := image(1<<20 + 5)
	esp, err := ESP(uki, built)
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "sdbox.img")
	require.NoError(t, Build(path, esp, nil))
	d, err := diskfs.Open(path, diskfs.WithOpenMode(diskfs.ReadOnly))
	require.NoError(t, err)
	defer d.Backend.Close()
	found, err := d.GetPartitionTable()
	require.NoError(t, err)
	require.NoError(t, found.Verify(d.Backend, Size))
	for n, p := range Layout() {
		g := found.(*gpt.Table).Partitions[n]
		require.Equal(t, []any{p.Number, p.Name, p.GUID, p.Start, p.Size}, []any{g.Index, g.Name, g.GUID, g.GetStart(), g.GetSize()})
	}
	for _, number := range []int{1, 2} {
		system, err := d.GetFilesystem(number)
		require.NoError(t, err)
		f, err := system.OpenFile(BootFile, os.O_RDONLY)
		require.NoError(t, err)
		got, err := io.ReadAll(f)
		require.NoError(t, err)
		require.True(t, bytes.Equal(uki, got))
		for _, dir := range []string{".", "EFI", "EFI/BOOT"} {
			entries, err := system.ReadDir(dir)
			require.NoError(t, err)
			for _, e := range entries {
				info, err := e.Info()
				require.NoError(t, err)
				require.Equal(t, built, info.ModTime().UTC(), "%s/%s", dir, e.Name())
			}
		}
	}
}

func TestWhatIsNotExactlyABootPartitionIsRefused(t *testing.T) {
	esp, err := ESP(image(1000), time.Unix(1764000000, 0))
	require.NoError(t, err)
	change := func(at int, value byte) func([]byte) []byte {
		return func(b []byte) []byte { b[at] ^= value; return b }
	}
	data := int(binaryDataStart(esp))
	for name, spoil := range map[string]func([]byte) []byte{
		"cut off":                   func(b []byte) []byte { return b[:len(b)-1] },
		"all zero":                  func(b []byte) []byte { clear(b); return b },
		"huge allocation table":     func(b []byte) []byte { copy(b[atFATSize:], "\xff\xff\xff\xff"); return b },
		"table to the end":          func(b []byte) []byte { copy(b[atFATSize:], "\x00\x7c\x00\x00"); return b },
		"huge image":                func(b []byte) []byte { copy(b[data+atEntry+atEntrySize:], "\xff\xff\xff\xff"); return b },
		"month 15":                  func(b []byte) []byte { copy(b[data+atEntry+atEntryDate:], "\xff\xff"); return b },
		"an entry more in the root": func(b []byte) []byte { copy(b[data+2*entrySize:], "EVIL    CRD"); return b },
		"label":                     change(data, 1),
		"second table":              change(sector*(32+1), 1),
		"behind the image":          change(ESPSize-1, 1),
	} {
		_, err := UKI(spoil(bytes.Clone(esp)))
		require.Error(t, err, name)
	}
	_, err = ESP(nil, time.Unix(0, 0))
	require.Error(t, err)
	_, err = ESP(image(ESPSize), time.Unix(1764000000, 0))
	require.Error(t, err)
}

func binaryDataStart(esp []byte) int {
	return (int(esp[atReserved]) + 2*(int(esp[atFATSize])|int(esp[atFATSize+1])<<8)) * sector
}

// SPDX-License-Identifier: Apache-2.0

package disk

import (
	"bytes"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
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
	dir := t.TempDir()
	path, again := filepath.Join(dir, "sdbox.img"), filepath.Join(dir, "again.img")
	for _, path := range []string{path, again} {
		esp, err := ESP(uki, built)
		require.NoError(t, err)
		require.NoError(t, Build(path, esp, config))
	}
	require.NoError(t, exec.Command("cmp", path, again).Run()) // not here: the race detector looks at each byte
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.EqualValues(t, Size, info.Size())

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
	data := binaryDataStart(esp)
	for name, c := range map[string]struct {
		at    int
		bytes string
	}{
		"huge allocation table":     {atFATSize, "\xff\xff\xff\xff"},
		"table to the end":          {atFATSize, "\x00\x7c\x00\x00"},
		"huge image":                {data + atEntry + atEntrySize, "\xff\xff\xff\xff"},
		"month 15":                  {data + atEntry + atEntryDate, "\xff\xff"},
		"an entry more in the root": {data + 2*entrySize, "EVIL    CRD"},
		"label":                     {data, "X"},
		"second table":              {sector * (32 + 1), "\x01"},
		"behind the image":          {ESPSize - 1, "\x01"},
	} {
		was := string(esp[c.at : c.at+len(c.bytes)])
		copy(esp[c.at:], c.bytes)
		_, err := UKI(esp)
		require.Error(t, err, name)
		copy(esp[c.at:], was)
	}
	_, err = UKI(esp)
	require.NoError(t, err)
	_, err = UKI(esp[:ESPSize-1])
	require.ErrorContains(t, err, "want")
	_, err = UKI(make([]byte, ESPSize))
	require.Error(t, err)
	_, err = ESP(nil, time.Unix(0, 0))
	require.Error(t, err)
	_, err = ESP(image(ESPSize), time.Unix(1764000000, 0))
	require.Error(t, err)
}

func binaryDataStart(esp []byte) int {
	return (int(esp[atReserved]) + 2*(int(esp[atFATSize])|int(esp[atFATSize+1])<<8)) * sector
}

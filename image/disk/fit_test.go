// SPDX-License-Identifier: Apache-2.0

package disk

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/partition/gpt"
	"github.com/stretchr/testify/require"
)

func TestALargerDiskHasItsTableAtItsOwnEnd(t *testing.T) {
	dir := t.TempDir()
	esp, err := ESP(image(1<<20), time.Unix(1_800_000_000, 0))
	require.NoError(t, err)
	require.NoError(t, Build(filepath.Join(dir, "image"), esp, image(4096)))
	raw, err := os.Open(filepath.Join(dir, "image"))
	require.NoError(t, err)
	defer raw.Close()
	to, err := os.Create(filepath.Join(dir, "disk"))
	require.NoError(t, err)
	defer to.Close()
	const size = Size + 77<<20
	require.NoError(t, to.Truncate(size))
	_, err = to.WriteAt(image(2<<20), Size-1<<20) // something was on it
	require.NoError(t, err)

	require.NoError(t, Put(raw, to, size))
	require.NoError(t, Same(raw, to, size))
	got, err := gpt.Read(file.New(to, true), 512, 512)
	require.NoError(t, err)
	require.NoError(t, got.Verify(file.New(to, true), size), "the copy of the table is not at the end")
	require.Len(t, got.Partitions, 3)

	for _, at := range []int64{600, Size - last - 1, size - 600} {
		var b [1]byte
		_, err := to.ReadAt(b[:], at)
		require.NoError(t, err)
		_, err = to.WriteAt([]byte{b[0] ^ 1}, at)
		require.NoError(t, err)
		require.ErrorContains(t, Same(raw, to, size), "read disk back", at)
		_, err = to.WriteAt(b[:], at)
		require.NoError(t, err)
	}
	require.ErrorContains(t, Put(raw, to, Size-512), "want at least")
	require.ErrorContains(t, Put(to, to, size), "its partition table is not", "a file that is no image")
}

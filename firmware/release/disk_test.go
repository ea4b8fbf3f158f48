// SPDX-License-Identifier: Apache-2.0

package release

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"sdbox/firmware/efivar"

	"github.com/stretchr/testify/require"
)

// tableOf is the beginning of a disk with these partitions.
func tableOf(block int, parts ...Partition) []byte {
	disk := make([]byte, 8*block)
	copy(disk[block:], "EFI PART")
	binary.LittleEndian.PutUint64(disk[block+72:], 2)
	binary.LittleEndian.PutUint32(disk[block+80:], uint32(len(parts)))
	binary.LittleEndian.PutUint32(disk[block+84:], 128)
	for i, p := range parts {
		entry := disk[2*block+128*i:]
		copy(entry[16:], p.GUID[:])
		binary.LittleEndian.PutUint64(entry[32:], p.Start)
		binary.LittleEndian.PutUint64(entry[40:], p.Start+p.Blocks-1)
	}
	return disk
}

// plug shows a disk as Linux does: folders of sysfs, device files.
func plug(t *testing.T, root, name string, block int, labels ...string) []Partition {
	t.Helper()
	var parts []Partition
	require.NoError(t, os.MkdirAll(filepath.Join(root, "dev"), 0o755))
	require.NoError(t, os.MkdirAll(filepath.Join(root, "sys/class/block"), 0o755))
	for i, label := range labels {
		node := name + strconv.Itoa(i+1)
		parts = append(parts, Partition{uint32(i + 1), 100 + uint64(i)*16, 16, efivar.GUID{1, byte(i)}, 16 * int64(block)})
		folder := filepath.Join(root, "sys/devices", name, node)
		require.NoError(t, os.MkdirAll(folder, 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(folder, "uevent"), []byte("DEVNAME="+node+"\nPARTN=1\nPARTNAME="+label), 0o644))
		require.NoError(t, os.WriteFile(filepath.Join(folder, "partition"), []byte(strconv.Itoa(i+1)+"\n"), 0o644))
		require.NoError(t, os.Symlink(folder, filepath.Join(root, "sys/class/block", node)))
		require.NoError(t, os.WriteFile(filepath.Join(root, "dev", node), make([]byte, 16*block), 0o644))
	}
	require.NoError(t, os.MkdirAll(filepath.Join(root, "sys/devices", name, "queue"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(root, "sys/devices", name, "queue/logical_block_size"), []byte(strconv.Itoa(block)+"\n"), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(root, "dev", name), tableOf(block, parts...), 0o644))
	return parts
}

func TestDiskIsFoundByTheNamesOfItsSlots(t *testing.T) {
	for _, block := range []int{512, 4096} {
		root := t.TempDir()
		sys, dev := filepath.Join(root, "sys"), filepath.Join(root, "dev")
		plug(t, root, "sda", block, "sdbox-abc", "other")
		_, err := FindDisk(sys, dev)
		require.ErrorIs(t, err, os.ErrNotExist)
		parts := plug(t, root, "nvme0n", block, "sdbox-a", "sdbox-b", "sdbox-config")
		d, err := FindDisk(sys, dev)
		require.NoError(t, err)
		require.Equal(t, parts[0], d.Partition(A))
		require.Equal(t, parts[1], d.Partition(B))

		s, err := d.Write(B)
		require.NoError(t, err)
		_, err = s.WriteAt([]byte("hello"), 7)
		require.NoError(t, err)
		require.NoError(t, s.Sync())
		require.NoError(t, s.Close())
		r, closer, err := d.Read(B)
		require.NoError(t, err)
		got := make([]byte, 5)
		_, err = r.ReadAt(got, 7)
		require.NoError(t, err)
		require.NoError(t, closer.Close())
		require.Equal(t, "hello", string(got))

		plug(t, root, "vda", block, "sdbox-a")
		_, err = FindDisk(sys, dev)
		require.ErrorContains(t, err, "two partitions")
	}
	root := t.TempDir()
	plug(t, root, "sda", 512, "sdbox-a")
	plug(t, root, "sdb", 512, "sdbox-b")
	_, err := FindDisk(filepath.Join(root, "sys"), filepath.Join(root, "dev"))
	require.ErrorContains(t, err, "two disks")
}

func FuzzPartition(f *testing.F) {
	good := tableOf(512, Partition{Start: 1, Blocks: 2}, Partition{Start: 3, Blocks: 4})
	f.Add(good, int64(512), uint32(2))
	f.Add(good, int64(512), uint32(3))
	f.Add(good, int64(7), uint32(1))
	f.Add(good[:600], int64(512), uint32(1))
	f.Add(good[:1100], int64(512), uint32(1))
	f.Add(tableOf(512, Partition{Start: 9}), int64(512), uint32(1))
	f.Fuzz(func(t *testing.T, disk []byte, block int64, number uint32) {
		p, err := parsePartition(bytes.NewReader(disk), block, number)
		if err == nil {
			require.Positive(t, p.Size)
			require.Equal(t, number, p.Number)
		}
	})
}

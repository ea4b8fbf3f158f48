// SPDX-License-Identifier: Apache-2.0

package release

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"sdbox/firmware/efivar"

	"golang.org/x/sys/unix"
)

// BlockDisk is the machine's own disk, as Linux shows it.
type BlockDisk struct {
	nodes [2]string // device files of the slots
	parts [2]Partition
}

// FindDisk looks under sys ("/sys") for the one disk that has the two slots, by the names of its partitions, and reads from it, under
// dev ("/dev"), where they lie. While it is not there, the error wraps fs.ErrNotExist.
func FindDisk(sys, dev string) (*BlockDisk, error) {
	d, err := findDisk(sys, dev)
	if err != nil {
		return nil, fmt.Errorf("find the disk: %w", err)
	}
	return d, nil
}

func findDisk(sys, dev string) (*BlockDisk, error) {
	var d BlockDisk
	var whole [2]string
	for _, slot := range []Slot{A, B} {
		folder, err := partitionNamed(filepath.Join(sys, "class/block"), slot.Label())
		if err != nil {
			return nil, err
		}
		disk := filepath.Dir(folder)
		number, err := readNumber(filepath.Join(folder, "partition"))
		if err != nil {
			return nil, err
		}
		block, err := readNumber(filepath.Join(disk, "queue/logical_block_size"))
		if err != nil {
			return nil, err
		}
		whole[slot], d.nodes[slot] = disk, filepath.Join(dev, filepath.Base(folder))
		if d.parts[slot], err = readPartition(filepath.Join(dev, filepath.Base(disk)), int64(block), uint32(number)); err != nil {
			return nil, fmt.Errorf("%s: %w", slot.Label(), err)
		}
	}
	if whole[A] != whole[B] {
		return nil, errors.New("the slots are on two disks")
	}
	return &d, nil
}

// partitionNamed returns the folder of sysfs of the one partition with this name, inside that of its disk.
func partitionNamed(classes, name string) (string, error) {
	entries, err := os.ReadDir(classes)
	if err != nil {
		return "", err
	}
	found := ""
	for _, e := range entries {
		text, err := os.ReadFile(filepath.Join(classes, e.Name(), "uevent"))
		if err != nil || !strings.Contains("\n"+string(text)+"\n", "\nPARTNAME="+name+"\n") {
			continue // a device that has just gone is none of ours
		}
		if found != "" {
			return "", fmt.Errorf("two partitions are named %s", name)
		}
		if found, err = filepath.EvalSymlinks(filepath.Join(classes, e.Name())); err != nil {
			return "", err
		}
	}
	if found == "" {
		return "", fmt.Errorf("partition %s: %w", name, os.ErrNotExist)
	}
	return found, nil
}

func readNumber(path string) (uint64, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 32)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	return n, nil
}

// readPartition reads a partition's entry where the firmware reads it too.
func readPartition(node string, block int64, number uint32) (Partition, error) {
	f, err := os.Open(node)
	if err != nil {
		return Partition{}, err
	}
	defer f.Close()
	return parsePartition(f, block, number)
}

// parsePartition reads the entry of a GUID partition table (UEFI 2.10, 5.3.2 and 5.3.3). Its checksums are the kernel's affair, which
// has found the partition.
func parsePartition(disk io.ReaderAt, block int64, number uint32) (Partition, error) {
	header := make([]byte, 92)
	if block < sectorSize || block > 64<<10 {
		return Partition{}, fmt.Errorf("blocks of %d bytes", block)
	}
	if _, err := disk.ReadAt(header, block); err != nil {
		return Partition{}, fmt.Errorf("read partition table: %w", err)
	}
	at, count, size := binary.LittleEndian.Uint64(header[72:]), binary.LittleEndian.Uint32(header[80:]), binary.LittleEndian.Uint32(header[84:])
	if string(header[:8]) != "EFI PART" || at > 1<<40 || number < 1 || number > count || size < 128 || size > 4096 {
		return Partition{}, errors.New("read partition table: not one of the GUID kind")
	}
	entry := make([]byte, 128)
	if _, err := disk.ReadAt(entry, int64(at)*block+int64(number-1)*int64(size)); err != nil {
		return Partition{}, fmt.Errorf("read partition table: %w", err)
	}
	first, last := binary.LittleEndian.Uint64(entry[32:]), binary.LittleEndian.Uint64(entry[40:])
	if first > last || last > 1<<40 {
		return Partition{}, errors.New("read partition table: a partition that ends before it begins")
	}
	blocks := last - first + 1
	return Partition{number, first, blocks, efivar.GUID(entry[16:32]), int64(blocks) * block}, nil
}

// Partition says where a slot lies.
func (d *BlockDisk) Partition(slot Slot) Partition { return d.parts[slot] }

// Read opens the slot that runs.
func (d *BlockDisk) Read(slot Slot) (io.ReaderAt, io.Closer, error) {
	f, err := os.Open(d.nodes[slot])
	return f, f, err
}

// Write opens the idle slot, which must not be mounted or in use by anyone (O_EXCL of a block device).
func (d *BlockDisk) Write(slot Slot) (Store, error) {
	f, err := os.OpenFile(d.nodes[slot], os.O_RDWR|os.O_EXCL, 0)
	if err != nil {
		return nil, err
	}
	return blockStore{f}, nil
}

type blockStore struct{ *os.File }

// Sync has the kernel forget what it has written, so that the next read is one of the disk.
func (s blockStore) Sync() error {
	if err := s.File.Sync(); err != nil {
		return err
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return err
	}
	var forget error
	err = raw.Control(func(fd uintptr) { forget = unix.Fadvise(int(fd), 0, 0, unix.FADV_DONTNEED) })
	return errors.Join(err, forget)
}

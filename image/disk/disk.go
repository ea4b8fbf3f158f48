// SPDX-License-Identifier: Apache-2.0

// Package disk makes and reads an SD-Box's disk: a GUID partition table with two boot partitions, each of which holds one file, and the
// slots of the configuration. There is no boot loader: the firmware chooses the boot partition (UEFI 2.10, 3.1 and 5.3).
//
//	1  sdbox-a       EFI system partition, 62 MiB, FAT32: \EFI\BOOT\BOOTX64.EFI
//	2  sdbox-b       likewise
//	3  sdbox-config  1 MiB, which begins with the configuration slots of firmware/slot
package disk

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/diskfs/go-diskfs/partition/gpt"
)

// What stands where, in bytes, for the life of a box: an update writes a whole boot partition and never moves one.
const (
	ESPSize    = 62 << 20
	ConfigSize = 1 << 20
	Size       = first + 2*ESPSize + ConfigSize + last

	first  = 1 << 20 // where the first partition begins; before it stands the table
	last   = 1 << 20 // behind the last partition; at its end stands the copy of the table
	sector = 512
)

// Names of the partitions, PARTNAME in Linux.
const (
	NameA      = "sdbox-a"
	NameB      = "sdbox-b"
	NameConfig = "sdbox-config"
)

// BootFile is the one file of a boot partition: what a firmware starts from a disk it was told nothing about (UEFI 2.10, 3.5.1.1).
const BootFile = "/EFI/BOOT/BOOTX64.EFI"

// The identities of the disk and its partitions are the same on every box, so that the same image has the same bytes.
const (
	diskGUID   = "5D0B0000-7E1C-4B0A-9C51-2D6F6E8A1000"
	typeConfig = "5D0B0000-7E1C-4B0A-9C51-2D6F6E8A1001" // ours: no system that does not know it touches it
	guidA      = "5D0B0000-7E1C-4B0A-9C51-2D6F6E8A100A"
	guidB      = "5D0B0000-7E1C-4B0A-9C51-2D6F6E8A100B"
	guidConfig = "5D0B0000-7E1C-4B0A-9C51-2D6F6E8A100C"
)

// Partition is a partition of the layout.
type Partition struct {
	Number int    // from 1
	Name   string // PARTNAME in Linux
	GUID   string // PARTUUID
	Start  int64  // bytes from the beginning of the disk
	Size   int64  // bytes
}

// Layout is where the partitions are.
func Layout() [3]Partition {
	return [3]Partition{
		{1, NameA, guidA, first, ESPSize},
		{2, NameB, guidB, first + ESPSize, ESPSize},
		{3, NameConfig, guidConfig, first + 2*ESPSize, ConfigSize},
	}
}

func table() *gpt.Table {
	t := &gpt.Table{LogicalSectorSize: sector, PhysicalSectorSize: sector, ProtectiveMBR: true, GUID: diskGUID}
	for _, p := range Layout() {
		kind := gpt.EFISystemPartition
		if p.Name == NameConfig {
			kind = gpt.Type(typeConfig)
		}
		t.Partitions = append(t.Partitions, &gpt.Partition{
			Index: p.Number, Start: uint64(p.Start / sector), End: uint64((p.Start+p.Size)/sector - 1), Size: uint64(p.Size),
			Type: kind, Name: p.Name, GUID: p.GUID,
		})
	}
	return t
}

// Build makes a disk in a new file: this boot partition, made by ESP, in both places, and the configuration slots. Same input, same
// bytes.
func Build(path string, esp, config []byte) (err error) {
	if len(esp) != ESPSize || len(config) > ConfigSize {
		return fmt.Errorf("make disk: boot partition of %d bytes, want %d; configuration of %d, limit %d", len(esp), ESPSize, len(config), ConfigSize)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return fmt.Errorf("make disk: %w", err)
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			err = errors.Join(fmt.Errorf("make disk: %w", err), os.Remove(path))
		}
	}()
	if err := f.Truncate(Size); err != nil {
		return err
	}
	before, behind, err := tables()
	if err != nil {
		return err
	}
	places := Layout()
	for _, part := range []struct {
		content []byte
		at      int64
	}{{before, 0}, {esp, places[0].Start}, {esp, places[1].Start}, {config, places[2].Start}, {behind, Size - last}} {
		if err := writeSparse(f, part.content, part.at); err != nil {
			return err
		}
	}
	return nil
}

// writeSparse writes what is not zero into a file that is.
func writeSparse(f io.WriterAt, content []byte, at int64) error {
	const step = 64 << 10
	zero := make([]byte, step)
	for len(content) > 0 {
		n := min(step, len(content))
		if !bytes.Equal(content[:n], zero[:n]) {
			if _, err := f.WriteAt(content[:n], at); err != nil {
				return err
			}
		}
		content, at = content[n:], at+int64(n)
	}
	return nil
}

// Partitions reads a disk that Build made: the bytes of its three partitions, in the order of Layout. Anything else in the place of the
// partition table than what Build writes there is an error; what is in the partitions is not looked at.
func Partitions(disk io.ReaderAt) ([3][]byte, error) {
	var parts [3][]byte
	want, _, err := tables()
	if err != nil {
		return parts, fmt.Errorf("read disk: %w", err)
	}
	got := make([]byte, first)
	if _, err := disk.ReadAt(got, 0); err != nil {
		return parts, fmt.Errorf("read disk: %w", err)
	}
	if !bytes.Equal(got, want) {
		return parts, errors.New("read disk: its partition table is not that of an SD-Box's image")
	}
	for n, p := range Layout() {
		parts[n] = make([]byte, p.Size)
		if _, err := disk.ReadAt(parts[n], p.Start); err != nil {
			return parts, fmt.Errorf("read disk: partition %s: %w", p.Name, err)
		}
	}
	return parts, nil
}

// tables are what stands before the first partition and behind the last. They are written to memory, since go-diskfs waits for a disk
// to have them.
func tables() (before, behind []byte, err error) {
	f, err := memory("table", Size)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	if err := table().Write(f, Size); err != nil {
		return nil, nil, err
	}
	before, behind = make([]byte, first), make([]byte, last)
	_, err = f.ReadAt(before, 0)
	if err == nil {
		_, err = f.ReadAt(behind, Size-last)
	}
	return before, behind, err
}

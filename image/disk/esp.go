// SPDX-License-Identifier: Apache-2.0

package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/diskfs/go-diskfs/backend"
	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem/fat32"
	"golang.org/x/sys/unix"
)

// Where things are in a boot partition, as go-diskfs lays it out: 512 bytes a cluster, the three folders in the first clusters, then
// the file (Microsoft FAT specification 2000, 3.1 and 6).
const (
	atReserved  = 14 // sectors before the first allocation table
	atFATSize   = 36 // sectors of an allocation table
	folders     = 3  // the root, EFI, BOOT
	entrySize   = 32
	atEntry     = 2*sector + 2*entrySize // BOOTX64.EFI in the folder BOOT, behind "." and ".."
	atEntryTime = 22
	atEntryDate = 24
	atEntrySize = 28
)

// ESP makes the bytes of a boot partition that holds this image, the unit of every update. built is the time of all its entries, to the
// two seconds of FAT, in UTC. Same input, same bytes.
func ESP(uki []byte, built time.Time) ([]byte, error) {
	f, err := memory("esp", ESPSize)
	if err != nil {
		return nil, fmt.Errorf("make boot partition: %w", err)
	}
	defer f.Close()
	raw := make([]byte, ESPSize)
	at, err := format(file.New(f, false), uki)
	if err == nil {
		_, err = f.ReadAt(raw, 0)
	}
	if err == nil {
		err = setTimes(raw[at:at+folders*sector], built)
	}
	if err != nil {
		return nil, fmt.Errorf("make boot partition: %w", err)
	}
	return raw, nil
}

// memory is a file that lives in memory.
func memory(name string, size int64) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	if err := f.Truncate(size); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// format makes the file system and returns where its first cluster is.
func format(b backend.Storage, uki []byte) (int, error) {
	system, err := fat32.Create(b, ESPSize, 0, sector, "SDBOX", true)
	if err != nil {
		return 0, err
	}
	if err := system.Mkdir("/EFI/BOOT"); err != nil {
		return 0, err
	}
	f, err := system.OpenFile(BootFile, os.O_CREATE|os.O_RDWR)
	if err != nil {
		return 0, err
	}
	_, err = f.Write(uki)
	return int(system.DataStart()), errors.Join(err, f.Close())
}

// setTimes gives every entry of the three folders the same time. go-diskfs takes that of the day, or of an environment variable that
// belongs to the whole process.
func setTimes(entries []byte, built time.Time) error {
	built = built.UTC()
	if built.Year() < 1980 || built.Year() > 2107 {
		return fmt.Errorf("FAT cannot say %v", built)
	}
	day := uint16((built.Year()-1980)<<9 | int(built.Month())<<5 | built.Day())
	clock := uint16(built.Hour()<<11 | built.Minute()<<5 | built.Second()/2)
	for ; len(entries) > 0; entries = entries[entrySize:] {
		if entries[0] == 0 {
			continue
		}
		put := binary.LittleEndian.PutUint16
		entries[13] = 0 // tenths of a second
		put(entries[14:], clock)
		put(entries[16:], day)
		put(entries[18:], day)
		put(entries[atEntryTime:], clock)
		put(entries[atEntryDate:], day)
	}
	return nil
}

// UKI returns the image in a boot partition. No file system is parsed: the partition must be, byte for byte, what ESP makes of the image
// and the time that stand in it.
func UKI(esp []byte) ([]byte, error) {
	if len(esp) != ESPSize {
		return nil, fmt.Errorf("read boot partition: %d bytes, want %d", len(esp), ESPSize)
	}
	reserved, tables := int(binary.LittleEndian.Uint16(esp[atReserved:])), int(binary.LittleEndian.Uint32(esp[atFATSize:]))
	if tables > ESPSize/sector/4 {
		return nil, errors.New("read boot partition: it is none of an SD-Box")
	}
	at := (reserved + 2*tables) * sector
	if at > ESPSize-folders*sector {
		return nil, errors.New("read boot partition: it is none of an SD-Box")
	}
	entry := esp[at+atEntry : at+atEntry+entrySize]
	begin, size := at+folders*sector, int(binary.LittleEndian.Uint32(entry[atEntrySize:]))
	if size > ESPSize-begin {
		return nil, fmt.Errorf("read boot partition: it says that its image has %d bytes", size)
	}
	day, clock := int(binary.LittleEndian.Uint16(entry[atEntryDate:])), int(binary.LittleEndian.Uint16(entry[atEntryTime:]))
	built := time.Date(1980+day>>9, time.Month(day>>5&15), day&31, clock>>11, clock>>5&63, clock&31*2, 0, time.UTC)
	uki := bytes.Clone(esp[begin : begin+size])
	again, err := ESP(uki, built)
	if err != nil {
		return nil, fmt.Errorf("read boot partition: %w", err)
	}
	if !bytes.Equal(esp, again) {
		return nil, errors.New("read boot partition: there is more in it, or something else, than one image")
	}
	return uki, nil
}

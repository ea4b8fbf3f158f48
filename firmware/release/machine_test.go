// SPDX-License-Identifier: Apache-2.0

package release

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"slices"
	"testing"

	"sdbox/firmware/efivar"

	"github.com/stretchr/testify/require"
)

var errPower = errors.New("the power is off")

// machine is a disk with two slots, a firmware with its variables, and a power cord. Its firmware checks no signature: it starts
// whatever lies behind a whole boot sector. Its disk writes what was not synced in any order, or not, or half of a sector.
type machine struct {
	slots     [2][]byte
	unsynced  map[Slot]map[int64][]byte // sectors
	variables map[string][]byte
	broken    map[string]bool // variables that the firmware does not let anyone write
	chance    *rand.Rand
	effects   int // that have happened
	cutAt     int // the power goes at this effect, 0 never
	open      [2]bool
}

func newMachine(old []byte) *machine {
	m := &machine{variables: map[string][]byte{}, broken: map[string]bool{}, chance: rand.New(rand.NewPCG(1, 1))}
	m.unsynced = map[Slot]map[int64][]byte{A: {}, B: {}}
	m.slots = [2][]byte{bytes.Clone(old), make([]byte, len(old))}
	m.variables["BootOrder"+bootVendor] = []byte{0, 0, 1, 0} // the firmware's own
	m.start()
	return m
}

// effect is one thing that outlives a power cut. The cut comes before it or after it.
func (m *machine) effect(do func()) error {
	m.effects++
	if m.cutAt > 0 && m.effects > m.cutAt {
		return errPower
	}
	if m.cutAt == m.effects {
		if m.chance.IntN(2) == 0 {
			do()
		}
		m.lose()
		return errPower
	}
	do()
	return nil
}

// lose is what the disk makes of unsynced sectors.
func (m *machine) lose() {
	for _, slot := range []Slot{A, B} {
		for at, sector := range m.unsynced[slot] {
			switch place := m.slots[slot][at : at+sectorSize]; m.chance.IntN(3) {
			case 0:
				copy(place, sector)
			case 1:
				copy(place[:m.chance.IntN(sectorSize)], sector)
			}
		}
		clear(m.unsynced[slot])
	}
}

func (m *machine) sync(slot Slot) {
	for at, sector := range m.unsynced[slot] {
		copy(m.slots[slot][at:], sector)
	}
	clear(m.unsynced[slot])
}

// start is the firmware: BootNext once, else the order, else the removable path of the first partition. It returns what runs.
func (m *machine) start() []byte {
	m.cutAt, m.open = 0, [2]bool{}
	order := m.variables["BootOrder"+bootVendor]
	next := m.variables["BootNext"+bootVendor]
	delete(m.variables, "BootNext"+bootVendor)
	delete(m.variables, "BootCurrent"+bootVendor)
	for entry := range slices.Chunk(append(bytes.Clone(next), order...), 2) {
		option := "Boot" + string(bytes.ToUpper([]byte(hexOf(entry))))
		for _, slot := range []Slot{A, B} {
			if bytes.Equal(m.variables[option+bootVendor], loadOption(slot, m.Partition(slot))) && m.bootable(slot) {
				m.variables["BootCurrent"+bootVendor] = entry
				return m.loaded(slot)
			}
		}
	}
	for _, slot := range []Slot{A, B} {
		if m.bootable(slot) {
			m.variables["BootCurrent"+bootVendor] = []byte{0, 0}
			return m.loaded(slot)
		}
	}
	return nil
}

func hexOf(entry []byte) string {
	return string("0123456789abcdef"[entry[1]>>4]) + string("0123456789abcdef"[entry[1]&15]) + string("0123456789abcdef"[entry[0]>>4]) + string("0123456789abcdef"[entry[0]&15])
}

func (m *machine) bootable(slot Slot) bool {
	return m.slots[slot][510] == 0x55 && m.slots[slot][511] == 0xAA
}

func (m *machine) loaded(slot Slot) []byte {
	m.variables["LoaderDevicePartUUID"+loaderVendor] = wide(m.Partition(slot).GUID.String())
	return bytes.Clone(m.slots[slot])
}

func (m *machine) Partition(slot Slot) Partition {
	return Partition{Number: uint32(slot) + 1, Start: 2048 + uint64(slot)*4096, Blocks: uint64(len(m.slots[slot]) / sectorSize), GUID: efivar.GUID{0: byte(slot), 15: 1}, Size: int64(len(m.slots[slot]))}
}

func (m *machine) Read(slot Slot) (io.ReaderAt, io.Closer, error) {
	return bytes.NewReader(m.slots[slot]), io.NopCloser(nil), nil
}

func (m *machine) Write(slot Slot) (Store, error) {
	if m.open[slot] {
		return nil, fs.ErrExist
	}
	m.open[slot] = true
	return opened{m, slot}, nil
}

type opened struct {
	m    *machine
	slot Slot
}

func (o opened) ReadAt(b []byte, at int64) (int, error) { return copy(b, o.m.slots[o.slot][at:]), nil }

func (o opened) WriteAt(b []byte, at int64) (int, error) {
	return len(b), o.m.effect(func() {
		for sector := range slices.Chunk(bytes.Clone(b), sectorSize) {
			o.m.unsynced[o.slot][at] = sector
			at += int64(len(sector))
		}
	})
}

func (o opened) Sync() error { return o.m.effect(func() { o.m.sync(o.slot) }) }

func (o opened) Close() error {
	o.m.open[o.slot] = false
	return nil
}

// vars are the machine's variables; its disk has a Read and a Write of its own.
type vars struct{ m *machine }

func (v vars) Read(name string) ([]byte, error) {
	data, found := v.m.variables[name]
	if !found {
		return nil, fs.ErrNotExist
	}
	return bytes.Clone(data), nil
}

func (v vars) Write(name string, data []byte) error {
	if v.m.broken[name] {
		return fs.ErrPermission
	}
	return v.m.effect(func() { v.m.variables[name] = bytes.Clone(data) })
}

func (v vars) Remove(name string) error {
	if v.m.broken[name] {
		return fs.ErrPermission
	}
	if _, found := v.m.variables[name]; !found {
		return nil
	}
	return v.m.effect(func() { delete(v.m.variables, name) })
}

func slotsOf(m *machine) *Slots { return &Slots{vars{m}, m, small()} }

func entries(t testing.TB, m *machine, name string) []uint16 {
	t.Helper()
	var out []uint16
	for entry := range slices.Chunk(m.variables[name+bootVendor], 2) {
		out = append(out, binary.LittleEndian.Uint16(entry))
	}
	return out
}

// require that a machine runs one of the images, whole.
func runsOneOf(t testing.TB, m *machine, images ...[]byte) []byte {
	t.Helper()
	got := m.start()
	require.True(t, slices.ContainsFunc(images, func(image []byte) bool { return bytes.Equal(image, got) }), "the machine runs neither")
	return got
}

// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"
	"time"

	"sdbox/firmware/efivar"
	"sdbox/image/keys"

	"github.com/stretchr/testify/require"
)

func TestEnrolledKeysAreReadBackFromTheFlash(t *testing.T) {
	dir := t.TempDir()
	folder := filepath.Join(dir, "keys")
	require.NoError(t, keys.Make(folder, "Lab", time.Now()))
	path := filepath.Join(dir, "vars.fd")
	require.NoError(t, MakeVariables(path, folder, "db"))
	flash, err := os.ReadFile(path)
	require.NoError(t, err)
	factory, err := os.ReadFile(factoryVariables)
	require.NoError(t, err)
	require.Len(t, flash, len(factory))
	list, err := ReadVariables(flash)
	require.NoError(t, err)
	require.Len(t, list, 3)
	for i, v := range []struct{ name, file string }{{efivar.PK, "PK"}, {efivar.KEK, "KEK"}, {efivar.DB, "db"}} {
		value, err := os.ReadFile(filepath.Join(folder, v.file+".esl"))
		require.NoError(t, err)
		require.Equal(t, Variable{Name: v.name, Attributes: 0x27, Value: value}, list[i])
	}
	more, err := WriteVariables(flash, Variable{Name: "Boot0000" + efivar.PK[2:], Attributes: 7, Value: []byte{1}})
	require.NoError(t, err)
	list, err = ReadVariables(more)
	require.NoError(t, err)
	require.Len(t, list, 4)

	require.NoError(t, MakeVariables(path, ""))
	flash, err = os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, factory, flash, "without keys it is the factory's")
}

// Debian ships a flash image that edk2's own code has written: with Microsoft's keys and a dozen other variables.
func TestVariablesOfEdk2AreRead(t *testing.T) {
	flash, err := os.ReadFile("/usr/share/OVMF/OVMF_VARS_4M.ms.fd")
	require.NoError(t, err)
	list, err := ReadVariables(flash)
	require.NoError(t, err)
	found := map[string]Variable{}
	for _, v := range list {
		found[v.Name] = v
	}
	require.Greater(t, len(list), 10)
	for _, name := range []string{efivar.PK, efivar.KEK, efivar.DB, efivar.DBX} {
		require.Contains(t, found, name)
		require.Equal(t, uint32(0x27), found[name].Attributes, name)
		_, err := efivar.ParseLists(found[name].Value)
		require.NoError(t, err, name)
	}
}

func TestOddFlashIsRefused(t *testing.T) {
	good, err := os.ReadFile(factoryVariables)
	require.NoError(t, err)
	for name, spoil := range map[string]func([]byte) []byte{
		"empty":           func([]byte) []byte { return nil },
		"cut off":         func(b []byte) []byte { return b[:0x50] },
		"other volume":    func(b []byte) []byte { b[0x10]++; return b },
		"check sum":       func(b []byte) []byte { b[0x32]++; return b },
		"endless header":  func(b []byte) []byte { b[0x30], b[0x31] = 0xFE, 0xFF; return b[:0x1000] },
		"other store":     func(b []byte) []byte { b[0x48]++; return b },
		"endless store":   func(b []byte) []byte { binary.LittleEndian.PutUint32(b[0x58:], 0xFFFFFFFF); return b },
		"endless name":    func(b []byte) []byte { return withEntry(b, 0xFFFFFFFE, 1) },
		"endless value":   func(b []byte) []byte { return withEntry(b, 4, 0xFFFFFFFF) },
		"half a letter":   func(b []byte) []byte { return withEntry(b, 3, 1) },
		"past the store":  func(b []byte) []byte { return withEntry(b, 4, 0x3FFF0) },
		"without a name":  func(b []byte) []byte { return withEntry(b, 0, 1) },
		"unhealthy store": func(b []byte) []byte { b[0x5D] = 0; return b },
	} {
		_, err := ReadVariables(spoil(bytes.Clone(good)))
		require.Error(t, err, name)
		_, err = WriteVariables(spoil(bytes.Clone(good)))
		require.Error(t, err, name)
	}
	for _, name := range []string{"", "db", "-" + efivar.DB[3:], "db-nothing", "d\x00" + efivar.DB} {
		_, err := WriteVariables(good, Variable{Name: name})
		require.Error(t, err, name)
	}
	_, err = WriteVariables(good, Variable{Name: efivar.DB, Value: make([]byte, 0x40000)})
	require.ErrorContains(t, err, "full")
}

// withEntry puts the head of a variable with these lengths into an empty store.
func withEntry(b []byte, name, value uint32) []byte {
	binary.LittleEndian.PutUint16(b[0x64:], entryStart)
	b[0x66] = entryAdded
	binary.LittleEndian.PutUint32(b[0x64+36:], name)
	binary.LittleEndian.PutUint32(b[0x64+40:], value)
	return b
}

// FuzzVariables reads any bytes as a machine's flash. The store is a small one, so that the fuzzer finds its way in it.
func FuzzVariables(f *testing.F) {
	factory, err := os.ReadFile(factoryVariables)
	require.NoError(f, err)
	head := bytes.Clone(factory[:0x64])
	binary.LittleEndian.PutUint32(head[0x58:], storeHeader+512)
	put := func(list ...Variable) []byte {
		filled, err := WriteVariables(append(bytes.Clone(head), bytes.Repeat([]byte{0xFF}, 512)...), list...)
		require.NoError(f, err)
		return filled[0x64:]
	}
	f.Add(head, put())
	f.Add(head, put(Variable{Name: efivar.DB, Attributes: 0x27, Value: []byte("value")}, Variable{Name: efivar.PK, Value: []byte{1}}))
	f.Add(head, withEntry(append(bytes.Clone(head), put()...), 3, 1)[0x64:])
	f.Add([]byte("_FVH"), []byte{})
	f.Add(factory[:0x60], []byte{})
	f.Add(append(bytes.Clone(factory[:0x30]), make([]byte, 0x40)...), []byte{})
	f.Fuzz(func(t *testing.T, head, content []byte) {
		flash := append(bytes.Clone(head), content...)
		list, err := ReadVariables(flash)
		if err != nil {
			return
		}
		again, err := WriteVariables(flash)
		require.NoError(t, err)
		require.Equal(t, flash, again)
		require.LessOrEqual(t, len(list), len(flash)/entryHeader)
	})
}

// FuzzPicture reads any bytes as a picture of QEMU's.
func FuzzPicture(f *testing.F) {
	for _, s := range []string{"P6\n2 1\n255\nabcdef", "P6\n2 1\n255\nabc", "P6\n9999 1\n255\n", "P5\n1 1\n255\na", "P6\n-1 1\n255\n", ""} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if img, err := parsePPM(raw); err == nil && len(raw) < 3*img.Width*img.Height {
			t.Fatalf("%dx%d pixels out of %d bytes", img.Width, img.Height, len(raw))
		}
	})
}

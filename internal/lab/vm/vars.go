// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf16"

	"sdbox/firmware/efivar"
)

// Variable is a firmware variable, named as efivarfs names its file.
type Variable struct {
	Name       string // "db-d719b2cb-3d3a-4596-a3bc-dad00e67656f"
	Attributes uint32 // UEFI 2.10, 8.2.1
	Value      []byte
}

// The flash image of edk2's variables: a firmware volume (UEFI PI 1.8, volume 3, 3.2.1.1) whose content is one store of authenticated
// variables (edk2, MdeModulePkg/Include/Guid/VariableFormat.h). All numbers are little-endian; flash that was never written is FF.
const (
	volumeHeader = 0x38 // without its block map
	volumeMagic  = "_FVH"
	volumeGUID   = "fff12b8d-7696-4c8b-a985-2747075b4f50" // EFI_SYSTEM_NV_DATA_FV_GUID

	storeHeader = 28
	storeGUID   = "aaf32c78-947b-439a-a180-2e144ec37792" // gEfiAuthenticatedVariableGuid
	formatted   = 0x5A
	healthy     = 0xFE

	entryHeader = 60
	entryStart  = 0x55AA
	entryAdded  = 0x3F // state: written whole, and neither deleted nor about to be

	authenticated = 0x27 // UEFI 2.10, 8.2.1: kept, for boot services and the system, changed only by what is signed with a later time

	maxStore  = 16 << 20
	maxValue  = 1 << 20
	guidChars = 36
)

// enrolled is when the keys of a machine that is made were written, as EFI_TIME: 2020-01-01, before any change to come.
func enrolled() []byte { return []byte{0xE4, 0x07, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0} }

// store finds the variables in a flash image: from the end of the store's header to the end of the store.
func store(flash []byte) ([]byte, error) {
	if len(flash) < volumeHeader || len(flash) > maxStore || string(flash[0x28:0x2C]) != volumeMagic || !isGUID(flash[0x10:], volumeGUID) {
		return nil, errors.New("not a firmware volume of variables")
	}
	header := int(binary.LittleEndian.Uint16(flash[0x30:]))
	if header < volumeHeader || header%2 != 0 || header+storeHeader > len(flash) {
		return nil, fmt.Errorf("firmware volume with a header of %d bytes", header)
	}
	var sum uint16
	for i := 0; i < header; i += 2 {
		sum += binary.LittleEndian.Uint16(flash[i:])
	}
	if sum != 0 {
		return nil, errors.New("firmware volume with a wrong check sum")
	}
	s := flash[header:]
	size := int64(binary.LittleEndian.Uint32(s[16:]))
	if !isGUID(s, storeGUID) || s[20] != formatted || s[21] != healthy || size < storeHeader || size > int64(len(s)) {
		return nil, errors.New("no store of authenticated variables")
	}
	return s[storeHeader:size], nil
}

func isGUID(b []byte, text string) bool {
	g, err := efivar.ParseGUID(text)
	return err == nil && bytes.HasPrefix(b, g[:])
}

// ReadVariables returns the variables in a flash image that are valid, in the order they were written. The image is a machine's own:
// nothing in it is believed.
func ReadVariables(flash []byte) ([]Variable, error) {
	s, err := store(flash)
	if err != nil {
		return nil, fmt.Errorf("read variables: %w", err)
	}
	var list []Variable
	for at := 0; ; {
		v, state, next, err := entry(s, at)
		if err != nil {
			return nil, fmt.Errorf("read variables: %w", err)
		}
		if next == at {
			return list, nil
		}
		if state == entryAdded {
			list = append(list, v)
		}
		at = next
	}
}

// entry reads the variable at an offset; next is that offset itself where none is.
func entry(s []byte, at int) (v Variable, state byte, next int, err error) {
	if at+entryHeader > len(s) || binary.LittleEndian.Uint16(s[at:]) != entryStart {
		return v, 0, at, nil
	}
	h := s[at : at+entryHeader]
	nameSize, size := binary.LittleEndian.Uint32(h[36:]), binary.LittleEndian.Uint32(h[40:])
	rest := s[at+entryHeader:]
	if nameSize < 2 || nameSize%2 != 0 || nameSize > 1024 || size > maxValue || int(nameSize)+int(size) > len(rest) {
		return v, 0, 0, fmt.Errorf("at %d: a name of %d and a value of %d bytes", at, nameSize, size)
	}
	var units []uint16
	for i := 0; i < int(nameSize)-2; i += 2 {
		units = append(units, binary.LittleEndian.Uint16(rest[i:]))
	}
	vendor := efivar.GUID(h[44:60])
	v = Variable{
		Name: string(utf16.Decode(units)) + "-" + vendor.String(), Attributes: binary.LittleEndian.Uint32(h[4:]),
		Value: slices.Clone(rest[nameSize : nameSize+size]),
	}
	return v, h[2], aligned(at + entryHeader + int(nameSize) + int(size)), nil
}

func aligned(n int) int { return (n + 3) &^ 3 }

// WriteVariables returns a flash image with these variables after those it has.
func WriteVariables(flash []byte, list ...Variable) ([]byte, error) {
	flash = slices.Clone(flash)
	s, err := store(flash)
	if err != nil {
		return nil, fmt.Errorf("write variables: %w", err)
	}
	at := 0
	for {
		_, _, next, err := entry(s, at)
		if err != nil {
			return nil, fmt.Errorf("write variables: %w", err)
		}
		if next == at {
			break
		}
		at = next
	}
	for _, v := range list {
		raw, err := v.bytes()
		if err != nil {
			return nil, err
		}
		if at+len(raw) > len(s) {
			return nil, fmt.Errorf("write variable %s: the flash is full", v.Name)
		}
		copy(s[at:], raw)
		at = aligned(at + len(raw))
	}
	return flash, nil
}

func (v Variable) bytes() ([]byte, error) {
	cut := len(v.Name) - guidChars - 1
	if cut < 1 || v.Name[cut] != '-' || strings.ContainsRune(v.Name[:cut], 0) || len(v.Value) > maxValue {
		return nil, fmt.Errorf("write variable %.80q of %d bytes: want NAME-GUID", v.Name, len(v.Value))
	}
	vendor, err := efivar.ParseGUID(v.Name[cut+1:])
	if err != nil {
		return nil, fmt.Errorf("write variable: %w", err)
	}
	name := append(utf16.Encode([]rune(v.Name[:cut])), 0)
	b := binary.LittleEndian.AppendUint16(nil, entryStart)
	b = append(b, entryAdded, 0)
	b = binary.LittleEndian.AppendUint32(b, v.Attributes)
	b = append(b, make([]byte, 8)...) // count, of a kind of authentication that is no more
	if v.Attributes&authenticated == authenticated {
		b = append(b, enrolled()...)
	} else {
		b = append(b, make([]byte, 16)...)
	}
	b = append(b, 0, 0, 0, 0) // index of a key, likewise
	b = binary.LittleEndian.AppendUint32(b, uint32(2*len(name)))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(v.Value)))
	b = append(b, vendor[:]...)
	for _, unit := range name {
		b = binary.LittleEndian.AppendUint16(b, unit)
	}
	return append(b, v.Value...), nil
}

// SPDX-License-Identifier: Apache-2.0

package release

import (
	"encoding/binary"
	"unicode/utf16"
)

const program = `\EFI\BOOT\BOOTX64.EFI`

// loadOption is a slot's EFI_LOAD_OPTION (UEFI 2.10, 3.1.3): hard drive and file (10.3.5.1, 10.3.5.4), which the firmware completes to
// a whole path by itself.
func loadOption(slot Slot, p Partition) []byte {
	path := wide(program)
	nodes := []byte{0x04, 0x01, 42, 0}
	nodes = binary.LittleEndian.AppendUint32(nodes, p.Number)
	nodes = binary.LittleEndian.AppendUint64(nodes, p.Start)
	nodes = binary.LittleEndian.AppendUint64(nodes, p.Blocks)
	nodes = append(nodes, p.GUID[:]...)
	nodes = append(nodes, 0x02, 0x02) // GPT, signature is a GUID
	nodes = append(nodes, 0x04, 0x04)
	nodes = binary.LittleEndian.AppendUint16(nodes, uint16(4+len(path)))
	nodes = append(nodes, path...)
	nodes = append(nodes, 0x7F, 0xFF, 0x04, 0x00)

	option := binary.LittleEndian.AppendUint32(nil, 1) // LOAD_OPTION_ACTIVE
	option = binary.LittleEndian.AppendUint16(option, uint16(len(nodes)))
	option = append(option, wide(slot.Label())...)
	return append(option, nodes...)
}

// wide is UTF-16LE with a NUL at the end.
func wide(s string) []byte {
	var out []byte
	for _, u := range append(utf16.Encode([]rune(s)), 0) {
		out = binary.LittleEndian.AppendUint16(out, u)
	}
	return out
}

// narrow is UTF-16LE up to its NUL.
func narrow(b []byte) string {
	var out []uint16
	for ; len(b) >= 2 && (b[0] != 0 || b[1] != 0); b = b[2:] {
		out = append(out, binary.LittleEndian.Uint16(b))
	}
	return string(utf16.Decode(out))
}

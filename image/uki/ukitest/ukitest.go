// SPDX-License-Identifier: Apache-2.0

// Package ukitest makes small images for tests: a stub and a kernel that are whole PEs, but do nothing.
package ukitest

import (
	"encoding/binary"
	"time"

	"sdbox/image/uki"
)

// Spec is an image with this command line and initramfs, on a stub that says it is of this version: "252.39-1~deb12u2".
func Spec(version, commandLine string, initrd []byte) uki.Spec {
	return uki.Spec{
		Stub: Stub(version), OSRelease: []byte("ID=sdbox\nIMAGE_ID=qemu\nIMAGE_VERSION=2026.11.24\n"), CommandLine: commandLine,
		Uname: "6.12.117+deb12-amd64", Linux: Kernel(), Initrd: initrd, Built: time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC),
	}
}

// Stub is laid out as systemd-stub is: 16 data directories, and debugging symbols behind the last section.
func Stub(version string) []byte {
	return append(pe(0x80, 16, 0x400, 0x4000, map[int][2]string{
		0: {".text", "code"}, 1: {".data", "data"}, 2: {".sdmagic", "#### LoaderInfo: systemd-stub " + version + " ####\x00"},
	}), "symbols"...)
}

// Kernel is laid out as a bzImage is: 6 data directories.
func Kernel() []byte {
	return pe(0x40, 6, 0x1000, 0x1000, map[int][2]string{0: {".setup", "boot sector"}, 1: {".text", "kernel"}})
}

func pe(at, directories, headers, address int, sections map[int][2]string) []byte {
	b := make([]byte, headers)
	put16, put32 := binary.LittleEndian.PutUint16, binary.LittleEndian.PutUint32
	copy(b, "MZ")
	put32(b[0x3c:], uint32(at))
	copy(b[at:], "PE\x00\x00")
	optional := b[at+24:]
	put16(b[at+4:], 0x8664)
	put16(b[at+6:], uint16(len(sections)))
	put16(b[at+20:], uint16(112+8*directories))
	put16(optional, 0x20b)
	put32(optional[36:], 0x200)
	put32(optional[60:], uint32(headers))
	put32(optional[64:], 0xaa6c)
	put32(optional[108:], uint32(directories))
	for n := range len(sections) {
		entry := b[at+24+112+8*directories+40*n:]
		content := make([]byte, (len(sections[n][1])+0x1ff)/0x200*0x200)
		copy(content, sections[n][1])
		copy(entry[:8], sections[n][0])
		put32(entry[8:], uint32(len(sections[n][1])))
		put32(entry[12:], uint32(address))
		put32(entry[16:], uint32(len(content)))
		put32(entry[20:], uint32(len(b)))
		b, address = append(b, content...), address+0x1000
	}
	put32(b[at+24+56:], uint32(address))
	return b
}

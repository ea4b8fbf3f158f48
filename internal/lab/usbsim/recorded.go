// SPDX-License-Identifier: Apache-2.0

package usbsim

import (
	"encoding/hex"
	"strings"
)

// Descriptors as sysfs shows them. Keyboard, tablet, reader, stick, network adapter and hub are those of QEMU's devices.

// Keyboard is one with one interface.
func Keyboard() []byte {
	return recorded("120100020000004027060100000001040b01", "09022200010108a032", "090400000103010100", "0921110100012 23f00", "07058103080007")
}

// Tablet is a mouse that says where it is.
func Tablet() []byte {
	return recorded("120100020000004027060100000001030a01", "09022200010107a032", "090400000103000000", "092101000001224a00", "07058103080004")
}

// Reader is a card reader that libccid drives, 08e6:4433.
func Reader() []byte {
	return recorded("12010001000000 40e6083344000001020301", "09025d00010100e032", "09040000030b000004",
		"3621 1001 00 07 01000000 a00f0000 a00f0000 00 80250000 80250000 00 fe000000 00000000 00000000 fe040100 12000100 ff ff 0000 00 01",
		"070581034000ff", "07058202400000", "07050302400000")
}

// UnknownReader is the same of a product that libccid does not list.
func UnknownReader() []byte {
	b := Reader()
	b[10] = 0x99
	return b
}

// Stick is a store.
func Stick() []byte {
	return recorded("1201000200000040f4460100000001020301", "09022000010105c000", "090400000208065000", "07058102000200", "07050202000200")
}

// NetworkAdapter has two configurations: RNDIS and CDC Ethernet.
func NetworkAdapter() []byte {
	return recorded("12010002020000402505a2a4000001020302",
		"09024300020307c032", "09040000010202ff05", "0524001001", "0524010001", "04240200", "0524060001", "07058103100009",
		"090401000 20a000000", "07058202400000", "07050202400000",
		"09025000020106c032", "090400000102060005", "0524001001", "0524060001", "0d240f03000000 00ea05000000", "07058103100009",
		"090401000 00a000000", "090401010 20a000000", "07058202400000", "07050202400000")
}

// Hub is one of eight ports.
func Hub() []byte {
	return recorded("1201100109000008090 4aa550101010203 01", "09021900010100c000", "090400000109000000", "070581030200ff")
}

// Both is a device with the interfaces of two in one configuration, and the names of the first.
func Both(one, two []byte) []byte {
	first, second := one[18+9:], append([]byte(nil), two[18+9:]...)
	second[2] = 1 // its number
	total := 9 + len(first) + len(second)
	b := append([]byte(nil), one[:18]...)
	b = append(b, 9, 2, byte(total), byte(total>>8), 2, 1, 0, 0x80, 50)
	return append(append(b, first...), second...)
}

func recorded(parts ...string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(strings.Join(parts, ""), " ", ""))
	if err != nil {
		panic("usbsim: " + err.Error()) // it is in this file
	}
	return b
}

// SPDX-License-Identifier: Apache-2.0

package cardsim

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"sdbox/internal/card"
	"sdbox/internal/ident"
)

// Tags of data objects in hexadecimal (SP 800-73-5 Part 1, Table 3), the keys of nvm.Objects. Discovery and BIT group are
// made anew at each reading: they depend on what is enrolled.
const (
	tagCardAuth     = "5FC101"
	tagCHUID        = "5FC102"
	tagFingers      = "5FC103"
	tagPIVAuth      = "5FC105"
	tagCapabilities = "5FC107"
	tagFace         = "5FC108"
	tagPrinted      = "5FC109"
	tagSignature    = "5FC10A"
	tagManagement   = "5FC10B"
	tagIris         = "5FC121"
	tagDiscovery    = "7E"
	tagBIT          = "7F61"
)

// applicationID is the full AID of the PIV card application (SP 800-73-5 Part 1, 2.2).
const applicationID = "\xA0\x00\x00\x03\x08\x00\x00\x10\x00\x01\x00"

// unassigned is a FASC-N without an agency: all nines (SP 800-73-5 Part 1, 3.1.2, allows it outside federal use).
const unassigned = "\xD4\xE7\x39\xDA\x73\x9C\xED\x39\xCE\x73\x9D\x83\x68\x58\x21\x08\x42\x10\x84\x21\xC8\x42\x10\xC3\xEB"

// expires is the CHUID's date. The certificates carry the one that counts.
const expires = "20991231"

// tlv writes one BER-TLV object of at most 65,535 bytes (ISO/IEC 7816-4, 5.2.2).
func tlv(tag string, value []byte) []byte {
	b := []byte(tag)
	switch n := len(value); {
	case n < 0x80:
		b = append(b, byte(n))
	case n <= 0xFF:
		b = append(b, 0x81, byte(n))
	default:
		b = append(b, 0x82, byte(n>>8), byte(n))
	}
	return append(b, value...)
}

func join(parts ...[]byte) []byte {
	var all []byte
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

// certificateTag is where a slot's certificate lies (SP 800-73-5 Part 1, Table 3).
func certificateTag(s card.Slot) string {
	switch s {
	case card.Slot9A:
		return tagPIVAuth
	case slot9C:
		return tagSignature
	case slot9D:
		return tagManagement
	case card.Slot9E:
		return tagCardAuth
	}
	return fmt.Sprintf("%X", 0x5FC10D+int(s-card.Slot82))
}

func slotName(s card.Slot) string { return fmt.Sprintf("%02X", byte(s)) }

func refName(ref byte) string { return fmt.Sprintf("%02X", ref) }

// certificateObject: SP 800-73-5 Part 1, Table 10.
func certificateObject(der []byte) []byte {
	return join(tlv("\x70", der), tlv("\x71", []byte{0}), tlv("\xFE", nil))
}

// chuid: SP 800-73-5 Part 1, Table 9. The issuer's signature (3E) stays empty: the certificates prove the GUID here.
func chuid(guid ident.GUID) []byte {
	return join(tlv("\x30", []byte(unassigned)), tlv("\x34", guid[:]), tlv("\x35", []byte(expires)), tlv("\x3E", nil), tlv("\xFE", nil))
}

// capabilities is the card capability container: SP 800-73-5 Part 1, Table 8. Card identifier: GSC RID, manufacturer,
// card type, then 14 bytes of the card's own.
func capabilities(guid ident.GUID) []byte {
	own := sha256.Sum256(guid[:])
	id := append([]byte{0xA0, 0x00, 0x00, 0x01, 0x16, 0xFF, 0x02}, own[:14]...)
	return join(tlv("\xF0", id), tlv("\xF1", []byte{0x21}), tlv("\xF2", []byte{0x21}), tlv("\xF3", nil), tlv("\xF4", []byte{0}),
		tlv("\xF5", []byte{0x10}), tlv("\xF6", nil), tlv("\xF7", nil), tlv("\xFA", nil), tlv("\xFB", nil), tlv("\xFC", nil),
		tlv("\xFD", nil), tlv("\xFE", nil))
}

// printedInformation: SP 800-73-5 Part 1, Table 13, as far as this house prints.
func printedInformation(name string) []byte {
	return join(tlv("\x01", []byte(name)), tlv("\xFE", nil))
}

// applicationTemplate is the answer to SELECT: SP 800-73-5 Part 2, Table 3.
func applicationTemplate(label string) []byte {
	properties := join(tlv("\x4F", []byte(applicationID[5:])), tlv("\x79", tlv("\x4F", []byte(applicationID[:5]))))
	if label != "" {
		properties = append(properties, tlv("\x50", []byte(label))...)
	}
	return tlv("\x61", properties)
}

// discovery: SP 800-73-5 Part 1, 3.3.2. PIN usage policy: 40 the PIN is there, 10 a finger is enrolled.
func discovery(fingers bool) []byte {
	policy := byte(0x40)
	if fingers {
		policy |= 0x10
	}
	return tlv("\x7E", join(tlv("\x4F", []byte(applicationID)), tlv("\x5F\x2F", []byte{policy, 0})))
}

// biometricGroup is the BIT group template (SP 800-73-5 Part 1, 3.3.3): for each enrolled finger its reference, finger
// position, format owner 0101 and type 0005 (compact minutiae), and how many minutiae it takes (SP 800-76-2, Table 7).
func (p profile) biometricGroup(refs []byte) []byte {
	group := tlv("\x02", []byte{byte(len(refs))})
	for i, ref := range refs {
		header := join(tlv("\x81", []byte{0x08}), tlv("\x82", []byte{byte(0x05 + 4*i)}), tlv("\x87", []byte{1, 1}), tlv("\x88", []byte{0, 5}))
		matching := join(tlv("\x81", []byte{byte(p.minMinutiae), byte(p.maxMinutiae)}), tlv("\x82", []byte{0}))
		group = append(group, tlv("\x7F\x60", join(tlv("\x83", []byte{ref}), tlv("\xA1", header), tlv("\xB1", matching)))...)
	}
	return tlv("\x7F\x61", group)
}

// parseTag reads the tag list 5C of GET DATA and returns its one tag in hexadecimal.
func parseTag(data []byte) (string, bool) {
	if len(data) < 3 || data[0] != 0x5C || int(data[1]) != len(data)-2 || len(data) > 5 {
		return "", false
	}
	return fmt.Sprintf("%X", data[2:]), true
}

// validTag says whether a string of the NVM file can be a data object's tag.
func validTag(s string) bool {
	raw, err := hex.DecodeString(s)
	return err == nil && len(raw) >= 1 && len(raw) <= 3
}

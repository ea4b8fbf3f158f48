// SPDX-License-Identifier: Apache-2.0

// Package efivar knows the firmware variables that decide what a machine boots: it makes and parses the lists of Secure Boot, signs
// changes to them, and reads and writes variables through Linux's efivarfs.
//
// A variable is named as efivarfs names its file: "db-d719b2cb-3d3a-4596-a3bc-dad00e67656f".
package efivar

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"
)

// The variables of Secure Boot (UEFI 2.10, 3.3 and 32.3).
const (
	PK         = "PK" + global
	KEK        = "KEK" + global
	DB         = "db" + imageSecurity
	DBX        = "dbx" + imageSecurity
	SecureBoot = "SecureBoot" + global // one byte: 1 when only signed programs start
	SetupMode  = "SetupMode" + global  // one byte: 1 while no PK is enrolled, so that anyone may enrol keys

	global        = "-8be4df61-93ca-11d2-aa0d-00e098032b8c"
	imageSecurity = "-d719b2cb-3d3a-4596-a3bc-dad00e67656f"
)

// Attributes of variables (UEFI 2.10, 8.2.1), in the four bytes that come first in each file of efivarfs.
const (
	stored        uint32 = 0x07 // non-volatile, for boot services and the running system
	authenticated uint32 = 0x27 // and changed only by what is signed, with a later time
)

// GUID is a GUID as it stands in memory: its first three parts are little-endian (UEFI 2.10, appendix A).
type GUID [16]byte

// ParseGUID reads the usual text of 36 characters.
func ParseGUID(text string) (GUID, error) {
	raw, err := hex.DecodeString(strings.ReplaceAll(text, "-", ""))
	if err != nil || len(raw) != len(GUID{}) || GUID(raw).swapped().String() != strings.ToLower(text) {
		return GUID{}, fmt.Errorf("%.40q is no GUID", text)
	}
	return GUID(raw).swapped(), nil
}

// String is the usual text, in lower case.
func (g GUID) String() string {
	g = g.swapped()
	return fmt.Sprintf("%x-%x-%x-%x-%x", g[:4], g[4:6], g[6:8], g[8:10], g[10:])
}

func (g GUID) swapped() GUID {
	g[0], g[1], g[2], g[3], g[4], g[5], g[6], g[7] = g[3], g[2], g[1], g[0], g[5], g[4], g[7], g[6]
	return g
}

var variable = regexp.MustCompile(`^([A-Za-z0-9]{1,64})-([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})$`)

// split takes a variable's name apart; the short name comes as the firmware holds it, in UTF-16 without a NUL.
func split(name string) (short []byte, vendor GUID, err error) {
	m := variable.FindStringSubmatch(name)
	if m == nil {
		return nil, vendor, fmt.Errorf("variable %.120q: want NAME-GUID", name)
	}
	for _, c := range []byte(m[1]) {
		short = append(short, c, 0)
	}
	vendor, err = ParseGUID(m[2])
	return short, vendor, err
}

// Measured is what the firmware hashes when it measures a variable: UEFI_VARIABLE_DATA (TCG PC Client Platform Firmware Profile 1.06,
// 10.2.6). Of a variable that is not there it measures an empty value.
func Measured(name string, value []byte) ([]byte, error) {
	short, vendor, err := split(name)
	if err != nil {
		return nil, err
	}
	b := append([]byte(nil), vendor[:]...)
	b = binary.LittleEndian.AppendUint64(b, uint64(len(short)/2))
	b = binary.LittleEndian.AppendUint64(b, uint64(len(value)))
	return append(append(b, short...), value...), nil
}

// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"regexp"
	"strings"
	"unicode/utf16"
)

// Type is the type of an event (TCG PFP 1.05, 10.4.1). A type without a name here is as good as one with.
type Type uint32

// The types that are looked at by name.
const (
	NoAction Type = 0x00000003 // logged, not measured

	gptEvent      Type = 0x80000006
	variableBoot  Type = 0x80000002 // the digest covers the variable's value alone
	variableBoot2 Type = 0x8000000c // the digest covers the whole data
)

// String returns the type's name in the specification, or its number.
func (t Type) String() string {
	switch t {
	case 0x00000001:
		return "EV_POST_CODE"
	case NoAction:
		return "EV_NO_ACTION"
	case 0x00000004:
		return "EV_SEPARATOR"
	case 0x00000005:
		return "EV_ACTION"
	case 0x00000006:
		return "EV_EVENT_TAG"
	case 0x00000007:
		return "EV_S_CRTM_CONTENTS"
	case 0x00000008:
		return "EV_S_CRTM_VERSION"
	case 0x00000009:
		return "EV_CPU_MICROCODE"
	case 0x0000000a:
		return "EV_PLATFORM_CONFIG_FLAGS"
	case 0x0000000b:
		return "EV_TABLE_OF_DEVICES"
	case 0x0000000c:
		return "EV_COMPACT_HASH"
	case 0x0000000d:
		return "EV_IPL"
	case 0x0000000e:
		return "EV_IPL_PARTITION_DATA"
	case 0x0000000f:
		return "EV_NONHOST_CODE"
	case 0x00000010:
		return "EV_NONHOST_CONFIG"
	case 0x00000011:
		return "EV_NONHOST_INFO"
	case 0x00000012:
		return "EV_OMIT_BOOT_DEVICE_EVENTS"
	}
	return t.efiString()
}

func (t Type) efiString() string {
	names := [...]string{1: "VARIABLE_DRIVER_CONFIG", "VARIABLE_BOOT", "BOOT_SERVICES_APPLICATION", "BOOT_SERVICES_DRIVER", "RUNTIME_SERVICES_DRIVER", "GPT_EVENT",
		"ACTION", "PLATFORM_FIRMWARE_BLOB", "HANDOFF_TABLES", "PLATFORM_FIRMWARE_BLOB2", "HANDOFF_TABLES2", "VARIABLE_BOOT2", "GPT_EVENT2"}
	switch n := t - 0x80000000; {
	case n >= 1 && int(n) < len(names):
		return "EV_EFI_" + names[n]
	case n == 0x10:
		return "EV_EFI_HCRTM_EVENT"
	case n == 0xe0:
		return "EV_EFI_VARIABLE_AUTHORITY"
	case n == 0xe1:
		return "EV_EFI_SPDM_FIRMWARE_BLOB"
	}
	return fmt.Sprintf("event 0x%08x", uint32(t))
}

// isVariable says whether the data of such events is a UEFI_VARIABLE_DATA.
func (t Type) isVariable() bool {
	switch t {
	case 0x80000001, variableBoot, variableBoot2, 0x800000e0:
		return true
	}
	return false
}

// String is the event for people: its type, and what it is about as far as the data tells in plain letters.
func (e Event) String() string {
	about := ""
	if v, err := parseVariable(e.Data); e.Type.isVariable() && err == nil {
		about = v.name
	} else if !e.Type.isVariable() {
		about = plain(e.Data)
	}
	if about == "" {
		return e.Type.String()
	}
	return e.Type.String() + " " + about
}

// plain returns data that is text: eight bits or sixteen to a letter, with a zero at its end or without; else nothing.
func plain(data []byte) string {
	if len(data) > 8 && len(data) == 8+int(binary.LittleEndian.Uint32(data[4:])) {
		data = data[8:] // a tagged event: number, length (TCG PFP 1.05, 10.4.2.1)
	}
	text := strings.TrimRight(strings.ReplaceAll(string(data), "\x00", ""), " ")
	if len(text) < 4 || len(text) > 64 || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' }) {
		return ""
	}
	return text
}

// variable is a UEFI_VARIABLE_DATA (TCG PFP 1.05, 10.2.6).
type variable struct {
	vendor [16]byte
	name   string
	value  []byte
}

const maxName = 64 // of a variable we know, in letters

func parseVariable(data []byte) (variable, error) {
	r := &reader{rest: data}
	head, err := r.take(32)
	if err != nil {
		return variable{}, err
	}
	letters, size := binary.LittleEndian.Uint64(head[16:]), binary.LittleEndian.Uint64(head[24:])
	if letters == 0 || letters > maxName || size > maxData || int(2*letters+size) != len(r.rest) {
		return variable{}, fmt.Errorf("a name of %d letters and a value of %d bytes in %d", letters, size, len(r.rest))
	}
	units := make([]uint16, letters)
	for i := range units {
		if units[i], err = r.uint16(); err != nil {
			return variable{}, err
		}
		if units[i] < ' ' || units[i] > '~' {
			return variable{}, fmt.Errorf("a name with the letter %#x", units[i])
		}
	}
	return variable{vendor: [16]byte(head), name: string(utf16.Decode(units)), value: r.rest}, nil
}

// globalVariable is EFI_GLOBAL_VARIABLE, 8be4df61-93ca-11d2-aa0d-00e098032b8c, as it lies in memory.
const globalVariable = "\x61\xdf\xe4\x8b\xca\x93\xd2\x11\xaa\x0d\x00\xe0\x98\x03\x2b\x8c"

// BootVariable says whether this measures what a machine may change from boot to boot without being another one: in register 1, the
// firmware's list of boot entries (BootOrder, BootNext, Boot#### of EFI_GLOBAL_VARIABLE). An update changes that list, and firmware
// adds entries of its own. The digest must be that of the value, and the value must have the shape of its name, so that nothing
// else hides behind such a name: whatever the firmware loads by an entry is measured again in register 4.
func (e Event) BootVariable() bool {
	if e.PCR != 1 || e.Type != variableBoot && e.Type != variableBoot2 {
		return false
	}
	v, err := parseVariable(e.Data)
	if err != nil || string(v.vendor[:]) != globalVariable {
		return false
	}
	covered := v.value
	if e.Type == variableBoot2 {
		covered = e.Data
	}
	return sha256.Sum256(covered) == e.Digest && v.isBootEntry()
}

// DiskLayout says whether this measures where the partitions of the disk lie that the machine starts from (TCG PFP 1.05, 10.4.1,
// EV_EFI_GPT_EVENT): another in a machine with a larger disk. The digest must be that of the data, and the data a partition table and
// nothing else. Nothing on the disk is trusted for lying where it lies: what the firmware loads from it is measured again in register 4.
func (e Event) DiskLayout() bool {
	const header, count, entry, most = 92, 8, 128, 128 // bytes (UEFI 2.10, 5.3.2 and 5.3.3), and partitions
	if e.PCR != 5 || e.Type != gptEvent || len(e.Data) < header+count || sha256.Sum256(e.Data) != e.Digest {
		return false
	}
	partitions := binary.LittleEndian.Uint64(e.Data[header:])
	return string(e.Data[:8]) == "EFI PART" && partitions <= most && uint64(len(e.Data)) == header+count+partitions*entry
}

// MayVary says whether this is one of the measurements that differ between machines of one model.
func (e Event) MayVary() bool { return e.BootVariable() || e.DiskLayout() }

var bootEntry = regexp.MustCompile(`^Boot[0-9A-F]{4}$`)

// isBootEntry looks at name and value (UEFI 2.10, 3.1.1 and 3.1.3). A value of nothing is a variable that is not there.
func (v variable) isBootEntry() bool {
	switch {
	case v.name == "BootNext":
		return len(v.value) == 0 || len(v.value) == 2
	case v.name == "BootOrder":
		return len(v.value)%2 == 0
	case bootEntry.MatchString(v.name):
		return len(v.value) == 0 || isLoadOption(v.value)
	}
	return false
}

// isLoadOption says whether a value is an EFI_LOAD_OPTION: attributes, length of the path, description, device path, optional data.
func isLoadOption(value []byte) bool {
	r := &reader{rest: value}
	head, err := r.take(6)
	if err != nil {
		return false
	}
	for {
		letter, err := r.uint16()
		if err != nil {
			return false
		}
		if letter == 0 {
			break
		}
	}
	path, err := r.take(int(binary.LittleEndian.Uint16(head[4:])))
	return err == nil && isDevicePath(path)
}

// isDevicePath walks the nodes: the last one ends the whole path (UEFI 2.10, 10.3.1).
func isDevicePath(path []byte) bool {
	ended := false
	for len(path) >= 4 {
		n := int(binary.LittleEndian.Uint16(path[2:]))
		if n < 4 || n > len(path) {
			return false
		}
		ended = path[0] == 0x7f && path[1] == 0xff && n == 4
		path = path[n:]
	}
	return ended && len(path) == 0
}

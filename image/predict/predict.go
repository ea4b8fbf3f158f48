// SPDX-License-Identifier: Apache-2.0

// Package predict says what a machine's TPM will hold once it has booted an image, before any machine has: from the finished image and
// the key lists of the firmware, and from nothing that went into making them.
//
// What a register holds follows from what is hashed into it, in order (TCG PC Client Platform Firmware Profile 1.06, 3.3.4): it begins
// as zeros, and each hash h makes it SHA-256(register || h).
//
//	 4  the firmware: that it starts a program from a boot option, separator, the program
//	 7  the firmware: SecureBoot, PK, KEK, db, dbx, separator, the entry of db by which the program may start
//	 9  the kernel: its command line, the initramfs it was handed
//	11  the stub: name and content of each of its sections that it uses
//	12  the stub: command lines, credentials and settings from outside the image: none
//	13  the stub: system extensions from outside the image: none
package predict

import (
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"unicode/utf16"

	"sdbox/firmware/efivar"
	"sdbox/firmware/reference"
	"sdbox/image/uki"
)

// Firmware is the key lists of a machine: the values of its variables. Without a PK Secure Boot is off, and it starts any program.
type Firmware struct{ PK, KEK, DB, DBX []byte }

// register is the value of a register on its way.
type register [32]byte

func (r *register) extend(data []byte) { r.extendHash(sha256.Sum256(data)) }

func (r *register) extendHash(h [32]byte) {
	*r = sha256.Sum256(append(append([]byte(nil), r[:]...), h[:]...))
}

// separator is what a firmware measures between its own part and what comes after (TCG PFP 1.06, 3.3.2.2).
func (r *register) separator() { r.extend([]byte{0, 0, 0, 0}) }

// measured is, by the major version of systemd-stub, the sections it measures into register 11, in that order
// (src/boot/efi/stub.c, uki.c). A version is added once a boot has confirmed it.
func measured() map[string][]string {
	return map[string][]string{"252": {".linux", ".osrel", ".cmdline", ".initrd", ".splash", ".dtb", ".pcrpkey"}}
}

// Registers are the values of registers 4, 7, 9, 11, 12 and 13 after this image has booted on this firmware. It is an error when the
// firmware would not start it, and when the image holds what no formula is known for.
func Registers(i *uki.Image, f Firmware) ([]reference.PCR, error) {
	var out []reference.PCR
	for _, p := range []struct {
		index uint8
		value func(*uki.Image, Firmware) (register, error)
	}{{4, programs}, {7, policy}, {9, kernel}, {11, stub}, {12, nothing}, {13, nothing}} {
		r, err := p.value(i, f)
		if err != nil {
			return nil, fmt.Errorf("predict register %d: %w", p.index, err)
		}
		out = append(out, reference.PCR{Index: p.index, Digest: r})
	}
	return out, nil
}

func programs(i *uki.Image, f Firmware) (register, error) {
	var r register
	r.extend([]byte("Calling EFI Application from Boot Option"))
	r.separator()
	r.extendHash(i.Digest())
	if len(f.PK) > 0 {
		return r, nil
	}
	// With Secure Boot off the stub of version 252 has the firmware load the kernel, which measures it as a program.
	linux, err := i.LinuxDigest()
	r.extendHash(linux)
	return r, err
}

func policy(i *uki.Image, f Firmware) (register, error) {
	var r register
	on := []byte{0}
	if len(f.PK) > 0 {
		on[0] = 1
	}
	for _, v := range []struct {
		name  string
		value []byte
	}{{efivar.SecureBoot, on}, {efivar.PK, f.PK}, {efivar.KEK, f.KEK}, {efivar.DB, f.DB}, {efivar.DBX, f.DBX}} {
		data, err := efivar.Measured(v.name, v.value)
		if err != nil {
			return r, err
		}
		r.extend(data)
	}
	r.separator()
	if on[0] == 0 {
		return r, nil
	}
	entry, err := authority(i, f)
	if err != nil {
		return r, err
	}
	data, err := efivar.Measured(efivar.DB, entry.Bytes())
	r.extend(data)
	return r, err
}

// ErrRefused is wrapped when the firmware will not start the image.
var ErrRefused = errors.New("this firmware will not start the image")

// authority is the first entry of db whose key signed the image (UEFI 2.10, 32.5.3.3), unless dbx forbids it.
func authority(i *uki.Image, f Firmware) (efivar.Signature, error) {
	forbidden, err := efivar.ParseLists(f.DBX)
	if err != nil {
		return efivar.Signature{}, fmt.Errorf("dbx: %w", err)
	}
	allowed, err := efivar.ParseLists(f.DB)
	if err != nil {
		return efivar.Signature{}, fmt.Errorf("db: %w", err)
	}
	program := i.Digest()
	for _, s := range forbidden {
		if (s.Kind == efivar.KindSHA256 && string(s.Data) == string(program[:])) || signs(s, i) {
			return efivar.Signature{}, fmt.Errorf("%w: its dbx forbids it", ErrRefused)
		}
	}
	for _, s := range allowed {
		if signs(s, i) {
			return s, nil
		}
	}
	return efivar.Signature{}, fmt.Errorf("%w: no certificate of its db signed it", ErrRefused)
}

func signs(s efivar.Signature, i *uki.Image) bool {
	if s.Kind != efivar.KindX509 {
		return false
	}
	c, err := x509.ParseCertificate(s.Data)
	return err == nil && i.Verify(c) == nil
}

func kernel(i *uki.Image, _ Firmware) (register, error) {
	var r register
	if i.Section(".pcrsig") != nil || i.Section(".pcrpkey") != nil {
		return r, errors.New("with .pcrsig or .pcrpkey the stub hands the kernel an initramfs of its own making")
	}
	var line []byte
	for _, u := range append(utf16.Encode([]rune(string(i.Section(uki.CommandLine)))), 0) {
		line = append(line, byte(u), byte(u>>8))
	}
	r.extend(line)
	r.extend(i.Section(uki.Initrd))
	return r, nil
}

func stub(i *uki.Image, _ Firmware) (register, error) {
	var r register
	major, version, err := i.Stub()
	if err != nil {
		return r, err
	}
	order := measured()[major]
	if order == nil {
		return r, fmt.Errorf("what systemd-stub %s measures is not known", version)
	}
	for _, name := range order {
		if content := i.Section(name); content != nil {
			r.extend(append([]byte(name), 0))
			r.extend(content)
		}
	}
	return r, nil
}

func nothing(*uki.Image, Firmware) (register, error) { return register{}, nil }

// Text writes registers with one value each as sdbox-agent machine prints them, a line for each.
func Text(registers []reference.PCR) string {
	var text string
	for _, p := range registers {
		text += p.String() + "\n"
	}
	return text
}

// SPDX-License-Identifier: Apache-2.0

// Package uki makes and reads the one file an SD-Box boots: a unified kernel image, a PE that holds systemd-stub, the kernel, its
// command line and the initramfs, signed with Authenticode so that the firmware starts nothing else.
//
// The layout is stricter than PE asks (UAPI specifications, "Unified Kernel Image"; Microsoft PE format): sections follow one another
// in the file without a gap, names are unique, nothing stands behind the signatures. So every byte of the file is either covered by the
// signature or is the signature, and one reading of it is the only one.
package uki

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"time"
)

// MaxSize is the longest image that is made or read, in bytes: what a boot partition of 62 MiB holds.
const MaxSize = 60 << 20

// The sections that make a PE with systemd-stub a unified kernel image.
const (
	OSRelease   = ".osrel"
	CommandLine = ".cmdline"
	Uname       = ".uname"
	Linux       = ".linux"
	Initrd      = ".initrd"
	stubMagic   = ".sdmagic"
)

// Spec is what an image is made of. Same spec, same bytes.
type Spec struct {
	Stub        []byte    // systemd-stub, linuxx64.efi.stub of systemd-boot-efi
	OSRelease   []byte    // os-release(5) of the image
	CommandLine string    // of the kernel, without a NUL; never empty: the stub would take one from outside
	Uname       string    // release of the kernel
	Linux       []byte    // the kernel, a PE itself
	Initrd      []byte    // uncompressed, so that a delta between two images is small
	Built       time.Time // becomes the time stamp of the PE; to the second
}

// Section is a part of an image.
type Section struct {
	Name    string
	Data    []byte // what is loaded: VirtualSize bytes, without the padding in the file. It shares the image's memory
	Address uint32 // where it is loaded, from the image's base
	offset  int    // in the file
	memory  int    // bytes once loaded
	padded  int    // bytes in the file
	flags   uint32
}

// Image is an image that was read. It is immutable.
type Image struct {
	raw        []byte
	sections   []Section
	head       head
	signatures [][]byte // PKCS #7 SignedData, as they stand in the certificate table
}

// Parse reads an image, which may come from anyone. It says nothing about who signed it: see Verify.
func Parse(raw []byte) (*Image, error) {
	if len(raw) > MaxSize {
		return nil, fmt.Errorf("read image: %d bytes, limit %d", len(raw), MaxSize)
	}
	h, sections, err := parsePE(raw)
	if err != nil {
		return nil, fmt.Errorf("read image: %w", err)
	}
	i := &Image{raw: raw, sections: sections, head: h}
	if h.symbols != 0 || h.checksum != 0 {
		return nil, errors.New("read image: it has symbols or a checksum, which no image of this house has")
	}
	for _, name := range []string{OSRelease, CommandLine, Uname, Linux, Initrd, stubMagic} {
		if len(i.Section(name)) == 0 {
			return nil, fmt.Errorf("read image: no section %s: this is no unified kernel image", name)
		}
	}
	for _, s := range sections {
		if s.padded != roundUp(s.memory, fileAlign) {
			return nil, fmt.Errorf("read image: section %s has %d bytes in the file and %d once loaded", s.Name, s.padded, s.memory)
		}
	}
	if i.signatures, err = certificateTable(raw, h); err != nil {
		return nil, fmt.Errorf("read image: %w", err)
	}
	return i, nil
}

// Sections are the parts of the image, in the order of the file.
func (i *Image) Sections() []Section { return i.sections }

// Section is what is in the section of this name, nil when there is none.
func (i *Image) Section(name string) []byte {
	for _, s := range i.sections {
		if s.Name == name {
			return s.Data
		}
	}
	return nil
}

// Built is the time that the image says it was made.
func (i *Image) Built() time.Time { return time.Unix(int64(u32(i.raw, i.head.pe+atTime)), 0).UTC() }

var loaderInfo = regexp.MustCompile(`^#### LoaderInfo: systemd-stub ([0-9]{3})([ -~]{0,40}) ####\x00?$`)

// Stub is the version of systemd-stub, as the stub itself says: its major number, which decides what it measures, and the whole.
func (i *Image) Stub() (major, version string, err error) {
	m := loaderInfo.FindSubmatch(i.Section(stubMagic))
	if m == nil {
		return "", "", fmt.Errorf("section %s: it does not name a version of systemd-stub", stubMagic)
	}
	return string(m[1]), string(m[1]) + string(m[2]), nil
}

// Assemble makes an image that is not signed yet.
func Assemble(s Spec) ([]byte, error) {
	h, sections, err := parsePE(s.Stub)
	if err != nil {
		return nil, fmt.Errorf("assemble image: stub: %w", err)
	}
	added := []Section{
		{Name: OSRelease, Data: s.OSRelease}, {Name: CommandLine, Data: []byte(s.CommandLine)}, {Name: Uname, Data: []byte(s.Uname)},
		{Name: Linux, Data: s.Linux}, {Name: Initrd, Data: s.Initrd},
	}
	for _, a := range added {
		if len(a.Data) == 0 {
			return nil, fmt.Errorf("assemble image: nothing for section %s", a.Name)
		}
	}
	if bytes.IndexByte([]byte(s.CommandLine), 0) >= 0 {
		return nil, errors.New("assemble image: the command line has a NUL in it")
	}
	if s.Built.Unix() < 0 || s.Built.Unix() > 1<<32-1 {
		return nil, fmt.Errorf("assemble image: no PE can say that it was built at %v", s.Built)
	}
	raw, err := writePE(s.Stub, h, sections, added, uint32(s.Built.Unix()))
	if err != nil {
		return nil, fmt.Errorf("assemble image: %w", err)
	}
	i, err := Parse(raw)
	if err == nil {
		_, _, err = i.Stub()
	}
	if err != nil {
		return nil, fmt.Errorf("assemble image: what was made cannot be read: %w", err)
	}
	return raw, nil
}

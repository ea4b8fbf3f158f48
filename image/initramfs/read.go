// SPDX-License-Identifier: Apache-2.0

package initramfs

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
)

// The newc form of cpio (Documentation/driver-api/early-userspace/buffer-format.rst): a header of 13 fields of eight hexadecimal digits
// behind its magic, the name with a NUL, the data; name and data each end at a multiple of four.
const (
	newcMagic  = "070701"
	newcHeader = 110
	newcName   = 4096 // PATH_MAX: the kernel takes no longer one
	newcEnd    = "TRAILER!!!"
	maxEntries = 20000
)

// Fields of the header, of those that are looked at.
const (
	newcMode     = 1
	newcSize     = 6
	newcMajor    = 9
	newcMinor    = 10
	newcNameSize = 11
)

// File types of a mode (inode(7)).
const (
	typeMask    = 0o170000
	typeFolder  = 0o040000
	typeDevice  = 0o020000
	typeRegular = 0o100000
	typeLink    = 0o120000
)

// Read reads an archive back, such as the .initrd section of a UKI: for people who look into an image, and for tests. It takes hostile
// bytes; the entries share the archive's memory. It reads what Write writes and little else: one archive, no hard links, no device but
// the console.
func Read(archive []byte) (Tree, error) {
	t := Tree{}
	for rest := archive; ; {
		name, e, next, err := readEntry(rest)
		if err == nil && len(t) >= maxEntries {
			err = fmt.Errorf("over %d entries", maxEntries)
		}
		if err != nil {
			return nil, fmt.Errorf("initramfs: read at %d: %w", len(archive)-len(rest), err)
		}
		rest = next
		if name == newcEnd {
			if len(bytes.Trim(rest, "\x00")) > 0 {
				return nil, errors.New("initramfs: read: something behind the archive")
			}
			return t, nil
		}
		if _, twice := t[name]; twice {
			return nil, fmt.Errorf("initramfs: read: %q twice", name)
		}
		t[name] = e
	}
}

// readEntry reads one entry, and returns what is behind it.
func readEntry(b []byte) (name string, e Entry, rest []byte, err error) {
	if len(b) < newcHeader || string(b[:len(newcMagic)]) != newcMagic {
		return "", e, nil, errors.New("no header")
	}
	var fields [13]uint32
	for i := range fields {
		var v [4]byte
		if _, err := hex.Decode(v[:], b[len(newcMagic)+8*i:][:8]); err != nil {
			return "", e, nil, fmt.Errorf("header: %w", err)
		}
		fields[i] = uint32(v[0])<<24 | uint32(v[1])<<16 | uint32(v[2])<<8 | uint32(v[3])
	}
	nameSize := int(fields[newcNameSize])
	if nameSize < 2 || nameSize > newcName {
		return "", e, nil, fmt.Errorf("a name of %d bytes", nameSize)
	}
	text, rest, ok := cut(b, newcHeader, nameSize)
	if !ok || text[nameSize-1] != 0 || bytes.IndexByte(text, 0) != nameSize-1 {
		return "", e, nil, errors.New("the name does not end")
	}
	if name = string(text[:nameSize-1]); !fs.ValidPath(name) {
		return "", e, nil, fmt.Errorf("%q: no path", name)
	}
	data, rest, ok := cut(rest, 0, int(fields[newcSize]))
	if !ok {
		return "", e, nil, fmt.Errorf("%q: cut off", name)
	}
	if name == newcEnd {
		return name, e, rest, nil
	}
	e, err = entry(fields, data)
	if err != nil {
		err = fmt.Errorf("%q: %w", name, err)
	}
	return name, e, rest, err
}

// cut returns size bytes of b from skip on, and what is behind them from the next multiple of four on; entries begin at such.
func cut(b []byte, skip, size int) (part, rest []byte, ok bool) {
	end := (skip + size + 3) &^ 3
	if end > len(b) {
		return nil, nil, false
	}
	return b[skip : skip+size], b[end:], true
}

func entry(fields [13]uint32, data []byte) (Entry, error) {
	mode := fields[newcMode]
	e := Entry{Mode: fs.FileMode(mode & 0o777)}
	for bit, special := range map[uint32]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if mode&bit != 0 {
			e.Mode |= special
		}
	}
	switch mode & typeMask {
	case typeRegular:
		e.Data = data
		return e, nil
	case typeLink:
		e.Mode |= fs.ModeSymlink
		e.Link = string(data)
		return e, nil
	case typeFolder:
		e.Mode |= fs.ModeDir
	case typeDevice:
		e.Mode |= fs.ModeDevice | fs.ModeCharDevice
		if fields[newcMajor] != consoleMajor || fields[newcMinor] != consoleMinor {
			return e, errors.New("a device that is not the console")
		}
	default:
		return e, errors.New("neither file nor folder, link or device")
	}
	if len(data) > 0 {
		return e, errors.New("data where none can be")
	}
	return e, nil
}

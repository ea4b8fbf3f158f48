// SPDX-License-Identifier: Apache-2.0

// Package initramfs lays out the root of an SD-Box as its kernel finds it: PID 1 and agent in one program, the card daemon with the
// libraries it loads, the kernel modules of a hardware profile, and the settings a measurement covers. What belongs to it is computed
// from the programs and modules themselves, never listed by hand.
package initramfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/u-root/mkuimage/cpio"
)

// Entry is one thing in the root: a folder, a regular file, a symbolic link, or the console device. All of it belongs to root.
type Entry struct {
	Mode fs.FileMode // type and permission; never setuid
	Data []byte      // of a regular file
	Link string      // of a symbolic link
	From string      // the Debian package it comes from, or ""; not kept in the archive
}

// Tree is the root by path, without a slash before it; "." is the root itself.
type Tree map[string]Entry

// maxArchive bounds what Read takes, in bytes and in entries.
const (
	maxArchive = 256 << 20
	maxEntries = 20000
)

// console is the one device node the kernel wants to find: character device 5:1 (Documentation/admin-guide/devices.txt).
const console = "dev/console"

// file puts a regular file in, and the folders above it.
func (t Tree) file(p string, mode fs.FileMode, data []byte, from string) {
	t.folders(path.Dir(p))
	t[p] = Entry{Mode: mode.Perm(), Data: data, From: from}
}

func (t Tree) link(p, to, from string) {
	t.folders(path.Dir(p))
	t[p] = Entry{Mode: fs.ModeSymlink | 0o777, Link: to, From: from}
}

func (t Tree) folders(p string) {
	for ; ; p = path.Dir(p) {
		t[p] = Entry{Mode: fs.ModeDir | 0o755}
		if p == "." {
			return
		}
	}
}

// Write writes the tree as a newc cpio archive (Documentation/driver-api/early-userspace/buffer-format.rst): in the order of the
// paths, without times, inodes or owners, so the same tree is the same bytes.
func (t Tree) Write(w io.Writer) error {
	out := cpio.Newc.Writer(w)
	for _, p := range slices.Sorted(maps.Keys(t)) {
		if err := out.WriteRecord(cpio.MakeReproducible(t[p].record(p))); err != nil {
			return fmt.Errorf("initramfs: %s: %w", p, err)
		}
	}
	if err := cpio.WriteTrailer(out); err != nil {
		return fmt.Errorf("initramfs: %w", err)
	}
	return nil
}

func (e Entry) record(p string) cpio.Record {
	perm := uint64(e.Mode.Perm())
	switch {
	case e.Mode.IsDir():
		return cpio.Directory(p, perm)
	case e.Mode&fs.ModeSymlink != 0:
		return cpio.Symlink(p, e.Link)
	case e.Mode&fs.ModeCharDevice != 0:
		return cpio.CharDev(p, perm, 5, 1)
	}
	return cpio.StaticRecord(e.Data, cpio.Info{Name: p, Mode: cpio.S_IFREG | perm})
}

// Read reads an archive back, such as the .initrd section of a UKI: for people who look into an image, and for tests. It takes hostile
// bytes.
func Read(archive []byte) (Tree, error) {
	if len(archive) > maxArchive {
		return nil, fmt.Errorf("initramfs: over %d bytes", maxArchive)
	}
	t := Tree{}
	err := cpio.ForEachRecord(cpio.EOFReader{RecordReader: cpio.Newc.Reader(bytes.NewReader(archive))}, func(r cpio.Record) error {
		if len(t) >= maxEntries {
			return fmt.Errorf("over %d entries", maxEntries)
		}
		e, err := entry(r, len(archive))
		if err != nil {
			return fmt.Errorf("%q: %w", r.Name, err)
		}
		t[cpio.Normalize(r.Name)] = e
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("initramfs: read: %w", err)
	}
	return t, nil
}

func entry(r cpio.Record, most int) (Entry, error) {
	e := Entry{Mode: fs.FileMode(r.Mode & 0o777)}
	for bit, mode := range map[uint64]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if r.Mode&bit != 0 {
			e.Mode |= mode
		}
	}
	switch r.Mode & cpio.S_IFMT {
	case cpio.S_IFDIR:
		e.Mode |= fs.ModeDir
		return e, nil
	case cpio.S_IFCHR:
		e.Mode |= fs.ModeDevice | fs.ModeCharDevice
		return e, nil
	case cpio.S_IFREG:
	case cpio.S_IFLNK:
		e.Mode |= fs.ModeSymlink
	default:
		return e, errors.New("neither file nor folder, link or device")
	}
	if r.FileSize > uint64(most) {
		return e, errors.New("longer than the archive")
	}
	data := make([]byte, r.FileSize)
	if n, err := r.ReadAt(data, 0); n != len(data) {
		return e, err
	}
	if e.Mode&fs.ModeSymlink != 0 {
		e.Link = string(data)
		return e, nil
	}
	e.Data = data
	return e, nil
}

// Executables are the programs of the tree: regular files that may be executed. The dynamic loader is one.
func (t Tree) Executables() []string {
	var out []string
	for _, p := range slices.Sorted(maps.Keys(t)) {
		if e := t[p]; e.Mode.IsRegular() && e.Mode.Perm()&0o111 != 0 {
			out = append(out, p)
		}
	}
	return out
}

// Check says what must not be in an SD-Box's root: more than three executables, a script or shell, setuid, what anybody may write, a
// device but the console, a link that leads nowhere.
func (t Tree) Check() error {
	var all []error
	say := func(p, what string) { all = append(all, fmt.Errorf("initramfs: %s: %s", p, what)) }
	for _, p := range slices.Sorted(maps.Keys(t)) {
		e := t[p]
		switch {
		case e.Mode&(fs.ModeSetuid|fs.ModeSetgid) != 0:
			say(p, "runs under another user's rights")
		case e.Mode&fs.ModeSymlink != 0:
			if _, found := t[t.target(p)]; !found {
				say(p, "leads nowhere")
			}
		case e.Mode.Perm()&0o022 != 0:
			say(p, "may be written by others")
		case e.Mode&fs.ModeDevice != 0 && p != console:
			say(p, "a device")
		case e.Mode.IsRegular() && bytes.HasPrefix(e.Data, []byte("#!")):
			say(p, "a script")
		}
	}
	if programs := t.Executables(); len(programs) > 3 {
		say(strings.Join(programs, " "), "more than three executables")
	}
	return errors.Join(all...)
}

func (t Tree) target(p string) string {
	to := t[p].Link
	if !path.IsAbs(to) {
		to = path.Join("/", path.Dir(p), to)
	}
	return strings.TrimPrefix(path.Clean(to), "/")
}

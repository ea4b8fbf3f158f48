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

// console is the one device node the kernel wants to find: character device 5:1 (Documentation/admin-guide/devices.txt).
const (
	console      = "dev/console"
	consoleMajor = 5
	consoleMinor = 1
)

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
		return cpio.CharDev(p, perm, consoleMajor, consoleMinor)
	}
	return cpio.StaticRecord(e.Data, cpio.Info{Name: p, Mode: cpio.S_IFREG | perm})
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

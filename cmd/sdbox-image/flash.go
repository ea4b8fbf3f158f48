// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"sdbox/image/disk"

	"golang.org/x/sys/unix"
)

// largest is the largest disk that is written, in bytes: a box needs 127 MB, and what is larger than this is somebody's archive.
const largest = 256 << 30

type flashCmd struct {
	Image    string `arg:"" type:"existingfile" help:"The disk sdbox.img that sdbox-image build made."`
	Disk     string `arg:"" help:"Disk to write, such as /dev/sdb. All on it is lost."`
	Internal bool   `help:"Take a disk that is built into the machine, too."`
}

// Run writes the image, reads it back, and compares. It asks first.
func (c *flashCmd) Run(out io.Writer) error {
	image, err := os.Open(c.Image)
	if err != nil {
		return err
	}
	defer image.Close()
	// With O_EXCL the kernel refuses a disk that is mounted, or used in any other way, whole or in part.
	to, err := os.OpenFile(c.Disk, os.O_RDWR|os.O_EXCL|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.EBUSY) {
		return &hintError{err, "it is in use: unmount everything on it"}
	}
	if err != nil {
		return err
	}
	defer to.Close()
	var stat unix.Stat_t
	if err := unix.Fstat(int(to.Fd()), &stat); err != nil {
		return err
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFBLK {
		return &hintError{fmt.Errorf("%s is no disk", c.Disk), "lsblk lists the disks"}
	}
	t, err := readTarget(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(stat.Rdev), unix.Minor(stat.Rdev)))
	if err == nil {
		err = t.check(c.Internal)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", c.Disk, err)
	}
	if err := ask(os.Stdin, out, c.Disk, t); err != nil {
		return err
	}
	return write(out, image, to, t.size)
}

// ask has a person type the name of the disk.
func ask(in io.Reader, out io.Writer, path string, t target) error {
	fmt.Fprintf(out, "%s: %s, %d MB. All on it will be lost. Type %s to go on: ", path, t.model, t.size/1e6, filepath.Base(path))
	line, err := bufio.NewReader(io.LimitReader(in, 200)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if strings.TrimSpace(line) != filepath.Base(path) {
		return errors.New("nothing was written")
	}
	return nil
}

func write(out io.Writer, image io.ReaderAt, to *os.File, size int64) error {
	fmt.Fprintln(out, "writing")
	if err := disk.Put(image, to, size); err != nil {
		return err
	}
	// What is read back must come from the disk, not from memory.
	if err := unix.Fadvise(int(to.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		return err
	}
	fmt.Fprintln(out, "reading back")
	if err := disk.Same(image, to, size); err != nil {
		return &hintError{err, "the disk is broken, or smaller than it says: take another"}
	}
	_, err := fmt.Fprintln(out, "the disk holds the image; it may be taken out")
	return err
}

// target is what the kernel says of a disk.
type target struct {
	model                    string
	size, sector             int64 // bytes
	whole, removable, locked bool
}

// readTarget reads a disk's folder of sysfs (Documentation/ABI/stable/sysfs-block).
func readTarget(folder string) (target, error) {
	t := target{model: "disk"}
	read := func(name string) (int64, error) {
		text, err := os.ReadFile(filepath.Join(folder, name))
		if err != nil {
			return 0, err
		}
		return strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	}
	_, err := os.Stat(filepath.Join(folder, "partition"))
	if t.whole = errors.Is(err, fs.ErrNotExist); !t.whole {
		return t, err
	}
	var removable, locked int64
	for name, into := range map[string]*int64{"size": &t.size, "removable": &removable, "ro": &locked, "queue/logical_block_size": &t.sector} {
		if *into, err = read(name); err != nil {
			return t, err
		}
	}
	t.size *= 512 // whatever the disk's own sectors are
	t.removable, t.locked = removable == 1, locked == 1
	if model, err := os.ReadFile(filepath.Join(folder, "device/model")); err == nil {
		t.model = strings.Join(strings.FieldsFunc(string(model), func(r rune) bool { return r <= ' ' || r > '~' }), " ")
	}
	return t, nil
}

func (t target) check(internal bool) error {
	switch {
	case !t.whole:
		return &hintError{errors.New("a partition, not a disk"), "name the whole disk: /dev/sdb, not /dev/sdb1"}
	case t.locked:
		return errors.New("it cannot be written")
	case t.sector != 512:
		return fmt.Errorf("sectors of %d bytes; the image is made for 512", t.sector)
	case t.size < disk.Size:
		return fmt.Errorf("%d bytes; the image has %d", t.size, int64(disk.Size))
	case t.size > largest:
		return fmt.Errorf("%d GB: too large to be meant", t.size/1e9)
	case !t.removable && !internal:
		return &hintError{errors.New("not a disk that can be taken out"), "--internal, if it is the disk of the box itself"}
	}
	return nil
}

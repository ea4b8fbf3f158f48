// SPDX-License-Identifier: Apache-2.0

package efivar

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Mounted is where Linux shows the variables of the machine it runs on.
const Mounted = "/sys/firmware/efi/efivars"

const (
	immutable   = 0x10         // FS_IMMUTABLE_FL of linux/fs.h
	maxVariable = MaxLists + 4 // bytes, with the attributes; ours
)

// Files are the variables of a machine, through efivarfs (Linux, Documentation/filesystems/efivarfs.rst). Writing needs root.
type Files struct{ dir string }

// Open takes the folder of efivarfs, Mounted on the machine itself.
func Open(dir string) *Files { return &Files{dir} }

func (f *Files) path(name string) (string, error) {
	if _, _, err := split(name); err != nil {
		return "", err
	}
	return filepath.Join(f.dir, name), nil
}

// Read returns a variable's value; of one that is not there the error is fs.ErrNotExist.
func (f *Files) Read(name string) ([]byte, error) {
	path, err := f.path(name)
	if err != nil {
		return nil, err
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read variable: %w", err)
	}
	defer file.Close()
	raw, err := io.ReadAll(io.LimitReader(file, maxVariable+1))
	if err != nil {
		return nil, fmt.Errorf("read variable %s: %w", name, err)
	}
	if len(raw) < 4 || len(raw) > maxVariable {
		return nil, fmt.Errorf("read variable %s: %d bytes, want 4 of attributes at least and %d at most", name, len(raw), maxVariable)
	}
	return raw[4:], nil
}

// Write gives a variable this value, to last. When it returns the firmware has it.
func (f *Files) Write(name string, value []byte) error { return f.write(name, stored, value) }

// Remove makes a variable not be there.
func (f *Files) Remove(name string) error {
	path, err := f.path(name)
	if err == nil {
		err = loosen(path)
	}
	if err == nil {
		err = os.Remove(path)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove variable: %w", err)
	}
	return nil
}

// write is one system call, since each write to a file of efivarfs is one SetVariable.
func (f *Files) write(name string, attributes uint32, value []byte) error {
	path, err := f.path(name)
	if err != nil {
		return err
	}
	if err := loosen(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("write variable: %w", err)
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return fmt.Errorf("write variable: %w", err)
	}
	_, err = file.Write(append(binary.LittleEndian.AppendUint32(nil, attributes), value...))
	if err := errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("write variable: %w", err)
	}
	return nil
}

// loosen takes off the mark with which efivarfs guards variables it does not know against rm -rf.
func loosen(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	flags, err := unix.IoctlGetInt(int(file.Fd()), unix.FS_IOC_GETFLAGS)
	if err != nil || flags&immutable == 0 {
		return nil // a file system without marks has nothing to take off
	}
	return unix.IoctlSetPointerInt(int(file.Fd()), unix.FS_IOC_SETFLAGS, flags&^immutable)
}

// Enrolment is what makes a machine trust a site's keys alone: signed values of db, KEK and PK, as Change.Signed makes them.
type Enrolment struct{ DB, KEK, PK []byte }

// ErrEnrolled is returned by Enrol of a machine that has keys already: whoever holds its PK decides, not the running system.
var ErrEnrolled = errors.New("the firmware has a platform key already")

// Enrol writes the keys to a machine in setup mode. PK comes last, since it ends that mode: power cut before it leaves a machine that
// can be enrolled again. Secure Boot is on from the next start.
func (f *Files) Enrol(e Enrolment) error {
	mode, err := f.Read(SetupMode)
	if err != nil {
		return fmt.Errorf("enrol keys: %w", err)
	}
	if len(mode) != 1 || mode[0] != 1 {
		return fmt.Errorf("enrol keys: %w", ErrEnrolled)
	}
	for _, v := range []struct {
		name  string
		value []byte
	}{{DB, e.DB}, {KEK, e.KEK}, {PK, e.PK}} {
		if err := f.write(v.name, authenticated, v.value); err != nil {
			return fmt.Errorf("enrol keys: %w", err)
		}
	}
	return nil
}

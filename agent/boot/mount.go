// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// mount is one row of the table of what hangs in the tree.
type mount struct {
	kind, on string
	flags    uintptr
	data     string
	optional bool // a kernel may lack it; what needs it says so
}

const still = unix.MS_NOSUID | unix.MS_NOEXEC

// firstMounts come before anything else. Nothing that can be written to can be executed.
func firstMounts() []mount {
	return []mount{
		{kind: "devtmpfs", on: "/dev", flags: still, data: "mode=0755,size=64k"},
		{kind: "proc", on: "/proc", flags: still | unix.MS_NODEV, data: "hidepid=invisible"}, // a role sees its own processes
		{kind: "sysfs", on: "/sys", flags: still | unix.MS_NODEV},
		{kind: "tmpfs", on: "/run", flags: still | unix.MS_NODEV, data: "mode=0755,size=8m"},
		{kind: "tmpfs", on: "/tmp", flags: still | unix.MS_NODEV, data: "mode=0755,size=64k"}, // of nobody: for libraries that insist on its being there
		{kind: "securityfs", on: "/sys/kernel/security", flags: still | unix.MS_NODEV, optional: true},
	}
}

// lateMounts need a kernel module.
func lateMounts() []mount {
	return []mount{{kind: "efivarfs", on: "/sys/firmware/efi/efivars", flags: still | unix.MS_NODEV, optional: true}}
}

func mountAll(table []mount) error {
	for _, m := range table {
		err := unix.Mount(m.kind, m.on, m.kind, m.flags, m.data)
		switch {
		case err == nil, errors.Is(err, unix.EBUSY): // the kernel did it
		case m.optional:
		default:
			return fmt.Errorf("mount %s on %s: %w", m.kind, m.on, err)
		}
	}
	return nil
}

// folder is one row of the table of folders that roles share.
type folder struct {
	path     string
	mode     os.FileMode
	uid, gid int
}

func folders() []folder {
	return []folder{
		{"/run/pcscd", 0o710, UserCard, UserAgent}, // pcscd's socket: the agent may reach it, nobody else
		{"/run/net", 0o755, 0, 0},
		// libudev listens to no device events where there seems to be no udev: it asks for this name, or for /proc/self/mountinfo, which
		// pcscd may not read. Without events a reader is seen only if it was there when pcscd looked first.
		{"/run/udev", 0o755, 0, 0},
		{"/run/udev/control", 0o755, 0, 0},
	}
}

// eventLog is what the firmware measured. The agent hands it to the centre; Linux shows it to root alone.
const eventLog = "/sys/kernel/security/tpm0/binary_bios_measurements"

// makeFolders makes what the roles write to, and opens what they read. A machine without an event log has no such file.
func makeFolders(table []folder) error {
	if err := os.Chmod(eventLog, 0o444); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("event log: %w", err)
	}
	for _, f := range table {
		if err := os.Mkdir(f.path, f.mode); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("make folder: %w", err)
		}
		if err := errors.Join(os.Chown(f.path, f.uid, f.gid), os.Chmod(f.path, f.mode)); err != nil {
			return fmt.Errorf("make folder: %w", err)
		}
	}
	return nil
}

// resolvConf is where the network's resolver is told to the agent; /etc points there, for / will not be written to again.
const resolvConf = "/run/net/resolv.conf"

// prepareRoot readies the folders of the root for other users than 0, who would get EACCES for a "." packed 0700.
func prepareRoot() error {
	if err := os.Chmod("/", 0o755); err != nil {
		return fmt.Errorf("root folder: %w", err)
	}
	if err := os.Symlink(resolvConf, "/etc/resolv.conf"); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("root folder: %w", err)
	}
	return nil
}

// freezeRoot ends all writing to the root. IPE trusts what lies on the initial root file system, whoever wrote it and when.
func freezeRoot() error {
	if err := unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, ""); err != nil {
		return fmt.Errorf("remount / read-only: %w", err)
	}
	return nil
}

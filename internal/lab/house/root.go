// SPDX-License-Identifier: Apache-2.0

package house

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// The host's files that a place sees, read-only: its programs and what they need to run. All else of the host (homes, state,
// sockets, secrets of /etc) is not there at all, so that not even the root of a place reaches it.
func hostFiles() []string {
	const etc = "X11 alternatives bash.bashrc dconf debian_version default fonts ghostscript gtk-2.0 gtk-3.0 host.conf inputrc " +
		"iproute2 ld.so.cache ld.so.conf ld.so.conf.d libccid_Info.plist locale.alias localtime login.defs magic mime.types " +
		"nsswitch.conf opensc os-release perl profile profile.d protocols reader.conf.d services shells terminfo tigervnc timezone xdg"
	const state = "/usr /var/cache/fontconfig /var/lib/openbox /var/lib/dbus /var/lib/xfonts /var/lib/ghostscript"
	files := strings.Fields(state)
	for _, name := range strings.Fields(etc) {
		files = append(files, "/etc/"+name)
	}
	return files
}

// devices are the host's that a place sees.
func devices() []string {
	return []string{"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/kvm"}
}

// buildRoot lays out the root of a place at root, on a file system of the place's own.
func buildRoot(root string) error {
	if err := os.MkdirAll(root, 0o755); err != nil {
		return err
	}
	if err := tmpfs(root, "0755", "16m"); err != nil {
		return err
	}
	for _, dir := range []string{"/dev/pts", "/dev/shm", "/etc", "/home", "/mnt", "/old", "/proc", "/run", "/tmp", "/var/lib/xkb", "/var/tmp"} {
		if err := os.MkdirAll(root+dir, 0o755); err != nil {
			return err
		}
	}
	if err := os.Mkdir(root+"/root", 0o700); err != nil {
		return err
	}
	top, err := filepath.Glob("/*bin")
	if err != nil {
		return err
	}
	libraries, err := filepath.Glob("/lib*")
	if err != nil {
		return err
	}
	for _, path := range append(append(top, libraries...), hostFiles()...) {
		if err := show(root, path, true); err != nil {
			return err
		}
	}
	for _, path := range devices() {
		if err := show(root, path, false); err != nil {
			return err
		}
	}
	return errors.Join(
		unix.Mount("devpts", root+"/dev/pts", "devpts", unix.MS_NOSUID|unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5"),
		os.Symlink("pts/ptmx", root+"/dev/ptmx"), os.Symlink("/proc/self/fd", root+"/dev/fd"),
		os.Symlink("/proc/self/fd/0", root+"/dev/stdin"), os.Symlink("/proc/self/fd/1", root+"/dev/stdout"), os.Symlink("/proc/self/fd/2", root+"/dev/stderr"),
		os.Chmod(root+"/dev/shm", 0o1777|os.ModeSticky), os.Chmod(root+"/var/tmp", 0o1777|os.ModeSticky))
}

// show puts one of the host's files or folders at the same path under root: a link as it is, all else as a bind mount. What the
// host does not have the place does not have either.
func show(root, path string, readOnly bool) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	}
	target := root + path
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	switch {
	case info.Mode()&os.ModeSymlink != 0:
		to, err := os.Readlink(path)
		if err != nil {
			return err
		}
		return os.Symlink(to, target)
	case info.IsDir():
		err = os.MkdirAll(target, 0o755)
	default:
		err = os.WriteFile(target, nil, 0o644)
	}
	if err != nil {
		return err
	}
	if err := unix.Mount(path, target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("show %s: %w", path, err)
	}
	if !readOnly {
		return nil
	}
	if err := unix.Mount("", target, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|unix.MS_NOSUID, ""); err != nil {
		return fmt.Errorf("show %s read-only: %w", path, err)
	}
	return nil
}

// enterRoot makes root the place's root; the host's is gone from it (pivot_root(2)).
func enterRoot(root string) error {
	if err := unix.PivotRoot(root, root+"/old"); err != nil {
		return fmt.Errorf("change root: %w", err)
	}
	return errors.Join(os.Chdir("/"), unix.Unmount("/old", unix.MNT_DETACH), os.Remove("/old"),
		unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_NOSUID, ""))
}

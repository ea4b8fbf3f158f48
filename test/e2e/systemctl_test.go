// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// systemctl stands in for systemd, which cannot run where tests do: it starts a unit as shipped, with its user, its folders, its
// capabilities, its read-only system and its word that it is ready. What a unit filters by system call it does not apply.
func systemctl(args []string) error {
	switch {
	case len(args) == 1 && args[0] == "daemon-reload":
		return nil
	case len(args) == 3 && args[0] == "enable" && args[1] == "--now":
		u, err := readUnit(filepath.Join("/etc/systemd/system", args[2]+".service"))
		if err != nil {
			return err
		}
		return u.start()
	}
	return fmt.Errorf("%q: only daemon-reload and enable --now UNIT are known here", args)
}

// unit is a unit file: the values of each key, in order; a key stands in one section only.
type unit struct {
	name   string
	values map[string][]string
}

// readUnit reads the part of systemd.syntax(7) that the units of this house use.
func readUnit(path string) (*unit, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	u := &unit{strings.TrimSuffix(filepath.Base(path), ".service"), map[string][]string{}}
	for n, line := range strings.Split(string(text), "\n") {
		if line == "" || line[0] == '#' || line[0] == '[' {
			continue
		}
		key, value, found := strings.Cut(line, "=")
		if !found || value == "" {
			return nil, fmt.Errorf("%s:%d: want key=value", path, n+1)
		}
		u.values[key] = append(u.values[key], strings.Fields(value)...)
	}
	return u, nil
}

func (u *unit) is(key, value string) bool { return slices.Equal(u.values[key], []string{value}) }

// dynamicUID is a number of the range that systemd draws the users of DynamicUser from.
const dynamicUID = 61184

// start runs the unit's program. The calling thread is changed for good.
func (u *unit) start() error {
	uid := 0
	if u.is("DynamicUser", "yes") {
		uid = dynamicUID
	}
	writable, err := u.folders(uid)
	if err != nil {
		return err
	}
	ready, err := u.listen(uid)
	if err != nil {
		return err
	}
	log, err := os.OpenFile("/run/place/"+u.name+".log", os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(u.confine(writable), u.limit()); err != nil {
		return fmt.Errorf("%s: %w", u.name, err)
	}
	cmd := exec.Command(u.values["ExecStart"][0], u.values["ExecStart"][1:]...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"}
	if ready != nil {
		cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+ready.LocalAddr().String())
	}
	cmd.Dir, cmd.Stdout, cmd.Stderr = "/", log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
	for _, name := range u.values["AmbientCapabilities"] {
		cmd.SysProcAttr.AmbientCaps = append(cmd.SysProcAttr.AmbientCaps, capability(name))
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // the process outlives this one
	return u.await(ready, ended, log)
}

// await returns when the program said that it is ready; one of Type=exec need not.
func (u *unit) await(ready *net.UnixConn, ended <-chan error, log *os.File) error {
	if ready == nil {
		return nil
	}
	said := make(chan error, 1)
	go func() {
		buf := make([]byte, 64)
		n, err := ready.Read(buf)
		if err == nil && !bytes.Equal(buf[:n], []byte("READY=1")) {
			err = fmt.Errorf("it said %q", buf[:n])
		}
		said <- err
	}()
	var err error
	select {
	case err = <-said:
	case err = <-ended:
		err = fmt.Errorf("it ended: %w", err)
	case <-time.After(30 * time.Second):
		err = errors.New("it does not say that it is ready")
	}
	if err != nil {
		text, readErr := os.ReadFile(log.Name())
		return fmt.Errorf("%s: %w; its log: %s", u.name, errors.Join(err, readErr), text)
	}
	return nil
}

// folders makes state and runtime directory, the unit's user's with all that is in them, and returns all that may be written to.
func (u *unit) folders(uid int) ([]string, error) {
	writable := slices.Concat(u.values["ReadWritePaths"])
	for key, base := range map[string]string{"StateDirectory": "/var/lib", "RuntimeDirectory": "/run"} {
		for _, name := range u.values[key] {
			mode, err := strconv.ParseUint(u.values[key+"Mode"][0], 8, 32)
			if err != nil {
				return nil, fmt.Errorf("%sMode: %w", key, err)
			}
			dir := filepath.Join(base, name)
			err = os.MkdirAll(filepath.Dir(dir), 0o755)
			if err == nil {
				err = os.MkdirAll(dir, fs.FileMode(mode))
			}
			if err == nil {
				err = os.Chmod(dir, fs.FileMode(mode))
			}
			if err == nil {
				err = filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
					return errors.Join(err, os.Lchown(path, uid, uid))
				})
			}
			if err != nil {
				return nil, err
			}
			writable = append(writable, dir)
		}
	}
	return writable, nil
}

func (u *unit) listen(uid int) (*net.UnixConn, error) {
	if !u.is("Type", "notify") {
		return nil, nil
	}
	path := "/run/notify-" + u.name
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, err
	}
	return conn, os.Chown(path, uid, uid)
}

// confine gives the thread a view of the system in which only these paths, devices and kernel files can be written to.
func (u *unit) confine(writable []string) error {
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if !u.is("ProtectSystem", "strict") {
		return errors.New("ProtectSystem is not strict")
	}
	for _, path := range []string{"/dev", "/proc", "/sys"} { // they stay as they are (systemd.exec(5), ProtectSystem)
		if _, err := os.Stat(path); err == nil {
			writable = append(writable, path)
		}
	}
	for _, path := range writable {
		if err := unix.Mount(path, path, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	if err := unix.MountSetattr(unix.AT_FDCWD, "/", unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
		return err
	}
	for _, path := range writable {
		if err := unix.MountSetattr(unix.AT_FDCWD, path, unix.AT_RECURSIVE, &unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY}); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	if u.is("PrivateTmp", "yes") {
		if err := errors.Join(tmpfs("/tmp", "1777"), tmpfs("/var/tmp", "1777")); err != nil {
			return err
		}
	}
	if u.is("ProtectHome", "yes") {
		return errors.Join(tmpfs("/home", "0"), tmpfs("/root", "0"))
	}
	return nil
}

func tmpfs(path, mode string) error {
	return unix.Mount("tmpfs", path, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode="+mode)
}

// limit takes from the thread, and so from the program, what the unit does not leave it.
func (u *unit) limit() error {
	for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
		keep := slices.ContainsFunc(u.values["CapabilityBoundingSet"], func(name string) bool { return capability(name) == c })
		if keep {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil {
			return fmt.Errorf("capability %d: %w", c, err)
		}
	}
	if !u.is("NoNewPrivileges", "yes") {
		return errors.New("NoNewPrivileges is not set")
	}
	return unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
}

// capability is the number of a name of capabilities(7), of those that the units keep.
func capability(name string) uintptr {
	number, found := map[string]uintptr{
		"CAP_CHOWN": unix.CAP_CHOWN, "CAP_DAC_OVERRIDE": unix.CAP_DAC_OVERRIDE, "CAP_FOWNER": unix.CAP_FOWNER, "CAP_KILL": unix.CAP_KILL,
		"CAP_NET_BIND_SERVICE": unix.CAP_NET_BIND_SERVICE, "CAP_SETGID": unix.CAP_SETGID, "CAP_SETUID": unix.CAP_SETUID,
	}[name]
	if !found {
		panic("e2e: capability " + name)
	}
	return number
}

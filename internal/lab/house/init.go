// SPDX-License-Identifier: Apache-2.0

package house

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// placeArg is argument 0 of the first process of a place.
const placeArg = "sdbox-place"

// insideDir is where a place finds its own folder: configuration, certificates, state.
const insideDir = "/run/place"

// binDir is where a place finds the programs of sdbox, wherever they lie on the host: /tmp and /home are others inside.
const binDir = "/run/bin"

// Account is a person's account inside a place; the host's list of accounts is never touched.
type Account struct {
	Name string `json:"name"`
	UID  int    `json:"uid"` // also the GID
	Full string `json:"full"`
}

// placeSpec is what the first process of a place is told on its command line.
type placeSpec struct {
	Name     string    `json:"name"`
	Dir      string    `json:"dir"`   // the place's folder, seen as insideDir inside
	House    string    `json:"house"` // the house's folder; inside it is not there
	Bin      string    `json:"bin"`   // the folder of the programs, seen as binDir inside; may be empty
	Accounts []Account `json:"accounts"`
}

// Main must be called first by the main function of every program that opens a House (also by TestMain). In the first
// process of a place it does that process's work and ends it; otherwise it returns. The calling goroutine, main's own, stays
// on the main thread, so that no thread which entered a place is ever the one /proc/self speaks of.
func Main() {
	runtime.LockOSThread()
	if os.Args[0] != placeArg {
		return
	}
	if err := placeMain(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "place:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// placeMain is PID 1 of a place: it furnishes the namespace, says so on descriptor 3, then reaps orphans until it is killed,
// which ends every process of the place (pid_namespaces(7)).
func placeMain(args []string) error {
	if len(args) != 1 {
		return errors.New("want one argument")
	}
	var spec placeSpec
	if err := json.Unmarshal([]byte(args[0]), &spec); err != nil {
		return fmt.Errorf("read description: %w", err)
	}
	ready := os.NewFile(3, "ready")
	children := make(chan os.Signal, 1)
	signal.Notify(children, unix.SIGCHLD)
	signal.Ignore(unix.SIGINT, unix.SIGTERM, unix.SIGHUP) // Ctrl-C is for the lab, which closes its places in order
	if err := furnish(spec); err != nil {
		return err
	}
	if _, err := ready.WriteString("ready\n"); err != nil {
		return err
	}
	ready.Close()
	for range children {
		for {
			pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
			if pid <= 0 || (err != nil && !errors.Is(err, unix.EINTR)) {
				break
			}
		}
	}
	return nil
}

// furnish gives a place a root of its own: nothing of it reaches the host, whose mounts are made private first, and of the host's
// files only those of hostFiles are in it.
func furnish(spec placeSpec) error {
	passwd, group, err := accountFiles(spec.Accounts)
	if err != nil {
		return err
	}
	root := filepath.Join(spec.House, "root")
	steps := []func() error{
		func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") },
		func() error { return buildRoot(root) },
		func() error {
			return unix.Mount("proc", root+"/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
		},
		func() error { return tmpfs(root+"/run", "0755", "64m") },
		func() error { return os.Mkdir(root+insideDir, 0o755) },
		func() error { return unix.Mount(spec.Dir, root+insideDir, "", unix.MS_BIND, "") },
		func() error { return bindPrograms(spec.Bin, root+binDir) },
		func() error { return tmpfs(root+"/tmp", "1777", "512m") },
		func() error { return tmpfs(root+"/home", "0755", "512m") },
		func() error { return os.Mkdir(root+"/tmp/.X11-unix", 0o1777) },
		func() error { return os.Chmod(root+"/tmp/.X11-unix", 0o1777|os.ModeSticky) },
		func() error { return os.WriteFile(root+"/etc/passwd", []byte(passwd), 0o644) },
		func() error { return os.WriteFile(root+"/etc/group", []byte(group), 0o644) },
		func() error { return os.WriteFile(root+"/etc/hostname", []byte(spec.Name+"\n"), 0o644) },
		func() error { return os.WriteFile(root+"/etc/hosts", []byte("127.0.0.1 localhost\n"), 0o644) },
		func() error { return enterRoot(root) },
		func() error { return unix.Sethostname([]byte(spec.Name)) },
	}
	for i, step := range steps {
		if err := step(); err != nil {
			return fmt.Errorf("furnish %s, step %d: %w", spec.Name, i+1, err)
		}
	}
	for _, a := range spec.Accounts {
		home := filepath.Join("/home", a.Name)
		if err := errors.Join(os.Mkdir(home, 0o700), os.Chown(home, a.UID, a.UID)); err != nil {
			return fmt.Errorf("home of %s: %w", a.Name, err)
		}
	}
	return nil
}

// bindPrograms shows the programs of sdbox, read-only.
func bindPrograms(bin, target string) error {
	if bin == "" {
		return nil
	}
	if err := os.Mkdir(target, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(bin, target, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	return unix.Mount("", target, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, "")
}

func tmpfs(target, mode, size string) error {
	return unix.Mount("tmpfs", target, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode="+mode+",size="+size)
}

// accountFiles are the host's passwd(5) and group(5) without its people (UID 1000 to 59999), with the place's people.
func accountFiles(accounts []Account) (passwd, group string, err error) {
	host, err := os.ReadFile("/etc/passwd")
	if err != nil {
		return "", "", err
	}
	hostGroup, err := os.ReadFile("/etc/group")
	if err != nil {
		return "", "", err
	}
	passwd, group = systemOnly(string(host)), systemOnly(string(hostGroup))
	for _, a := range accounts {
		passwd += fmt.Sprintf("%s:x:%d:%d:%s:/home/%s:/bin/bash\n", a.Name, a.UID, a.UID, a.Full, a.Name)
		group += fmt.Sprintf("%s:x:%d:\n", a.Name, a.UID)
	}
	return passwd, group, nil
}

// systemOnly keeps the lines whose third field is a number outside 1000..59999 (Debian Policy, 9.2.2).
func systemOnly(file string) string {
	var kept strings.Builder
	for line := range strings.Lines(file) {
		fields := strings.Split(line, ":")
		var id int
		if len(fields) < 3 {
			continue
		}
		if _, err := fmt.Sscan(fields[2], &id); err != nil || (id >= 1000 && id < 60000) {
			continue
		}
		kept.WriteString(line)
	}
	return kept.String()
}

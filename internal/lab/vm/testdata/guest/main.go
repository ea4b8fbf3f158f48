// SPDX-License-Identifier: Apache-2.0

// Command guest is PID 1 of the machines of this package's tests: it says over its events port that it runs, then repeats there each
// line that comes in by the finger port, and ends with a reboot when that line is "reboot".
package main

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

func main() {
	if err := run(); err != nil {
		fmt.Println("guest:", err)
	}
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
}

func run() error {
	for target, kind := range map[string]string{"/dev": "devtmpfs", "/sys": "sysfs"} {
		_ = os.Mkdir(target, 0o755)
		if err := unix.Mount(kind, target, kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", target, err)
		}
	}
	events, err := port("org.sdbox.events")
	if err != nil {
		return err
	}
	finger, err := port("org.sdbox.finger")
	if err != nil {
		return err
	}
	_, tpmMissing := os.Stat("/dev/tpmrm0")
	fmt.Fprintf(events, `{"msg":"guest runs","tpm":%t}`+"\n", tpmMissing == nil)
	lines := bufio.NewScanner(finger)
	for lines.Scan() && lines.Text() != "reboot" {
		fmt.Fprintln(events, lines.Text())
	}
	return lines.Err()
}

// port opens a virtio-serial port by its name.
func port(name string) (*os.File, error) {
	names, err := filepath.Glob("/sys/class/virtio-ports/*/name")
	if err != nil {
		return nil, err
	}
	for _, file := range names {
		if is, err := os.ReadFile(file); err == nil && strings.TrimSpace(string(is)) == name {
			return os.OpenFile("/dev/"+filepath.Base(filepath.Dir(file)), os.O_RDWR, 0)
		}
	}
	return nil, fmt.Errorf("no port %s among %v", name, names)
}

// SPDX-License-Identifier: Apache-2.0

// Command registers is PID 1 of an image that says over the events port what the TPM holds and what stands in its root, then switches
// the machine off.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

func main() {
	if err := run(); err != nil {
		fmt.Println("registers:", err)
	}
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func run() error {
	for _, m := range [][2]string{{"/dev", "devtmpfs"}, {"/sys", "sysfs"}, {"/sys/kernel/security", "securityfs"}} {
		if err := unix.Mount(m[1], m[0], m[1], 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m[0], err)
		}
	}
	said := struct {
		PCRs map[string]string `json:"pcrs"`
		Root []string          `json:"root"`
		Lock string            `json:"lock"`    // how far the kernel is locked down
		Odd  []string          `json:"unknown"` // what it says about words of its command line that it does not know
	}{PCRs: map[string]string{}, Odd: []string{}}
	mode, err := os.ReadFile("/sys/kernel/security/lockdown")
	if err != nil {
		return err
	}
	said.Lock = strings.TrimSpace(string(mode))
	if said.Odd, err = odd(); err != nil {
		return err
	}
	for n := range 24 {
		value, err := os.ReadFile(fmt.Sprintf("/sys/class/tpm/tpm0/pcr-sha256/%d", n))
		if err != nil {
			return err
		}
		said.PCRs[fmt.Sprint(n)] = strings.ToLower(strings.TrimSpace(string(value)))
	}
	entries, err := os.ReadDir("/")
	if err != nil {
		return err
	}
	for _, e := range entries {
		said.Root = append(said.Root, e.Name())
	}
	names, err := filepath.Glob("/sys/class/virtio-ports/*/name")
	if err != nil {
		return err
	}
	for _, file := range names {
		if is, err := os.ReadFile(file); err != nil || strings.TrimSpace(string(is)) != "org.sdbox.events" {
			continue
		}
		port, err := os.OpenFile("/dev/"+filepath.Base(filepath.Dir(file)), os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		return json.NewEncoder(port).Encode(said)
	}
	return fmt.Errorf("no events port among %v", names)
}

// odd reads the kernel's log for words of the command line that mean nothing to it.
func odd() ([]string, error) {
	log, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(log)
	found := []string{}
	for record := make([]byte, 8192); ; {
		n, err := unix.Read(log, record)
		if err != nil { // EAGAIN: there is no more
			return found, nil
		}
		if _, words, is := strings.Cut(string(record[:n]), "Unknown kernel command line parameters"); is {
			found = append(found, strings.TrimSpace(words))
		}
	}
}

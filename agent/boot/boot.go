// SPDX-License-Identifier: Apache-2.0

// Package boot is the first process of an SD-Box that is a machine: it makes a bare kernel into a box, starts the agent and the few
// others under users of their own, and starts them again when they end. Nothing here is for a person to configure.
//
// boot.go is the order of things at the start, supervise.go what happens after it, client.go what the agent and PID 1 say to one
// another.
package boot

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"sdbox/firmware/efivar"

	"golang.org/x/sys/unix"
)

// Where the image keeps what only PID 1 reads.
const (
	settingsFile = "/etc/sdbox/boot.toml"
	policyFile   = "/etc/sdbox/ipe.p7b"
)

// Main is the life of PID 1. When it returns the kernel panics, and so starts the machine again.
func Main() {
	sink := newSink()
	log := slog.New(slog.NewJSONHandler(sink, nil)).With("room", "boot")
	m := &machine{sink: sink, log: log, nursery: newNursery(sink, self)}
	err := m.begin()
	if err == nil {
		err = m.live(context.Background())
	}
	log.Error("the machine starts again", "err", err)
	if !m.outlet { // there may be a serial line
		_ = os.WriteFile(kernelLog, []byte("<2>sdbox: "+err.Error()+"\n"), 0)
	}
	m.restart()
}

// begin brings the kernel to where devices may appear.
func (m *machine) begin() error {
	syscall.Umask(0o022)
	// Nobody sends PID 1 these but the kernel at Ctrl+Alt+Del. They are caught and dropped: what is ignored stays so in what is started.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF); err != nil {
		return fmt.Errorf("take Ctrl+Alt+Del from the kernel: %w", err)
	}
	if err := prepareRoot(); err != nil {
		return err
	}
	if err := mountAll(firstMounts()); err != nil {
		return err
	}
	if err := makeFolders(folders()); err != nil {
		return err
	}
	var err error
	if m.settings, err = ReadSettings(settingsFile); err != nil {
		return err
	}
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0); err != nil {
		return fmt.Errorf("out of memory's last: %w", err)
	}
	behind, err := floorClock(m.settings.Built)
	if err != nil {
		return err
	}
	if behind > 0 {
		m.log.Warn("the clock was behind the image", "by", behind.String())
	}
	m.step("mounted")
	return nil
}

// step logs how far the start is, in the kernel's own time.
func (m *machine) step(name string) {
	m.log.Info("step", "step", name, "ms", sinceKernel().Milliseconds())
}

// sinceKernel is the time since the kernel began to run.
func sinceKernel() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return 0
	}
	return time.Duration(t.Nano())
}

// loadModules loads what the list names, in its order, and calls look after each: devices are taken into use while the next module is
// loaded. A module that fails is logged; what needs it will be missed by name.
func (m *machine) loadModules(ctx context.Context, look func()) error {
	list, err := readModules()
	if err != nil {
		return err
	}
	for _, mod := range list {
		if ctx.Err() != nil {
			return nil
		}
		if err := mod.load(modulesFolder); err != nil {
			m.log.Warn("module", "err", err)
		}
		look()
	}
	return nil
}

// harden closes what was open for the start. It runs when the last module is in.
func (m *machine) harden() error {
	missing, err := applyAll(Sysctls(), "/proc/sys")
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		m.log.Warn("this kernel has no such setting", "names", missing)
	}
	if err := m.enforce(); err != nil {
		return err
	}
	if err := freezeRoot(); err != nil {
		return err
	}
	if err := dropBounds(); err != nil {
		return err
	}
	m.step("hardened")
	return nil
}

// firmwareWait is how long the firmware's variables are left alone for what a person waits for: to read them all can hold the whole
// machine up for seconds, for they are the firmware's to give.
const firmwareWait = 10 * time.Second

// openFirmware brings the firmware's variables where releases need them, and gives a firmware in setup mode the site's keys.
func (m *machine) openFirmware(ctx context.Context) error {
	if _, err := os.Stat(enrolment); errors.Is(err, os.ErrNotExist) {
		wait := time.NewTimer(firmwareWait)
		defer wait.Stop()
		select {
		case <-wait.C:
		case <-m.healthy:
		case <-ctx.Done():
			return nil
		}
	}
	if err := mountAll(lateMounts()); err != nil {
		return err
	}
	m.step("firmware")
	switch enrolled, err := enrol(efivar.Open(efivar.Mounted), enrolment); {
	case err != nil:
		m.log.Warn("the firmware refuses the site's keys", "err", err)
	case enrolled:
		return fmt.Errorf("the firmware has the site's keys: %w", errRestart)
	}
	return nil
}

// enforce switches the image's execution policy on. Without Secure Boot, with whose keys the kernel checks it, the box goes on without
// it: what the TPM has measured says so to the centre, which lets no such box in.
func (m *machine) enforce() error {
	signed, err := os.ReadFile(policyFile)
	if errors.Is(err, os.ErrNotExist) {
		m.log.Warn("no execution policy in this image")
		return nil
	}
	if err != nil {
		return fmt.Errorf("execution policy: %w", err)
	}
	if err := activateIPE(ipeFolder, signed); err != nil {
		m.log.Warn("no execution policy", "err", err)
	}
	return nil
}

// lastWords is how long the log may take to be written before the machine starts again.
const lastWords = time.Second

// restart says its last lines and starts the machine again.
func (m *machine) restart() {
	said := make(chan struct{})
	go func() { // the machine ends it, if nobody takes the lines
		m.sink.close()
		close(said)
	}()
	select {
	case <-said:
	case <-time.After(lastWords):
	}
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART) // if not, PID 1 ends, and the kernel does it
}

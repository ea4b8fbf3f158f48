// SPDX-License-Identifier: Apache-2.0

package house

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"sdbox/agent/screen"
	"sdbox/firmware/eventlog"
	"sdbox/firmware/reference"
	"sdbox/internal/attest"
	"sdbox/internal/lab/vm"
	"sdbox/internal/tpm/tpmsim"
)

// Form is how the boxes of a house run.
type Form string

// The forms.
const (
	ProcessForm Form = "process" // the agent as a process, its hardware behind sockets and files
	ImageForm   Form = "image"   // a machine under QEMU that boots the operating system image
)

// What the boxes' image is called.
const (
	imageName    = "lab-qemu"
	imageVersion = "2026.11.24"
)

// unitWithin is how long a machine may take to boot once, under TCG on a busy host.
const unitWithin = 5 * time.Minute

// Files of the image form, in the house's folder.
func (s *Site) imageDir(version string) string {
	return filepath.Join(s.House.dir, "image-"+version)
}
func (s *Site) siteFile() string   { return filepath.Join(s.House.dir, "site.toml") }
func (s *Site) secureBoot() string { return filepath.Join(s.House.dir, "secure-boot") }
func (s *Site) releaseDir() string { return filepath.Join(s.House.dir, "release") }

// makeImage builds the boxes' operating system by the shipped program, with the house's own trust anchors, and has the house's release
// key sign what a box measures that runs it.
func (s *Site) makeImage(ctx context.Context) error {
	site := fmt.Sprintf(`# What the lab's boxes trust.
domain = %q
gateway = [%q]
gateway_name = %q
root = "pki/root/cert.pem"
language = %q
layout = "us"
support = %q
keys = "secure-boot"
events = "port:%s"
finger = "port:%s"

[release]
threshold = 1
keys = ["release/release.pub"]
`, Domain, GatewayAddress+":443", Domain.Gateway(GatewayName), s.Language, support, vm.EventsPort, vm.FingerPort)
	if err := os.WriteFile(s.siteFile(), []byte(site), 0o644); err != nil {
		return err
	}
	if _, err := s.program(ctx, "sdbox-image", "keys", s.secureBoot(), "--site", "Lab"); err != nil {
		return err
	}
	var err error
	if s.accelerator, err = vm.Accelerator(ctx); err != nil {
		return err
	}
	return s.buildImage(ctx, imageVersion)
}

// buildImage builds one version, and has the house's release key sign what a box measures that runs it.
func (s *Site) buildImage(ctx context.Context, version string) error {
	args := []string{"build", "--site", s.siteFile(), "--agent", filepath.Join(s.bin, "sdbox-agent"), "--version", version,
		"--built", time.Now().UTC().Truncate(24 * time.Hour).Format(time.RFC3339), "--cache", s.cache, "--out", s.imageDir(version)}
	// What "make test" left there: the packages that the mirror has today.
	lock := filepath.Join(s.cache, "packages.lock")
	if _, err := os.Stat(lock); err == nil {
		args = append(args, "--packages", lock)
	}
	if s.dev {
		args = append(args, "--dev")
	}
	_, err := s.program(ctx, "sdbox-image", args...)
	if err != nil {
		return err
	}
	unit, err := s.unit(ctx)
	if err != nil {
		return fmt.Errorf("a first machine of the model: %w", err)
	}
	measured := filepath.Join(s.House.dir, "measured-"+version)
	if _, err := s.program(ctx, "sdbox-image", "reference", filepath.Join(s.imageDir(version), "reference.json"), "--unit", unit, "--out", measured); err != nil {
		return err
	}
	return s.signReference(ctx, measured, version)
}

// noteFile is where the signed reference values of a version wait for the gateway.
func (s *Site) noteFile(version string) string {
	return filepath.Join(s.House.dir, "reference-"+version+".note")
}

// unit is a file with what a machine of the boxes' model measures, as "sdbox-agent machine" prints it. The first house has one boot to
// learn that; it holds for as long as firmware, QEMU and devices are the same.
func (s *Site) unit(ctx context.Context) (string, error) {
	model, err := vm.Model(ctx, machineConfig())
	if err != nil {
		return "", err
	}
	path := filepath.Join(s.cache, "unit-"+model+"-"+s.firmwareKey())
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	ctx, cancel := context.WithTimeout(ctx, unitWithin)
	defer cancel()
	log, err := s.recordUnit(ctx)
	if err != nil {
		return "", err
	}
	return path, os.WriteFile(path, unitText(log), 0o644)
}

// recordUnit boots a machine that no network reaches and reads what its firmware measured.
func (s *Site) recordUnit(ctx context.Context) (log *eventlog.Log, err error) {
	dir, err := os.MkdirTemp("", "unit") // sockets want short paths
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	c := machineConfig()
	c.Dir, c.Isolated, c.Accelerator = dir, true, s.accelerator
	c.TPM = &tpmsim.Config{Dir: filepath.Join(dir, "tpm")}
	if c.Firmware, err = s.newDisk(dir, dir); err != nil {
		return nil, err
	}
	m, err := vm.Start(ctx, c)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	if _, _, err := m.Events.Await(ctx, 0, func(line string) bool { return line != "" }); err != nil {
		return nil, err
	}
	return m.FirmwareLog(ctx)
}

// unitText is a log in the lines of "sdbox-agent machine": registers, and what the firmware's hold, but for its own boot entries.
func unitText(log *eventlog.Log) []byte {
	var b strings.Builder
	values := log.Replay()
	for _, index := range attest.Registers() {
		fmt.Fprintf(&b, "%s\n", reference.PCR{Index: index, Digest: values[index]})
	}
	for _, index := range attest.Registers() {
		if !slices.Contains(reference.ByEvents(), index) {
			continue
		}
		for _, e := range reference.FromLog(index, log).Events {
			fmt.Fprintf(&b, "%s\n", reference.EventLine(index, e))
		}
	}
	return []byte(b.String())
}

// MachineMemory is how much memory a machine of the house has, MB of 2^20 bytes.
const MachineMemory = 512

// machineConfig is what all machines of the house have in common.
func machineConfig() vm.Config {
	return vm.Config{Memory: MachineMemory, Video: vm.StandardVideo, TPM: &tpmsim.Config{}}
}

// newDisk puts a disk with the image and firmware with the house's keys into a folder; the paths it returns are those inside.
func (s *Site) newDisk(dir, inside string) (*vm.Firmware, error) {
	image, err := os.Open(filepath.Join(s.imageDir(imageVersion), "sdbox.img"))
	if err != nil {
		return nil, err
	}
	defer image.Close()
	disk, err := os.Create(filepath.Join(dir, "disk.img"))
	if err != nil {
		return nil, err
	}
	if _, err := disk.ReadFrom(image); err != nil {
		return nil, errors.Join(err, disk.Close())
	}
	f := &vm.Firmware{Variables: filepath.Join(inside, "variables.fd"), Disk: filepath.Join(inside, "disk.img")}
	return f, errors.Join(disk.Close(), vm.MakeVariables(filepath.Join(dir, "variables.fd"), s.secureBoot(), s.firmwareKey()))
}

// firmwareKey is the key whose programs the firmware of the house's machines starts.
func (s *Site) firmwareKey() string {
	if s.dev {
		return "db-dev"
	}
	return "db"
}

// Drill breaks something in a box of the form dev on purpose; the lines are those of agent/boot.
func (b *Box) Drill(line string) error {
	m := b.on()
	if m == nil {
		return errNoImage
	}
	_, err := fmt.Fprintln(m.Drills(), line)
	return err
}

// equip gives the machine of a box a disk and a firmware, once.
func (s *Site) equip(b *Box) (*vm.Firmware, error) {
	if _, err := os.Stat(filepath.Join(b.Place.dir, "disk.img")); err != nil {
		return s.newDisk(b.Place.dir, insideDir)
	}
	return &vm.Firmware{Variables: filepath.Join(insideDir, "variables.fd"), Disk: filepath.Join(insideDir, "disk.img")}, nil
}

// startMachine switches on the machine of a box, inside the box's place.
func (s *Site) startMachine(ctx context.Context, b *Box) error {
	firmware, err := s.equip(b)
	if err != nil {
		return err
	}
	c := machineConfig()
	c.Accelerator = s.accelerator
	c.Dir, c.Inside, c.Firmware = b.Place.Outside(hardwareDir), hardwareDir, firmware
	c.TPM = &tpmsim.Config{Dir: b.tpmDir, Authority: filepath.Join(filepath.Dir(b.tpmDir), "authority")}
	c.EventsLog = filepath.Join(s.House.Logs(), b.Serial+".agent.log")
	c.Run = func(args []string) (vm.Process, error) {
		return b.Place.Start("qemu", searchPath(), "/usr/bin/qemu-system-x86_64", args...)
	}
	m, err := vm.Start(context.WithoutCancel(ctx), c)
	if err != nil {
		return err
	}
	shown, stop := context.WithCancel(context.Background())
	b.mu.Lock()
	b.machine, b.stopShow = m, stop
	b.mu.Unlock()
	b.running.Go(func() { _ = m.Show(shown, b.ScreenFile()) }) // it ends with the machine
	return awaitFile(ctx, b.ScreenFile())
}

// awaitFile waits until a file is there.
func awaitFile(ctx context.Context, path string) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := os.Stat(path); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", path, ctx.Err())
		case <-tick.C:
		}
	}
}

// dialMachine reaches the card reader of a machine.
func dialMachine(m *vm.VM) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", m.ReaderSocket())
	}
}

// errNoImage says that only a machine has this.
var errNoImage = errors.New("the box is no machine that is on")

// Screendump is what QEMU shows on the display of a box in the image form.
func (b *Box) Screendump(ctx context.Context) (*screen.Image, error) {
	m := b.on()
	if m == nil {
		return nil, errNoImage
	}
	return m.Picture(ctx)
}

// ReadyAfter is how long the machine's last boot took from the first moment of its kernel to being ready for a card, by its own clock, as
// its log says.
func (b *Box) ReadyAfter() (time.Duration, error) {
	m := b.on()
	if m == nil {
		return 0, errNoImage
	}
	var kernel time.Time // when it began
	for _, line := range m.Events.Lines() {
		var e struct {
			Time time.Time `json:"time"`
			MS   *int64    `json:"ms"` // since the kernel began
			Msg  string    `json:"msg"`
			To   string    `json:"to"`
		}
		if json.Unmarshal([]byte(line), &e) != nil {
			continue
		}
		switch {
		case e.Msg == "step" && e.MS != nil && kernel.IsZero():
			kernel = e.Time.Add(-time.Duration(*e.MS) * time.Millisecond)
		case e.Msg == "state" && e.To == "ready" && !kernel.IsZero():
			return e.Time.Sub(kernel), nil
		}
	}
	return 0, fmt.Errorf("%s was not ready, says its log", b.Serial)
}

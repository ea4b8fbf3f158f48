// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"fmt"
	"path/filepath"
	"strconv"
)

// qemu is the program of Debian's package qemu-system-x86.
const qemu = "/usr/bin/qemu-system-x86_64"

// Names of the sockets in a machine's folder. QEMU dials all but the reader's, the display's and the TPM's.
const (
	monitorSocket = "qmp.sock"
	serialSocket  = "serial.sock"
	eventsSocket  = "events.sock"
	fingerSocket  = "finger.sock"
	readerSocket  = "reader.sock"
	displaySocket = "display.sock"
	tpmSocket     = "tpm.sock"
)

// Names of the guest's virtio-serial ports.
const (
	EventsPort = "org.sdbox.events"
	FingerPort = "org.sdbox.finger"
)

// arguments is QEMU's command line.
func (c Config) arguments() []string {
	in := func(name string) string { return filepath.Join(c.inside(), name) }
	socket := func(id, name string) []string { return []string{"-chardev", "socket,id=" + id + ",path=" + in(name)} }
	var a []string
	add := func(more ...string) { a = append(a, more...) }
	machine := "q35,smm=" + onOff(c.Firmware != nil) + ",accel=" + c.accelerator()
	add("-machine", machine, "-cpu", "max", "-smp", "1", "-m", strconv.Itoa(c.memory()), "-nodefaults", "-no-user-config", "-display", "none", "-vnc", "unix:"+in(displaySocket),
		"-rtc", "base=utc", "-global", "ICH9-LPC.noreboot=off")
	if c.EndOnReboot {
		add("-no-reboot")
	}
	add(socket("qmp", monitorSocket)...)
	add("-mon", "chardev=qmp,mode=control")
	add(socket("serial", serialSocket)...)
	add("-serial", "chardev:serial", "-device", "virtio-serial-pci,id=ports")
	add(socket("events", eventsSocket)...)
	add("-device", "virtserialport,bus=ports.0,chardev=events,id=events,name="+EventsPort)
	add(socket("finger", fingerSocket)...)
	add("-device", "virtserialport,bus=ports.0,chardev=finger,id=finger,name="+FingerPort)
	add(c.boot()...)
	add("-device", c.video(), "-device", "qemu-xhci,id=usb", "-device", "usb-kbd,bus=usb.0,id=keyboard", "-device", "usb-tablet,bus=usb.0,id=mouse")
	// The reader listens: a card comes and goes with its own connection.
	add("-chardev", "socket,id=card,server=on,wait=off,path="+in(readerSocket), "-device", "usb-ccid,bus=usb.0,id=reader",
		"-device", "ccid-card-passthru,bus=reader.0,chardev=card")
	if c.TPM != nil {
		add(socket("tpm", tpmSocket)...)
		add("-tpmdev", "emulator,id=tpm,chardev=tpm", "-device", "tpm-crb,tpmdev=tpm")
	}
	if !c.NoNetwork {
		add("-netdev", "user,id=net,ipv6=off,restrict="+onOff(c.Isolated), "-device", "virtio-net-pci,netdev=net,id=card0,romfile=")
	}
	return append(a, c.Extra...)
}

// boot is what the machine starts from.
func (c Config) boot() []string {
	var a []string
	if c.Kernel != "" {
		a = append(a, "-kernel", c.Kernel, "-initrd", c.Initrd, "-append", c.CommandLine)
	}
	if f := c.Firmware; f != nil {
		a = append(a, "-drive", "if=pflash,format=raw,unit=0,readonly=on,file="+firmwareCode, "-drive", "if=pflash,format=raw,unit=1,file="+f.Variables,
			"-global", "driver=cfi.pflash01,property=secure,value=on",
			"-drive", "if=none,id=disk,format=raw,file="+f.Disk, "-device", "virtio-blk-pci,drive=disk,bootindex=0")
	}
	return a
}

func (c Config) video() string {
	if c.Video == VirtioVideo {
		return fmt.Sprintf("virtio-vga,id=video,xres=%d,yres=%d", Width, Height)
	}
	return fmt.Sprintf("VGA,id=video,edid=on,xres=%d,yres=%d", Width, Height)
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

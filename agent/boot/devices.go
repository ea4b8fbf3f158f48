// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"sdbox/internal/refusal"

	"golang.org/x/sys/unix"
)

// readersFile is libccid's list of the readers it drives.
const readersFile = "/usr/lib/pcsc/drivers/ifd-ccid.bundle/Contents/Info.plist"

// fingerPort is the virtio-serial port that carries a finger sensor in the domain lab.
const fingerPort = "org.sdbox.finger"

// devices is PID 1's hand on what is plugged in: nothing on USB works before it was judged, device nodes get their owners, and pcscd
// hears of readers as they come and go. Everything is done by the goroutine that runs it.
type devices struct {
	log     *slog.Logger
	events  *uevents
	sys     string // normally /sys
	dev     string // normally /dev
	usb     USB
	readers map[usbID]bool
	trouble func(Trouble)              // called for each device that is refused, and when it is gone
	changed func(uevent)               // called after each event
	refused map[string]refusal.Refusal // by path under /sys: devices that are in and refused
}

// openDevices begins to listen. It is called before the first module of USB is loaded, so that no event is missed.
func openDevices(log *slog.Logger, usb USB, trouble func(Trouble), changed func(uevent)) (*devices, error) {
	list, err := os.Open(readersFile)
	if err != nil {
		return nil, fmt.Errorf("list of readers: %w", err)
	}
	defer list.Close()
	readers, err := parseReaders(list)
	if err != nil {
		return nil, err
	}
	events, err := openUevents()
	if err != nil {
		return nil, err
	}
	return &devices{
		log: log, events: events, sys: "/sys", dev: "/dev", usb: usb, readers: readers, trouble: trouble, changed: changed,
		refused: map[string]refusal.Refusal{},
	}, nil
}

// run looks at what is there, then at each change, until ctx ends.
func (d *devices) run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { d.events.close() })
	defer stop()
	d.scan()
	for {
		e, err := d.events.read()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS):
			d.log.Warn("device events were lost")
			d.scan()
		case err != nil:
			return err
		default:
			d.handle(e)
		}
	}
}

// scan takes everything that is there as if it came now: what is built into the kernel came before anybody listened.
func (d *devices) scan() {
	for _, pattern := range []string{"class/tpmrm/*", "class/virtio-ports/*", "class/input/event*", "bus/usb/devices/*"} {
		found, err := filepath.Glob(filepath.Join(d.sys, pattern))
		if err != nil {
			d.log.Error("look for devices", "err", err)
		}
		for _, link := range found {
			if e, err := d.present(link); err == nil { // else it has gone again
				d.handle(e)
			}
		}
	}
}

// present makes the event of a device's coming from what sysfs says of it.
func (d *devices) present(link string) (uevent, error) {
	path, err := filepath.EvalSymlinks(link)
	if err != nil {
		return uevent{}, err
	}
	subsystem, err := os.Readlink(filepath.Join(path, "subsystem"))
	if err != nil {
		return uevent{}, err
	}
	text, err := readBounded(filepath.Join(path, "uevent"), maxUevent/2)
	if err != nil {
		return uevent{}, err
	}
	devpath := strings.TrimPrefix(path, d.sys)
	message := "add@" + devpath + "\x00ACTION=add\x00DEVPATH=" + devpath + "\x00SUBSYSTEM=" + filepath.Base(subsystem) + "\x00"
	return parseUevent([]byte(message + strings.ReplaceAll(string(text), "\n", "\x00")))
}

// handle takes one event. Only what happens on USB is told on, and of what was refused only its going.
func (d *devices) handle(e uevent) {
	defer d.changed(e)
	tell := e.values["SUBSYSTEM"] == "usb"
	if e.values["DEVTYPE"] == "usb_device" {
		switch e.action {
		case "add":
			tell = d.admit(e)
		case "remove":
			d.gone(e.devpath)
		}
	}
	if uid, ok := d.owner(e); ok && e.action != "remove" {
		d.give(e, uid)
	}
	if !tell {
		return
	}
	if err := d.events.rebroadcast(e.outliving()); err != nil {
		d.log.Error("device", "err", err)
	}
}

// owner says whose a device node is. USB devices are given by admit.
func (d *devices) owner(e uevent) (uid int, ok bool) {
	switch subsystem, name := e.values["SUBSYSTEM"], e.values["DEVNAME"]; subsystem {
	case "input":
		return UserAgent, strings.HasPrefix(name, "input/event")
	case "tpmrm":
		return UserAgent, name != ""
	case "virtio-ports":
		port, err := readBounded(filepath.Join(d.sys, e.devpath, "name"), 256)
		return UserAgent, err == nil && name != "" && strings.TrimSpace(string(port)) == fingerPort
	}
	return 0, false
}

// give makes a node a role's own, and nobody else's.
func (d *devices) give(e uevent, uid int) {
	node := filepath.Join(d.dev, e.values["DEVNAME"])
	if err := errors.Join(os.Chmod(node, 0o600), os.Chown(node, uid, uid)); err != nil && !errors.Is(err, os.ErrNotExist) {
		d.log.Error("device", "err", fmt.Errorf("give it to its user: %w", err))
	}
}

// admit judges a USB device that came and lets it work, or not. A device that is not let in stays in its port without a driver, so
// that its going is seen.
func (d *devices) admit(e uevent) bool {
	if strings.HasPrefix(filepath.Base(e.devpath), "usb") { // the controller itself, which the kernel lets in
		return true
	}
	authorized := filepath.Join(d.sys, e.devpath, "authorized")
	device, code, err := d.judge(e)
	if err != nil {
		d.refuse(e, device, code, err)
		if err := os.WriteFile(authorized, []byte("0"), 0); err != nil {
			d.log.Error("usb", "err", fmt.Errorf("refuse device: %w", err))
		}
		return false
	}
	if device.has(classCCID) { // pcscd opens it as soon as it works
		d.give(e, UserCard)
	}
	if err := os.WriteFile(authorized, []byte("1"), 0); err != nil {
		d.log.Error("usb", "device", device.id.String(), "err", fmt.Errorf("let device in: %w", err))
		return false
	}
	d.log.Info("usb", "device", device.id.String(), "path", e.devpath, "reader", device.has(classCCID))
	return true
}

// judge reads what a device says of itself, which the kernel shows before it is let in.
func (d *devices) judge(e uevent) (usbDevice, refusal.Code, error) {
	raw, err := readBounded(filepath.Join(d.sys, e.devpath, "descriptors"), maxDescriptors)
	if err != nil {
		return usbDevice{}, refusal.DeviceRefused, err
	}
	device, err := parseDescriptors(raw)
	if err != nil {
		return device, refusal.DeviceRefused, err
	}
	if err := device.judge(d.usb); err != nil {
		return device, refusal.DeviceRefused, err
	}
	if device.has(classCCID) && !d.readers[device.id] {
		return device, refusal.ReaderUnknown, errors.New("a card reader that the driver does not know")
	}
	return device, "", nil
}

func (d *devices) refuse(e uevent, device usbDevice, code refusal.Code, why error) {
	if _, already := d.refused[e.devpath]; already {
		return
	}
	r := refusal.New(code)
	d.refused[e.devpath] = r
	d.log.Warn("usb refused", "device", device.id.String(), "path", e.devpath, "code", r.Error(), "err", why)
	d.trouble(Trouble{Refusal: r})
}

func (d *devices) gone(devpath string) {
	r, was := d.refused[devpath]
	if !was {
		return
	}
	delete(d.refused, devpath)
	d.trouble(Trouble{Refusal: r, Over: true})
}

// readBounded reads a file of sysfs, at most limit bytes of it; a longer one is an error.
func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s is longer than %d bytes", path, limit)
	}
	return b, err
}

// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Groups of NETLINK_KOBJECT_UEVENT: what the kernel says, and what libudev listens to (systemd, src/libsystemd/sd-device/device-monitor.c).
const (
	groupKernel = 1
	groupUdev   = 2
)

// Limits of uevents (implementation; the kernel itself makes at most 2 KiB and 64 properties of one, lib/kobject_uevent.c).
const (
	maxUevent     = 8 << 10
	maxProperties = 128
	ueventBuffer  = 1 << 20 // bytes that may wait while a device is looked at
)

// uevent is one change of a device.
type uevent struct {
	action  string // add, remove, change, bind, unbind
	devpath string // under /sys
	keys    []string
	values  map[string]string // of keys
}

// parseUevent reads a kernel's message: "ACTION@DEVPATH\0" and then KEY=VALUE\0 for each property. Values are what a device calls
// itself, and so not trusted.
func parseUevent(raw []byte) (uevent, error) {
	if len(raw) > maxUevent {
		return uevent{}, fmt.Errorf("uevent: %d bytes", len(raw))
	}
	parts := strings.Split(strings.TrimSuffix(string(raw), "\x00"), "\x00")
	if len(parts) > maxProperties {
		return uevent{}, fmt.Errorf("uevent: %d properties", len(parts))
	}
	action, devpath, ok := strings.Cut(parts[0], "@")
	e := uevent{action: action, devpath: devpath, values: map[string]string{}}
	if !ok || action == "" || !strings.HasPrefix(devpath, "/") {
		return uevent{}, errors.New("uevent: no action and path")
	}
	for _, p := range parts[1:] {
		key, value, ok := strings.Cut(p, "=")
		if _, twice := e.values[key]; !ok || key == "" || twice {
			return uevent{}, fmt.Errorf("uevent: %.40q is no property", p)
		}
		e.keys = append(e.keys, key)
		e.values[key] = value
	}
	if e.values["ACTION"] != action || e.values["DEVPATH"] != devpath || !below(devpath) || !below("/"+e.values["DEVNAME"]) {
		return uevent{}, errors.New("uevent: says two things of itself")
	}
	return e, nil
}

// below says whether a path stays under the folder it is joined to.
func below(path string) bool {
	for part := range strings.SplitSeq(path, "/") {
		if part == ".." {
			return false
		}
	}
	return true
}

// outliving is the event as listeners can still make sense of it. pcscd asks for the device that an interface was part of
// (hotplug_libudev.c, HPRemoveDevice), which is most often gone too when it hears, and then keeps the reader for ever: such an interface
// is told of as one of the controller's, which stays. Its name, by which pcscd knows it, is the same.
func (e uevent) outliving() uevent {
	if e.action != "remove" || e.values["DEVTYPE"] != "usb_interface" {
		return e
	}
	parts := strings.Split(e.devpath, "/")
	for i, part := range parts {
		if number, is := strings.CutPrefix(part, "usb"); is && number != "" && strings.Trim(number, "0123456789") == "" {
			e.devpath = strings.Join(append(parts[:i+1:i+1], parts[len(parts)-1]), "/")
			e.values = maps.Clone(e.values)
			e.values["DEVPATH"] = e.devpath
			return e
		}
	}
	return e
}

// udev makes libudev's form of the event: a header by which listeners filter, and the properties. DEVNAME becomes a path.
func (e uevent) udev() []byte {
	const headerSize = 40
	b := make([]byte, headerSize, headerSize+maxUevent)
	for _, k := range e.keys {
		v := e.values[k]
		if k == "DEVNAME" {
			v = "/dev/" + v
		}
		b = append(b, k+"="+v+"\x00"...)
	}
	copy(b, "libudev\x00")
	binary.BigEndian.PutUint32(b[8:], 0xfeedcafe)
	binary.NativeEndian.PutUint32(b[12:], headerSize)
	binary.NativeEndian.PutUint32(b[16:], headerSize)
	binary.NativeEndian.PutUint32(b[20:], uint32(len(b)-headerSize))
	binary.BigEndian.PutUint32(b[24:], murmur2(e.values["SUBSYSTEM"]))
	if t := e.values["DEVTYPE"]; t != "" {
		binary.BigEndian.PutUint32(b[28:], murmur2(t))
	}
	return b // bytes 32..39 are the bloom filter of tags, of which there are none
}

// murmur2 is MurmurHash2 with seed 0 (Austin Appleby, public domain), by which libudev filters.
func murmur2(s string) uint32 {
	const m, r = 0x5bd1e995, 24
	b := []byte(s)
	h := uint32(len(b))
	for ; len(b) >= 4; b = b[4:] {
		k := binary.LittleEndian.Uint32(b) * m
		k ^= k >> r
		h = h*m ^ k*m
	}
	switch len(b) {
	case 3:
		h ^= uint32(b[2]) << 16
		fallthrough
	case 2:
		h ^= uint32(b[1]) << 8
		fallthrough
	case 1:
		h = (h ^ uint32(b[0])) * m
	}
	h = (h ^ h>>13) * m
	return h ^ h>>15
}

// uevents is a socket of NETLINK_KOBJECT_UEVENT that hears the kernel and speaks to libudev's listeners.
type uevents struct{ file *os.File }

func openUevents() (*uevents, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, fmt.Errorf("listen to devices: %w", err)
	}
	u := &uevents{os.NewFile(uintptr(fd), "uevents")}
	err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, ueventBuffer)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (groupKernel - 1)})
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen to devices: %w", err), u.file.Close())
	}
	return u, nil
}

// read returns the next event of the kernel. Messages of other processes are passed over, and so is what does not parse. The error is
// ENOBUFS when some were lost.
func (u *uevents) read() (uevent, error) {
	conn, err := u.file.SyscallConn()
	if err != nil {
		return uevent{}, err
	}
	buf := make([]byte, maxUevent+1)
	for {
		var n int
		var from unix.Sockaddr
		var readErr error
		err := conn.Read(func(fd uintptr) bool {
			n, from, readErr = unix.Recvfrom(int(fd), buf, 0)
			return readErr != unix.EAGAIN
		})
		if err = errors.Join(err, readErr); err != nil {
			return uevent{}, fmt.Errorf("listen to devices: %w", err)
		}
		sender, ok := from.(*unix.SockaddrNetlink)
		if !ok || sender.Pid != 0 { // 0 is the kernel; any process may send to a group it names
			continue
		}
		if e, err := parseUevent(buf[:n]); err == nil {
			return e, nil
		}
	}
}

// rebroadcast tells libudev's listeners in this network namespace. Nobody listening is no error.
func (u *uevents) rebroadcast(e uevent) error {
	conn, err := u.file.SyscallConn()
	if err != nil {
		return err
	}
	var sendErr error
	err = conn.Control(func(fd uintptr) {
		sendErr = unix.Sendto(int(fd), e.udev(), unix.MSG_DONTWAIT, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (groupUdev - 1)})
	})
	if errors.Is(sendErr, unix.ECONNREFUSED) {
		sendErr = nil
	}
	if err = errors.Join(err, sendErr); err != nil {
		return fmt.Errorf("rebroadcast %s of %s: %w", e.action, e.devpath, err)
	}
	return nil
}

func (u *uevents) close() error { return u.file.Close() }

// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"bytes"
	"context"
	"encoding/binary"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"sdbox/internal/lab/usbsim"
	"sdbox/internal/refusal"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// machineRoom is a sysfs and a /dev of a test's own, and the devices that PID 1 would see in them.
type machineRoom struct {
	*devices
	t        *testing.T
	troubles []Trouble
	heard    *os.File // as libudev hears
}

func newMachineRoom(t *testing.T) *machineRoom {
	r := &machineRoom{t: t}
	var err error
	r.devices, err = openDevices(slog.New(slog.NewTextHandler(t.Output(), nil)), USB{}, func(x Trouble) { r.troubles = append(r.troubles, x) }, func(uevent) {})
	require.NoError(t, err)
	t.Cleanup(func() { _ = r.events.close() }) // run closes it too
	r.sys, r.dev = t.TempDir(), t.TempDir()
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_KOBJECT_UEVENT)
	require.NoError(t, err)
	require.NoError(t, unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (groupUdev - 1)}))
	r.heard = os.NewFile(uintptr(fd), "libudev")
	t.Cleanup(func() { require.NoError(t, r.heard.Close()) })
	return r
}

// file writes a file of the machine.
func (r *machineRoom) file(base, path string, b []byte) string {
	full := filepath.Join(base, path)
	require.NoError(r.t, os.MkdirAll(filepath.Dir(full), 0o755))
	require.NoError(r.t, os.WriteFile(full, b, 0o644))
	return full
}

// usb puts a device into a port and returns the event of its coming.
func (r *machineRoom) usb(port string, descriptors []byte) uevent {
	path := "devices/pci0000:00/usb1/" + port
	r.file(r.sys, path+"/descriptors", descriptors)
	r.file(r.sys, path+"/authorized", nil)
	r.file(r.sys, path+"/uevent", []byte("MAJOR=189\nMINOR=1\nDEVNAME=bus/usb/001/002\nDEVTYPE=usb_device\nPRODUCT=627/1/0\n"))
	require.NoError(r.t, os.MkdirAll(filepath.Join(r.sys, "bus/usb/devices"), 0o755))
	_ = os.Symlink("../../../bus/usb", filepath.Join(r.sys, path, "subsystem"))
	link := filepath.Join(r.sys, "bus/usb/devices", port)
	_ = os.Symlink(filepath.Join(r.sys, path), link)
	r.file(r.dev, "bus/usb/001/002", nil)
	e, err := r.present(link)
	require.NoError(r.t, err)
	return e
}

func (r *machineRoom) authorized(port string) string {
	b, err := os.ReadFile(filepath.Join(r.sys, "devices/pci0000:00/usb1", port, "authorized"))
	require.NoError(r.t, err)
	return string(b)
}

func (r *machineRoom) owner(node string) int {
	info, err := os.Stat(filepath.Join(r.dev, node))
	require.NoError(r.t, err)
	return int(info.Sys().(*syscall.Stat_t).Uid)
}

// told returns what libudev heard next, "" when nothing.
func (r *machineRoom) told() string {
	conn, err := r.heard.SyscallConn()
	require.NoError(r.t, err)
	buf := make([]byte, maxUevent)
	n := 0
	require.NoError(r.t, conn.Control(func(fd uintptr) { n, _, _ = unix.Recvfrom(int(fd), buf, unix.MSG_DONTWAIT) }))
	return string(buf[:max(n, 0)])
}

func TestUSBIsDeniedButKeyboardsMiceAndReaders(t *testing.T) {
	for name, c := range usbDevices() {
		r := newMachineRoom(t)
		e := r.usb("1-1", c.raw)
		r.handle(e)
		if c.want == "" {
			require.Equal(t, "1", r.authorized("1-1"), name)
			require.Empty(t, r.troubles, name)
			require.Contains(t, r.told(), "\x00DEVNAME=/dev/bus/usb/001/002\x00", name)
			require.Equal(t, map[bool]int{true: UserCard, false: 0}[strings.Contains(name, "reader")], r.owner("bus/usb/001/002"), name)
			continue
		}
		require.Equal(t, "0", r.authorized("1-1"), name)
		require.Len(t, r.troubles, 1, name)
		require.Equal(t, c.want, r.troubles[0].Refusal.Code, name)
		require.Empty(t, r.told(), name)
		require.Zero(t, r.owner("bus/usb/001/002"), name)
		_, _, err := r.judge(e)
		require.ErrorContains(t, err, c.why, name)
		r.handle(e) // once more, as after lost events: said once
		e.action = "remove"
		r.handle(e)
		require.Equal(t, []Trouble{r.troubles[0], {Refusal: r.troubles[0].Refusal, Over: true}}, r.troubles, name)
		require.NotEmpty(t, r.told(), name)
	}
}

func TestWhatIsThereBeforeAnybodyListensIsTaken(t *testing.T) {
	r := newMachineRoom(t)
	r.usb("1-1", usbsim.Reader())
	r.usb("1-2", usbsim.Stick())
	r.usb("usb1", usbsim.Hub()) // the controller's own hub
	for class, d := range map[string]struct{ path, node, more string }{
		"tpmrm":        {"devices/LNXSYSTM:00/tpmrm/tpmrm0", "tpmrm0", ""},
		"input":        {"devices/virtual/input/event3", "input/event3", ""},
		"virtio-ports": {"devices/virtio0/virtio-ports/vport0p1", "vport0p1", fingerPort + "\n"},
	} {
		full := filepath.Dir(r.file(r.sys, d.path+"/uevent", []byte("MAJOR=1\nDEVNAME="+d.node+"\n")))
		require.NoError(t, os.Symlink("../../class/"+class, filepath.Join(full, "subsystem")))
		require.NoError(t, os.MkdirAll(filepath.Join(r.sys, "class", class), 0o755))
		require.NoError(t, os.Symlink(full, filepath.Join(r.sys, "class", class, filepath.Base(full))))
		r.file(r.dev, d.node, nil)
		if d.more != "" {
			r.file(r.sys, d.path+"/name", []byte(d.more))
		}
	}
	r.scan()
	require.Equal(t, "1", r.authorized("1-1"))
	require.Equal(t, "0", r.authorized("1-2"))
	require.Empty(t, r.authorized("usb1"))
	for _, node := range []string{"tpmrm0", "input/event3", "vport0p1"} {
		require.Equal(t, UserAgent, r.owner(node), node)
	}
	require.Equal(t, refusal.DeviceRefused, r.troubles[0].Refusal.Code)
}

func TestOnlyTheKernelIsHeard(t *testing.T) {
	r := newMachineRoom(t)
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_KOBJECT_UEVENT)
	require.NoError(t, err)
	defer unix.Close(fd)
	forged := []byte("add@/devices/forged\x00ACTION=add\x00DEVPATH=/devices/forged\x00SUBSYSTEM=usb\x00")
	require.NoError(t, unix.Sendto(fd, forged, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (groupKernel - 1)}))
	ip(t, "link", "add", "seen", "type", "veth", "peer", "name", "other") // the kernel's own event, in this network
	defer ip(t, "link", "del", "seen")
	e, err := r.events.read()
	require.NoError(t, err)
	require.Equal(t, "add net /devices/virtual/net/"+e.values["INTERFACE"], strings.Join([]string{e.action, e.values["SUBSYSTEM"], e.devpath}, " "))

	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	looked := make(chan struct{}, 64)
	r.changed = func(uevent) { looked <- struct{}{} }
	go func() { ended <- r.run(ctx) }()
	ip(t, "link", "set", "seen", "name", "renamed")
	ip(t, "link", "set", "renamed", "name", "seen")
	select {
	case <-looked:
	case <-time.After(10 * time.Second):
		t.Error("nothing was heard")
	}
	cancel()
	require.NoError(t, <-ended)
}

func TestUdevsFormIsLibudevs(t *testing.T) {
	e, err := parseUevent([]byte("add@/devices/x/1-1\x00ACTION=add\x00DEVPATH=/devices/x/1-1\x00SUBSYSTEM=usb\x00DEVNAME=bus/usb/001/002\x00DEVTYPE=usb_device\x00SEQNUM=7\x00"))
	require.NoError(t, err)
	b := e.udev()
	properties := "ACTION=add\x00DEVPATH=/devices/x/1-1\x00SUBSYSTEM=usb\x00DEVNAME=/dev/bus/usb/001/002\x00DEVTYPE=usb_device\x00SEQNUM=7\x00"
	require.Equal(t, properties, string(b[40:]))
	require.Equal(t, "libudev\x00\xfe\xed\xca\xfe", string(b[:12]))
	require.Equal(t, []uint32{40, 40, uint32(len(properties))}, []uint32{binary.NativeEndian.Uint32(b[12:]), binary.NativeEndian.Uint32(b[16:]), binary.NativeEndian.Uint32(b[20:])})
	require.Equal(t, murmur2("usb"), binary.BigEndian.Uint32(b[24:]))
	require.Equal(t, murmur2("usb_device"), binary.BigEndian.Uint32(b[28:]))
	require.Zero(t, binary.BigEndian.Uint64(b[32:]))
	// Values of Austin Appleby's own MurmurHash2, seed 0.
	for text, want := range map[string]uint32{"": 0, "usb": 0x0577c5e5, "usb_device": 0x27f8f50c, "usb_interface": 0xb1024765, "input": 0xc1a28470} {
		require.Equal(t, want, murmur2(text), text)
	}
}

func TestInterfaceThatWentIsTheControllers(t *testing.T) {
	for path, want := range map[string]string{
		"/devices/pci0000:00/0000:00:03.0/usb1/1-3/1-3:1.0":       "/devices/pci0000:00/0000:00:03.0/usb1/1-3:1.0",
		"/devices/pci0000:00/0000:00:03.0/usb1/1-3/1-3.1/1-3.1:1": "/devices/pci0000:00/0000:00:03.0/usb1/1-3.1:1",
		"/devices/platform/usbhost/1-3/1-3:1.0":                   "/devices/platform/usbhost/1-3/1-3:1.0",
	} {
		for action, want := range map[string]string{"remove": want, "add": path} {
			raw := action + "@" + path + "\x00ACTION=" + action + "\x00DEVPATH=" + path + "\x00SUBSYSTEM=usb\x00DEVTYPE=usb_interface\x00"
			e, err := parseUevent([]byte(raw))
			require.NoError(t, err)
			require.Contains(t, string(e.outliving().udev()), "\x00DEVPATH="+want+"\x00")
		}
	}
}

func FuzzUevent(f *testing.F) {
	good := "add@/devices/x\x00ACTION=add\x00DEVPATH=/devices/x\x00SUBSYSTEM=usb\x00DEVNAME=bus/usb/001/002\x00"
	for _, s := range []string{
		good, "", "add", "add@x\x00", "@/x\x00", good + "x\x00", good + "=x\x00", good + "ACTION=add\x00", "add@/devices/x\x00ACTION=remove\x00DEVPATH=/devices/x\x00",
		"add@/devices/../x\x00ACTION=add\x00DEVPATH=/devices/../x\x00", "add@/x\x00ACTION=add\x00DEVPATH=/x\x00DEVNAME=../../etc/passwd\x00",
		good + strings.Repeat("\x00", maxProperties), strings.Repeat("x", maxUevent+1),
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		e, err := parseUevent(raw)
		if err != nil {
			return
		}
		require.True(t, strings.HasPrefix(filepath.Join("/sys", e.devpath), "/sys"))
		require.True(t, strings.HasPrefix(filepath.Join("/dev", e.values["DEVNAME"]), "/dev"))
		require.True(t, bytes.HasPrefix(e.outliving().udev(), []byte("libudev\x00")))
	})
}

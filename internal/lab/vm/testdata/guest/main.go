// SPDX-License-Identifier: Apache-2.0

// Command guest is PID 1 of the machines of this package's tests: it says over its events port that it runs, draws a pattern on the
// screen as an agent does beside PID 1, and says which keys it hears. It repeats each line that comes in by the finger port, and ends
// with a reboot when that line is "reboot".
package main

import (
	"bufio"
	"context"
	"fmt"
	"image"
	"io"
	"os"
	"path/filepath"
	"strings"

	"sdbox/agent/keys"
	"sdbox/agent/screen"

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
	if err := load(); err != nil {
		return err
	}
	if err := draw(events); err != nil {
		return err
	}
	go hear(events)
	lines := bufio.NewScanner(finger)
	for lines.Scan() && lines.Text() != "reboot" {
		fmt.Fprintln(events, lines.Text())
	}
	return lines.Err()
}

// load loads the modules of the initramfs in the order of their names.
func load() error {
	names, err := filepath.Glob("/*.ko")
	if err != nil {
		return err
	}
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		f.Close()
		if err != nil {
			return fmt.Errorf("load %s: %w", name, err)
		}
	}
	return nil
}

// draw opens the screen, shares it as with another process, and draws there what the test expects: each pixel says where it is.
func draw(events io.Writer) error {
	own, err := screen.Open("/dev")
	if err != nil {
		return err
	}
	fd, err := unix.Dup(int(own.File().Fd()))
	if err != nil {
		return err
	}
	shared, err := screen.Shared(os.NewFile(uintptr(fd), "shared"), own.Geometry())
	if err != nil {
		return err
	}
	m := shared.Image()
	for y := range m.Height {
		row := m.Row(y, 0, m.Width)
		for x := range m.Width {
			row[4*x], row[4*x+1], row[4*x+2] = byte(x), byte(y), byte(x>>8<<4|y>>8)
		}
	}
	if err := shared.Flush(m.Bounds()); err != nil {
		return err
	}
	// A pointer that was there leaves nothing behind.
	for _, c := range []*screen.Cursor{screen.Arrow(1), nil} {
		if err := shared.Point(c, image.Pt(300, 200), m.Bounds()); err != nil {
			return err
		}
	}
	fmt.Fprintf(events, "drawn %dx%d, adapter %t\n", m.Width, m.Height, own.Geometry().Framebuffer != 0)
	return nil
}

// hear says what is typed.
func hear(events io.Writer) {
	raws := make(chan keys.Raw)
	go func() {
		for r := range raws {
			switch {
			case r == keys.TooFast():
				fmt.Fprintln(events, "too fast")
			case r == keys.Lost():
				fmt.Fprintln(events, "lost")
			case r.Type == 1: // EV_KEY
				fmt.Fprintln(events, "key", r.Code, r.Value)
			}
		}
	}()
	if err := keys.Evdev("/dev/input").Run(context.Background(), raws); err != nil {
		fmt.Fprintln(events, err)
	}
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

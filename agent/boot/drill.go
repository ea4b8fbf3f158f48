// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// maxDrill is the longest line of a drill taken, in bytes.
const maxDrill = 256

// Drills are how an image of the form dev, whose key no production firmware holds, is broken on purpose: one line each, by the port of
// its events.
const (
	drillKill  = "kill " // and a role
	drillPanic = "panic" // PID 1 ends
	drillHang  = "hang"  // PID 1's loop stands still
	drillStop  = "stop " // and a role, which stands still
)

// hearDrills hands the loop what comes by the port, until ctx ends.
func (m *machine) hearDrills(ctx context.Context, port io.Reader) {
	lines := bufio.NewScanner(port)
	lines.Buffer(nil, maxDrill)
	for lines.Scan() {
		select {
		case m.drills <- lines.Text():
		case <-ctx.Done():
			return
		}
	}
}

// drill does one.
func (m *machine) drill(line string) {
	m.log.Warn("drill", "what", line)
	if role, is := strings.CutPrefix(line, drillKill); is {
		m.signal(Role(role), unix.SIGKILL)
		return
	}
	if role, is := strings.CutPrefix(line, drillStop); is {
		m.signal(Role(role), unix.SIGSTOP)
		return
	}
	switch line {
	case drillTry:
		m.try()
	case drillPanic:
		panic("boot: a drill")
	case drillHang:
		select {}
	}
}

func (m *machine) signal(role Role, s unix.Signal) {
	if c := m.running[role]; c != nil {
		m.nursery.end(c, s)
	}
}

// drillTry has PID 1, which is root, try what no machine in use may let it do.
const drillTry = "try"

// try says what of that the kernel let it do; nothing, by name, when it is closed as it should be.
func (m *machine) try() {
	var done []string
	for _, t := range []struct {
		what string
		do   func() error
	}{
		{"switch the execution policy off", func() error { return os.WriteFile(filepath.Join(ipeFolder, "enforce"), []byte("0"), 0) }},
		{"load a module", func() error { return tryModule() }},
		{"start another kernel", func() error { return unix.KexecFileLoad(-1, -1, "", unix.KEXEC_FILE_NO_INITRAMFS) }},
		{"open the memory", func() error { return tryOpen("/dev/mem") }},
		{"open the kernel's memory", func() error { return tryOpen("/proc/kcore") }},
		{"reach a port that waits", tryPorts},
		{"write to /", func() error { return os.WriteFile("/x", nil, 0o600) }},
		{"run a program from memory", func() error { return tryRun("memfd") }},
		{"run a program from /run", func() error { return tryRun("/run/x") }},
		{"make code", func() error {
			_, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC, unix.MAP_PRIVATE|unix.MAP_ANON)
			return err
		}},
	} {
		if t.do() == nil {
			done = append(done, t.what)
		}
	}
	m.log.Warn("tried", "done", done)
}

func tryOpen(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.Read(make([]byte, 1))
	return err
}

// tryPorts looks for a TCP socket of any role that waits for somebody (proc(5), /proc/net/tcp: state 0A).
func tryPorts() error {
	for _, path := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		text, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil // that would be no proof
		}
		for line := range strings.Lines(string(text)) {
			if f := strings.Fields(line); len(f) > 3 && f[3] == "0A" {
				return nil
			}
		}
	}
	return unix.ECONNREFUSED
}

// tryModule loads the first module of the list once more: a kernel that takes modules would say that it is there.
func tryModule() error {
	list, err := readModules()
	if err != nil || len(list) == 0 {
		return errors.Join(err, unix.ENOENT)
	}
	return list[0].load(modulesFolder)
}

// tryRun writes a program where nothing was measured, or into no file at all, and runs it.
func tryRun(where string) error {
	if where == "memfd" {
		fd, err := unix.MemfdCreate(where, 0)
		if err != nil {
			return err
		}
		f := os.NewFile(uintptr(fd), where)
		defer f.Close()
		if _, err := f.Write(smallest()); err != nil {
			return err
		}
		where = fmt.Sprintf("/proc/self/fd/%d", fd)
	} else {
		if err := os.WriteFile(where, smallest(), 0o700); err != nil {
			return err
		}
		defer os.Remove(where)
	}
	return exec.Command(where).Run() // in the loop, which alone waits for children
}

// smallest is a program that ends: an ELF header, one segment, exit(0).
func smallest() []byte {
	const base, size = 0x400000, 64 + 56 + 9
	b := append([]byte("\x7fELF\x02\x01\x01"), make([]byte, 9)...)
	b = binary.LittleEndian.AppendUint32(b, 2|62<<16) // an executable, x86-64
	b = binary.LittleEndian.AppendUint32(b, 1)
	b = binary.LittleEndian.AppendUint64(b, base+64+56) // where it begins
	b = binary.LittleEndian.AppendUint64(b, 64)         // the table of segments
	b = append(b, make([]byte, 12)...)                  // no sections; flags
	for _, v := range []uint16{64, 56, 1, 64, 0, 0} {
		b = binary.LittleEndian.AppendUint16(b, v)
	}
	b = binary.LittleEndian.AppendUint32(b, 1) // to load
	b = binary.LittleEndian.AppendUint32(b, 5) // readable, executable
	for _, v := range []uint64{0, base, base, size, size, 4096} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return append(b, 0x31, 0xff, 0xb8, 60, 0, 0, 0, 0x0f, 0x05) // xor edi, edi; mov eax, 60; syscall
}

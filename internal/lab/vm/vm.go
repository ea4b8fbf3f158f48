// SPDX-License-Identifier: Apache-2.0

// Package vm is a machine for the lab and for tests: QEMU with a display, a USB keyboard, mouse and card reader, a network card
// behind user networking, a TPM (swtpm) and ports by which the guest tells what happens. It needs the Debian packages
// qemu-system-x86, ovmf, swtpm and swtpm-tools.
//
// How a test uses it:
//
//	m, err := vm.Start(ctx, vm.Config{Dir: dir, Kernel: "vmlinuz", Initrd: "root.cpio", CommandLine: "quiet panic=-1", EndOnReboot: true})
//	defer m.Close()
//	err = m.Serial.AwaitText(ctx, "Linux version")             // with console=ttyS0
//	line, next, err := m.Events.Await(ctx, 0, func(line string) bool { ... }) // what the guest writes to the port org.sdbox.events
//	picture, err := m.Picture(ctx)                             // what the display shows, pixel by pixel
//	err = m.Send(ctx, keys.Key(28, 1)...) ; err = m.Command(ctx, "set_link", map[string]any{"name": "card0", "up": false}, nil)
//
// Dir must have a short path (Unix sockets take 107 bytes): os.MkdirTemp("", "vm"), not t.TempDir(). A guest under TCG is 10 to 30
// times slower than the host, and slower still on a busy one: give ctx minutes, and wait for what the guest says, never for a time.
package vm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"sdbox/internal/tpm/tpmsim"
)

// startWithin is how long QEMU may take to open its sockets, ours.
const startWithin = 60 * time.Second

// Video is the kind of display adapter.
type Video string

// The display adapters.
const (
	StandardVideo Video = "std"    // QEMU's VGA, driver bochs
	VirtioVideo   Video = "virtio" // driver virtio_gpu
)

// Config describes a machine.
type Config struct {
	Dir string // its sockets and logs; made if missing

	// The machine boots a kernel directly, or its firmware from a disk.
	Kernel, Initrd, CommandLine string
	Firmware                    *Firmware

	Memory      int    // MiB; 0 = 512
	Accelerator string // empty = TCG; KVM only if the function Accelerator said so
	Video       Video  // empty = StandardVideo
	NoNetwork   bool
	Isolated    bool     // its network gives it an address and leads nowhere
	EndOnReboot bool     // a reboot ends the machine
	Extra       []string // further arguments of QEMU, for what one test alone needs

	TPM       *tpmsim.Config // where its TPM is kept; Socket is filled in. nil = the machine has none
	EventsLog string         // file of the lines the guest writes to its events port; empty = Dir/events.log

	// Where QEMU runs, if not beside the caller: Inside is Dir as QEMU sees it, Run starts it with these arguments.
	Inside string
	Run    func(args []string) (Process, error)
}

// VM is a machine that is on. Its methods may be called from any goroutine.
type VM struct {
	Serial *Log // its first serial port
	Events *Log // its port EventsPort
	Told   *Log // what QEMU says happened: RESET, SHUTDOWN, GUEST_PANICKED, VSERPORT_CHANGE..., one JSON object a line
	TPM    *tpmsim.Sim

	cfg     Config
	process Process
	monitor *qmp
	dumping sync.Mutex

	fingerPort net.Conn
	eventsPort net.Conn
	touching   sync.Mutex // one finger at a time
	typing     sync.Mutex // one row of events at a time

	running sync.WaitGroup
	stop    func() bool // takes the watch of the context back
	closing sync.Once
	closed  error // set by closing
}

// Start switches a machine on, and returns when QEMU runs it. It stays on until Close, or until ctx ends.
func Start(ctx context.Context, c Config) (*VM, error) {
	if err := os.MkdirAll(c.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("start machine: %w", err)
	}
	c.EventsLog = cmp.Or(c.EventsLog, filepath.Join(c.Dir, "events.log"))
	v := &VM{
		Serial: newLog(filepath.Join(c.Dir, "serial.log")), Events: newLog(c.EventsLog), Told: newLog(filepath.Join(c.Dir, "qemu-events.log")),
		cfg: c, stop: func() bool { return true },
	}
	if err := v.start(ctx); err != nil {
		return nil, fmt.Errorf("start machine: %w", errors.Join(err, v.Close()))
	}
	v.stop = context.AfterFunc(ctx, func() { _ = v.process.Kill() })
	return v, nil
}

func (v *VM) start(ctx context.Context) error {
	if v.cfg.TPM != nil {
		chip := *v.cfg.TPM
		chip.Socket, chip.Emulator = filepath.Join(v.cfg.Dir, tpmSocket), true
		var err error
		if v.TPM, err = tpmsim.Start(ctx, chip); err != nil {
			return err
		}
	}
	names := []string{monitorSocket, serialSocket, eventsSocket, fingerSocket}
	var listeners []net.Listener
	defer func() {
		for _, l := range listeners {
			l.Close()
		}
	}()
	for _, name := range names {
		path := filepath.Join(v.cfg.Dir, name)
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		l, err := net.Listen("unix", path)
		if err != nil {
			return err
		}
		listeners = append(listeners, l)
	}
	var err error
	if v.cfg.Run != nil {
		v.process, err = v.cfg.Run(v.cfg.arguments())
	} else {
		v.process, err = startHere(filepath.Join(v.cfg.Dir, "qemu.log"), v.cfg.arguments())
	}
	if err != nil {
		return err
	}
	conns, err := v.accept(ctx, listeners)
	if err != nil {
		return err
	}
	v.monitor, v.eventsPort, v.fingerPort = newQMP(conns[0], v.Told), conns[2], conns[3]
	v.running.Go(v.monitor.read)
	v.running.Go(func() { _ = v.Serial.read(conns[1]) })
	v.running.Go(func() { _ = v.Events.read(conns[2]) })
	return v.monitor.hello(ctx)
}

// accept takes one connection of QEMU at each socket, which it opens before the machine runs: nothing the guest writes is lost.
func (v *VM) accept(ctx context.Context, listeners []net.Listener) ([]net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	giveUp := func() {
		for _, l := range listeners {
			l.Close()
		}
	}
	ended := make(chan struct{})
	v.running.Go(func() {
		defer close(ended)
		select {
		case <-v.process.Done():
			giveUp()
		case <-ctx.Done():
			giveUp()
		}
	})
	defer func() { cancel(); <-ended }()
	var conns []net.Conn
	for _, l := range listeners {
		conn, err := l.Accept()
		if err == nil {
			conns = append(conns, conn)
			continue
		}
		for _, c := range conns {
			c.Close()
		}
		select {
		case <-v.process.Done():
			return nil, fmt.Errorf("QEMU ended (%w): %s", v.process.Err(), v.complaint())
		default:
			return nil, fmt.Errorf("QEMU does not open its sockets: %w", errors.Join(err, ctx.Err()))
		}
	}
	return conns, nil
}

// complaint is what QEMU wrote about itself.
func (v *VM) complaint() string {
	if v.cfg.Run != nil {
		return "its output was the caller's"
	}
	raw, err := os.ReadFile(filepath.Join(v.cfg.Dir, "qemu.log"))
	if err != nil {
		return err.Error()
	}
	return string(raw[max(0, len(raw)-1000):])
}

// Done is closed when the machine has gone off, by Close, by itself or with its context.
func (v *VM) Done() <-chan struct{} { return v.process.Done() }

// Command gives QEMU a command of its machine protocol (qemu-qmp-ref(7)) and reads what it returns into result, which may be nil.
func (v *VM) Command(ctx context.Context, name string, arguments, result any) error {
	return v.monitor.run(ctx, name, arguments, result)
}

// Reset is the reset button.
func (v *VM) Reset(ctx context.Context) error { return v.Command(ctx, "system_reset", nil, nil) }

// Plug connects the network cable, or pulls it.
func (v *VM) Plug(ctx context.Context, in bool) error {
	return v.Command(ctx, "set_link", map[string]any{"name": "card0", "up": in}, nil)
}

// ReaderSocket is where a card reaches the machine's reader (cardsim.InsertVSCard).
func (v *VM) ReaderSocket() string { return filepath.Join(v.cfg.Dir, readerSocket) }

// Finger is the host's end of the port FingerPort.
func (v *VM) Finger() io.Writer { return v.fingerPort }

// Drills is the host's end of the port EventsPort, by which an image of the form dev takes drills.
func (v *VM) Drills() io.Writer { return v.eventsPort }

// Close switches the machine off as if it lost power, and waits until everything of it is gone. Files stay.
func (v *VM) Close() error {
	v.closing.Do(func() { v.closed = v.close() })
	return v.closed
}

func (v *VM) close() error {
	v.stop()
	var errs []error
	if v.process != nil {
		errs = append(errs, v.process.Kill())
	}
	v.running.Wait() // QEMU's ends of the sockets are closed
	if v.monitor != nil {
		errs = append(errs, v.monitor.conn.Close(), v.fingerPort.Close())
	}
	if v.TPM != nil {
		errs = append(errs, v.TPM.Stop())
	}
	for _, name := range []string{monitorSocket, serialSocket, eventsSocket, fingerSocket, readerSocket, displaySocket, dumpFile} {
		if err := os.Remove(filepath.Join(v.cfg.Dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (c Config) inside() string      { return cmp.Or(c.Inside, c.Dir) }
func (c Config) memory() int         { return cmp.Or(c.Memory, 512) }
func (c Config) accelerator() string { return cmp.Or(c.Accelerator, TCG) }

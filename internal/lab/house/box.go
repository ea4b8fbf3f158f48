// SPDX-License-Identifier: Apache-2.0

package house

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"sdbox/internal/finger"
	"sdbox/internal/finger/fingersim"
	labnet "sdbox/internal/lab/net"
	"sdbox/internal/lab/vm"
	"sdbox/internal/tpm/tpmsim"
)

// Where a box's simulated hardware stands, as its agent sees it.
const (
	hardwareDir = "/run/sdbox"
	tpmSocket   = hardwareDir + "/tpm.sock"
	eventLog    = hardwareDir + "/eventlog"
	keySocket   = hardwareDir + "/keys.sock"
	touchSocket = hardwareDir + "/finger.sock"
	screenFile  = hardwareDir + "/screen"
)

// GatewayAddress is the gateway's address as boxes reach it: on its loopback interface, so that it is the same by every link.
const GatewayAddress = "10.70.0.1"

// BoxSpec describes an SD-Box of the lab.
type BoxSpec struct {
	Serial  string
	Country string // ISO 3166-1 alpha-2: where the centre has it registered
	Number  int    // 1 to 250; its link to the gateway is 10.71.NUMBER.0/24
}

// Box is an SD-Box: a place with a TPM, a card reader, a finger sensor, a keyboard, a screen and a link to the gateway.
type Box struct {
	BoxSpec
	Place    *Place
	Keyboard *Keyboard
	Link     *labnet.Link
	TPM      *tpmsim.Sim

	touch   chan finger.Template // unbuffered: a finger is taken when the agent asks for one
	tpmDir  string
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu       sync.Mutex
	agent    *Program           // of the process form, nil until Boot; guarded by mu
	machine  *vm.VM             // of the image form, nil until Boot; guarded by mu
	emptied  time.Time          // when a card last left its reader; guarded by mu
	stopShow context.CancelFunc // ends what keeps the screen file as the machine's display is; guarded by mu
}

// newBox builds the hardware of a box. In the process form its TPM is switched on and taken through the recorded boot; a machine does
// that itself. Nothing of sdbox is started.
func (h *House) newBox(ctx context.Context, spec BoxSpec, form Form, gateway *Place) (*Box, error) {
	place, err := h.NewPlace(spec.Serial)
	if err != nil {
		return nil, err
	}
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	b := &Box{BoxSpec: spec, Place: place, touch: make(chan finger.Template), cancel: cancel,
		tpmDir: filepath.Join(h.dir, "tpm", spec.Serial)}
	err = b.connect(h, gateway)
	switch {
	case err != nil:
	case form == ImageForm:
		err = b.furnishMachine(ctx)
	default:
		err = b.furnish(ctx, running)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("box %s: %w", spec.Serial, err), b.close())
	}
	return b, nil
}

// connect lays the box's cable to the gateway.
func (b *Box) connect(h *House, gateway *Place) error {
	link, err := h.Join(b.Number,
		End{Place: b.Place, Interface: "eth0", Address: fmt.Sprintf("10.71.%d.2/24", b.Number)},
		End{Place: gateway, Interface: fmt.Sprintf("box%d", b.Number), Address: fmt.Sprintf("10.71.%d.1/24", b.Number)})
	if err != nil {
		return err
	}
	b.Link = link
	return b.Place.configure("route", "add", "default", "via", fmt.Sprintf("10.71.%d.1", b.Number))
}

// furnishMachine makes the TPM of a machine, to know who it is; keyboard, reader and sensor are QEMU's.
func (b *Box) furnishMachine(ctx context.Context) error {
	if err := os.Mkdir(b.Place.Outside(hardwareDir), 0o755); err != nil {
		return err
	}
	b.Keyboard = &Keyboard{box: b}
	var err error
	if b.TPM, err = tpmsim.Start(ctx, b.tpmConfig()); err != nil {
		return err
	}
	return b.TPM.Stop()
}

func (b *Box) tpmConfig() tpmsim.Config {
	return tpmsim.Config{Dir: b.tpmDir, Socket: b.Place.Outside(tpmSocket), Authority: filepath.Join(filepath.Dir(b.tpmDir), "authority")}
}

func (b *Box) furnish(ctx, running context.Context) error {
	for _, dir := range []string{hardwareDir, "/run/pcscd"} {
		if err := os.Mkdir(b.Place.Outside(dir), 0o755); err != nil {
			return err
		}
	}
	var err error
	if b.Keyboard, err = newKeyboard(b.Place.Outside(keySocket)); err != nil {
		return err
	}
	sensor, err := net.Listen("unix", b.Place.Outside(touchSocket))
	if err != nil {
		return fmt.Errorf("finger sensor: %w", err)
	}
	b.running.Go(func() { _ = fingersim.Serve(running, sensor, b.touch) }) // it ends with the box
	if _, err := b.Place.Start("pcscd", searchPath(), "/usr/sbin/pcscd", "--foreground"); err != nil {
		return err
	}
	return b.powerTPM(ctx, running)
}

// powerTPM switches the TPM on and replays what a real boot measured, which the machine's event log says.
func (b *Box) powerTPM(ctx, running context.Context) error {
	sim, err := tpmsim.Start(running, b.tpmConfig())
	if err != nil {
		return err
	}
	b.TPM = sim
	boot, err := tpmsim.RecordedBoot()
	if err != nil {
		return err
	}
	return errors.Join(tpmsim.Boot(b.Place.Outside(tpmSocket), boot), os.WriteFile(b.Place.Outside(eventLog), boot.Encode(), 0o444), ctx.Err())
}

// Touch places a finger on the box's sensor, once the box asks for one, and returns when the box has taken it; placed is when it was
// handed over.
func (b *Box) Touch(ctx context.Context, impression finger.Template) (placed time.Time, err error) {
	if m := b.on(); m != nil {
		return m.Touch(ctx, impression)
	}
	select {
	case b.touch <- impression:
		return time.Now(), nil
	case <-ctx.Done():
		return time.Time{}, fmt.Errorf("place finger on %s: the box does not ask for one: %w", b.Serial, ctx.Err())
	}
}

// ScreenFile is the path of the box's screen, for Watch. The file is there once the agent has started.
func (b *Box) ScreenFile() string { return b.Place.Outside(screenFile) }

// on is the machine of a box in the image form that is on, or nil.
func (b *Box) on() *vm.VM {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.machine
}

// Running says whether the box is on: its agent, or its machine.
func (b *Box) Running() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.machine != nil:
		return !closed(b.machine.Done())
	case b.agent != nil:
		return !closed(b.agent.Done())
	}
	return false
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// SetLink gives the box's network these conditions. A machine sees that its cable is out.
func (b *Box) SetLink(ctx context.Context, c labnet.Conditions) error {
	err := b.Link.Set(c)
	if m := b.on(); m != nil {
		err = errors.Join(err, m.Plug(ctx, !c.Unplugged))
	}
	return err
}

// MemoryMB is how much memory the box's agent holds, or the memory of its machine, in MB of 2^20 bytes.
func (b *Box) MemoryMB() (float64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.agent == nil {
		return float64(machineConfig().Memory), nil
	}
	return b.agent.MemoryMB()
}

// SwitchOff ends the box's agent, or takes its machine's power.
func (b *Box) SwitchOff() error {
	b.mu.Lock()
	agent, machine, stop := b.agent, b.machine, b.stopShow
	b.agent, b.machine = nil, nil
	b.mu.Unlock()
	var errs []error
	if agent != nil {
		errs = append(errs, agent.Kill())
	}
	if machine != nil {
		stop()
		errs = append(errs, machine.Close())
	}
	return errors.Join(errs...)
}

// close switches everything off that is not a process of the place.
func (b *Box) close() error {
	errs := []error{b.SwitchOff()} // before its hardware goes away
	b.cancel()
	b.running.Wait()
	if b.Keyboard != nil {
		errs = append(errs, b.Keyboard.Close())
	}
	if b.TPM != nil {
		errs = append(errs, b.TPM.Stop())
	}
	return errors.Join(errs...)
}

// searchPath is the environment of programs that need no more.
func searchPath() []string {
	return []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"}
}

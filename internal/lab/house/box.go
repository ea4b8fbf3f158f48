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

	"sdbox/internal/finger"
	"sdbox/internal/finger/fingersim"
	labnet "sdbox/internal/lab/net"
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
	Agent    *Program // nil until Boot

	touch   chan finger.Template // unbuffered: a finger is taken when the agent asks for one
	cancel  context.CancelFunc
	running sync.WaitGroup
}

// newBox builds the hardware of a box, switches its TPM on and takes it through the recorded boot. The agent is not started.
func (h *House) newBox(ctx context.Context, spec BoxSpec, gateway *Place) (*Box, error) {
	place, err := h.NewPlace(spec.Serial)
	if err != nil {
		return nil, err
	}
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	b := &Box{BoxSpec: spec, Place: place, touch: make(chan finger.Template), cancel: cancel}
	if err := b.furnish(ctx, running, h, gateway); err != nil {
		return nil, errors.Join(fmt.Errorf("box %s: %w", spec.Serial, err), b.close())
	}
	return b, nil
}

func (b *Box) furnish(ctx, running context.Context, h *House, gateway *Place) error {
	link, err := h.Join(b.Number,
		End{Place: b.Place, Interface: "eth0", Address: fmt.Sprintf("10.71.%d.2/24", b.Number)},
		End{Place: gateway, Interface: fmt.Sprintf("box%d", b.Number), Address: fmt.Sprintf("10.71.%d.1/24", b.Number)})
	if err != nil {
		return err
	}
	b.Link = link
	if err := b.Place.configure("route", "add", "default", "via", fmt.Sprintf("10.71.%d.1", b.Number)); err != nil {
		return err
	}
	for _, dir := range []string{hardwareDir, "/run/pcscd"} {
		if err := os.Mkdir(b.Place.Outside(dir), 0o755); err != nil {
			return err
		}
	}
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
	return b.powerTPM(ctx, running, filepath.Join(h.dir, "tpm"))
}

// powerTPM switches the TPM on and replays what a real boot measured, which the machine's event log says.
func (b *Box) powerTPM(ctx, running context.Context, dir string) error {
	sim, err := tpmsim.Start(running, tpmsim.Config{
		Dir: filepath.Join(dir, b.Serial), Socket: b.Place.Outside(tpmSocket), Authority: filepath.Join(dir, "authority"),
	})
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

// Touch places a finger on the box's sensor and returns when the box has taken it. It waits for the box to ask.
func (b *Box) Touch(ctx context.Context, impression finger.Template) error {
	select {
	case b.touch <- impression:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("place finger on %s: the box does not ask for one: %w", b.Serial, ctx.Err())
	}
}

// ScreenFile is the path of the box's screen, for Watch. The file is there once the agent has started.
func (b *Box) ScreenFile() string { return b.Place.Outside(screenFile) }

// Running says whether the box's agent runs.
func (b *Box) Running() bool {
	if b.Agent == nil {
		return false
	}
	select {
	case <-b.Agent.Done():
		return false
	default:
		return true
	}
}

// close switches everything off that is not a process of the place.
func (b *Box) close() error {
	var errs []error
	if b.Agent != nil { // before its hardware goes away
		errs = append(errs, b.Agent.Kill())
	}
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

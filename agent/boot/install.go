// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"runtime/debug"
	"slices"
	"time"

	"sdbox/firmware/reference"
	"sdbox/firmware/release"
)

// ReleaseKeys is where the image holds whose releases a box takes (release.ParseKeys).
const ReleaseKeys = "/etc/sdbox/release.pub"

const (
	gateTime    = 90 * time.Second // from the kernel's start: a release on trial that has not shown all its parts by then goes
	installTime = 30 * time.Minute // for a file to come from the agent
)

// installer is PID 1's hand on releases: it alone verifies them, writes the idle slot and asks the firmware for it. All but the work of
// one installation at a time belongs to PID 1's loop.
type installer struct {
	log       *slog.Logger
	running   release.Running
	trust     *reference.Trust
	variables release.Variables
	sys, dev  string      // normally /sys, /dev
	measured  string      // the firmware's event log
	tell      func(Event) // in the loop
	say       func(Event) // beside it

	ready  bool // the firmware's variables can be read, if there are any
	none   bool // this machine cannot be updated
	slots  *release.Slots
	state  release.State
	again  bool // the firmware refused the idle slot in this start: one more will be as any other
	seen   map[Part]bool
	ending chan error // of the installation at work, else nil
}

// newInstaller reads whose releases this image takes. Without keys it takes none.
func newInstaller(log *slog.Logger, s Settings, keys string, variables release.Variables, tell, say func(Event)) *installer {
	i := &installer{log: log, running: release.Running{Model: s.Model, Version: s.Version, Minimum: s.Release.Minimum},
		variables: variables, sys: "/sys", dev: "/dev", measured: eventLog, tell: tell, say: say, seen: map[Part]bool{}}
	text, err := os.ReadFile(keys)
	if err == nil {
		i.trust, err = release.ParseKeys(text)
	}
	if err != nil {
		log.Warn("this box takes no releases", "err", err)
		i.none = true
	}
	return i
}

// look finds the disk once it is there, and settles which of its slots runs.
func (i *installer) look() {
	if !i.ready || i.none || i.slots != nil {
		return
	}
	disk, err := release.FindDisk(i.sys, i.dev)
	if errors.Is(err, os.ErrNotExist) {
		return
	}
	var slots *release.Slots
	if err == nil {
		slots = release.NewSlots(i.variables, disk)
		i.state, err = slots.Settle()
	}
	if err != nil {
		i.log.Warn("this box takes no releases", "err", err)
		i.none = true
		return
	}
	i.slots = slots
	i.log.Info("slot", "runs", i.state.Running.Label(), "trial", i.state.Trial, "tries", i.state.Tries)
	system := System{Model: i.running.Model, Version: i.running.Version, Trial: i.state.Trial, Tries: i.state.Tries}
	if i.state.Tries > 0 {
		system.Tried = hex.EncodeToString(i.state.Tried[:])
	}
	i.tell(Event{System: &system})
	i.tryAgain()
	i.judge()
}

// healthy notes a part of the health gate.
func (i *installer) healthy(p Part) {
	if slices.Contains(gate(), p) {
		i.seen[p] = true
		i.judge()
	}
}

// gate is what a release on trial must have shown.
func gate() []Part { return []Part{ReaderSeen, Attested, TunnelUp, ScreenShown} }

// judge commits a release on trial that has shown everything.
func (i *installer) judge() {
	if !i.state.Trial || len(i.seen) < len(gate()) {
		return
	}
	if err := i.slots.Commit(); err != nil {
		i.log.Error("commit", "err", err) // the next start is that of the release before
		return
	}
	i.state.Trial = false
	i.log.Info("committed", "slot", i.state.Running.Label(), "version", i.running.Version)
}

// overdue ends a trial that has taken too long: the machine starts again, and its firmware takes the release before. It ends a start, too,
// in which the firmware refused what was to be tried.
func (i *installer) overdue(up time.Duration) error {
	if i.again {
		return fmt.Errorf("the firmware would not start the release that was to be tried: %w", errRestart)
	}
	if !i.state.Trial || up < gateTime {
		return nil
	}
	return fmt.Errorf("on trial, seen only %v in %v: %w", slices.Sorted(maps.Keys(i.seen)), gateTime, errRestart)
}

// install begins an installation, unless one is at work; its bytes come from a pipe, which is closed in the end.
func (i *installer) install(asked install, from *os.File) {
	if err := i.begin(asked, from); err != nil {
		from.Close()
		i.failed(err)
	}
}

func (i *installer) failed(err error) {
	i.log.Warn("no update", "err", err)
	i.tell(Event{Update: &Update{Error: err.Error(), Full: errors.Is(err, release.ErrBase)}})
}

// begin verifies the note, and hands what may take long to a goroutine, whose end is told by ending.
func (i *installer) begin(asked install, from *os.File) error {
	switch {
	case i.slots == nil:
		return errors.New("this box takes no releases")
	case i.ending != nil:
		return errors.New("an installation is at work already")
	}
	r, err := release.Open(i.trust, asked.Note)
	if err == nil {
		err = r.Check(i.running, time.Now())
	}
	if err == nil {
		err = from.SetReadDeadline(time.Now().Add(installTime)) // fails for what is no pipe, and could keep us for ever
	}
	if err != nil {
		return err
	}
	base := ""
	if asked.Delta {
		base = i.running.Version
	}
	i.log.Info("update", "to", r.Version, "delta", asked.Delta)
	i.ending = make(chan error, 1)
	go func() {
		told := int64(-1)
		err := i.slots.Install(r, base, from, func(done, total int64) {
			if percent := done * 100 / total; percent != told {
				told = percent
				i.say(Event{Update: &Update{Done: done, Total: total}})
			}
		})
		i.ending <- errors.Join(err, from.Close())
	}()
	return nil
}

// ended is the end of an installation.
func (i *installer) ended(err error) {
	i.ending = nil
	debug.FreeOSMemory() // a file and a block of the image lay in it
	if err != nil {
		i.failed(err)
		return
	}
	i.log.Info("installed, to be tried at the next start")
	i.tell(Event{Update: &Update{Installed: true}})
}

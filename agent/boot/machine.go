// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"sdbox/firmware/efivar"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// machine is PID 1 of a running box. Its loop owns all that is not said to be another's.
type machine struct {
	settings Settings
	sink     *sink
	log      *slog.Logger
	nursery  *nursery

	// owned by the loop
	safe      *safe  // nil while there is no display
	noDisplay string // why, as it was last logged
	watchdog  *watchdog
	outlet    bool // the sink has where to go
	whole     bool // every module is in
	agent     *talk
	running   map[Role]*child // nil for one whose wait is under way
	records   map[Role]*record
	kept      []byte // of the agent, for the one after it
	releases  *installer
	told      map[string]Event // the newest of each kind, for an agent that comes later

	beside   errgroup.Group // what runs beside the loop; it ends with the machine
	requests chan heard
	again    chan Role     // a role's wait is over
	loaded   chan struct{} // closed when the last module is in
	looks    chan struct{}
	replug   atomic.Bool // a monitor was plugged in or out; set beside the loop
	events   chan Event  // of the rooms beside the loop, for the agent
	hardened chan error
	firmware chan error    // its variables can be read, if there are any
	healthy  chan struct{} // the agent has reached the centre
	faults   chan error    // what PID 1 cannot go on without
	drills   chan string   // in an image of the form dev
}

// errRestart is the end of PID 1's loop that starts the machine again.
var errRestart = errors.New("start again")

// live is PID 1 from the first module to the end of the machine.
func (m *machine) live(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	m.prepare(ctx)
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGCHLD)
	if err := m.beginDevices(ctx); err != nil {
		return err
	}
	if m.settings.Form == Dev {
		m.beside.Go(func() error {
			return watchKernelLog(ctx, kernelLog, func(message string) { m.log.Warn("kernel", "says", message) })
		})
	}
	m.beside.Go(func() error {
		err := m.loadModules(ctx, m.lookSoon)
		close(m.loaded)
		if err == nil {
			m.step("modules")
			err = m.harden()
		}
		m.hardened <- err
		if err == nil {
			m.firmware <- m.openFirmware(ctx)
		}
		return nil
	})
	err := m.loop(ctx, ended)
	m.cover()
	return err
}

// prepare makes what the loop works with.
func (m *machine) prepare(ctx context.Context) {
	m.running, m.records, m.told = map[Role]*child{}, map[Role]*record{}, map[string]Event{}
	m.requests, m.again, m.events = make(chan heard), make(chan Role), make(chan Event, 16)
	m.releases = newInstaller(m.log, m.settings, ReleaseKeys, efivar.Open(efivar.Mounted), m.tell, func(e Event) { m.say(ctx, e) })
	m.looks, m.hardened, m.loaded = make(chan struct{}, 1), make(chan error, 1), make(chan struct{})
	m.firmware, m.healthy = make(chan error, 1), make(chan struct{}, 1)
	m.faults, m.drills = make(chan error, 1), make(chan string)
}

// beginDevices listens to the kernel's devices, from before the first module on.
func (m *machine) beginDevices(ctx context.Context) error {
	trouble := func(t Trouble) { m.say(ctx, Event{Trouble: &t}) }
	d, err := openDevices(m.log, m.settings.USB, trouble, m.noticed)
	if err != nil {
		return err
	}
	m.beside.Go(func() error {
		if err := d.run(ctx); err != nil {
			m.faults <- err
		}
		return nil
	})
	return nil
}

// say has the loop tell the agent something. Rooms beside the loop call it.
func (m *machine) say(ctx context.Context, e Event) {
	select {
	case m.events <- e:
	case <-ctx.Done():
	}
}

// noticed is called beside the loop for each change of a device.
func (m *machine) noticed(e uevent) {
	if e.values["SUBSYSTEM"] == "drm" && e.values["HOTPLUG"] == "1" {
		m.replug.Store(true)
	}
	m.lookSoon()
}

// lookSoon has the loop look for devices that it can take into use.
func (m *machine) lookSoon() {
	select {
	case m.looks <- struct{}{}:
	default: // it will
	}
}

// loop is where everything happens after the first steps.
func (m *machine) loop(ctx context.Context, ended <-chan os.Signal) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		var err error
		select {
		case <-ended:
			for _, e := range m.nursery.reap() {
				err = errors.Join(err, m.onExit(ctx, e))
			}
		case err = <-m.hardened:
			m.whole = true
			if err != nil {
				err = fmt.Errorf("harden: %w", err)
				break
			}
			err = m.people(ctx) // without a display, too: it may come
		case err = <-m.firmware:
			m.releases.ready = true
		case err = <-m.faults:
		case line := <-m.drills:
			m.drill(line)
		case <-m.looks:
			err = m.look(ctx)
		case role := <-m.again:
			delete(m.running, role)
			err = m.start(ctx, role)
		case h := <-m.requests:
			err = m.onRequest(ctx, h)
		case e := <-m.events:
			m.tell(e)
		case fault := <-m.releases.ending:
			m.releases.ended(fault)
		case now := <-tick.C:
			err = m.onTick(ctx, now)
		}
		if err != nil {
			return err
		}
	}
}

// people starts what a person at the box needs. The first screen goes before: on one processor, whoever runs beside makes it late.
func (m *machine) people(ctx context.Context) error {
	return errors.Join(m.start(ctx, RoleNetwork), m.start(ctx, RoleAgent), m.start(ctx, RoleCard))
}

// adapted says whether the kernel has found a network adapter.
func adapted() bool {
	found, err := filepath.Glob("/sys/class/net/*/device")
	return err == nil && len(found) > 0
}

// look takes into use what has appeared: where the log goes, the display, the watchdog. What is there is looked at, not what was told
// of it: a telling can be lost.
func (m *machine) look(ctx context.Context) error {
	m.openOutlet(ctx)
	m.releases.look()
	if adapted() { // before the display's: a cable takes seconds
		if err := m.start(ctx, RoleNetwork); err != nil {
			return err
		}
	}
	if err := m.lookForDisplay(ctx); err != nil {
		return err
	}
	if m.watchdog == nil && m.settings.Watchdog.Seconds > 0 {
		w, err := openWatchdog("/dev/watchdog", m.settings.Watchdog.Seconds)
		switch {
		case err == nil:
			m.watchdog = w
			m.step("watchdog")
		case !errors.Is(err, os.ErrNotExist):
			m.log.Warn("watchdog", "err", err)
		}
	}
	return nil
}

// openOutlet gives the log where to go, once it is there.
func (m *machine) openOutlet(ctx context.Context) {
	if m.outlet || m.settings.Events == "" {
		return
	}
	path := "/dev/console"
	name, isPort := strings.CutPrefix(m.settings.Events, portPrefix)
	if isPort {
		var err error
		if path, err = FindPort("/sys", "/dev", name); err != nil {
			return
		}
	}
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return
	}
	m.outlet = true
	m.sink.drain(f)
	if isPort && m.settings.Form == Dev {
		m.beside.Go(func() error {
			m.hearDrills(ctx, f)
			return nil
		})
	}
	m.step("events")
}

// onTick feeds the watchdog: it is alive as long as this loop is. An agent whose loop is not is ended.
func (m *machine) onTick(ctx context.Context, now time.Time) error {
	if m.watchdog != nil {
		if err := m.watchdog.feed(); err != nil {
			return err
		}
	}
	if a := m.agent; a != nil && now.Sub(a.beat) > map[bool]time.Duration{false: agentStart, true: agentQuiet}[a.beaten] {
		m.log.Warn("the agent stands still", "pid", a.child.pid)
		m.nursery.end(a.child, unix.SIGKILL)
	}
	return errors.Join(m.releases.overdue(sinceKernel()), m.look(ctx))
}

// onExit starts a role again that has ended, by its rule.
func (m *machine) onExit(ctx context.Context, e exit) error {
	row := rules()[e.role]
	m.running[e.role] = nil
	m.log.Warn("ended", "role", string(e.role), "how", e.String(), "lived_ms", e.lived.Milliseconds())
	if row.cover {
		m.cover()
	}
	r := m.records[e.role]
	if r == nil {
		r = &record{}
		m.records[e.role] = r
	}
	wait, reboot := r.ended(row, time.Now(), e.asked)
	if reboot {
		return fmt.Errorf("%s ended %d times in %v: %w", e.role, row.most, row.within, errRestart)
	}
	if e.role == RoleAgent {
		return m.agentEnded(ctx)
	}
	m.startAfter(ctx, e.role, wait)
	return nil
}

// startAfter has the loop start a role when a wait is over.
func (m *machine) startAfter(ctx context.Context, role Role, wait time.Duration) {
	time.AfterFunc(wait, func() {
		select {
		case m.again <- role:
		case <-ctx.Done():
		}
	})
}

// start starts a role. The agent gets the display and a socket to ask PID 1 by.
func (m *machine) start(ctx context.Context, role Role) error {
	if _, is := m.running[role]; is {
		return nil
	}
	switch role {
	case RoleAgent:
		return m.startAgent(ctx)
	case RoleNetwork:
		return m.startNetwork(ctx)
	}
	return m.startWith(role)
}

func (m *machine) startWith(role Role, files ...*os.File) error {
	c, err := m.nursery.start(roleSpecs()[role], files...)
	if err != nil {
		return err
	}
	m.running[role] = c
	m.step("started " + string(role))
	return nil
}

// startNetwork starts the role network with a pipe that brings it the configuration slots and one that takes its reports.
func (m *machine) startNetwork(ctx context.Context) error {
	slots, feed, err := os.Pipe()
	if err != nil {
		return err
	}
	defer slots.Close()
	reports, say, err := os.Pipe()
	if err != nil {
		return errors.Join(err, feed.Close())
	}
	defer say.Close()
	if err := m.startWith(RoleNetwork, slots, say); err != nil {
		return errors.Join(err, feed.Close(), reports.Close())
	}
	seat := &netSeat{
		log: m.log, sys: "/sys", dev: "/dev", resolv: resolvConf, loaded: m.loaded, tell: func(e Event) { m.say(ctx, e) },
	}
	m.beside.Go(func() error {
		if err := seat.serve(ctx, reports, feed); err != nil {
			m.log.Warn("network", "err", err)
		}
		return nil
	})
	return nil
}

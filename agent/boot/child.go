// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// exit is the end of a child.
type exit struct {
	role   Role
	pid    int
	status syscall.WaitStatus
	lived  time.Duration
	asked  bool // PID 1 wanted it
}

// String says how it ended.
func (e exit) String() string {
	if e.status.Signaled() {
		return "killed by " + unix.SignalName(e.status.Signal())
	}
	return "exit " + strconv.Itoa(e.status.ExitStatus())
}

// child is one running role.
type child struct {
	role    Role
	pid     int
	started time.Time
	asked   bool // to end; the loop's
}

// nursery starts roles and takes their ends. PID 1 inherits every orphan: one place waits for all.
type nursery struct {
	sink    *sink
	program string

	mu      sync.Mutex     // held over a start, so that no end comes before its beginning is written down
	running map[int]*child // guarded by mu
	readers sync.WaitGroup // of children's standard errors
}

func newNursery(s *sink, program string) *nursery {
	return &nursery{sink: s, program: program, running: map[int]*child{}}
}

// start runs a role of this very program under its own user, with files as descriptors 3 and on. The files stay the caller's.
func (n *nursery) start(spec roleSpec, files ...*os.File) (*child, error) {
	out, in, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", spec.role, err)
	}
	defer in.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", spec.role, err), out.Close())
	}
	defer null.Close()
	n.mu.Lock()
	defer n.mu.Unlock()
	p, err := os.StartProcess(n.program, append([]string{"sdbox-" + string(spec.role)}, spec.args...), &os.ProcAttr{
		Dir:   "/",
		Env:   []string{"PATH=/bin", "GOTRACEBACK=none", "HOME=/", "LANG=C"},
		Files: append([]*os.File{null, in, in}, files...),
		Sys: &syscall.SysProcAttr{
			Setsid:      true,
			Credential:  &syscall.Credential{Uid: uint32(spec.user), Gid: uint32(spec.user)},
			AmbientCaps: spec.caps,
		},
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", spec.role, err), out.Close())
	}
	c := &child{role: spec.role, pid: p.Pid, started: time.Now()}
	n.running[c.pid] = c
	n.readers.Go(func() {
		n.sink.follow(out)
		out.Close()
	})
	err = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", c.pid), []byte(strconv.Itoa(spec.oom)), 0)
	return c, errors.Join(err, p.Release())
}

// reap takes the ends of all children that have ended, orphans without a name among them. It is called after each SIGCHLD.
func (n *nursery) reap() []exit {
	var ended []exit
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return ended
		}
		n.mu.Lock()
		c := n.running[pid]
		delete(n.running, pid)
		n.mu.Unlock()
		if c != nil {
			ended = append(ended, exit{c.role, pid, status, time.Since(c.started), c.asked})
		}
	}
}

// end asks a running child to go, or makes it.
func (n *nursery) end(c *child, s syscall.Signal) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.running[c.pid] == c { // its number is not somebody else's yet
		_ = syscall.Kill(c.pid, s) // it may have ended: reap says so
	}
}

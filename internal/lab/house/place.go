// SPDX-License-Identifier: Apache-2.0

package house

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Place is one machine of the lab: own mounts, network, processes and host name, on the kernel of the host. It ends with
// Close, or with the process that opened it, however that process ends.
type Place struct {
	Name string

	dir     string // the place's folder on the host
	logs    string
	pid     int // of its first process, as the host counts
	net     *os.File
	init    *exec.Cmd
	exited  chan struct{} // closed when the first process is gone
	running sync.WaitGroup
}

// Program is one process started in a place by its house.
type Program struct {
	Name string
	PID  int // as the host counts

	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended and err is set
	err  error
}

// newPlace starts the first process of a place and returns when the place is furnished.
func newPlace(spec placeSpec, logs string) (*Place, error) {
	if err := os.MkdirAll(spec.Dir, 0o755); err != nil {
		return nil, err
	}
	arg, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	readyR, readyW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer readyR.Close()
	p := &Place{Name: spec.Name, dir: spec.Dir, logs: logs, exited: make(chan struct{})}
	p.init = &exec.Cmd{
		Path: "/proc/self/exe", Args: []string{placeArg, string(arg)}, Dir: "/", Env: []string{},
		Stderr: os.Stderr, ExtraFiles: []*os.File{readyW},
		SysProcAttr: &syscall.SysProcAttr{
			Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWPID | unix.CLONE_NEWUTS,
			Pdeathsig:  syscall.SIGKILL,
			Setpgid:    true, // Ctrl-C on the terminal is for the lab alone
		},
	}
	started := make(chan error, 1)
	p.running.Go(func() {
		// Pdeathsig fires when the parent thread ends (prctl(2)), so this thread stays as long as the place.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(p.exited)
		err := p.init.Start()
		started <- err
		if err == nil {
			_ = p.init.Wait() // always "killed": nothing else ends a place
		}
	})
	err = <-started
	readyW.Close()
	if err != nil {
		p.running.Wait()
		return nil, fmt.Errorf("start place %s: %w", spec.Name, err)
	}
	p.pid = p.init.Process.Pid
	if _, err := bufio.NewReader(readyR).ReadString('\n'); err != nil {
		return nil, errors.Join(fmt.Errorf("place %s ended while it was furnished", spec.Name), p.Close())
	}
	if p.net, err = os.Open(fmt.Sprintf("/proc/%d/ns/net", p.pid)); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	if err := p.configure("link", "set", "lo", "up"); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// Close kills every process of the place and waits for them; the kernel takes mounts and interfaces away with the last one.
func (p *Place) Close() error {
	err := p.init.Process.Kill()
	if errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	p.running.Wait()
	if p.net != nil {
		err = errors.Join(err, p.net.Close())
	}
	return err
}

// Outside is the path by which the host reaches a file of the place; also good for Unix sockets.
func (p *Place) Outside(inside string) string {
	return filepath.Join("/proc", strconv.Itoa(p.pid), "root", inside)
}

// Dir is the place's own folder as the host sees it; inside it is /run/place.
func (p *Place) Dir() string { return p.dir }

// Dial opens a connection from inside the place. The address must be numeric: names are not looked up there.
func (p *Place) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	var conn net.Conn
	err := p.inNetwork(func() (err error) {
		var d net.Dialer
		conn, err = d.DialContext(ctx, network, address)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("dial inside %s: %w", p.Name, err)
	}
	return conn, nil
}

// Start runs a program in the place, its two outputs appended to a log file named after place and program. The environment
// is exactly env.
func (p *Place) Start(name string, env []string, path string, args ...string) (*Program, error) {
	log, err := os.OpenFile(filepath.Join(p.logs, p.Name+"."+name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := &exec.Cmd{Path: path, Args: append([]string{path}, args...), Dir: "/", Env: env, Stdout: log, Stderr: log,
		SysProcAttr: &syscall.SysProcAttr{Setpgid: true}}
	if err := p.inside(cmd.Start); err != nil {
		return nil, fmt.Errorf("start %s in %s: %w", name, p.Name, err)
	}
	program := &Program{Name: name, PID: cmd.Process.Pid, cmd: cmd, done: make(chan struct{})}
	p.running.Go(func() {
		program.err = cmd.Wait()
		close(program.done)
	})
	return program, nil
}

// Run runs a program in the place as this account ("" is root) and returns what it wrote to its standard output.
func (p *Place) Run(ctx context.Context, account Account, env []string, path string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir, cmd.Env = "/", env
	cmd.WaitDelay = 2 * time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if account.Name != "" {
		id := uint32(account.UID)
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: id, Gid: id}
	}
	var out, complaint head
	out.limit, complaint.limit = 64<<20, 4096
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := p.inside(cmd.Start); err != nil {
		return nil, fmt.Errorf("start %s in %s: %w", filepath.Base(path), p.Name, err)
	}
	if err := cmd.Wait(); err != nil {
		return out.data, fmt.Errorf("%s in %s: %w: %s", filepath.Base(path), p.Name, err, complaint.data)
	}
	return out.data, nil
}

// Done is closed when the program has ended.
func (g *Program) Done() <-chan struct{} { return g.done }

// Err is how the program ended; valid once Done is closed.
func (g *Program) Err() error { return g.err }

// MemoryMB is how much memory the program holds (proc(5), VmRSS), in MB of 2^20 bytes.
func (g *Program) MemoryMB() (float64, error) {
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(g.PID) + "/status")
	if err != nil {
		return 0, fmt.Errorf("memory of %s: %w", g.Name, err)
	}
	for line := range strings.Lines(string(raw)) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == "VmRSS:" {
			kb, err := strconv.ParseFloat(fields[1], 64)
			return kb / 1024, err
		}
	}
	return 0, fmt.Errorf("memory of %s: it has ended", g.Name)
}

// Kill ends the program with SIGKILL and waits for it.
func (g *Program) Kill() error {
	err := g.cmd.Process.Kill()
	<-g.done
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

// Freeze stops the program where it is, as a machine that hangs does; Thaw lets it go on.
func (g *Program) Freeze() error { return g.cmd.Process.Signal(syscall.SIGSTOP) }

// Thaw is the end of Freeze.
func (g *Program) Thaw() error { return g.cmd.Process.Signal(syscall.SIGCONT) }

// Stop asks the program to end with SIGTERM and waits for it, until ctx ends.
func (g *Program) Stop(ctx context.Context) error {
	if err := g.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-g.done:
		return nil
	case <-ctx.Done():
		return errors.Join(ctx.Err(), g.Kill())
	}
}

// configure runs ip(8) inside the place's network.
func (p *Place) configure(args ...string) error {
	return p.inNetwork(func() error { return runIP(args...) })
}

// inNetwork calls f on a thread that has entered the place's network and is thrown away afterwards.
func (p *Place) inNetwork(f func() error) error { return inNetwork(p.net, f) }

// inNetwork is the same for any network namespace.
func inNetwork(namespace *os.File, f func() error) error {
	return onThread(func() error {
		if err := unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network: %w", err)
		}
		return f()
	})
}

// inside calls f on a thread that has entered all namespaces of the place; a process started by f is born there.
func (p *Place) inside(f func() error) error {
	pidfd, err := unix.PidfdOpen(p.pid, 0)
	if err != nil {
		return err
	}
	defer unix.Close(pidfd)
	return onThread(func() error {
		// A thread may enter a mount namespace only when it shares its root and directory with no other (setns(2)).
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return err
		}
		all := unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWPID | unix.CLONE_NEWUTS
		if err := unix.Setns(pidfd, all); err != nil {
			return fmt.Errorf("enter place: %w", err)
		}
		return f()
	})
}

// onThread calls f on a thread of its own and throws the thread away: a locked goroutine that ends takes it along.
func onThread(f func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread()
		result <- f()
	}()
	return <-result
}

// runIP runs ip(8) in the calling thread's namespaces.
func runIP(args ...string) error {
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip %v: %w: %s", args, err, out)
	}
	return nil
}

// head keeps the first limit bytes written and drops the rest: a place's program cannot fill the lab's memory.
type head struct {
	data  []byte
	limit int
}

func (h *head) Write(b []byte) (int, error) {
	h.data = append(h.data, b[:min(len(b), h.limit-len(h.data))]...)
	return len(b), nil
}

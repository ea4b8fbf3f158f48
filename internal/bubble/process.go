// SPDX-License-Identifier: Apache-2.0

package bubble

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// serverLog is the file in a home with what its X server said last.
const serverLog = ".xvnc-log"

// process is a program of a desktop, in a session of its own, so that a signal reaches what it started as well.
type process struct {
	cmd   *exec.Cmd
	held  *os.File      // read end of a pipe that all its children hold, nil if they are not counted
	ended chan struct{} // closed when it has ended, and its children if they are counted
	once  sync.Once
}

// command prepares a program under the account, with the account's environment and nothing of ours.
func (d *desktop) command(ctx context.Context, display int, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = d.account.Home
	cmd.Env = []string{
		"PATH=/usr/local/bin:/usr/bin:/bin:/usr/games", "LANG=C.UTF-8", "SHELL=/bin/bash",
		"HOME=" + d.account.Home, "USER=" + d.account.Name, "LOGNAME=" + d.account.Name,
		"XAUTHORITY=" + d.file(authorityFile), "XDG_RUNTIME_DIR=" + d.file("user"),
	}
	if display >= 0 {
		cmd.Env = append(cmd.Env, "DISPLAY=:"+strconv.Itoa(display))
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if os.Geteuid() == 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: d.account.UID, Gid: d.account.GID}
	}
	return cmd
}

// run starts a prepared program. counted says that the process lives as long as any program it started.
func run(cmd *exec.Cmd, counted bool) (*process, error) {
	p := &process{cmd: cmd, ended: make(chan struct{})}
	var ours *os.File
	if counted {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		p.held, ours = r, w
		cmd.ExtraFiles = append(cmd.ExtraFiles, w)
	}
	err := cmd.Start()
	if ours != nil {
		ours.Close()
	}
	if err != nil {
		if p.held != nil {
			p.held.Close()
		}
		return nil, err
	}
	go p.wait()
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// wait is the process's goroutine; end waits for it. The first of counted ones is waited for last: until then its number, which is that
// of the group, is nobody else's.
func (p *process) wait() {
	defer close(p.ended)
	if p.held != nil {
		io.Copy(io.Discard, p.held) // returns when the last holder has ended, or at end
		p.held.Close()
	}
	p.cmd.Wait()
}

// end asks the process and its children to end, insists after endTime, and returns when it is gone.
func (p *process) end() {
	p.once.Do(func() {
		if p.held != nil { // children that left the group are not waited for
			late := time.AfterFunc(2*endTime, func() { p.held.Close() })
			defer late.Stop()
		}
		select {
		case <-p.ended: // its number may be another's already
		default:
			endGroup(p.pid(), p.ended)
		}
	})
	<-p.ended
}

// endGroup ends the process group led by pid.
func endGroup(pid int, ended <-chan struct{}) {
	syscall.Kill(-pid, syscall.SIGTERM) // an error means that nobody is left
	insist := time.NewTimer(endTime)
	defer insist.Stop()
	select {
	case <-ended:
	case <-insist.C:
	}
	syscall.Kill(-pid, syscall.SIGKILL)
}

// startServer runs Xvnc on a display number of its own choice and waits until it is ready for clients. The flags are
// measured ones: no TCP port, keys as scancodes, no clipboard in or out, no way for the person to undo that. Its words lie in her home,
// in a file opened as the account: it says something at each connection, and what she fills with it is her own.
func (d *desktop) startServer(ctx context.Context, width, height int) (*process, int, error) {
	const output = `command exec >"$HOME/` + serverLog + `" 2>&1 || :` + "\n" + `exec "$@"`
	ready, theirs, err := os.Pipe()
	if err != nil {
		return nil, 0, err
	}
	defer ready.Close()
	// It must outlive ctx, which is the request's.
	cmd := d.command(context.WithoutCancel(ctx), -1, "/bin/sh", "-c", output, "sh", "Xvnc", "-displayfd", "3", "-auth", d.file(authorityFile),
		"-geometry", geometry(width, height), "-depth", "24", "-nolisten", "tcp",
		"-rfbport", "-1", "-rfbunixpath", d.file(socketFile), "-rfbunixmode", "0600",
		"-SecurityTypes", "None", "-RawKeyboard", "-FrameRate", "255", "-AlwaysShared", "-AcceptSetDesktopSize",
		"-SendCutText=0", "-AcceptCutText=0", "-SendPrimary=0", "-SetPrimary=0", "-AllowOverride=",
		"-UseBlacklist=0") // the only caller is this program: a gateway that hangs up early must not lock the person out
	cmd.ExtraFiles = []*os.File{theirs}
	server, err := run(cmd, false)
	theirs.Close()
	if err != nil {
		return nil, 0, fmt.Errorf("start Xvnc: %w", err)
	}
	display, err := readDisplay(ctx, ready)
	if err != nil {
		server.end()
		return nil, 0, fmt.Errorf("wait for Xvnc (package tigervnc-standalone-server), see %s: %w", filepath.Join(d.account.Home, serverLog), err)
	}
	return server, display, nil
}

// readDisplay waits for the number that Xvnc writes when it is ready to connect to.
func readDisplay(ctx context.Context, ready *os.File) (int, error) {
	stop := context.AfterFunc(ctx, func() { ready.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	line, err := bufio.NewReader(io.LimitReader(ready, 16)).ReadString('\n')
	if err != nil {
		return 0, errors.Join(err, ctx.Err())
	}
	n, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil || n < 0 {
		return 0, fmt.Errorf("display number %q", line)
	}
	return n, nil
}

// startSession runs the account's session command. Its output goes where X sessions put theirs; the file is opened as
// the account, not by us.
func (d *desktop) startSession(display int) (*process, error) {
	const output = `command exec >"$HOME/.xsession-errors" 2>&1 || :` + "\n"
	cmd := d.command(context.Background(), display, "/bin/sh", "-c", output+d.account.Session)
	session, err := run(cmd, true)
	if err != nil {
		return nil, fmt.Errorf("start session command: %w", err)
	}
	return session, nil
}

// memory is what the next sdbox-bubble must know of a desktop: the process, and when it began, since numbers repeat.
type memory struct {
	pid     int
	began   string
	display int
}

// remember writes it beside the desktop's directory, where only we may.
func (d *desktop) remember(pid, display int) error {
	began, err := began(pid)
	if err != nil {
		return fmt.Errorf("remember desktop: %w", err)
	}
	line := fmt.Sprintf("%d %s %d\n", pid, began, display)
	if err := os.WriteFile(d.beside(".pid"), []byte(line), 0o600); err != nil {
		return fmt.Errorf("remember desktop: %w", err)
	}
	return nil
}

func (d *desktop) recall() (memory, error) {
	b, err := os.ReadFile(d.beside(".pid"))
	if err != nil {
		return memory{}, fmt.Errorf("recall desktop: %w", err)
	}
	var m memory
	if _, err := fmt.Sscanf(string(b), "%d %s %d\n", &m.pid, &m.began, &m.display); err != nil {
		return memory{}, fmt.Errorf("recall desktop: %w", err)
	}
	return m, nil
}

// began is a process's start time in clock ticks since boot (proc(5), field 22 of stat).
func began(pid int) (string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", err
	}
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	const start = 22 - 3 // fields count from 1, and two stand before the parenthesis's end
	if len(fields) <= start {
		return "", fmt.Errorf("process %d: short stat", pid)
	}
	if string(fields[0]) == "Z" {
		return "", fmt.Errorf("process %d has ended", pid)
	}
	return string(fields[start]), nil
}

// alive says whether the very process still runs.
func (m memory) alive() bool {
	when, err := began(m.pid)
	return err == nil && when == m.began
}

// endLeftover ends a desktop that an earlier sdbox-bubble started and that still lives.
func (d *desktop) endLeftover() error {
	m, err := d.recall()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		d.log.Warn("note of the last desktop is damaged", "err", err)
		return os.Remove(d.beside(".pid"))
	}
	p, err := os.FindProcess(m.pid) // holds the very process, by pidfd, from here on
	if err != nil {
		return fmt.Errorf("end desktop: %w", err)
	}
	defer p.Release()
	if m.alive() {
		if err := p.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return fmt.Errorf("end desktop: %w", err)
		}
	}
	return os.Remove(d.beside(".pid"))
}

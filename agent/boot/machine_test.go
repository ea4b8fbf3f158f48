// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// pid1Name is the test's program as the first process of a PID namespace with a /run and a /dev of its own.
const pid1Name = "boot-pid1"

// roleTests is what the test's own program does under other names.
func roleTests() map[string]func() error {
	return map[string]func() error{
		pid1Name:                       pid1,
		"sdbox-" + string(RoleAgent):   testAgent,
		"sdbox-" + string(RoleCard):    RunCard, // the real one
		"sdbox-" + string(RoleNetwork): func() error { return RunNetworkRole(context.Background(), slog.New(slog.DiscardHandler)) },
	}
}

// pid1 is PID 1's loop with the real roles of this machine, but for the agent; drills come by the standard input.
func pid1() error {
	for _, m := range []mount{{kind: "tmpfs", on: "/run"}, {kind: "tmpfs", on: "/dev"}, {kind: "proc", on: "/proc"}} {
		if err := unix.Mount(m.kind, m.on, m.kind, 0, ""); err != nil {
			return err
		}
	}
	err := errors.Join(unix.Mknod("/dev/null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))), os.Chmod("/dev/null", 0o666), makeFolders(folders()))
	if err != nil {
		return err
	}
	s := newSink()
	m := &machine{sink: s, log: slog.New(slog.NewJSONHandler(s, nil)), nursery: newNursery(s, self), settings: Settings{Form: Dev}}
	s.drain(os.Stdout)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	m.prepare(ctx)
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGCHLD)
	go m.hearDrills(ctx, os.Stdin)
	if err := errors.Join(m.start(ctx, RoleAgent), m.start(ctx, RoleCard)); err != nil {
		return err
	}
	err = m.loop(ctx, ended)
	m.log.Error("the machine starts again", "err", err)
	s.close()
	return nil
}

// testAgent says what it is and what it was denied, gives PID 1 something to keep, and beats.
func testAgent() error {
	if err := Confine(RoleAgent); err != nil {
		return err
	}
	client, first, err := Inherit()
	if err != nil {
		return err
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	oom, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return err
	}
	is := map[string]string{"msg": "born", "kept": string(first.Start.Kept), "oom": strings.TrimSpace(string(oom)), "denied": denied()}
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(line, ":")
		is[name] = strings.Join(strings.Fields(value), " ")
	}
	text, err := json.Marshal(is)
	if err != nil {
		return err
	}
	if err := client.Keep([]byte("held")); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(os.Stderr, string(text)); err != nil {
		return err
	}
	for range time.Tick(100 * time.Millisecond) {
		if err := client.Beat(); err != nil {
			return err
		}
	}
	return nil
}

// denied names what an agent may do and must not.
func denied() string {
	var done []string
	try := func(what string, err error) {
		if err == nil {
			done = append(done, what)
		}
	}
	_, err := os.Open("/bin/true")
	try("read a program", err)
	try("run a program", exec.Command("/bin/true").Run())
	try("run what it holds", unix.Exec("/proc/self/exe", []string{"x"}, nil))
	try("write to /run", os.WriteFile("/run/x", nil, 0o600))
	_, err = net.Listen("tcp", "127.0.0.1:0")
	try("wait at a port", err)
	try("signal PID 1", unix.Kill(1, 0))
	try("make a namespace", unix.Unshare(unix.CLONE_NEWUSER))
	try("make a device", unix.Mknod("/run/d", unix.S_IFCHR, 0))
	_, err = unix.PtraceGetEventMsg(1)
	try("look into PID 1", err)
	_, err = unix.MemfdCreate("x", 0)
	try("make a file without a name", err)
	if len(done) > 0 {
		return strings.Join(done, ", ")
	}
	return "all"
}

// heardLine reads PID 1's log until a line of the message and, if it is not "", the role.
func heardLine(t *testing.T, lines *bufio.Scanner, msg, role string) map[string]any {
	t.Helper()
	for lines.Scan() {
		line := map[string]any{}
		if json.Unmarshal(lines.Bytes(), &line) == nil && line["msg"] == msg && (role == "" || line["role"] == role || line["step"] == "started "+role) {
			return line
		}
		t.Log(lines.Text())
	}
	require.FailNow(t, "PID 1 never said it", msg)
	return nil
}

func TestRolesAreConfinedAndComeBackAndTooManyEndsRestartTheMachine(t *testing.T) {
	c := &exec.Cmd{
		Path: "/proc/self/exe", Args: []string{pid1Name}, Env: []string{"PATH=/bin"}, Stderr: os.Stderr,
		SysProcAttr: &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC, Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL},
	}
	drills, err := c.StdinPipe()
	require.NoError(t, err)
	out, err := c.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, c.Start())
	t.Cleanup(func() { _ = c.Process.Kill() }) // it has ended, if all went well
	lines := bufio.NewScanner(out)
	say := func(line string) {
		_, err := io.WriteString(drills, line+"\n")
		require.NoError(t, err)
	}

	first := heardLine(t, lines, "born", "")
	require.Equal(t, map[string]any{
		"Uid": "901 901 901 901", "Gid": "901 901 901 901", "Groups": "", "CapEff": "0000000000000000", "CapPrm": "0000000000000000", "CapAmb": "0000000000000000",
		"NoNewPrivs": "1", "Seccomp": "2", "oom": "900", "denied": "all", "kept": "",
	}, only(first, "Uid", "Gid", "Groups", "CapEff", "CapPrm", "CapAmb", "NoNewPrivs", "Seccomp", "oom", "denied", "kept"))

	say(drillKill + string(RoleAgent))
	require.Equal(t, "killed by SIGKILL", heardLine(t, lines, "ended", string(RoleAgent))["how"])
	require.Equal(t, "held", heardLine(t, lines, "born", "")["kept"], "what the first one gave PID 1 to keep")

	say(drillKill + string(RoleCard))
	heardLine(t, lines, "ended", string(RoleCard))
	heardLine(t, lines, "step", string(RoleCard))

	for range rules()[RoleAgent].most - 2 {
		say(drillKill + string(RoleAgent))
		heardLine(t, lines, "born", "")
	}
	say(drillKill + string(RoleAgent))
	require.Contains(t, heardLine(t, lines, "the machine starts again", "")["err"], "agent ended 5 times")
	require.NoError(t, c.Wait())
}

// only takes some fields of a line.
func only(line map[string]any, names ...string) map[string]any {
	out := map[string]any{}
	for _, n := range names {
		out[n] = line[n]
	}
	return out
}

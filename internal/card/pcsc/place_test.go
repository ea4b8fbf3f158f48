// SPDX-License-Identifier: Apache-2.0

package pcsc_test

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"sdbox/internal/card"
	"sdbox/internal/card/cardsim"
	"sdbox/internal/card/pcsc"
	"sdbox/internal/finger/fingersim"
	"sdbox/internal/ident"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// The virtual reader's two slots (vsmartcard, 0x8C7B and the next).
const (
	slot0 = "127.0.0.1:35963"
	slot1 = "127.0.0.1:35964"
)

// patience is how long a real daemon may take on a loaded machine.
const patience = 30 * time.Second

// inPlace runs the calling test once more in namespaces of its own: pcscd is a singleton with a fixed socket path, and the
// virtual reader listens on all addresses. It says whether this process is the inner one.
func inPlace(t *testing.T) bool {
	t.Helper()
	const inner = "SDBOX_PCSC_PLACE"
	if os.Getenv(inner) != "" {
		require.NoError(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
		require.NoError(t, os.MkdirAll("/run/pcscd", 0o755))
		require.NoError(t, unix.Mount("tmpfs", "/run/pcscd", "tmpfs", 0, "mode=755"))
		run(t, "ip", "link", "set", "lo", "up")
		return true
	}
	require.Zero(t, os.Geteuid(), "this test needs root: it starts pcscd in namespaces of its own")
	for _, program := range []string{"pcscd", "piv-tool", "pkcs11-tool", "yubico-piv-tool", "ip"} {
		_, err := exec.LookPath(program)
		require.NoError(t, err, "install the packages of debian-packages.txt")
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=3m")
	cmd.Env = append(os.Environ(), inner+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWPID, Pdeathsig: unix.SIGKILL}
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	require.NoError(t, err)
	require.Contains(t, string(out), "--- PASS: "+t.Name())
	return false
}

// run runs a program to its end and returns what it printed.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, _ := runBoth(t, name, args...)
	return out
}

func runBoth(t *testing.T, name string, args ...string) (printed, complained string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	require.NoError(t, cmd.Run(), "%s %s: %s%s", name, strings.Join(args, " "), &out, &errs)
	return out.String(), errs.String()
}

// startDaemon runs pcscd until the returned function kills it.
func startDaemon(t *testing.T) (kill func()) {
	t.Helper()
	cmd := exec.Command("pcscd", "--foreground")
	cmd.Stdout, cmd.Stderr = io.Discard, io.Discard
	require.NoError(t, cmd.Start())
	var killed bool
	kill = func() {
		if !killed {
			killed = true
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			// What a killed daemon leaves behind would keep the next one from starting.
			_ = os.Remove("/run/pcscd/pcscd.comm")
			_ = os.Remove("/run/pcscd/pcscd.pid")
		}
	}
	t.Cleanup(kill)
	return kill
}

// insert puts a card into a reader, as soon as there is one, until the card is ejected or the test ends.
func insert(t *testing.T, sim *cardsim.Sim, addr string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for tick := time.NewTicker(20 * time.Millisecond); ; {
			err := sim.DialVPCD(ctx, addr)
			if err == nil || ctx.Err() != nil || !strings.Contains(err.Error(), "refused") {
				return
			}
			<-tick.C
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
}

// next waits for the next event.
func next(t *testing.T, w *pcsc.Watcher) pcsc.Event {
	t.Helper()
	select {
	case e := <-w.Events():
		return e
	case <-time.After(patience):
		require.FailNow(t, "no event of the card readers")
		return pcsc.Event{}
	}
}

// watch runs a watcher until the test ends.
func watch(t *testing.T) *pcsc.Watcher {
	t.Helper()
	w := pcsc.NewWatcher(testLog(t))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			require.ErrorIs(t, err, context.Canceled)
		case <-time.After(patience):
			require.FailNow(t, "the watcher does not end")
		}
	})
	return w
}

// personal is a card with both keys certified, one finger enrolled and a known PIN.
type personal struct {
	*cardsim.Sim
	finger *fingersim.Finger
	der    []byte
}

func newPersonal(t *testing.T, name string, seed uint64) personal {
	t.Helper()
	return newOfProfile(t, cardsim.NISTOCC, name, seed)
}

// newOfProfile makes one of either profile; only one of them compares fingers.
func newOfProfile(t *testing.T, profile, name string, seed uint64) personal {
	t.Helper()
	sim, err := cardsim.New(profile, cardsim.Person{GUID: ident.GUID{15: byte(seed)}, Name: name})
	require.NoError(t, err)
	p := personal{Sim: sim, finger: fingersim.NewFinger(seed)}
	if profile == cardsim.NISTOCC {
		require.NoError(t, sim.Enrol(card.RefFinger, p.finger.Reference().Encode()))
	}
	require.NoError(t, sim.SetPIN("246810"))
	p.der = certify(t, sim, card.Slot9A, name)
	certify(t, sim, card.Slot9E, name+" (presence)")
	return p
}

// SPDX-License-Identifier: Apache-2.0

// Package tpmsim is the TPM of a simulated box: swtpm, manufactured with endorsement certificates of an authority of its own,
// switched on and off like a machine, and taken through a recorded boot. It speaks real TPM 2.0 commands; internal/tpm opens it
// by "unix:" and the socket's path. It needs the Debian packages swtpm and swtpm-tools.
package tpmsim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"sdbox/internal/tpm"
)

const (
	startWithin = 20 * time.Second // ours: swtpm answers in a few ms on an idle machine
	stopWithin  = 5 * time.Second  // ours
	retryEvery  = 5 * time.Millisecond
	maxPEM      = 16384 // ours
)

// Config says where a simulated TPM lives. No file is written outside Dir, Authority and Socket.
type Config struct {
	Dir       string // its state; made if missing. A TPM made here before is the same machine again
	Socket    string // path of the socket it is reached by, at most 107 bytes
	Authority string // state of the manufacturer's authority; TPMs may share one. Empty = Dir/authority

	// Emulator makes Socket what a virtual machine takes for its TPM (swtpm's control channel, QEMU's "-tpmdev emulator"). The
	// machine switches it on and resets it; nobody else speaks to it.
	Emulator bool
}

// Sim is a TPM that is switched on.
type Sim struct {
	cfg   Config
	cmd   *exec.Cmd
	log   *os.File
	done  chan struct{} // closed once swtpm has ended
	ended error         // set before done closes
	hash  [32]byte
	roots []byte
}

// Start makes the TPM on first use, and switches it on: its registers are zero, what it stored before is there. It answers on
// Socket when Start returns, and lives until Stop, or until ctx ends.
func Start(ctx context.Context, cfg Config) (*Sim, error) {
	if cfg.Authority == "" {
		cfg.Authority = filepath.Join(cfg.Dir, "authority")
	}
	for _, path := range []*string{&cfg.Dir, &cfg.Socket, &cfg.Authority} {
		abs, err := filepath.Abs(*path)
		if err != nil {
			return nil, fmt.Errorf("start simulated TPM: %w", err)
		}
		*path = abs
	}
	if err := manufacture(ctx, cfg); err != nil {
		return nil, fmt.Errorf("make simulated TPM: %w", err)
	}
	s, err := answer(ctx, cfg)
	if err != nil || !cfg.Emulator {
		return s, err
	}
	// Who it is was asked as any machine asks; now the machine's own turn.
	if err := s.Stop(); err != nil {
		return nil, err
	}
	machine := &Sim{cfg: cfg, done: make(chan struct{}), hash: s.hash, roots: s.roots}
	if err := machine.powerOn(ctx, "--ctrl", "type=unixio,path="+cfg.Socket); err != nil {
		return nil, fmt.Errorf("start simulated TPM: %w", err)
	}
	if err := machine.listening(ctx); err != nil {
		return nil, fmt.Errorf("start simulated TPM: %w", errors.Join(err, machine.Stop()))
	}
	return machine, nil
}

// answer switches a TPM on that answers commands on its socket, and reads who it is.
func answer(ctx context.Context, cfg Config) (*Sim, error) {
	s := &Sim{cfg: cfg, done: make(chan struct{})}
	if err := s.powerOn(ctx, "--server", "type=unixio,path="+cfg.Socket, "--flags", "not-need-init,startup-clear"); err != nil {
		return nil, fmt.Errorf("start simulated TPM: %w", err)
	}
	err := s.listening(ctx)
	if err == nil {
		err = s.readIdentity()
	}
	if err != nil {
		return nil, fmt.Errorf("start simulated TPM: %w", errors.Join(err, s.Stop()))
	}
	return s, nil
}

// EKHash is the name under which this machine is registered (tpm.EKHash).
func (s *Sim) EKHash() [32]byte { return s.hash }

// EKRoots returns the certificates of the manufacturer's authority, PEM: its root, then the issuer of endorsement certificates.
func (s *Sim) EKRoots() []byte { return bytes.Clone(s.roots) }

// Spec is what tpm.Open takes to reach this TPM.
func (s *Sim) Spec() string { return "unix:" + s.cfg.Socket }

// Done is closed when the TPM has gone off, by Stop or by itself.
func (s *Sim) Done() <-chan struct{} { return s.done }

// Stop switches the TPM off as if the machine lost power, and waits until it is off.
func (s *Sim) Stop() error {
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop simulated TPM: %w", err)
	}
	patience := time.AfterFunc(stopWithin, func() { _ = s.cmd.Process.Kill() }) // ended tells of it
	<-s.done
	patience.Stop()
	if err := os.Remove(s.cfg.Socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("stop simulated TPM: %w", err)
	}
	return s.ended
}

func (s *Sim) powerOn(ctx context.Context, channel ...string) error {
	if err := os.Remove(s.cfg.Socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove old socket: %w", err)
	}
	var err error
	if s.log, err = os.OpenFile(filepath.Join(s.cfg.Dir, "swtpm.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	s.cmd = exec.CommandContext(ctx, "swtpm", append([]string{"socket", "--tpm2", "--tpmstate", "dir=" + filepath.Join(s.cfg.Dir, "state")}, channel...)...)
	s.cmd.Env = environment(s.cfg)
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	s.cmd.Cancel = func() error { return s.cmd.Process.Signal(syscall.SIGTERM) }
	s.cmd.WaitDelay = stopWithin
	// It ends with us, however we end; Ctrl-C on the terminal is not for it.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	started := make(chan error, 1)
	go func() {
		// The signal comes when the thread that started it ends (prctl(2)), so this thread stays as long as swtpm.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := s.cmd.Start()
		started <- err
		if err == nil {
			err = exitError(s.cmd.Wait())
		}
		s.ended = errors.Join(err, s.log.Close())
		close(s.done)
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("run swtpm: %w", err)
	}
	return nil
}

// exitError forgives the signal by which Stop and a cancelled context end swtpm.
func exitError(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGTERM || errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// listening waits until swtpm takes connections.
func (s *Sim) listening(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	retry := time.NewTicker(retryEvery)
	defer retry.Stop()
	for {
		conn, err := net.Dial("unix", s.cfg.Socket)
		if err == nil {
			if err := conn.Close(); err != nil {
				return fmt.Errorf("close probe: %w", err)
			}
			return nil
		}
		select {
		case <-retry.C:
		case <-s.done:
			return fmt.Errorf("swtpm ended, its log is %s: %w", s.log.Name(), s.ended)
		case <-ctx.Done():
			return fmt.Errorf("swtpm does not answer: %w", errors.Join(err, ctx.Err()))
		}
	}
}

func (s *Sim) readIdentity() (err error) {
	t, err := tpm.Open(s.Spec())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	ek, err := t.EndorsementKey()
	if err != nil {
		return err
	}
	if s.hash, err = tpm.EKHash(ek.Raw); err != nil {
		return err
	}
	for _, name := range []string{"swtpm-localca-rootca-cert.pem", "issuercert.pem"} {
		pem, err := os.ReadFile(filepath.Join(s.cfg.Authority, name))
		if err != nil {
			return fmt.Errorf("read authority's certificate: %w", err)
		}
		s.roots = append(s.roots, pem...)
	}
	if len(s.roots) > maxPEM {
		return fmt.Errorf("authority's certificates have %d bytes, limit %d", len(s.roots), maxPEM)
	}
	return nil
}

// manufacture does what a TPM's maker does: seeds, endorsement key, its certificate. It does nothing to a TPM that is made.
func manufacture(ctx context.Context, cfg Config) error {
	if cfg.Dir == "" || cfg.Socket == "" {
		return errors.New("a directory and a socket are needed")
	}
	state := filepath.Join(cfg.Dir, "state")
	if _, err := os.Stat(state); err == nil {
		return nil
	}
	making := state + ".making" // renamed once it is whole: a setup that was interrupted begins again
	if err := os.RemoveAll(making); err != nil {
		return err
	}
	for _, dir := range []string{making, cfg.Authority, filepath.Join(cfg.Dir, "tmp")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	files := map[string]string{
		"setup.conf": fmt.Sprintf("create_certs_tool = swtpm_localca\ncreate_certs_tool_config = %s\ncreate_certs_tool_options = %s\n",
			filepath.Join(cfg.Dir, "authority.conf"), filepath.Join(cfg.Dir, "authority.options")),
		"authority.conf": fmt.Sprintf("statedir = %[1]s\nsigningkey = %[1]s/signkey.pem\nissuercert = %[1]s/issuercert.pem\ncertserial = %[1]s/certserial\n",
			cfg.Authority),
		"authority.options": "--platform-manufacturer sdbox\n--platform-version 1\n--platform-model lab\n",
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(cfg.Dir, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	setup := exec.CommandContext(ctx, "swtpm_setup", "--tpm2", "--tpmstate", making, "--create-ek-cert",
		"--pcr-banks", "sha256", "--config", filepath.Join(cfg.Dir, "setup.conf"))
	setup.Env = environment(cfg)
	if out, err := setup.CombinedOutput(); err != nil {
		return fmt.Errorf("swtpm_setup: %w: %.2000s", err, out)
	}
	return os.Rename(making, state)
}

// environment keeps the temporary files and the personal configuration of the tools inside Dir.
func environment(cfg Config) []string {
	return append(os.Environ(), "TMPDIR="+filepath.Join(cfg.Dir, "tmp"), "HOME="+cfg.Dir, "XDG_CONFIG_HOME="+cfg.Dir)
}

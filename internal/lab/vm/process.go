// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
)

// Process is QEMU running, here or in a place of the lab.
type Process interface {
	Done() <-chan struct{} // closed when it has ended
	Err() error            // how it ended; valid once Done is closed
	Kill() error           // ends it and waits for it
}

// process is QEMU as a child of this one.
type process struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error // set before done closes
}

// startHere runs QEMU beside the caller, its complaints in the file at path. It ends with us, however we end.
func startHere(path string, args []string) (Process, error) {
	complaints, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer complaints.Close()
	p := &process{cmd: exec.Command(qemu, args...), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = complaints, complaints
	// Ctrl-C on the terminal is not for it.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	started := make(chan error, 1)
	go func() {
		// The signal comes when the thread that started it ends (prctl(2)), so this thread stays as long as QEMU.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.err = p.cmd.Wait()
		}
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("run QEMU (package qemu-system-x86): %w", err)
	}
	return p, nil
}

// Done implements Process.
func (p *process) Done() <-chan struct{} { return p.done }

// Err implements Process.
func (p *process) Err() error { return p.err }

// Kill implements Process.
func (p *process) Kill() error {
	_ = p.cmd.Process.Kill() // it fails only where the process has ended
	<-p.done
	return nil
}

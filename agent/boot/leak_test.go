// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"

	"sdbox/test/leak"
)

// How the test's own program is started again.
const (
	testInNetwork = "BOOT_TESTS=in their network" // in the environment: the tests, in a network of their own
	testRole      = "boot-role"                   // the program's name: the role network, in another
)

func TestMain(m *testing.M) {
	if slices.Contains(os.Environ(), testInNetwork) {
		os.Exit(leak.Main(m))
	}
	if os.Args[0] == testRole {
		log := slog.New(slog.NewTextHandler(os.Stderr, nil))
		err := runNetwork(context.Background(), os.NewFile(slotsFile, "slots"), os.NewFile(reportsFile, "reports"), log, patience{time.Second, time.Second})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if role, is := roleTests()[os.Args[0]]; is {
		if err := role(); err != nil {
			fmt.Fprintln(os.Stderr, os.Args[0]+":", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(inNetwork())
}

// inNetwork runs the tests where they may make cables: no packet of theirs leaves.
func inNetwork() int {
	runtime.LockOSThread() // Pdeathsig is of the thread
	c := &exec.Cmd{Path: "/proc/self/exe", Args: os.Args, Env: append(os.Environ(), testInNetwork), Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		SysProcAttr: &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}}
	err := c.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		return max(exit.ExitCode(), 1)
	case err != nil:
		fmt.Fprintln(os.Stderr, "a network of the tests' own (they run as root):", err)
		return 1
	}
	return 0
}

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
	"syscall"
	"testing"

	"sdbox/test/leak"
)

// Names by which the test's own program is started again.
const (
	testInNetwork = "boot-tests" // the tests, in a network of their own
	testRole      = "boot-role"  // the role network, in another
)

func TestMain(m *testing.M) {
	switch os.Args[0] {
	case testInNetwork:
		os.Exit(leak.Main(m))
	case testRole:
		if err := RunNetwork(context.Background(), os.NewFile(4, "slots"), os.NewFile(3, "report"), slog.New(slog.NewTextHandler(os.Stderr, nil))); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(inNetwork())
}

// inNetwork runs the tests where they may make cables: no packet of theirs leaves.
func inNetwork() int {
	runtime.LockOSThread() // Pdeathsig is of the thread
	c := &exec.Cmd{Path: "/proc/self/exe", Args: append([]string{testInNetwork}, os.Args[1:]...), Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
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

// SPDX-License-Identifier: Apache-2.0

// Package leak fails tests that leave goroutines or processes behind.
package leak

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

const (
	patience  = 10 * time.Second // what is on its way out may take this long on a busy machine
	lookEvery = 20 * time.Millisecond
)

// Main runs the tests of a package and returns the code to exit with: 1 too when, after they passed, more goroutines run than
// before, or a child process is there. It is all of a TestMain.
func Main(m *testing.M) int {
	before := runtime.NumGoroutine()
	code := m.Run()
	if code != 0 || flag.Lookup("test.fuzz").Value.String() != "" { // the fuzzer listens for signals until the process ends
		return code
	}
	if err := settle(before); err != nil {
		fmt.Fprintln(os.Stderr, "leak:", err)
		return 1
	}
	return 0
}

// Check fails the test when, at its end and after what was registered later, more goroutines run than now.
func Check(t testing.TB) {
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		if err := await(func() error { return goroutines(before) }); err != nil {
			t.Error(err)
		}
	})
}

func settle(before int) error {
	return await(func() error {
		if err := goroutines(before); err != nil {
			return err
		}
		return children()
	})
}

// await looks until there is nothing to complain of, or patience ends.
func await(look func() error) error {
	deadline := time.After(patience)
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		err := look()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-deadline:
			return err
		}
	}
}

func goroutines(before int) error {
	now := runtime.NumGoroutine()
	if now <= before {
		return nil
	}
	stacks := make([]byte, 1<<20)
	return fmt.Errorf("%d goroutines more than before:\n%s", now-before, stacks[:runtime.Stack(stacks, true)])
}

// children looks for processes that this one started and that run, or that nobody waited for (proc(5)).
func children() error {
	lists, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		return err
	}
	var left []string
	for _, list := range lists {
		text, err := os.ReadFile(list)
		if err != nil {
			continue // the thread has ended
		}
		for _, pid := range strings.Fields(string(text)) {
			name, _ := os.ReadFile("/proc/" + pid + "/comm")
			left = append(left, pid+" "+strings.TrimSpace(string(name)))
		}
	}
	if len(left) > 0 {
		return fmt.Errorf("processes left behind: %s", strings.Join(left, ", "))
	}
	return nil
}

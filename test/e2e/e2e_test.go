// SPDX-License-Identifier: Apache-2.0

// Package e2e plays days in words: each script of testdata runs the shipped programs as they are built for an installation.
package e2e

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/require"
)

// programs builds the shipped programs, or takes those that SDBOX_BIN names.
func programs(t *testing.T) string {
	if dir := os.Getenv("SDBOX_BIN"); dir != "" {
		require.FileExists(t, filepath.Join(dir, "sdbox-lab"), "SDBOX_BIN names the folder that make build filled")
		return dir
	}
	dir := t.TempDir()
	for cgo, names := range map[string][]string{"1": {"sdbox-lab"}, "0": {"sdbox-gateway", "sdbox-bubble", "sdbox-image", "sdbox-pki", "sdboxctl"}} {
		args := []string{"build", "-trimpath", "-o", dir + "/"}
		for _, name := range names {
			args = append(args, "sdbox/cmd/"+name)
		}
		compile(t, cgo, args)
	}
	// As make build builds it: it goes into an image too.
	compile(t, "1", []string{"build", "-trimpath", "-buildvcs=false", "-tags", "netgo,osusergo", "-ldflags", "-s -w -buildid=", "-o", dir + "/", "sdbox/cmd/sdbox-agent"})
	return dir
}

func compile(t *testing.T, cgo string, args []string) {
	build := exec.Command("go", args...)
	build.Env = append(os.Environ(), "CGO_ENABLED="+cgo)
	out, err := build.CombinedOutput()
	require.NoError(t, err, string(out))
}

// TestScripts runs every script. They need root, as the lab does.
func TestScripts(t *testing.T) {
	require.Zero(t, os.Geteuid(), "the lab makes namespaces: run the tests as root")
	bin := programs(t)
	cache, err := filepath.Abs("../../build/cache") // of fetched packages
	require.NoError(t, err)
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(e *testscript.Env) error {
			e.Setenv("BIN", bin)
			e.Setenv("CACHE", cache)
			e.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"remember-machine": rememberMachine, "same-machine": sameMachine},
	})
}

// rememberMachine notes what a program could leave behind: mounts, network interfaces, accounts.
func rememberMachine(ts *testscript.TestScript, neg bool, args []string) {
	ts.Check(os.WriteFile(ts.MkAbs("machine"), []byte(machine(ts)), 0o600))
}

// sameMachine fails if anything noted by remember-machine is different, or a program of $BIN still runs for this script.
func sameMachine(ts *testscript.TestScript, neg bool, args []string) {
	before := ts.ReadFile("machine")
	if now := machine(ts); now != before {
		ts.Fatalf("the machine is not as it was\nbefore:\n%s\nnow:\n%s", before, now)
	}
	ts.Check(noneRuns(ts.Getenv("WORK")))
}

func machine(ts *testscript.TestScript) string {
	var all bytes.Buffer
	for _, file := range []string{"/proc/self/mountinfo", "/etc/passwd", "/etc/group"} {
		text, err := os.ReadFile(file)
		ts.Check(err)
		all.Write(text)
	}
	list, err := net.Interfaces()
	ts.Check(err)
	for _, i := range list {
		fmt.Fprintln(&all, i.Name)
	}
	return all.String()
}

// noneRuns looks for processes whose command line names the folder.
func noneRuns(folder string) error {
	found, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return err
	}
	for _, file := range found {
		line, err := os.ReadFile(file)
		if err != nil || len(line) == 0 {
			continue // it has ended meanwhile
		}
		words := strings.Split(strings.TrimRight(string(line), "\x00"), "\x00")
		if slices.ContainsFunc(words, func(w string) bool { return strings.Contains(w, folder) }) {
			return fmt.Errorf("still running: %s %q", filepath.Dir(file), words)
		}
	}
	return nil
}

// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/require"
)

// TestProgramsSayWhatToDoNext plays the mistakes of those who set a house up: an unknown key, a port in use, a package missing.
func TestProgramsSayWhatToDoNext(t *testing.T) {
	bin := programs(t)
	testscript.Run(t, testscript.Params{
		Dir: "testdata/hints",
		Setup: func(e *testscript.Env) error {
			e.Setenv("BIN", bin)
			e.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"take-port": takePort, "free-port": freePort, "replace": replace},
	})
}

// takePort takes a free port of the loopback interface for the rest of the script: take-port tcp|udp VARIABLE.
func takePort(ts *testscript.TestScript, neg bool, args []string) {
	switch args[0] {
	case "tcp":
		l, err := net.Listen("tcp", "127.0.0.1:0")
		ts.Check(err)
		ts.Defer(func() { l.Close() })
		ts.Setenv(args[1], l.Addr().String())
	case "udp":
		l, err := net.ListenPacket("udp", "127.0.0.1:0")
		ts.Check(err)
		ts.Defer(func() { l.Close() })
		ts.Setenv(args[1], l.LocalAddr().String())
	default:
		ts.Fatalf("take-port tcp or udp")
	}
}

// freePort names an address whose port was free a moment ago: free-port VARIABLE.
func freePort(ts *testscript.TestScript, neg bool, args []string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Setenv(args[0], l.Addr().String())
	ts.Check(l.Close())
}

// replace changes a file: replace FILE OLD NEW; OLD must be there.
func replace(ts *testscript.TestScript, neg bool, args []string) {
	text := ts.ReadFile(args[0])
	if !strings.Contains(text, args[1]) {
		ts.Fatalf("%s does not have %q", args[0], args[1])
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(strings.ReplaceAll(text, args[1], args[2])), 0o600))
}

// TestMissingPackageIsNamed runs the script of "make demo" with Debian's own apt, which knows of no source but writes only here.
func TestMissingPackageIsNamed(t *testing.T) {
	require.Zero(t, os.Geteuid(), "the script installs by sudo otherwise: run the tests as root")
	dir := t.TempDir()
	script, err := os.ReadFile("../../scripts/packages.sh")
	require.NoError(t, err)
	require.NoError(t, os.Mkdir(filepath.Join(dir, "scripts"), 0o755))
	apt := filepath.Join(dir, "apt.conf")
	for path, text := range map[string]string{
		filepath.Join(dir, "scripts", "packages.sh"): string(script),
		filepath.Join(dir, "debian-packages.txt"):    "[demo]\ncoreutils\nsdbox-no-such-reader # gone\n[test]\nsdbox-not-asked-for\n",
		apt: fmt.Sprintf("Dir::State %q;\nDir::Cache %q;\nDir::Etc::sourcelist \"/dev/null\";\nDir::Etc::sourceparts \"/dev/null\";\n",
			filepath.Join(dir, "state"), filepath.Join(dir, "cache")),
	} {
		require.NoError(t, os.WriteFile(path, []byte(text), 0o755))
	}
	install := exec.CommandContext(t.Context(), filepath.Join(dir, "scripts", "packages.sh"), "demo")
	install.Env = append(os.Environ(), "APT_CONFIG="+apt)
	said, err := install.CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(said), "\nmissing Debian package: sdbox-no-such-reader\nhint: sdbox is made for Debian 12 with a working apt")
	require.NotContains(t, string(said), "coreutils")
	require.NotContains(t, string(said), "not-asked-for")
}

// TestUnitsAreSoundAndHardened asks systemd itself about the units as shipped. The number is systemd's measure of exposure, ten times
// as printed: 0 is nothing, 100 everything.
func TestUnitsAreSoundAndHardened(t *testing.T) {
	bin, err := filepath.Abs(programs(t))
	require.NoError(t, err)
	for name, exposure := range map[string]int{"sdbox-gateway": 20, "sdbox-agent": 25, "sdbox-bubble": 55} {
		text, err := os.ReadFile(filepath.Join("../../systemd", name+".service"))
		require.NoError(t, err)
		file := filepath.Join(t.TempDir(), name+".service")
		require.Contains(t, string(text), "/usr/local/bin/"+name+" run")
		if name == "sdbox-bubble" { // systemd's own measure is of the whole service: one account would fill it for all
			require.Regexp(t, `(?m)^LimitNPROC=\d+\nTasksMax=infinity$`, string(text))
		}
		require.NoError(t, os.WriteFile(file, []byte(strings.ReplaceAll(string(text), "/usr/local/bin", bin)), 0o644))
		for _, args := range [][]string{{"verify", "--man=no", file}, {"security", "--no-pager", "--offline=true", fmt.Sprintf("--threshold=%d", exposure), file}} {
			out, err := exec.Command("systemd-analyze", args...).CombinedOutput()
			require.NoError(t, err, "%s", out)
			if args[0] == "verify" {
				require.Empty(t, string(out))
			}
		}
	}
}

// TestSecurityNamesTestsThatExist: a function of SECURITY.md is held by tests one can run.
func TestSecurityNamesTestsThatExist(t *testing.T) {
	text, err := os.ReadFile("../../SECURITY.md")
	require.NoError(t, err)
	declared := map[string]bool{}
	require.NoError(t, filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "build" || d.Name() == ".git"):
			return fs.SkipDir
		case !strings.HasSuffix(path, "_test.go"):
			return nil
		}
		code, err := os.ReadFile(path)
		for _, found := range regexp.MustCompile(`(?m)^func (Test\w+)\(`).FindAllSubmatch(code, -1) {
			declared[string(found[1])] = true
		}
		return err
	}))
	named := regexp.MustCompile("`(Test\\w+)`").FindAllStringSubmatch(string(text), -1)
	require.NotEmpty(t, named)
	for _, n := range named {
		require.True(t, declared[n[1]], n[1])
	}
}

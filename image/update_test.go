// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sdbox/firmware/reference"
	"sdbox/firmware/release"
	"sdbox/internal/lab/vm"

	"github.com/stretchr/testify/require"
)

// field is a machine that is updated: it keeps its disk and its firmware's variables from one start to the next.
type field struct {
	t *testing.T
	machine
	ctx    context.Context
	on     *vm.VM
	line   int // of the events, so far
	secret string
}

// systems are images whose agent is testdata/updater, in folders by version.
func systems(t *testing.T, folder string, broken map[string]bool, versions ...string) map[string]string {
	out := map[string]string{}
	for _, version := range versions {
		s, err := spec(folder)
		require.NoError(t, err)
		flags := "-s -w -buildid="
		if broken[version] {
			flags += " -X main.broken=yes"
		}
		build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags="+flags, "-o", s.Agent, "./testdata/updater")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		text, err := build.CombinedOutput()
		require.NoError(t, err, string(text))
		s.Version, out[version] = version, filepath.Join(t.TempDir(), version)
		_, err = Build(t.Context(), s, out[version])
		require.NoError(t, err)
	}
	return out
}

// start switches the machine on, and waits for what it says of its system.
func (f *field) start(version string, trial bool, tries int) {
	f.t.Helper()
	var err error
	began := time.Now()
	f.on, err = vm.Start(f.ctx, f.cfg)
	require.NoError(f.t, err)
	f.line = 0
	f.says(version, trial, tries)
	f.t.Logf("%s runs after %v, on trial: %v", version, time.Since(began).Round(time.Second), trial)
}

// says waits for a system to say what it is.
func (f *field) says(version string, trial bool, tries int) {
	f.t.Helper()
	f.await(fmt.Sprintf(`"msg":"system","version":%q,"trial":%v,"tries":%d`, version, trial, tries))
}

func (f *field) await(text string) {
	f.t.Helper()
	var err error
	_, f.line, err = f.on.Events.Await(f.ctx, f.line, func(line string) bool { return strings.Contains(line, text) })
	require.NoError(f.t, err, text)
}

// cut takes the power away.
func (f *field) cut() { require.NoError(f.t, f.on.Close()) }

func (f *field) order(o map[string]any, file []byte) {
	f.t.Helper()
	text, err := json.Marshal(o)
	require.NoError(f.t, err)
	_, err = f.on.Finger().Write(append(append(text, '\n'), file...))
	require.NoError(f.t, err)
}

// install brings a release to the machine: its delta from a version, or its full file.
func (f *field) install(dir, from string) {
	f.t.Helper()
	name := release.FileFull
	if from != "" {
		name = release.FileDelta(from)
	}
	note, err := os.ReadFile(filepath.Join(dir, release.FileNote))
	require.NoError(f.t, err)
	note, err = reference.AddSignatures(note, f.secret)
	require.NoError(f.t, err)
	file, err := os.ReadFile(filepath.Join(dir, name))
	require.NoError(f.t, err)
	f.order(map[string]any{"note": note, "delta": from != "", "size": len(file)}, file)
}

func TestUpdatesInAMachineThatLosesPower(t *testing.T) {
	const one, two, three = "2026.11.24", "2026.11.25", "2026.11.26"
	folder := site(t)
	secret, public, err := reference.GenerateKey("release-1.lab")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(folder, "release.pub"), []byte(public+"\n"), 0o644))
	built := systems(t, folder, map[string]bool{three: true}, one, two, three)
	releases := t.TempDir()
	second, third := filepath.Join(releases, "2"), filepath.Join(releases, "3")
	_, err = MakeRelease(built[two], []string{built[one]}, time.Now().Add(time.Hour), second)
	require.NoError(t, err)
	_, err = MakeRelease(built[three], nil, time.Now().Add(time.Hour), third)
	require.NoError(t, err)

	ctx, cancel := context.WithTimeout(t.Context(), 12*time.Minute)
	defer cancel()
	f := &field{t: t, machine: newMachine(t, nil, filepath.Join(folder, "keys")), ctx: ctx, secret: secret}
	f.cfg.EndOnReboot = false
	disk, err := os.ReadFile(filepath.Join(built[one], FileDisk))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(f.cfg.Firmware.Disk, disk, 0o600))
	defer func() { require.NoError(t, f.on.Close()) }()

	f.start(one, false, 0)
	f.install(second, one)
	f.await(`"msg":"update","done":`) // the first block of the idle slot
	f.cut()
	f.start(one, false, 0) // the half of a system is not looked at
	began := time.Now()
	f.install(second, one)
	f.await(`"installed":true`)
	t.Logf("installed in %v", time.Since(began).Round(time.Second))
	f.cut()
	f.start(two, true, 1) // it was armed
	f.cut()
	f.start(one, false, 1) // before its commit: the firmware falls back by itself
	began = time.Now()
	f.install(second, one)
	f.await(`"installed":true`)
	f.order(map[string]any{"reboot": true}, nil)
	f.says(two, true, 2)
	t.Logf("installed and started in %v", time.Since(began).Round(time.Second))
	f.order(map[string]any{"healthy": true}, nil)
	f.await(`"msg":"committed"`)
	f.install(third, "")
	f.await(`"installed":true`)
	f.order(map[string]any{"reboot": true}, nil)
	f.says(two, false, 1) // the new one died before it could say anything; what was committed is what the firmware takes by itself
	f.cut()
}

// BenchmarkAgentUpdate makes the delta of an image whose agent has two lines more, and says how many bytes a box fetches.
func BenchmarkAgentUpdate(b *testing.B) {
	source, err := filepath.Abs("../agent/boot/install.go")
	require.NoError(b, err)
	text, err := os.ReadFile(source)
	require.NoError(b, err)
	const line = "	i.log.Info(\"installed, to be tried at the next start\")\n"
	changed := strings.Replace(string(text), line, line+"	i.log.Info(\"a change of the agent\", \"seen\", len(i.seen))\n	i.log.Warn(\"and another\", \"trial\", i.state.Trial)\n", 1)
	require.NotEqual(b, string(text), changed)
	dir := b.TempDir()
	require.NoError(b, os.WriteFile(filepath.Join(dir, "install.go"), []byte(changed), 0o644))
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {source: filepath.Join(dir, "install.go")}})
	require.NoError(b, err)
	require.NoError(b, os.WriteFile(filepath.Join(dir, "overlay.json"), overlay, 0o644))
	folder := site(b)
	first, err := spec(folder)
	require.NoError(b, err)
	second := first
	second.Agent, second.Version = filepath.Join(dir, "agent"), "2026.11.25"
	build := exec.Command("go", "build", "-overlay", filepath.Join(dir, "overlay.json"), "-trimpath", "-buildvcs=false", "-tags", "netgo,osusergo", "-ldflags", "-s -w -buildid=", "-o", second.Agent, "sdbox/cmd/sdbox-agent")
	build.Env = append(os.Environ(), "CGO_ENABLED=1")
	out, err := build.CombinedOutput()
	require.NoError(b, err, string(out))
	var parts [2]part
	for i, s := range []Spec{first, second} {
		folder := filepath.Join(dir, s.Version)
		_, err := Build(b.Context(), s, folder)
		require.NoError(b, err)
		parts[i], err = readPart(folder)
		require.NoError(b, err)
	}
	for b.Loop() {
		var delta bytes.Buffer
		require.NoError(b, release.Encode(&delta, parts[1].esp, parts[0].esp))
		b.ReportMetric(float64(delta.Len()), "B/update")
	}
}

// SPDX-License-Identifier: Apache-2.0

package vm_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sdbox/agent/keys"
	"sdbox/agent/screen"
	"sdbox/internal/lab/vm"
	"sdbox/internal/tpm/tpmsim"

	"github.com/stretchr/testify/require"
)

// patience is for one boot under TCG on a busy machine.
const patience = 4 * time.Minute

// shortDir is a folder whose sockets have short paths.
func shortDir(t *testing.T) string {
	dir, err := os.MkdirTemp("", "vm")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	return dir
}

// guest is an initramfs whose one program is testdata/guest, with modules that are loaded in their order (cpio, form newc).
func guest(t *testing.T, dir string, modules [][]byte) string {
	init := filepath.Join(dir, "init")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", init, "./testdata/guest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(t, err, string(out))
	program, err := os.ReadFile(init)
	require.NoError(t, err)
	var archive bytes.Buffer
	type file struct {
		name string
		mode int
		body []byte
	}
	files := []file{{"init", 0o100755, program}}
	for i, m := range modules {
		files = append(files, file{fmt.Sprintf("%02d.ko", i), 0o100644, m})
	}
	for _, f := range append(files, file{"TRAILER!!!", 0, nil}) {
		fmt.Fprintf(&archive, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
			1, f.mode, 0, 0, 1, 0, len(f.body), 0, 0, 0, 0, len(f.name)+1, 0, f.name)
		archive.Write(make([]byte, -archive.Len()&3))
		archive.Write(f.body)
		archive.Write(make([]byte, -archive.Len()&3))
	}
	path := filepath.Join(dir, "root.cpio")
	require.NoError(t, os.WriteFile(path, archive.Bytes(), 0o644))
	return path
}

// helped names the folder, with kernel and initramfs in it, for a copy of this test that only starts a machine.
const helped = "SDBOX_VM_OWNER"

// TestMachineEndsWithItsOwner kills a process that has a machine; the kernel takes QEMU and swtpm with it.
func TestMachineEndsWithItsOwner(t *testing.T) {
	if dir := os.Getenv(helped); dir != "" {
		m, err := vm.Start(t.Context(), vm.Config{Dir: dir, Kernel: dir + "/kernel", Initrd: dir + "/root.cpio", TPM: &tpmsim.Config{Dir: dir + "/tpm"}})
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(dir+"/started", nil, 0o600))
		<-m.Done()
		return
	}
	dir := shortDir(t)
	image, modules := kernel(t, dir)
	require.NoError(t, os.Rename(image, dir+"/kernel"))
	guest(t, dir, modules)
	owner := exec.Command(os.Args[0], "-test.run=^TestMachineEndsWithItsOwner$")
	owner.Env = append(os.Environ(), helped+"="+dir)
	require.NoError(t, owner.Start())
	require.Eventually(t, func() bool { _, err := os.Stat(dir + "/started"); return err == nil }, patience, 50*time.Millisecond)
	require.Len(t, naming(t, dir), 2, "QEMU and swtpm")
	require.NoError(t, owner.Process.Kill())
	require.Error(t, owner.Wait())
	require.Eventually(t, func() bool { return len(naming(t, dir)) == 0 }, time.Minute, 50*time.Millisecond)
}

// naming returns the programs, QEMU and swtpm, whose command lines name a folder.
func naming(t *testing.T, dir string) (found []string) {
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	for _, file := range files {
		line, err := os.ReadFile(file)
		program, _, _ := strings.Cut(string(line), "\x00")
		if err == nil && (strings.Contains(program, "qemu") || strings.Contains(program, "swtpm")) && strings.Contains(string(line), dir) {
			found = append(found, program)
		}
	}
	return found
}

// TestAMachineRunsAndTellsAndIsSeen runs the guest on each display the image knows: every pixel it draws is one that QEMU shows, every
// key that QEMU sends is heard, and a keyboard that types as no person does no longer is.
func TestAMachineRunsAndTellsAndIsSeen(t *testing.T) {
	dir := shortDir(t)
	image, modules := kernel(t, dir)
	for name, c := range map[string]struct {
		video   vm.Video
		modules [][]byte
		line    string
		drawn   string
	}{
		"bochs":                   {vm.StandardVideo, modules, "", "drawn 1920x1080, adapter true"},
		"virtio":                  {vm.VirtioVideo, modules, "", "drawn 1920x1080, adapter true"},
		"framebuffer of the BIOS": {vm.StandardVideo, modules[:8], " vga=0x344", "drawn 1024x768, adapter false"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			dir := shortDir(t)
			m, err := vm.Start(ctx, vm.Config{
				Dir: dir, Kernel: image, Initrd: guest(t, dir, c.modules), CommandLine: "console=ttyS0 panic=-1" + c.line, Video: c.video, EndOnReboot: true,
				TPM: &tpmsim.Config{Dir: filepath.Join(dir, "tpm")},
			})
			require.NoError(t, err)
			defer func() { require.NoError(t, m.Close()) }()
			require.NoError(t, m.Events.AwaitText(ctx, `{"msg":"guest runs","tpm":true}`))
			require.NoError(t, m.Serial.AwaitText(ctx, "Linux version"))
			require.NoError(t, m.Events.AwaitText(ctx, c.drawn))
			began := time.Now()
			picture, err := m.Picture(ctx)
			require.NoError(t, err)
			t.Log("screendump", time.Since(began), picture.Bounds())
			requirePattern(t, picture)
			types(ctx, t, m)
			_, err = m.Finger().Write([]byte("hello\nreboot\n"))
			require.NoError(t, err)
			require.NoError(t, m.Events.AwaitText(ctx, "hello"))
			require.NoError(t, m.Told.AwaitText(ctx, "SHUTDOWN"))
			<-m.Done()
		})
	}
}

// requirePattern compares a picture with what the guest draws.
func requirePattern(t *testing.T, m *screen.Image) {
	for y := range m.Height {
		row := m.Row(y, 0, m.Width)
		for x := range m.Width {
			if want := [3]byte{byte(x), byte(y), byte(x>>8<<4 | y>>8)}; [3]byte(row[4*x:]) != want {
				require.FailNow(t, "pixel differs", "%d,%d: %v instead of %v", x, y, row[4*x:4*x+3], want)
			}
		}
	}
}

// types presses a key as a person does, then types as a barcode reader does until nobody listens, and unplugs that. Another keyboard is
// heard, and its end, with a key held.
func types(ctx context.Context, t *testing.T, m *vm.VM) {
	press := func(name string, down bool) {
		event := map[string]any{"type": "key", "data": map[string]any{"down": down, "key": map[string]any{"type": "qcode", "data": name}}}
		require.NoError(t, m.Command(ctx, "input-send-event", map[string]any{"events": []any{event}}, nil))
	}
	until := func(line string, pace time.Duration, act func()) {
		tick := time.NewTicker(pace)
		defer tick.Stop()
		for ; !slices.Contains(m.Events.Lines(), line); <-tick.C {
			require.NoError(t, ctx.Err(), "waiting for %q", line)
			act()
		}
	}
	until("key 100 1", time.Millisecond, func() { // until the guest has found its keyboard, perhaps with the key already down
		require.NoError(t, m.Send(ctx, append(keys.Key(100, 1), keys.Key(100, 0)...)...)) // AltGr
	})
	require.NoError(t, m.Events.AwaitText(ctx, "key 100 0"))
	until("too fast", 12*time.Millisecond, func() {
		press("7", true)
		press("7", false)
	})
	lost := func(line string) bool { return line == "lost" }
	mark := m.Events.Mark()
	require.NoError(t, m.Command(ctx, "device_del", map[string]any{"id": "keyboard"}, nil))
	_, mark, err := m.Events.Await(ctx, mark, lost)
	require.NoError(t, err)
	require.NoError(t, m.Command(ctx, "device_add", map[string]any{"driver": "usb-kbd", "bus": "usb.0", "id": "another"}, nil))
	until("key 31 1", 100*time.Millisecond, func() { press("s", true) })
	require.NoError(t, m.Command(ctx, "device_del", map[string]any{"id": "another"}, nil))
	_, _, err = m.Events.Await(ctx, mark, lost)
	require.NoError(t, err)
}

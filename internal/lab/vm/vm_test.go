// SPDX-License-Identifier: Apache-2.0

package vm_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

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

// guest is an initramfs whose one program is testdata/guest (cpio, form newc).
func guest(t *testing.T, dir string) string {
	init := filepath.Join(dir, "init")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", init, "./testdata/guest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(t, err, string(out))
	program, err := os.ReadFile(init)
	require.NoError(t, err)
	var archive bytes.Buffer
	for _, f := range []struct {
		name string
		mode int
		body []byte
	}{{"init", 0o100755, program}, {"TRAILER!!!", 0, nil}} {
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

func TestAMachineRunsAndTellsAndIsSeen(t *testing.T) {
	for _, video := range []vm.Video{vm.StandardVideo, vm.VirtioVideo} {
		t.Run(string(video), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			dir := shortDir(t)
			m, err := vm.Start(ctx, vm.Config{
				Dir: dir, Kernel: kernel(t, dir), Initrd: guest(t, dir), CommandLine: "console=ttyS0 panic=-1", Video: video, EndOnReboot: true,
				TPM: &tpmsim.Config{Dir: filepath.Join(dir, "tpm")},
			})
			require.NoError(t, err)
			defer func() { require.NoError(t, m.Close()) }()
			require.NoError(t, m.Events.AwaitText(ctx, `{"msg":"guest runs","tpm":true}`))
			require.NoError(t, m.Serial.AwaitText(ctx, "Linux version"))
			began := time.Now()
			picture, err := m.Picture(ctx)
			require.NoError(t, err)
			t.Log("screendump", time.Since(began), picture.Bounds())
			_, err = m.Finger().Write([]byte("hello\nreboot\n"))
			require.NoError(t, err)
			require.NoError(t, m.Events.AwaitText(ctx, "hello"))
			require.NoError(t, m.Told.AwaitText(ctx, "SHUTDOWN"))
			<-m.Done()
		})
	}
}

// SPDX-License-Identifier: Apache-2.0

package tpmsim_test

import (
	"context"
	_ "embed"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sdbox/internal/tpm"
	"sdbox/internal/tpm/tpmsim"

	"github.com/stretchr/testify/require"
)

//go:embed testdata/registers.txt
var registers string

// TestRecordedBootGivesTheRegistersItsKernelRead compares three ways to the same registers: the TPM of the virtual machine the boot
// was recorded from, as its kernel read it; a TPM that replays the record; arithmetic.
func TestRecordedBootGivesTheRegistersItsKernelRead(t *testing.T) {
	log, err := tpmsim.RecordedBoot()
	require.NoError(t, err)
	predicted := log.Replay()

	dir := t.TempDir()
	sim, err := tpmsim.Start(t.Context(), tpmsim.Config{Dir: dir, Socket: filepath.Join(dir, "s")})
	require.NoError(t, err)
	defer func() { require.NoError(t, sim.Stop()) }()
	require.NoError(t, tpmsim.Boot(filepath.Join(dir, "s"), log))
	dev, err := tpm.Open(sim.Spec())
	require.NoError(t, err)
	lines := strings.Split(strings.TrimSpace(registers), "\n")
	require.Equal(t, 14, len(lines))
	for _, line := range lines {
		var index uint8
		var read string
		_, err := fmt.Sscanf(line, "%d %64s", &index, &read)
		require.NoError(t, err)
		values, err := dev.ReadPCRs([]uint8{index})
		require.NoError(t, err)
		require.Equal(t, read, hex.EncodeToString(values[0].Digest[:]), "register %d", index)
		require.Equal(t, read, hex.EncodeToString(predicted[index][:]), "register %d", index)
	}
	require.NoError(t, dev.Close())
}

func TestSimulatorWritesNothingOutsideItsDirectories(t *testing.T) {
	outside, dir := t.TempDir(), t.TempDir()
	for _, variable := range []string{"TMPDIR", "HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR"} {
		t.Setenv(variable, outside)
	}
	before, err := os.ReadDir("/var/lib/swtpm-localca")
	require.NoError(t, err)
	authority := filepath.Join(dir, "maker")
	hashes := map[[32]byte]bool{}
	var roots []byte
	for _, name := range []string{"box1", "box2"} { // of one maker
		sim, err := tpmsim.Start(t.Context(), tpmsim.Config{Dir: filepath.Join(dir, name), Socket: filepath.Join(dir, name+".s"), Authority: authority})
		require.NoError(t, err)
		hashes[sim.EKHash()] = true
		if roots != nil {
			require.Equal(t, roots, sim.EKRoots())
		}
		roots = sim.EKRoots()
		require.NoError(t, sim.Stop())
		again, err := tpmsim.Start(t.Context(), tpmsim.Config{Dir: filepath.Join(dir, name), Socket: filepath.Join(dir, name+".s"), Authority: authority})
		require.NoError(t, err)
		require.Equal(t, sim.EKHash(), again.EKHash(), "the same machine")
		require.NoError(t, again.Stop())
		left, err := os.ReadDir(filepath.Join(dir, name, "tmp"))
		require.NoError(t, err)
		require.Empty(t, left)
	}
	require.Len(t, hashes, 2)
	require.Equal(t, 2, strings.Count(string(roots), "BEGIN CERTIFICATE"))
	left, err := os.ReadDir(outside)
	require.NoError(t, err)
	require.Empty(t, left)
	after, err := os.ReadDir("/var/lib/swtpm-localca")
	require.NoError(t, err)
	require.Equal(t, before, after)
}

func TestSimulatorEndsWithItsContextAndSaysWhyItDoesNotStart(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	sim, err := tpmsim.Start(ctx, tpmsim.Config{Dir: dir, Socket: filepath.Join(dir, "s")})
	require.NoError(t, err)
	cancel()
	<-sim.Done()
	require.NoError(t, sim.Stop())
	_, err = tpmsim.Start(t.Context(), tpmsim.Config{Dir: dir, Socket: filepath.Join(dir, strings.Repeat("s", 120))})
	require.ErrorContains(t, err, "swtpm ended")
	log, err := tpmsim.RecordedBoot()
	require.NoError(t, err)
	require.Error(t, tpmsim.Boot(filepath.Join(dir, "s"), log), "it is off")
}

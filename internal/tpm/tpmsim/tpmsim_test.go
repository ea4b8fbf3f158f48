// SPDX-License-Identifier: Apache-2.0

package tpmsim_test

import (
	"context"
	_ "embed"
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
	list, err := tpmsim.RecordedBoot()
	require.NoError(t, err)
	require.Equal(t, 38, len(list))
	read, err := tpmsim.ParseBoot([]byte(registers))
	require.NoError(t, err)
	predicted := tpmsim.Predict(list)

	dir := t.TempDir()
	sim, err := tpmsim.Start(t.Context(), tpmsim.Config{Dir: dir, Socket: filepath.Join(dir, "s")})
	require.NoError(t, err)
	defer func() { require.NoError(t, sim.Stop()) }()
	require.NoError(t, tpmsim.Boot(filepath.Join(dir, "s"), list))
	dev, err := tpm.Open(sim.Spec())
	require.NoError(t, err)
	for _, r := range read {
		values, err := dev.ReadPCRs([]uint8{r.PCR})
		require.NoError(t, err)
		require.Equal(t, r.Digest, values[0].Digest, "register %d", r.PCR)
		require.Equal(t, r.Digest, predicted[r.PCR], "register %d", r.PCR)
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
	require.Error(t, tpmsim.Boot(filepath.Join(dir, "s"), nil), "it is off")
}

func FuzzParseBoot(f *testing.F) {
	f.Add([]byte(registers))
	f.Add([]byte("0 00\n"))
	f.Add([]byte("24 eaa650ae9b6b9c6d0ef4fab4dda3af9769f23c839ca3c98307a7a84831cbb472 x"))
	f.Add([]byte("# nothing\n\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		list, err := tpmsim.ParseBoot(text)
		if err == nil {
			require.LessOrEqual(t, len(tpmsim.Predict(list)), 24)
		}
	})
}

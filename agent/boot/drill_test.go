// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestDrillsProgramRunsWhereProgramsMay(t *testing.T) {
	path := filepath.Join(t.TempDir(), "smallest")
	require.NoError(t, os.WriteFile(path, smallest(), 0o700))
	require.NoError(t, exec.Command(path).Run(), "else a box that does not run it shows nothing")
	require.NoError(t, tryRun("memfd"))
}

func TestDrillSeesAPortThatWaits(t *testing.T) {
	require.Error(t, tryPorts(), "the tests' own network")
	l, err := net.Listen("tcp", ":0")
	require.NoError(t, err)
	require.NoError(t, tryPorts())
	require.NoError(t, l.Close())
	require.Error(t, tryPorts())
}

// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"sdbox/internal/lab/day"
	"sdbox/internal/lab/house"
)

// TestSessionOutlivesWhatGoesWrong kills the shipped programs in a session, as kill -9 does, and reads what the screen says.
func TestSessionOutlivesWhatGoesWrong(t *testing.T) {
	require.Zero(t, os.Geteuid(), "the lab makes namespaces: run the tests as root")
	dir, err := os.MkdirTemp("", "trouble")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	site, err := house.Build(t.Context(), house.Config{Dir: dir, Bin: programs(t), Said: t.Output()})
	require.NoError(t, err)
	defer func() { require.NoError(t, site.Close()) }()
	_, err = day.Trouble(t.Context(), site, day.Options{Out: os.Getenv("SDBOX_TROUBLE"), Print: t.Output()})
	require.NoError(t, err)
}

// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"testing"

	"sdbox/internal/lab/day"
	"sdbox/internal/lab/house"
	"sdbox/internal/refusal"

	"github.com/stretchr/testify/require"
)

// TestEveryCodeIsReadFromTheScreen kills the shipped programs in a session, as kill -9 does, then brings everything else about that a
// box has a code for, and reads what the screens say.
func TestEveryCodeIsReadFromTheScreen(t *testing.T) {
	require.Zero(t, os.Geteuid(), "the lab makes namespaces: run the tests as root")
	dir, err := os.MkdirTemp("", "trouble")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	site, err := house.Build(t.Context(), house.Config{Dir: dir, Bin: programs(t), Language: refusal.French, Said: t.Output()})
	require.NoError(t, err)
	defer func() { require.NoError(t, site.Close()) }()
	options := day.Options{Out: os.Getenv("SDBOX_TROUBLE"), Print: t.Output()}
	_, err = day.Trouble(t.Context(), site, options)
	require.NoError(t, err)
	_, err = day.Refusals(t.Context(), site, options)
	require.NoError(t, err)
}

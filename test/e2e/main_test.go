// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"sdbox/internal/lab/house"

	"github.com/stretchr/testify/require"
)

// build makes a house with all that stands in it, of the shipped programs, in a folder of its own. It ends with the test.
func build(t *testing.T, conf house.Config) (site *house.Site, dir string) {
	t.Helper()
	require.Zero(t, os.Geteuid(), "the lab makes namespaces: run the tests as root")
	dir, err := os.MkdirTemp("", "house") // short: sockets lie in it
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	conf.Dir, conf.Bin, conf.Said = dir, programs(t), t.Output()
	site, err = house.Build(t.Context(), conf)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, site.Close()) })
	return site, dir
}

// TestMain is also the first process of a place, and in a machine of TestReadmeRunsForReal what stands in for systemctl.
func TestMain(m *testing.M) {
	house.Main()
	if filepath.Base(os.Args[0]) == "systemctl" {
		if err := systemctl(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, "systemctl:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"sdbox/internal/lab/house"
)

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

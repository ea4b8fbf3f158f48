// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestProofRunsUnderTCGAndDecidesOnKVM(t *testing.T) {
	dir, err := os.MkdirTemp("", "vm")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	for accelerator, want := range map[string]bool{TCG: true, "none": false} {
		ran, err := tryGuest(t.Context(), dir, accelerator)
		require.NoError(t, err)
		require.Equal(t, want, ran, accelerator)
	}
}

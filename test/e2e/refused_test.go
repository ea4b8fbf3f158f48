// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"path/filepath"
	"testing"

	"sdbox/internal/lab/house"

	"github.com/stretchr/testify/require"
)

// TestMachineThatTrustsAnotherKeyIsRefused boots the house's own image on a machine whose firmware was given one more key to start
// programs by: nothing of the image is other, and yet the box cannot prove that it is intact.
func TestMachineThatTrustsAnotherKeyIsRefused(t *testing.T) {
	site, _ := build(t, house.Config{Form: house.ImageForm, Cache: "../../build/cache"})
	ctx, cancel := context.WithTimeout(t.Context(), 4*patience)
	defer cancel()
	require.NoError(t, site.Tamper(site.Boxes[0]))
	require.NoError(t, site.Boot(ctx, site.Boxes[0]))
	require.NoError(t, told(ctx, filepath.Join(site.House.Logs(), site.Boxes[0].Serial+".agent.log"), `"link is down"`, "B03"))
}

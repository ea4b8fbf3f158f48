// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sdbox/internal/lab/day"
	"sdbox/internal/lab/house"

	"github.com/stretchr/testify/require"
)

// TestSessionOutlivesItsAgent kills the agent of a machine in a session: PID 1 covers the picture and starts it again, and the same
// desktop comes back by the card's presence alone. No role was denied a call it needs, from boot to here.
func TestSessionOutlivesItsAgent(t *testing.T) {
	site, _ := build(t, house.Config{Form: house.ImageForm, Dev: true, Cache: "../../build/cache"})
	_, err := day.Crashes(t.Context(), site, day.Options{Out: os.Getenv("SDBOX_TROUBLE"), Print: t.Output()})
	text, readErr := os.ReadFile(filepath.Join(site.House.Logs(), site.Boxes[0].Serial+".agent.log"))
	require.NoError(t, readErr)
	if err != nil {
		t.Log(string(text))
	}
	require.NoError(t, err)
	require.Contains(t, string(text), "an agent ended in a session")
	for line := range strings.Lines(string(text)) {
		require.NotContains(t, line, "audit:", "a call that was denied")
	}
}

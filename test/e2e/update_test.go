// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"sdbox/internal/lab/house"

	"github.com/stretchr/testify/require"
)

// TestBoxesUpdateThemselves boots two boxes of one version in a house that offers the next: one is let in and fetches it when nobody is
// there, one is refused, for what it runs is good no more, and fetches it from the front door. Both write the delta to their idle slot,
// start again, are believed as what they are then, show that they work, and keep the new version. QEMU needs minutes for the starts.
func TestBoxesUpdateThemselves(t *testing.T) {
	const next = "2026.11.25"
	site, _ := build(t, house.Config{Form: house.ImageForm, Cache: "../../build/cache"})
	ctx, cancel := context.WithTimeout(t.Context(), 12*time.Minute)
	defer cancel()
	require.NoError(t, site.Release(ctx, next))
	began := time.Now()
	follow := func(box *house.Box, steps ...[]string) {
		for _, step := range steps {
			require.NoError(t, told(ctx, filepath.Join(site.House.Logs(), box.Serial+".agent.log"), step...), "%s: %v", box.Serial, step)
			t.Logf("%s: %v after %v", box.Serial, step, time.Since(began).Round(time.Second))
		}
	}
	update := [][]string{{`"update"`, `"to":"` + next}, {`"update installed"`, next}, {`"system"`, next, `"trial":true`}, {`"line is up"`}, {`"committed"`, next}}
	require.NoError(t, site.Boot(ctx, site.Boxes[0]))
	follow(site.Boxes[0], []string{`"line is up"`})
	_, err := site.Ctl(ctx, "reference", "retire", "lab-qemu 2026.11.24", "--reason", "replaced")
	require.NoError(t, err)
	require.NoError(t, site.Boot(ctx, site.Boxes[1]))
	follow(site.Boxes[1], []string{`"link is down"`, "B03"})
	follow(site.Boxes[0], update...)
	follow(site.Boxes[1], update...)
	text, err := site.Ctl(ctx, "box", "list")
	require.NoError(t, err)
	var boxes []struct{ System string }
	require.NoError(t, json.Unmarshal(text, &boxes))
	for _, b := range boxes {
		require.Equal(t, "lab-qemu "+next, b.System)
	}
}

// told waits until a log has a line with both words.
func told(ctx context.Context, log string, words ...string) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		text, err := os.ReadFile(log)
		if err != nil && !os.IsNotExist(err) {
			return err
		}
		for line := range bytes.Lines(text) {
			all := true
			for _, w := range words {
				all = all && bytes.Contains(line, []byte(w))
			}
			if all {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

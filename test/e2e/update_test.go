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

// TestBoxUpdatesItself boots a box of one version in a house that offers the next: the box attests, fetches the delta, writes it to its
// idle slot, starts again, shows that it works, and keeps the new version. QEMU needs minutes for the two starts.
func TestBoxUpdatesItself(t *testing.T) {
	const next = "2026.11.25"
	site, _ := build(t, house.Config{Form: house.ImageForm, Cache: "../../build/cache"})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	require.NoError(t, site.Release(ctx, next))
	box := site.Boxes[0]
	require.NoError(t, site.Boot(ctx, box))
	began := time.Now()
	log := filepath.Join(site.House.Logs(), box.Serial+".agent.log")
	for _, step := range [][]string{{`"line is up"`}, {`"update"`, `"to":"` + next}, {`"update installed"`, next}, {`"system"`, next, `"trial":true`}, {`"committed"`, next}} {
		require.NoError(t, told(ctx, log, step...), "%v", step)
		t.Logf("%v after %v", step, time.Since(began).Round(time.Second))
	}
	text, err := site.Ctl(ctx, "box", "list")
	require.NoError(t, err)
	var boxes []struct{ Attested bool }
	require.NoError(t, json.Unmarshal(text, &boxes))
	require.True(t, boxes[0].Attested, "as what it is now")
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

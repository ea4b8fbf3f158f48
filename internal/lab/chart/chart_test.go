// SPDX-License-Identifier: Apache-2.0

package chart_test

import (
	"os"
	"path/filepath"
	"testing"

	"sdbox/internal/lab/chart"
	"sdbox/internal/lab/day"

	"github.com/stretchr/testify/require"
)

// TestSwitchDrawsEachRoundTrip: the numbers of the report stand in the picture, in letters another program reads.
func TestSwitchDrawsEachRoundTrip(t *testing.T) {
	r := &day.Report{Figures: []day.Figure{
		{Name: "switch: chord to first right frame, RTT 1 ms", P50: 61, P95: 97},
		{Name: "switch: chord to first right frame, RTT 150 ms", P50: 233, P95: 291},
		{Name: "key press to its pixel, RTT 1 ms, xterm", P50: 999, P95: 999},
	}}
	out := filepath.Join(t.TempDir(), "switch.svg")
	require.NoError(t, chart.Switch(r, out))
	drawn, err := os.ReadFile(out)
	require.NoError(t, err)
	for _, words := range []string{"p50 61 ms, p95 97 ms", "RTT 150 ms", "p50 233 ms, p95 291 ms", "15 s", "45 s"} {
		require.Contains(t, string(drawn), words)
	}
	require.NotContains(t, string(drawn), "p50 999 ms")

	require.Contains(t, r.Markdown(), "| key press to its pixel, RTT 1 ms, xterm | 0 | 999 | 999 |")
	require.Contains(t, r.Markdown(), "NOT KEPT", "a figure over its must is never hidden")

	require.Error(t, chart.Switch(&day.Report{}, out), "nothing to draw")
	require.Error(t, chart.Switch(r, filepath.Join(t.TempDir(), "switch.nothing")), "an unknown kind of picture")
}

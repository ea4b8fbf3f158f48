// SPDX-License-Identifier: Apache-2.0

package session

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestPictureOfTheStatesIsTheTable(t *testing.T) {
	text, err := os.ReadFile("README.md")
	require.NoError(t, err)
	want := fmt.Sprintf("# Sessions\n\nGenerated from the table in state.go; `go test -update` writes it.\n\n```mermaid\n%s```\n", Picture())
	if *updating {
		require.NoError(t, os.WriteFile("README.md", []byte(want), 0o644))
	}
	require.Equal(t, want, string(text))
}

// What the table allows the store must allow, and every state but the last can be left by a deadline or by a loop that keeps one.
func TestTableAgreesWithItself(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range Steps() {
		key := string(s.From) + "/" + string(s.On)
		require.False(t, seen[key], "two arrows for %s", key)
		seen[key] = true
		require.NotEqual(t, Ended, s.From)
	}
	for _, s := range []State{Requested, Authorised, Starting, Active, Suspended} {
		require.True(t, seen[string(s)+"/"+string(Stopped)], s)
		require.False(t, life(s, time.Now(), time.Now().Add(time.Minute)).IsZero(), s)
	}
}

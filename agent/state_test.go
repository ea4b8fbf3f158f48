// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write the generated picture into README.md")

func rows(t *testing.T) map[State]map[Trigger]Row {
	t.Helper()
	out := map[State]map[Trigger]Row{}
	for _, r := range Table() {
		if out[r.From] == nil {
			out[r.From] = map[Trigger]Row{}
		}
		_, twice := out[r.From][r.On]
		require.False(t, twice, "%s on %s stands twice", r.From, r.On)
		out[r.From][r.On] = r
	}
	return out
}

func TestEveryStateIsReachedAndLeft(t *testing.T) {
	table := rows(t)
	seen := map[State]bool{}
	todo := []State{Connecting}
	for len(todo) > 0 {
		s := todo[0]
		todo = todo[1:]
		if seen[s] {
			continue
		}
		seen[s] = true
		require.NotEmpty(t, table[s], "%s has no way out", s)
		for _, r := range table[s] {
			todo = append(todo, r.To)
		}
	}
	for s := range numStates {
		require.True(t, seen[s], "%s is never reached", s)
	}
}

func TestCardThatLeavesAlwaysEndsTheVisit(t *testing.T) {
	table := rows(t)
	for _, s := range []State{Reading, Finger, Verifying, Elsewhere, List, Opening, Desktop, Asking, Stopped, Lost, Resuming} {
		r, found := table[s][CardGone]
		require.True(t, found, "%s ignores a card that leaves", s)
		require.Contains(t, []State{Ready, Out, Connecting}, r.To)
	}
	for _, s := range []State{List, Opening, Desktop, Asking, Lost, Resuming} {
		require.Equal(t, leave, table[s][CardGone].do, "%s must blacken the screen first", s)
	}
}

func TestLostLineIsNoticedInEveryState(t *testing.T) {
	table := rows(t)
	for s := range numStates {
		if s == Lost {
			continue
		}
		_, found := table[s][LineLost]
		require.True(t, found, "%s ignores a lost line", s)
	}
}

func TestNoPictureWithoutAFinger(t *testing.T) {
	for _, r := range Table() {
		if r.To == Opening {
			require.Contains(t, []State{List, Opening, Desktop, Resuming}, r.From)
		}
		if r.To == Desktop {
			require.Contains(t, []State{Opening, Desktop}, r.From)
		}
		if r.To == List {
			require.Contains(t, []State{Verifying, List, Opening, Desktop, Asking, Resuming}, r.From)
			require.True(t, r.From != Verifying || r.On == Granted)
		}
		if r.To == Resuming || r.To == Lost {
			require.Contains(t, []State{List, Opening, Desktop, Asking, Lost, Resuming}, r.From, "only a session that had its finger comes back")
		}
	}
}

func TestPictureInTheReadmeIsTheTables(t *testing.T) {
	const readme, begin, end = "../README.md", "```mermaid\n", "```\n"
	raw, err := os.ReadFile(readme)
	require.NoError(t, err)
	before, rest, found := strings.Cut(string(raw), begin)
	require.True(t, found)
	picture, after, found := strings.Cut(rest, end)
	require.True(t, found)
	if *update {
		picture = Picture()
		require.NoError(t, os.WriteFile(readme, []byte(before+begin+picture+end+after), 0o644))
	}
	require.Equal(t, Picture(), picture, "go test ./agent -update writes it")
}

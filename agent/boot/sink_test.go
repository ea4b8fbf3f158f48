// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestLogMakesNobodyWaitAndKeepsTheNewestLines(t *testing.T) {
	s := newSink()
	for i := range maxLines + 10 { // nobody takes them yet
		fmt.Fprintf(s, "line %d", i)
	}
	r, w := io.Pipe()
	got := make(chan string, 1)
	go func() {
		all, _ := io.ReadAll(r)
		got <- string(all)
	}()
	s.drain(w)
	s.close()
	require.NoError(t, w.Close())
	lines := strings.Split(strings.TrimSuffix(<-got, "\n"), "\n")
	require.Len(t, lines, maxLines)
	require.Equal(t, "line 10", lines[0])
	require.Equal(t, fmt.Sprintf("line %d", maxLines+9), lines[maxLines-1])
}

func TestRolesLinesAreCutNotBelieved(t *testing.T) {
	s := newSink()
	s.follow(strings.NewReader("short\n" + strings.Repeat("x", 3*maxLine) + "\nafter\nno end"))
	var got []string
	for len(s.lines) > 0 {
		line, _ := s.next()
		got = append(got, string(line))
	}
	require.Len(t, got, 4)
	require.Equal(t, "short\n", got[0])
	require.LessOrEqual(t, len(got[1]), maxLine+1)
	require.Equal(t, []string{"after\n", "no end\n"}, got[2:])
}

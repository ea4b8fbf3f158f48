// SPDX-License-Identifier: Apache-2.0

package house

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"sdbox/agent/keys"

	"github.com/stretchr/testify/require"
)

// TestKeyboardReachesTheAgentsSource: what the lab sends comes out of the very source the agent reads, in order, also after
// the agent has started again; without an agent Send says so.
func TestKeyboardReachesTheAgentsSource(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.sock")
	k, err := newKeyboard(path)
	require.NoError(t, err)
	defer k.Close()
	events, err := Typing("echo $((6*7))\n")
	require.NoError(t, err)
	require.ErrorIs(t, k.Send(events...), errUnplugged)

	for range 2 {
		ctx, cancel := context.WithCancel(t.Context())
		out, ended := make(chan keys.Raw, 1024), make(chan error, 1)
		go func() { ended <- keys.Unix(path).Run(ctx, out) }()
		require.Eventually(t, func() bool {
			if k.Send(events...) != nil {
				return false
			}
			select {
			case first := <-out:
				require.Equal(t, events[0], first)
				return true
			case <-time.After(100 * time.Millisecond): // it went to the connection of the agent that ended
				return false
			}
		}, 5*time.Second, 10*time.Millisecond)
		for _, want := range events[1:] {
			require.Equal(t, want, <-out)
		}
		cancel()
		require.NoError(t, <-ended)
	}
}

func TestTypingKnowsTheUSKeyboard(t *testing.T) {
	for text, codes := range map[string][]uint16{"a": {30}, "A": {42, 30}, "$": {42, 5}, "/": {53}, "|": {42, 43}, "\\": {43}, "\n": {28}, "`": {41}, "~": {42, 41}} {
		events, err := Typing(text)
		require.NoError(t, err)
		var pressed []uint16
		for _, e := range events {
			if e.Type == 1 && e.Value == 1 {
				pressed = append(pressed, e.Code)
			}
		}
		require.Equal(t, codes, pressed, text)
	}
	_, err := Typing("é")
	require.Error(t, err)
}

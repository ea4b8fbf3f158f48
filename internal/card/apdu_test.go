// SPDX-License-Identifier: Apache-2.0

package card

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
)

// keep remembers what it is sent and agrees to everything.
type keep struct{ sent [][]byte }

func (k *keep) Transmit(apdu []byte) ([]byte, error) {
	k.sent = append(k.sent, bytes.Clone(apdu))
	return []byte{0x90, 0x00}, nil
}

func TestLongCommandIsChained(t *testing.T) {
	data := bytes.Repeat([]byte{7}, 600)
	k := new(keep)
	c := &Card{t: k}
	_, err := c.exchange(command{ins: 0xDB, p1: 0x3F, p2: 0xFF, data: data})
	require.NoError(t, err)
	require.Len(t, k.sent, 3)
	require.Equal(t, []byte{0x10, 0xDB, 0x3F, 0xFF, 255}, k.sent[0][:5])
	require.Equal(t, []byte{0x00, 0xDB, 0x3F, 0xFF, 90}, k.sent[2][:5])
	require.Equal(t, data, append(append(k.sent[0][5:], k.sent[1][5:]...), k.sent[2][5:]...))

	k = new(keep)
	c = &Card{t: k, limits: Limits{Extended: true}}
	_, err = c.exchange(command{ins: 0xDB, data: data, answers: true})
	require.NoError(t, err)
	require.Len(t, k.sent, 1)
	require.Equal(t, []byte{0, 0xDB, 0, 0, 0, 600 >> 8, 600 & 0xFF}, k.sent[0][:7])
	require.Equal(t, []byte{0, 0}, k.sent[0][7+600:])
}

func TestSentCommandsAreWiped(t *testing.T) {
	apdu := []byte{0, 0x20, 0, 0x96, 3, 1, 2, 3}
	c := &Card{t: new(keep)}
	_, _, err := c.transmit(apdu)
	require.NoError(t, err)
	require.Equal(t, make([]byte, len(apdu)), apdu)
}

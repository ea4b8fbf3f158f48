// SPDX-License-Identifier: Apache-2.0

package session

import (
	"testing"

	"sdbox/internal/wire"

	"github.com/stretchr/testify/require"
)

// BenchmarkSwitch is attach to whole right picture between two warm bubbles, on loopback, with its two audited steps on the disk.
func BenchmarkSwitch(b *testing.B) {
	h := newHouse(b)
	box := h.boot(1)
	box.finger(h.card)
	names := []string{"epi", "econ"}
	for i, name := range names {
		box.attach(name, uint16(i+1))
		expect[*wire.Attached](box)
		box.sees(name, uint16(i+1))
	}
	number := uint16(len(names))
	for b.Loop() {
		number++
		name := names[number%2]
		box.attach(name, number)
		require.Equal(b, name, expect[*wire.Attached](box).Bubble)
		box.sees(name, number)
	}
}

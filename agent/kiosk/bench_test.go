// SPDX-License-Identifier: Apache-2.0

package kiosk

import (
	"testing"

	"sdbox/agent/screen"
	"sdbox/internal/refusal"
)

// BenchmarkDraw measures one whole screen, the back image and the comparison with what was shown included.
func BenchmarkDraw(b *testing.B) {
	for _, name := range []string{"ready", "list", "message-C05", "card-out"} {
		b.Run(name, func(b *testing.B) {
			k, v, a := newKiosk(b), moments()[name], about(refusal.French)
			dst := screen.NewImage(1920, 1080)
			k.Draw(dst, v, a)
			b.ReportAllocs()
			for b.Loop() {
				k.Draw(dst, v, a)
			}
		})
	}
}

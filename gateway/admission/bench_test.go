// SPDX-License-Identifier: Apache-2.0

package admission

import "testing"

// BenchmarkDecide is one decision with the shipped policies: it stands inside every switch.
func BenchmarkDecide(b *testing.B) {
	p, err := Shipped()
	if err != nil {
		b.Fatal(err)
	}
	r := good()
	for b.Loop() {
		if d := p.Decide(r); !d.Allowed {
			b.Fatal(d)
		}
	}
}

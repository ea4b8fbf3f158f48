// SPDX-License-Identifier: Apache-2.0

package profile

import "testing"

// BenchmarkVerifyPerson is the chain of one card at login.
func BenchmarkVerifyPerson(b *testing.B) {
	w := newTown(b, "lab")
	der := w.issue(Cards, samples(newKey(b).Public())["person"], nil)
	for b.Loop() {
		if _, err := w.trust.VerifyPerson(der, w.now); err != nil {
			b.Fatal(err)
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package pcsc

import "testing"

// FuzzProperties reads what a reader's driver says of itself.
func FuzzProperties(f *testing.F) {
	f.Add([]byte{0x06, 4, 0, 0, 0, 1, featureProperties, 4, 0x42, 0x33, 0, 0x12}, []byte{1, 1, 7, propertyMaxAPDU, 4, 0x0a, 1, 0, 0})
	f.Add([]byte{0x06, 4, 0, 0, 0, 1}, []byte{propertyMaxAPDU, 4, 0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{0x06, 5, 0, 0, 0, 1}, []byte{1, 200})
	f.Fuzz(func(t *testing.T, features, properties []byte) {
		_ = feature(features, featureProperties)
		if n := maxAPDU(properties); n < 0 || n > 1<<16 {
			t.Fatalf("commands of %d bytes", n)
		}
	})
}

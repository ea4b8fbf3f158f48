// SPDX-License-Identifier: Apache-2.0

package attest

import (
	"testing"

	"sdbox/internal/wire"

	"github.com/google/go-tpm/tpm2"
	"github.com/stretchr/testify/require"
)

// BenchmarkMake is a box's part of an attestation: its device key read, its attestation key derived, registers, quote.
func BenchmarkMake(b *testing.B) {
	box := newBox(b)
	require.NoError(b, box.tpm.EnsureDeviceKey())
	binding := Binding{Nonce: random(b), GatewaySPKI: random(b), TunnelKey: wire.Key{1}, Exporter: random(b)}
	for b.Loop() {
		_, err := Make(box.tpm, binding, nil, box.log)
		require.NoError(b, err)
	}
}

// BenchmarkCheck is the gateway's part of it.
func BenchmarkCheck(b *testing.B) {
	q := newSoftAK(b).forge(b, func(*tpm2.TPMSAttest) {})
	for b.Loop() {
		_, err := Check(q.ev, q.want)
		require.NoError(b, err)
	}
}

// BenchmarkEnrol is both parts of an enrolment, without the network and the certificate authority.
func BenchmarkEnrol(b *testing.B) {
	box := newBox(b)
	for b.Loop() {
		req, err := NewEnrolment(box.tpm)
		require.NoError(b, err)
		e, challenge, err := Challenge(req)
		require.NoError(b, err)
		answer, err := Answer(box.tpm, challenge)
		require.NoError(b, err)
		require.NoError(b, e.Check(answer))
	}
}

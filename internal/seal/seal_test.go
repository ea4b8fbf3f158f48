// SPDX-License-Identifier: Apache-2.0

package seal

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/veraison/go-cose"
)

type claims struct {
	Box   string `cbor:"1,keyasint"`
	Epoch uint64 `cbor:"2,keyasint"`
}

func key(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	return k
}

func TestStatementOpensOnceForWhomAndAsWhatItWasSealed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, stranger := key(t), key(t)
		s, err := NewSigner(k, "gw1.lab")
		require.NoError(t, err)
		st, err := s.Seal("sdbox-grant", "box", time.Minute, claims{Box: "PARIS-0042", Epoch: 3})
		require.NoError(t, err)

		v, err := NewVerifier("box", k.Public())
		require.NoError(t, err)
		var got claims
		h, err := v.Open(st, "sdbox-grant", &got)
		require.NoError(t, err)
		require.Equal(t, claims{Box: "PARIS-0042", Epoch: 3}, got)
		require.Equal(t, "gw1.lab", h.Issuer)
		require.False(t, h.ID.IsZero())

		_, err = v.Open(st, "sdbox-result", &got)
		require.ErrorIs(t, err, ErrType)
		other, err := NewVerifier("bubble", k.Public())
		require.NoError(t, err)
		_, err = other.Open(st, "sdbox-grant", &got)
		require.ErrorIs(t, err, ErrAudience)
		foreign, err := NewVerifier("box", stranger.Public())
		require.NoError(t, err)
		_, err = foreign.Open(st, "sdbox-grant", &got)
		require.ErrorIs(t, err, ErrKey)
		var fewer struct {
			Box string `cbor:"1,keyasint"`
		}
		_, err = v.Open(st, "sdbox-grant", &fewer)
		require.ErrorIs(t, err, ErrMalformed)

		time.Sleep(time.Minute)
		_, err = v.Open(st, "sdbox-grant", &got)
		require.ErrorIs(t, err, ErrExpired)
	})
}

func TestEveryFlippedByteIsNoticed(t *testing.T) {
	k := key(t)
	s, err := NewSigner(k, "gw1.lab")
	require.NoError(t, err)
	st, err := s.Seal("t", "a", time.Minute, claims{Box: "X", Epoch: 1})
	require.NoError(t, err)
	v, err := NewVerifier("a", k.Public())
	require.NoError(t, err)
	for i := range st {
		bad := append([]byte(nil), st...)
		bad[i] ^= 0x01
		var got claims
		_, err := v.Open(bad, "t", &got)
		require.Error(t, err, "byte %d", i)
	}
}

func TestSignerTakesP256AndShortLivesOnly(t *testing.T) {
	k, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	require.NoError(t, err)
	_, err = NewSigner(k, "x")
	require.ErrorContains(t, err, "want P-256")
	s, err := NewSigner(key(t), "x")
	require.NoError(t, err)
	_, err = s.Seal("t", "a", time.Hour, claims{})
	require.ErrorContains(t, err, "at most")
	_, err = s.Seal("t", "a", time.Minute, make([]byte, MaxStatement))
	require.ErrorContains(t, err, "limit")
}

func FuzzOpen(f *testing.F) {
	k := key(f)
	s, err := NewSigner(k, "gw1.lab")
	require.NoError(f, err)
	st, err := s.Seal("t", "a", time.Minute, claims{Box: "X", Epoch: 1})
	require.NoError(f, err)
	v, err := NewVerifier("a", k.Public())
	require.NoError(f, err)
	f.Add(st)
	f.Add([]byte{0xd2, 0x84, 0x40, 0xa0, 0x40, 0x40})
	f.Add(make([]byte, MaxStatement+1))
	f.Add(append(bytes.Clone(st[:len(st)-1]), st[len(st)-1]^1))
	for _, other := range [][2]string{{"u", "a"}, {"t", "b"}} {
		st, err := s.Seal(other[0], other[1], time.Minute, claims{Box: "X"})
		require.NoError(f, err)
		f.Add(st)
	}
	more, err := s.Seal("t", "a", time.Minute, map[int]int{9: 9})
	require.NoError(f, err)
	f.Add(more)
	stranger, err := NewSigner(key(f), "gw1.lab")
	require.NoError(f, err)
	foreign, err := stranger.Seal("t", "a", time.Minute, claims{Box: "X"})
	require.NoError(f, err)
	f.Add(foreign)
	// What our signer never makes: late, early, for ever, and headers that lack something.
	for _, change := range []func(header cose.ProtectedHeader, cwt map[any]any){
		func(_ cose.ProtectedHeader, cwt map[any]any) { cwt[claimExpiry] = int64(1) },
		func(_ cose.ProtectedHeader, cwt map[any]any) { cwt[claimIssued] = time.Now().Add(time.Hour).Unix() },
		func(_ cose.ProtectedHeader, cwt map[any]any) { delete(cwt, claimID) },
		func(header cose.ProtectedHeader, _ map[any]any) { delete(header, labelType) },
	} {
		msg := cose.NewSign1Message()
		require.NoError(f, msg.UnmarshalCBOR(st))
		header := msg.Headers.Protected
		change(header, header[labelClaims].(map[any]any))
		msg.Headers.RawProtected, msg.Signature = nil, nil
		require.NoError(f, msg.Sign(rand.Reader, nil, s.cose))
		b, err := msg.MarshalCBOR()
		require.NoError(f, err)
		f.Add(b)
	}
	f.Add([]byte{0x84, 0x43, 0xa1, 0x01, 0x26, 0xa0, 0x40, 0x40})
	f.Fuzz(func(t *testing.T, b []byte) {
		var got claims
		_, _ = v.Open(b, "t", &got)
	})
}

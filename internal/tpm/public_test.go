// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"bytes"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/stretchr/testify/require"
)

// onCurve is the base point of P-256: a valid key for templates.
func onCurve() *tpm2.TPMSECCPoint {
	return &tpm2.TPMSECCPoint{
		X: tpm2.TPM2BECCParameter{Buffer: []byte{
			0x6b, 0x17, 0xd1, 0xf2, 0xe1, 0x2c, 0x42, 0x47, 0xf8, 0xbc, 0xe6, 0xe5, 0x63, 0xa4, 0x40, 0xf2,
			0x77, 0x03, 0x7d, 0x81, 0x2d, 0xeb, 0x33, 0xa0, 0xf4, 0xa1, 0x39, 0x45, 0xd8, 0x98, 0xc2, 0x96}},
		Y: tpm2.TPM2BECCParameter{Buffer: []byte{
			0x4f, 0xe3, 0x42, 0xe2, 0xfe, 0x1a, 0x7f, 0x9b, 0x8e, 0xe7, 0xeb, 0x4a, 0x7c, 0x0f, 0x9e, 0x16,
			0x2b, 0xce, 0x33, 0x57, 0x6b, 0x31, 0x5e, 0xce, 0xcb, 0xb6, 0x40, 0x68, 0x37, 0xbf, 0x51, 0xf5}},
	}
}

func withKey(template tpm2.TPMTPublic) tpm2.TPMTPublic {
	template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, onCurve())
	return template
}

func TestKeysOfAnotherKindAreRefused(t *testing.T) {
	ak := withKey(akTemplate())
	_, err := ParseAK(tpm2.Marshal(&ak))
	require.NoError(t, err)
	device := withKey(deviceTemplate())
	_, err = ParseDeviceKey(tpm2.Marshal(&device))
	require.NoError(t, err)
	_, err = ParseAK(tpm2.Marshal(&device))
	require.ErrorContains(t, err, "template", "an unrestricted key signs what its TPM did not make")

	for name, change := range map[string]func(*tpm2.TPMTPublic){
		"may leave its TPM":   func(p *tpm2.TPMTPublic) { p.ObjectAttributes.FixedTPM = false },
		"may leave its place": func(p *tpm2.TPMTPublic) { p.ObjectAttributes.FixedParent = false },
		"made elsewhere":      func(p *tpm2.TPMTPublic) { p.ObjectAttributes.SensitiveDataOrigin = false },
		"also decrypts":       func(p *tpm2.TPMTPublic) { p.ObjectAttributes.Decrypt = true },
		"other name":          func(p *tpm2.TPMTPublic) { p.NameAlg = tpm2.TPMAlgSHA1 },
		"other policy":        func(p *tpm2.TPMTPublic) { p.AuthPolicy.Buffer = make([]byte, 32) },
		"off the curve": func(p *tpm2.TPMTPublic) {
			point := onCurve()
			point.Y.Buffer[31] ^= 1
			p.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, point)
		},
		"no point": func(p *tpm2.TPMTPublic) {
			p.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{})
		},
		"long point": func(p *tpm2.TPMTPublic) {
			point := onCurve()
			point.X.Buffer = append([]byte{0}, point.X.Buffer...)
			p.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, point)
		},
		"RSA": func(p *tpm2.TPMTPublic) { *p = tpm2.RSAEKTemplate },
	} {
		bad := withKey(akTemplate())
		change(&bad)
		_, err := ParseAK(tpm2.Marshal(&bad))
		require.Error(t, err, name)
	}
	whole := tpm2.Marshal(&ak)
	for n := range whole {
		_, err := ParseAK(whole[:n])
		require.Error(t, err)
	}
	_, err = ParseAK(append(whole, 0))
	require.Error(t, err, "trailing byte")
	_, err = ParseAK(make([]byte, maxPublic+1))
	require.ErrorContains(t, err, "limit")
	ek := tpm2.RSAEKTemplate
	_, err = ParseEK(tpm2.Marshal(&ek))
	require.ErrorContains(t, err, "modulus", "the template's own modulus is zero")
}

func FuzzParsePublic(f *testing.F) {
	ak, device, ek := withKey(akTemplate()), withKey(deviceTemplate()), tpm2.RSAEKTemplate
	for _, p := range []tpm2.TPMTPublic{ak, device, ek, tpm2.ECCSRKTemplate} {
		f.Add(tpm2.Marshal(&p))
	}
	f.Add([]byte{})
	f.Add(make([]byte, maxPublic+1))
	f.Add(append(tpm2.Marshal(&ak), 0))
	ek.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: bytes.Repeat([]byte{0xc1}, 256)})
	f.Add(tpm2.Marshal(&ek))
	long := onCurve()
	long.X.Buffer = append([]byte{0}, long.X.Buffer...)
	ak.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, long)
	f.Add(tpm2.Marshal(&ak))
	ak.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{})
	f.Add(tpm2.Marshal(&ak))
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, parse := range []func([]byte) (Public, error){ParseEK, ParseAK, ParseDeviceKey} {
			p, err := parse(raw)
			if err != nil {
				continue
			}
			require.Len(t, p.Name, 34)
			require.NotEmpty(t, p.SPKI)
			require.True(t, (p.RSA == nil) != (p.EC == nil))
		}
	})
}

// tape is a TPM's socket that says all it will say at once.
type tape struct {
	net.Conn
	said *bytes.Reader
}

func (t tape) Read(b []byte) (int, error)  { return t.said.Read(b) }
func (tape) Write(b []byte) (int, error)   { return len(b), nil }
func (tape) SetDeadline(_ time.Time) error { return nil }
func (tape) Close() error                  { return nil }

func FuzzSocket(f *testing.F) {
	retry := []byte{0x80, 1, 0, 0, 0, tpmHeader, 0, 0, 9, 0x22} // TPM_RC_RETRY
	good := []byte{0x80, 1, 0, 0, 0, 12, 0, 0, 0, 0, 7, 7}
	f.Add(good)
	f.Add(append(bytes.Clone(retry), good...))
	f.Add(bytes.Repeat(retry, 5))
	f.Add(good[:11])
	f.Add(good[:4])
	f.Add([]byte{0x80, 1, 0, 0, 0, 9, 0, 0, 0, 0})
	f.Add([]byte{0x80, 1, 0, 1, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, said []byte) {
		rest := bytes.NewReader(said)
		s := &socket{dial: func() (net.Conn, error) {
			if len(said) == 0 {
				return nil, errors.New("nobody there")
			}
			return tape{said: rest}, nil
		}}
		response, err := s.Send(retry)
		require.True(t, err != nil || len(response) >= tpmHeader && len(response) <= maxTPMResponse)
	})
}

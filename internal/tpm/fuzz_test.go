// SPDX-License-Identifier: Apache-2.0

package tpm_test

import (
	"encoding/binary"
	"errors"
	"testing"

	"sdbox/internal/tpm"

	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"
	"github.com/stretchr/testify/require"
)

// commandsAtMost is more than a hostile TPM can make the box send in all of its calls.
const commandsAtMost = 500

// replay is a TPM that gives the fuzzer's bytes, each response after its 16-bit length, and is then gone.
type replay struct {
	rest  []byte
	count int
}

func (r *replay) Send([]byte) ([]byte, error) {
	if r.count++; r.count > commandsAtMost {
		panic("a TPM keeps the box busy for ever")
	}
	if len(r.rest) < 2 {
		return nil, errors.New("gone")
	}
	n := min(int(binary.BigEndian.Uint16(r.rest)), len(r.rest)-2)
	response := r.rest[2 : 2+n]
	r.rest = r.rest[2+n:]
	return response, nil
}

func (*replay) Close() error { return nil }

// recorder keeps a TPM's responses as replay wants them.
type recorder struct {
	transport.TPMCloser
	responses []byte
}

func (r *recorder) Send(command []byte) ([]byte, error) {
	response, err := r.TPMCloser.Send(command)
	r.responses = append(binary.BigEndian.AppendUint16(r.responses, uint16(len(response))), response...)
	return response, err
}

// calls are what the box asks of its TPM, each a part of a boot.
func calls(certificate []byte) []func(*tpm.TPM) error {
	return []func(*tpm.TPM) error{
		func(d *tpm.TPM) error { _, err := d.EndorsementKey(); return err },
		func(d *tpm.TPM) error { _, err := d.EKCertificate(); return err },
		func(d *tpm.TPM) error { _, err := d.AttestationKey(); return err },
		(*tpm.TPM).EnsureDeviceKey,
		func(d *tpm.TPM) error { _, err := d.DevicePublic(); return err },
		func(d *tpm.TPM) error { _, _, err := d.CertifyDeviceKey([]byte("q")); return err },
		func(d *tpm.TPM) error { return d.StoreCertificate(certificate) },
		func(d *tpm.TPM) error { _, err := d.Certificate(); return err },
		func(d *tpm.TPM) error {
			_, err := d.Quote([]uint8{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 14}, [32]byte{1})
			return err
		},
		func(d *tpm.TPM) error { _, err := d.ReadPCRs([]uint8{7}); return err },
		func(d *tpm.TPM) error { return d.Extend(14, [32]byte{2}) },
		func(d *tpm.TPM) error { _, err := d.ActivateCredential([]byte{0, 1, 2}, []byte{0, 1, 2}); return err },
		func(d *tpm.TPM) error {
			key, err := d.DeviceKey()
			if err == nil {
				_, err = key.Sign(nil, make([]byte, 32), nil)
			}
			return err
		},
	}
}

// FuzzAnswers plays a hostile TPM through every call of the box. Its seeds are what a good one said, call by call.
func FuzzAnswers(f *testing.F) {
	m := newMachine(f)
	opened := m.open(f)
	certificate := selfSigned(f, deviceKey(f, opened), 1, 40)
	require.NoError(f, opened.Close())
	for i, call := range calls(certificate) {
		raw, err := linuxudstpm.Open(m.cfg.Socket)
		require.NoError(f, err)
		r := &recorder{TPMCloser: raw}
		dev, err := tpm.New(r)
		require.NoError(f, err)
		if err := call(dev); err != nil {
			f.Logf("call %d: %v", i, err)
		}
		require.NoError(f, dev.Close())
		f.Add(r.responses, byte(i))
		f.Add(r.responses[:len(r.responses)*2/3], byte(i))
	}
	all := calls(certificate)
	f.Fuzz(func(t *testing.T, responses []byte, which byte) {
		dev, err := tpm.New(&replay{rest: responses})
		if err == nil {
			_ = all[int(which)%len(all)](dev)
		}
	})
}

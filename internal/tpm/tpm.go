// SPDX-License-Identifier: Apache-2.0

// Package tpm gives an SD-Box the few things it asks of its TPM 2.0: the machine's endorsement and attestation keys, a device
// key that never leaves the chip, a place for the device certificate, and quotes over the platform's registers.
//
// Everything is reached by one connection, one command at a time: a TPM has room for three keys and three sessions, so each
// operation takes the lock, loads what it needs and flushes it before it lets go. Keys are used with an empty password. What
// protects them is that the chip alone holds them, and that the attestation key signs nothing the chip did not make itself.
//
// Sources: TCG "TPM 2.0 Library" (Parts 1-3), "PC Client Platform TPM Profile" and "EK Credential Profile".
package tpm

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxtpm"
)

// Where things live in the TPM.
const (
	DeviceKeyHandle  = 0x81000010 // persistent, owner hierarchy
	CertificateIndex = 0x01800010 // NV, owner range
	CertificateSpace = 1536       // bytes of NV at CertificateIndex

	ekHandle       = 0x81010001 // EK Credential Profile 2.5, 2.2.2: RSA-2048 EK
	ekCertIndex    = 0x01c00002 // EK Credential Profile 2.5, 2.2.1.4: RSA-2048 EK certificate
	maxEKCert      = 8192       // ours: the largest seen is 1.6 kB
	nvChunk        = 512        // PC Client Platform TPM Profile 1.05, 4.4: TPM_PT_NV_BUFFER_MAX is at least this
	quoteAttempts  = 3          // ours: registers may change between reading and quoting
	socketPrefix   = "unix:"
	maxTPMResponse = 4096 // PC Client Platform TPM Profile 1.05: TPM_PT_MAX_RESPONSE_SIZE
)

// The states of a TPM a caller acts on.
var (
	ErrNoDeviceKey   = errors.New("the TPM holds no device key")
	ErrNoCertificate = errors.New("the TPM holds no whole device certificate")
	ErrClosed        = errors.New("the TPM is closed")
)

// TPM is one machine's TPM. Its methods may be called from any goroutine.
type TPM struct {
	mu     sync.Mutex
	device transport.TPMCloser // guarded by mu; nil once closed
}

// Open opens "/dev/tpmrm0" or, for a simulated TPM, "unix:PATH". It fails if the device does not answer as a TPM 2.0 with an
// active SHA-256 bank of registers.
func Open(spec string) (*TPM, error) {
	var device transport.TPMCloser
	var err error
	if path, simulated := strings.CutPrefix(spec, socketPrefix); simulated {
		device = &socket{dial: func() (net.Conn, error) { return net.DialTimeout("unix", path, socketTimeout) }}
	} else {
		if !filepath.IsAbs(spec) {
			return nil, fmt.Errorf("open TPM %.80q: want a device such as /dev/tpmrm0, or unix:PATH", spec)
		}
		if device, err = linuxtpm.Open(spec); err != nil {
			return nil, fmt.Errorf("open TPM %s: %w", spec, err)
		}
	}
	t, err := New(device)
	if err != nil {
		return nil, fmt.Errorf("open TPM %s: %w", spec, errors.Join(err, device.Close()))
	}
	return t, nil
}

// New speaks to a TPM over a connection the caller has made; Close closes it.
func New(device transport.TPMCloser) (*TPM, error) {
	t := &TPM{device: device}
	return t, t.do("check the SHA-256 registers", checkBank)
}

// Close ends the connection. Signers made from this TPM fail with ErrClosed from then on.
func (t *TPM) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.device == nil {
		return nil
	}
	err := t.device.Close()
	t.device = nil
	if err != nil {
		return fmt.Errorf("close TPM: %w", err)
	}
	return nil
}

// do runs one operation, whatever number of commands it takes, with the TPM to itself.
func (t *TPM) do(what string, f func(device transport.TPM) error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.device == nil {
		return fmt.Errorf("%s: %w", what, ErrClosed)
	}
	if err := f(t.device); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

func checkBank(device transport.TPM) error {
	rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapPCRs, PropertyCount: 1}.Execute(device)
	if err != nil {
		return err
	}
	banks, err := rsp.CapabilityData.Data.AssignedPCR()
	if err != nil {
		return err
	}
	for _, bank := range banks.PCRSelections {
		if bank.Hash == tpm2.TPMAlgSHA256 && len(bank.PCRSelect) >= 3 && bank.PCRSelect[0]&bank.PCRSelect[1]&bank.PCRSelect[2] == 0xff {
			return nil
		}
	}
	return errors.New("the SHA-256 bank is not active: switch it on in the firmware's TPM settings")
}

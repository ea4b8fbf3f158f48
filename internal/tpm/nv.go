// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"crypto/sha256"
	"encoding/asn1"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// MaxCertificate is the longest device certificate the TPM keeps, in bytes of DER: the last 32 bytes of its space hold the
// SHA-256 by which a write that lost power halfway is told from a whole one.
const MaxCertificate = CertificateSpace - sha256.Size

// EKCertificate returns the certificate of the endorsement key as the manufacturer wrote it, X.509 DER, or nothing if there is
// none. Whether it is this key's certificate, and who signed it, is the gateway's to check.
func (t *TPM) EKCertificate() ([]byte, error) {
	var der []byte
	return der, t.do("read endorsement certificate", func(device transport.TPM) error {
		index, size, err := findIndex(device, ekCertIndex)
		if isAbsent(err) {
			return nil
		}
		if err != nil {
			return err
		}
		if size > maxEKCert {
			return fmt.Errorf("its index has %d bytes, limit %d", size, maxEKCert)
		}
		space, err := readIndex(device, index, size)
		if err != nil {
			return err
		}
		der, err = cut(space)
		return err
	})
}

// StoreCertificate keeps a device certificate, X.509 DER of at most MaxCertificate bytes, in place of the one before it. On
// return it is durable. If the power fails meanwhile, Certificate says ErrNoCertificate and the box enrols again. The first
// call needs the owner's password to be empty.
func (t *TPM) StoreCertificate(der []byte) error {
	return t.do("store device certificate", func(device transport.TPM) error {
		if whole, err := cut(der); err != nil || len(whole) != len(der) {
			return errors.New("not one DER structure")
		}
		if len(der) > MaxCertificate {
			return fmt.Errorf("%d bytes, the TPM keeps %d", len(der), MaxCertificate)
		}
		space := make([]byte, CertificateSpace)
		copy(space, der)
		sum := sha256.Sum256(der)
		copy(space[MaxCertificate:], sum[:])
		index, err := ensureIndex(device)
		if err != nil {
			return err
		}
		return writeIndex(device, index, space)
	})
}

// Certificate returns the device certificate as it was stored, or ErrNoCertificate.
func (t *TPM) Certificate() ([]byte, error) {
	var der []byte
	return der, t.do("read device certificate", func(device transport.TPM) error {
		index, size, err := findIndex(device, CertificateIndex)
		if isAbsent(err) || err == nil && size != CertificateSpace {
			return ErrNoCertificate
		}
		if err != nil {
			return err
		}
		space, err := readIndex(device, index, size)
		if errors.Is(err, tpm2.TPMRCNVUninitialized) {
			return ErrNoCertificate
		}
		if err != nil {
			return err
		}
		whole, err := cut(space[:MaxCertificate])
		if err != nil || sha256.Sum256(whole) != [sha256.Size]byte(space[MaxCertificate:]) {
			return ErrNoCertificate
		}
		der = whole
		return nil
	})
}

// cut returns the first DER structure of an index, which is as a rule longer than what it holds.
func cut(space []byte) ([]byte, error) {
	var outer asn1.RawValue
	if _, err := asn1.Unmarshal(space, &outer); err != nil {
		return nil, fmt.Errorf("no certificate in it: %w", err)
	}
	return outer.FullBytes, nil
}

func findIndex(device transport.TPM, handle tpm2.TPMHandle) (tpm2.NamedHandle, uint16, error) {
	rsp, err := tpm2.NVReadPublic{NVIndex: handle}.Execute(device)
	if err != nil {
		return tpm2.NamedHandle{}, 0, err
	}
	public, err := rsp.NVPublic.Contents()
	if err != nil {
		return tpm2.NamedHandle{}, 0, err
	}
	return tpm2.NamedHandle{Handle: handle, Name: rsp.NVName}, public.DataSize, nil
}

// ensureIndex finds or makes the device certificate's index. It is written by its own, empty, password and not the owner's,
// so that the agent can store a renewed certificate after the owner's password was set.
func ensureIndex(device transport.TPM) (tpm2.NamedHandle, error) {
	index, size, err := findIndex(device, CertificateIndex)
	if err == nil && size != CertificateSpace {
		return index, fmt.Errorf("its index %#x has %d bytes, want %d", CertificateIndex, size, CertificateSpace)
	}
	if !isAbsent(err) {
		return index, err
	}
	_, err = tpm2.NVDefineSpace{
		AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
		PublicInfo: tpm2.New2B(tpm2.TPMSNVPublic{
			NVIndex:    CertificateIndex,
			NameAlg:    tpm2.TPMAlgSHA256,
			Attributes: tpm2.TPMANV{AuthWrite: true, AuthRead: true, NoDA: true, NT: tpm2.TPMNTOrdinary},
			DataSize:   CertificateSpace,
		}),
	}.Execute(device)
	if err != nil {
		return index, fmt.Errorf("define its index: %w", err)
	}
	index, _, err = findIndex(device, CertificateIndex)
	return index, err
}

func withAuth(index tpm2.NamedHandle) tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: index.Handle, Name: index.Name, Auth: tpm2.PasswordAuth(nil)}
}

func readIndex(device transport.TPM, index tpm2.NamedHandle, size uint16) ([]byte, error) {
	space := make([]byte, 0, size)
	for len(space) < int(size) {
		want := min(nvChunk, int(size)-len(space))
		rsp, err := tpm2.NVRead{AuthHandle: withAuth(index), NVIndex: index, Size: uint16(want), Offset: uint16(len(space))}.Execute(device)
		if err != nil {
			return nil, err
		}
		if len(rsp.Data.Buffer) != want {
			return nil, fmt.Errorf("the TPM gave %d bytes of %d", len(rsp.Data.Buffer), want)
		}
		space = append(space, rsp.Data.Buffer...)
	}
	return space, nil
}

// writeIndex reads the index's Name before its first write and again after it: the first write changes it.
func writeIndex(device transport.TPM, index tpm2.NamedHandle, space []byte) error {
	for at := 0; at < len(space); at += nvChunk {
		end := min(at+nvChunk, len(space))
		_, err := tpm2.NVWrite{AuthHandle: withAuth(index), NVIndex: index, Data: tpm2.TPM2BMaxNVBuffer{Buffer: space[at:end]}, Offset: uint16(at)}.Execute(device)
		if err != nil {
			return fmt.Errorf("at byte %d: %w", at, err)
		}
		if index, _, err = findIndex(device, index.Handle); err != nil {
			return fmt.Errorf("read its name: %w", err)
		}
	}
	return nil
}

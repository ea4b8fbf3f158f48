// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// PCR is one register of the SHA-256 bank.
type PCR struct {
	Index  uint8
	Digest [32]byte
}

// Quote is a statement of the attestation key over registers, and their values.
type Quote struct {
	Attest    []byte // TPMS_ATTEST of type quote (TPM 2.0 Part 2, 10.12.12)
	Signature []byte // TPMT_SIGNATURE over it
	PCRs      []PCR  // in index order; their digest is in Attest
	AK        Public // the attestation key that signed
}

// Quote has the attestation key state the registers' values, for the reader who gave qualifying (TPM 2.0 Part 3, 18.4). The
// registers are given in rising order.
func (t *TPM) Quote(registers []uint8, qualifying [32]byte) (Quote, error) {
	var q Quote
	return q, t.do("quote", func(device transport.TPM) error {
		return withAK(device, func(ak key) error {
			for range quoteAttempts {
				var err error
				if q, err = quote(device, ak, registers, qualifying); !errors.Is(err, errMoved) {
					return err
				}
			}
			return errMoved
		})
	})
}

// errMoved says that a register changed between being read and being quoted.
var errMoved = errors.New("the registers changed meanwhile")

func quote(device transport.TPM, ak key, registers []uint8, qualifying [32]byte) (Quote, error) {
	values, err := readPCRs(device, registers)
	if err != nil {
		return Quote{}, err
	}
	rsp, err := tpm2.Quote{
		SignHandle:     ak.auth(),
		QualifyingData: tpm2.TPM2BData{Buffer: qualifying[:]},
		InScheme:       tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
		PCRSelect:      selection(registers),
	}.Execute(device)
	if err != nil {
		return Quote{}, err
	}
	attest, err := rsp.Quoted.Contents()
	if err != nil {
		return Quote{}, err
	}
	info, err := attest.Attested.Quote()
	if err != nil {
		return Quote{}, err
	}
	if digest := DigestPCRs(values); !bytes.Equal(info.PCRDigest.Buffer, digest[:]) {
		return Quote{}, errMoved
	}
	return Quote{Attest: rsp.Quoted.Bytes(), Signature: tpm2.Marshal(rsp.Signature), PCRs: values, AK: ak.public}, nil
}

// DigestPCRs is what a quote says of registers: SHA-256 of their values in index order (TPM 2.0 Part 3, 18.4.1).
func DigestPCRs(values []PCR) [32]byte {
	h := sha256.New()
	for _, v := range values {
		h.Write(v.Digest[:])
	}
	return [32]byte(h.Sum(nil))
}

// ReadPCRs returns the values of registers, given in rising order.
func (t *TPM) ReadPCRs(registers []uint8) ([]PCR, error) {
	var values []PCR
	return values, t.do("read registers", func(device transport.TPM) error {
		var err error
		values, err = readPCRs(device, registers)
		return err
	})
}

// Extend adds a digest to a register: its value becomes SHA-256(value || digest) (TPM 2.0 Part 1, 17.2).
func (t *TPM) Extend(register uint8, digest [32]byte) error {
	return t.do(fmt.Sprintf("extend register %d", register), func(device transport.TPM) error {
		_, err := tpm2.PCRExtend{
			PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(register), Auth: tpm2.PasswordAuth(nil)},
			Digests: tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{{
				HashAlg: tpm2.TPMAlgSHA256, Digest: digest[:],
			}}},
		}.Execute(device)
		return err
	})
}

// readPCRs asks again for what a response leaves out: a TPM gives at most 8 digests at a time.
func readPCRs(device transport.TPM, registers []uint8) ([]PCR, error) {
	if !slices.IsSorted(registers) || len(slices.Compact(slices.Clone(registers))) != len(registers) {
		return nil, errors.New("the registers are not in rising order")
	}
	values := make([]PCR, 0, len(registers))
	for left := registers; len(left) > 0; {
		rsp, err := tpm2.PCRRead{PCRSelectionIn: selection(left)}.Execute(device)
		if err != nil {
			return nil, err
		}
		n := len(rsp.PCRValues.Digests)
		if n == 0 || n > len(left) {
			return nil, fmt.Errorf("the TPM gave %d values of %d", n, len(left))
		}
		for i, d := range rsp.PCRValues.Digests {
			if len(d.Buffer) != sha256.Size {
				return nil, fmt.Errorf("register %d has %d bytes", left[i], len(d.Buffer))
			}
			values = append(values, PCR{Index: left[i], Digest: [32]byte(d.Buffer)})
		}
		left = left[n:]
	}
	return values, nil
}

func selection(registers []uint8) tpm2.TPMLPCRSelection {
	wide := make([]uint, len(registers))
	for i, r := range registers {
		wide[i] = uint(r)
	}
	return tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{
		Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(wide...),
	}}}
}

// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"math/big"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// key is a key in the TPM, for the length of one operation.
type key struct {
	handle tpm2.TPMHandle
	public Public
}

// auth uses the key with its empty password.
func (k key) auth() tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: k.handle, Name: tpm2.TPM2BName{Buffer: k.public.Name}, Auth: tpm2.PasswordAuth(nil)}
}

// EndorsementKey returns the public endorsement key: which machine this is.
func (t *TPM) EndorsementKey() (Public, error) {
	var ek Public
	return ek, t.do("read endorsement key", func(device transport.TPM) error {
		return withEK(device, func(k key) error { ek = k.public; return nil })
	})
}

// AttestationKey returns the public attestation key: who signs this machine's quotes. It is the same for the life of the
// machine's endorsement seed, across owners and TPM2_Clear.
func (t *TPM) AttestationKey() (Public, error) {
	var ak Public
	return ak, t.do("read attestation key", func(device transport.TPM) error {
		return withAK(device, func(k key) error { ak = k.public; return nil })
	})
}

// EnsureDeviceKey makes the device key if the TPM holds none; once it returns, the key is durable. It needs the owner's
// password to be empty, as it is until a box's first boot ends. Another key in its place is an error: nothing is deleted.
func (t *TPM) EnsureDeviceKey() error {
	return t.do("make device key", func(device transport.TPM) error {
		_, err := deviceKey(device)
		if !errors.Is(err, ErrNoDeviceKey) {
			return err
		}
		return makeDeviceKey(device)
	})
}

// DevicePublic returns the public device key, or ErrNoDeviceKey.
func (t *TPM) DevicePublic() (Public, error) {
	var dk Public
	return dk, t.do("read device key", func(device transport.TPM) error {
		k, err := deviceKey(device)
		dk = k.public
		return err
	})
}

// CertifyDeviceKey has the attestation key state that the device key lives in the same TPM, for the reader who gave
// qualifying (at most 32 bytes). It returns a TPMS_ATTEST and its TPMT_SIGNATURE (TPM 2.0 Part 3, 18.2).
func (t *TPM) CertifyDeviceKey(qualifying []byte) (attest, signature []byte, err error) {
	err = t.do("certify device key", func(device transport.TPM) error {
		dk, err := deviceKey(device)
		if err != nil {
			return err
		}
		return withAK(device, func(ak key) error {
			rsp, err := tpm2.Certify{
				ObjectHandle:   dk.auth(),
				SignHandle:     ak.auth(),
				QualifyingData: tpm2.TPM2BData{Buffer: qualifying},
				InScheme:       tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
			}.Execute(device)
			if err != nil {
				return err
			}
			attest, signature = rsp.CertifyInfo.Bytes(), tpm2.Marshal(rsp.Signature)
			return nil
		})
	})
	return attest, signature, err
}

// ActivateCredential opens a credential made for this TPM's endorsement and attestation keys (TPM 2.0 Part 1, 24) and returns
// what was in it. credential is the contents of a TPM2B_ID_OBJECT, secret those of a TPM2B_ENCRYPTED_SECRET.
func (t *TPM) ActivateCredential(credential, secret []byte) ([]byte, error) {
	var opened []byte
	return opened, t.do("activate credential", func(device transport.TPM) error {
		return withEK(device, func(ek key) error {
			return withAK(device, func(ak key) error {
				var err error
				opened, err = activate(device, ek, ak, credential, secret)
				return err
			})
		})
	})
}

// activate uses a session the caller of go-tpm closes itself: its just-in-time sessions leak when their policy fails.
func activate(device transport.TPM, ek, ak key, credential, secret []byte) (opened []byte, err error) {
	session, closeSession, err := tpm2.PolicySession(device, tpm2.TPMAlgSHA256, 16)
	if err != nil {
		return nil, fmt.Errorf("open session: %w", err)
	}
	defer func() { err = errors.Join(err, closeSession()) }()
	if _, err := (tpm2.PolicySecret{
		AuthHandle:    tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)},
		PolicySession: session.Handle(),
		NonceTPM:      session.NonceTPM(),
	}).Execute(device); err != nil {
		return nil, fmt.Errorf("policy of the endorsement key: %w", err)
	}
	rsp, err := tpm2.ActivateCredential{
		ActivateHandle: ak.auth(),
		KeyHandle:      tpm2.AuthHandle{Handle: ek.handle, Name: tpm2.TPM2BName{Buffer: ek.public.Name}, Auth: session},
		CredentialBlob: tpm2.TPM2BIDObject{Buffer: credential},
		Secret:         tpm2.TPM2BEncryptedSecret{Buffer: secret},
	}.Execute(device)
	if err != nil {
		return nil, err
	}
	return rsp.CertInfo.Buffer, nil
}

// DeviceKey returns the device key for use in a tls.Certificate: it signs SHA-256 digests only, and its answers are ECDSA
// ASN.1 DER. It is safe for use by several goroutines. ErrNoDeviceKey says that EnsureDeviceKey is to be called first.
func (t *TPM) DeviceKey() (crypto.Signer, error) {
	public, err := t.DevicePublic()
	if err != nil {
		return nil, err
	}
	return &deviceSigner{tpm: t, key: key{handle: DeviceKeyHandle, public: public}}, nil
}

type deviceSigner struct {
	tpm *TPM
	key key
}

func (s *deviceSigner) Public() crypto.PublicKey { return s.key.public.EC }

func (s *deviceSigner) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if opts == nil || opts.HashFunc() != crypto.SHA256 || len(digest) != sha256.Size {
		return nil, errors.New("sign with device key: it signs SHA-256 digests only")
	}
	var der []byte
	return der, s.tpm.do("sign with device key", func(device transport.TPM) error {
		rsp, err := tpm2.Sign{
			KeyHandle:  s.key.auth(),
			Digest:     tpm2.TPM2BDigest{Buffer: digest},
			InScheme:   tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
			Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck, Hierarchy: tpm2.TPMRHNull},
		}.Execute(device)
		if err != nil {
			return err
		}
		signature, err := rsp.Signature.Signature.ECDSA()
		if err != nil {
			return err
		}
		r, s := new(big.Int).SetBytes(signature.SignatureR.Buffer), new(big.Int).SetBytes(signature.SignatureS.Buffer)
		der, err = asn1.Marshal(struct{ R, S *big.Int }{r, s})
		return err
	})
}

// withEK lends the endorsement key. Making it takes a real TPM seconds, so the one the manufacturer stored is used if it has
// the TCG's template; if it is a stranger's, the machine is not found in the registry, and that is all.
func withEK(device transport.TPM, f func(key) error) error {
	stored, err := readPublic(device, ekHandle)
	if err != nil && !isAbsent(err) {
		return fmt.Errorf("stored endorsement key: %w", err)
	}
	if err == nil {
		if public, err := ParseEK(stored); err == nil {
			return f(key{handle: ekHandle, public: public})
		}
	}
	return withPrimary(device, tpm2.TPMRHEndorsement, tpm2.RSAEKTemplate, ParseEK, f)
}

func withAK(device transport.TPM, f func(key) error) error {
	return withPrimary(device, tpm2.TPMRHEndorsement, akTemplate(), ParseAK, f)
}

// withPrimary derives a key from a hierarchy's seed, lends it, and flushes it.
func withPrimary(device transport.TPM, hierarchy tpm2.TPMHandle, template tpm2.TPMTPublic, parse func([]byte) (Public, error), f func(key) error) (err error) {
	rsp, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.AuthHandle{Handle: hierarchy, Auth: tpm2.PasswordAuth(nil)},
		InPublic:      tpm2.New2B(template),
	}.Execute(device)
	if err != nil {
		return fmt.Errorf("derive key: %w", err)
	}
	defer func() { err = errors.Join(err, flush(device, rsp.ObjectHandle)) }()
	public, err := parse(rsp.OutPublic.Bytes())
	if err != nil {
		return err
	}
	return f(key{handle: rsp.ObjectHandle, public: public})
}

func deviceKey(device transport.TPM) (key, error) {
	raw, err := readPublic(device, DeviceKeyHandle)
	if isAbsent(err) {
		return key{}, ErrNoDeviceKey
	}
	if err != nil {
		return key{}, err
	}
	public, err := ParseDeviceKey(raw)
	if err != nil {
		return key{}, fmt.Errorf("another key is in its place: %w", err)
	}
	return key{handle: DeviceKeyHandle, public: public}, nil
}

func makeDeviceKey(device transport.TPM) error {
	raw := func(raw []byte) (Public, error) { // the storage root key follows the TCG's template by construction
		pub, err := tpm2.Unmarshal[tpm2.TPMTPublic](raw)
		if err != nil {
			return Public{}, err
		}
		name, err := tpm2.ObjectName(pub)
		if err != nil {
			return Public{}, err
		}
		return Public{Raw: raw, Name: name.Buffer}, nil
	}
	return withPrimary(device, tpm2.TPMRHOwner, tpm2.ECCSRKTemplate, raw, func(srk key) (err error) {
		created, err := tpm2.Create{ParentHandle: srk.auth(), InPublic: tpm2.New2B(deviceTemplate())}.Execute(device)
		if err != nil {
			return fmt.Errorf("create: %w", err)
		}
		loaded, err := tpm2.Load{ParentHandle: srk.auth(), InPrivate: created.OutPrivate, InPublic: created.OutPublic}.Execute(device)
		if err != nil {
			return fmt.Errorf("load: %w", err)
		}
		defer func() { err = errors.Join(err, flush(device, loaded.ObjectHandle)) }()
		_, err = tpm2.EvictControl{
			Auth:             tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
			ObjectHandle:     &tpm2.NamedHandle{Handle: loaded.ObjectHandle, Name: loaded.Name},
			PersistentHandle: DeviceKeyHandle,
		}.Execute(device)
		if err != nil {
			return fmt.Errorf("make durable: %w", err)
		}
		return nil
	})
}

func readPublic(device transport.TPM, handle tpm2.TPMHandle) ([]byte, error) {
	rsp, err := tpm2.ReadPublic{ObjectHandle: handle}.Execute(device)
	if err != nil {
		return nil, err
	}
	return bytes.Clone(rsp.OutPublic.Bytes()), nil
}

func flush(device transport.TPM, handle tpm2.TPMHandle) error {
	if _, err := (tpm2.FlushContext{FlushHandle: handle}).Execute(device); err != nil {
		return fmt.Errorf("flush %#x: %w", uint32(handle), err)
	}
	return nil
}

// isAbsent says that nothing is at a handle (TPM 2.0 Part 3, 12.4 and 31.6: TPM_RC_HANDLE).
func isAbsent(err error) bool { return errors.Is(err, tpm2.TPMRCHandle) }

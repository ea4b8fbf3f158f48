// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"

	"github.com/google/go-tpm/tpm2"
)

// maxPublic is ours: a TPMT_PUBLIC of an RSA-2048 key is 314 bytes.
const maxPublic = 1024

// akLabel makes the attestation key: the same label gives the same key on the same TPM, so nothing of it is stored.
const akLabel = "sdbox attestation key 1"

// Public is the public area of a TPM key, whose template was checked.
type Public struct {
	Raw  []byte // TPMT_PUBLIC (TPM 2.0 Part 2, 12.2.4)
	Name []byte // algorithm and SHA-256 of Raw: 34 bytes (TPM 2.0 Part 1, 16)
	SPKI []byte // X.509 SubjectPublicKeyInfo, DER
	RSA  *rsa.PublicKey
	EC   *ecdsa.PublicKey // P-256
}

// ParseEK reads the public area of an endorsement key and refuses any other template than the TCG's RSA-2048 one (EK
// Credential Profile 2.5, B.3.3): its holder can only decrypt credentials with it. The bytes may come from anyone.
func ParseEK(raw []byte) (Public, error) { return parse("endorsement key", raw, tpm2.RSAEKTemplate) }

// ParseAK reads the public area of an attestation key and refuses one that may sign what its TPM did not make, that may leave
// its TPM, or that is not ECDSA P-256 with SHA-256. The bytes may come from anyone.
func ParseAK(raw []byte) (Public, error) { return parse("attestation key", raw, akTemplate()) }

// ParseDeviceKey reads the public area of a device key and refuses one that may leave its TPM or was not made there, or that
// is not ECDSA P-256 with SHA-256. The bytes may come from anyone.
func ParseDeviceKey(raw []byte) (Public, error) { return parse("device key", raw, deviceTemplate()) }

// EKHash is the name under which a machine is registered: SHA-256 over its endorsement key's SubjectPublicKeyInfo.
func EKHash(ekPublic []byte) ([32]byte, error) {
	ek, err := ParseEK(ekPublic)
	if err != nil {
		return [32]byte{}, err
	}
	return sha256.Sum256(ek.SPKI), nil
}

// parse reads a public area that must equal the template in everything but the key itself.
func parse(what string, raw []byte, template tpm2.TPMTPublic) (Public, error) {
	if len(raw) > maxPublic {
		return Public{}, fmt.Errorf("%s: %d bytes, limit %d", what, len(raw), maxPublic)
	}
	pub, err := tpm2.Unmarshal[tpm2.TPMTPublic](raw)
	if err != nil {
		return Public{}, fmt.Errorf("%s: %w", what, err)
	}
	if pub.Type != template.Type {
		return Public{}, fmt.Errorf("%s: key type %v, want %v", what, pub.Type, template.Type)
	}
	if !bytes.Equal(tpm2.Marshal(pub), raw) {
		return Public{}, fmt.Errorf("%s: more or other bytes than its structure has", what)
	}
	bare := *pub
	bare.Unique = template.Unique
	if !bytes.Equal(tpm2.Marshal(&bare), tpm2.Marshal(&template)) {
		return Public{}, fmt.Errorf("%s: its attributes or algorithms are not those of its template", what)
	}
	p := Public{Raw: raw}
	if err := p.setKey(pub); err != nil {
		return Public{}, fmt.Errorf("%s: %w", what, err)
	}
	name, err := tpm2.ObjectName(pub)
	if err != nil {
		return Public{}, fmt.Errorf("%s: name: %w", what, err)
	}
	p.Name = name.Buffer
	return p, nil
}

func (p *Public) setKey(pub *tpm2.TPMTPublic) error {
	var key any
	switch pub.Type {
	case tpm2.TPMAlgRSA:
		n, err := pub.Unique.RSA()
		if err != nil {
			return err
		}
		modulus := new(big.Int).SetBytes(n.Buffer)
		if len(n.Buffer) != 256 || modulus.BitLen() != 2048 || modulus.Bit(0) == 0 {
			return errors.New("modulus is not an odd number of 2048 bits")
		}
		p.RSA = &rsa.PublicKey{N: modulus, E: 65537}
		key = p.RSA
	case tpm2.TPMAlgECC:
		point, err := pub.Unique.ECC()
		if err != nil {
			return err
		}
		if p.EC, err = p256(point); err != nil {
			return err
		}
		key = p.EC
	default:
		return fmt.Errorf("key type %v", pub.Type)
	}
	var err error
	if p.SPKI, err = x509.MarshalPKIXPublicKey(key); err != nil {
		return fmt.Errorf("encode key: %w", err)
	}
	return nil
}

// p256 refuses a point off the curve. A TPM may leave out a coordinate's leading zeros.
func p256(point *tpm2.TPMSECCPoint) (*ecdsa.PublicKey, error) {
	const size = 32
	x, y := point.X.Buffer, point.Y.Buffer
	if len(x) > size || len(y) > size {
		return nil, errors.New("a coordinate is longer than 32 bytes")
	}
	sec1 := make([]byte, 1+2*size)
	sec1[0] = 4 // uncompressed (SEC 1, 2.3.3)
	copy(sec1[1+size-len(x):], x)
	copy(sec1[1+2*size-len(y):], y)
	return ecdsa.ParseUncompressedPublicKey(elliptic.P256(), sec1)
}

// signer is a P-256 key for ECDSA with SHA-256 that was made in its TPM and never leaves it. NoDA, because a machine that
// loses power has its TPM count the use of a key without it as a failed password, until it locks itself.
func signer(restricted bool, unique tpm2.TPMSECCPoint) tpm2.TPMTPublic {
	return tpm2.TPMTPublic{
		Type:    tpm2.TPMAlgECC,
		NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{
			FixedTPM:            true,
			FixedParent:         true,
			SensitiveDataOrigin: true,
			UserWithAuth:        true,
			NoDA:                true,
			Restricted:          restricted,
			SignEncrypt:         true,
		},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			Scheme: tpm2.TPMTECCScheme{
				Scheme:  tpm2.TPMAlgECDSA,
				Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256}),
			},
			CurveID: tpm2.TPMECCNistP256,
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &unique),
	}
}

func akTemplate() tpm2.TPMTPublic {
	label := sha256.Sum256([]byte(akLabel))
	return signer(true, tpm2.TPMSECCPoint{X: tpm2.TPM2BECCParameter{Buffer: label[:]}})
}

func deviceTemplate() tpm2.TPMTPublic { return signer(false, tpm2.TPMSECCPoint{}) }

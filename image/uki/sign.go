// SPDX-License-Identifier: Apache-2.0

package uki

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	encasn1 "encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/foxboron/go-uefi/authenticode"
	"github.com/foxboron/go-uefi/pkcs7"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// ErrUnsigned is wrapped by Verify and Signer when no signature of the image holds.
var ErrUnsigned = errors.New("no signature of this key holds")

// Digest is what Authenticode signs and the firmware measures: the hash of the file without its signatures.
func (i *Image) Digest() [32]byte { return imageHash(i.raw, i.head) }

// LinuxDigest is the same of the kernel in the image, which a firmware measures when the stub has it start the kernel.
func (i *Image) LinuxDigest() ([32]byte, error) {
	kernel := i.Section(Linux)
	h, _, err := parsePE(kernel)
	if err == nil {
		_, err = certificateTable(kernel, h)
	}
	if err != nil {
		return [32]byte{}, fmt.Errorf("kernel in the image: %w", err)
	}
	return imageHash(kernel, h), nil
}

// Sign returns the image signed by this key alone: signatures it has are taken off. The key may live in a token; certificate is its
// own, RSA with 2048 bits or more, as firmware asks. There is no signing time in it: the same image and key give the same bytes.
func Sign(image []byte, key crypto.Signer, certificate *x509.Certificate) ([]byte, error) {
	i, err := Parse(image)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	public, ok := certificate.PublicKey.(*rsa.PublicKey)
	if !ok || public.N.BitLen() < 2048 {
		return nil, errors.New("sign: want a certificate for an RSA key of 2048 bits or more")
	}
	if !public.Equal(key.Public()) {
		return nil, fmt.Errorf("sign: the key is not that of certificate %s", certificate.Subject)
	}
	signature, err := signedData(i.Digest(), key, certificate)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	signed := i.with(signature)
	if i, err = Parse(signed); err == nil {
		err = i.Verify(certificate)
	}
	if err != nil {
		return nil, fmt.Errorf("sign: what was signed does not hold: %w", err)
	}
	return signed, nil
}

// with is the file with this signature alone (PE format, "The Attribute Certificate Table").
func (i *Image) with(signature []byte) []byte {
	size := 8 + len(signature)
	out := make([]byte, i.head.end+roundUp(size, 8))
	copy(out, i.raw[:i.head.end])
	entry, table := out[i.head.pe+atCertificates:], out[i.head.end:]
	binary.LittleEndian.PutUint32(entry, uint32(i.head.end))
	binary.LittleEndian.PutUint32(entry[4:], uint32(len(table)))
	binary.LittleEndian.PutUint32(table, uint32(size))
	binary.LittleEndian.PutUint16(table[4:], certificateRevision)
	binary.LittleEndian.PutUint16(table[6:], certificatePKCS7)
	copy(table[8:], signature)
	return out
}

// signedData makes the PKCS #7 SignedData of an image's hash. go-uefi's own writes the time of the day into it, or leaves out the
// attributes, which RFC 2315, 9.2 demands for content that is not plain data.
func signedData(sum [32]byte, key crypto.Signer, certificate *x509.Certificate) ([]byte, error) {
	content, err := authenticode.CreateSpcIndirectDataContent(sum[:], crypto.SHA256)
	if err != nil {
		return nil, err
	}
	hash := sha256.Sum256(content)
	attributes := (&pkcs7.Attributes{ContentType: authenticode.OIDSpcIndirectDataContent, MessageDigest: hash[:]}).Marshal()
	hash = sha256.Sum256(attributes)
	signature, err := key.Sign(rand.Reader, hash[:], crypto.SHA256)
	if err != nil {
		return nil, err
	}
	attributes[0] = 0xa0 // [0] IMPLICIT SET, as the signature's structure has it; what is signed begins with SET (RFC 2315, 9.3)
	algorithm := func(b *cryptobyte.Builder, oid encasn1.ObjectIdentifier) {
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(oid)
			b.AddASN1NULL()
		})
	}
	explicit := asn1.Tag(0).ContextSpecific().Constructed()
	signer := func(b *cryptobyte.Builder) {
		b.AddASN1Int64(1)
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddBytes(certificate.RawIssuer)
			b.AddASN1BigInt(certificate.SerialNumber)
		})
		algorithm(b, pkcs7.OIDDigestAlgorithmSHA256)
		b.AddBytes(attributes)
		algorithm(b, pkcs7.OIDEncryptionAlgorithmRSA)
		b.AddASN1OctetString(signature)
	}
	signed := func(b *cryptobyte.Builder) {
		b.AddASN1Int64(1)
		b.AddASN1(asn1.SET, func(b *cryptobyte.Builder) { algorithm(b, pkcs7.OIDDigestAlgorithmSHA256) })
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(authenticode.OIDSpcIndirectDataContent)
			b.AddASN1(explicit, func(b *cryptobyte.Builder) {
				b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddBytes(content) })
			})
		})
		b.AddASN1(explicit, func(b *cryptobyte.Builder) { b.AddBytes(certificate.Raw) })
		b.AddASN1(asn1.SET, func(b *cryptobyte.Builder) { b.AddASN1(asn1.SEQUENCE, signer) })
	}
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(pkcs7.OIDSignedData)
		b.AddASN1(explicit, func(b *cryptobyte.Builder) { b.AddASN1(asn1.SEQUENCE, signed) })
	})
	return b.Bytes()
}

// Verify says whether the holder of this certificate's key signed the image: no byte of it has changed since. Which certificates are
// good is the caller's to know; their validity in time is not looked at, as no firmware does.
func (i *Image) Verify(certificate *x509.Certificate) error {
	sum, err := i.Digest(), ErrUnsigned
	for _, s := range i.signatures {
		parsed, fault := authenticode.ParseAuthenticode(s)
		if fault == nil {
			fault = verify(parsed, sum, certificate)
		}
		if fault == nil {
			return nil
		}
		err = fmt.Errorf("%w: %w", ErrUnsigned, fault)
	}
	return fmt.Errorf("verify image: %w", err)
}

// Signer is the certificate that came with the image and whose key signed it. Anyone may have made it.
func (i *Image) Signer() (*x509.Certificate, error) {
	sum := i.Digest()
	for _, s := range i.signatures {
		parsed, err := authenticode.ParseAuthenticode(s)
		if err != nil {
			continue
		}
		for _, c := range parsed.Pkcs.Certs {
			if verify(parsed, sum, c) == nil {
				return c, nil
			}
		}
	}
	return nil, fmt.Errorf("signer of image: %w", ErrUnsigned)
}

// verify follows RFC 2315, 9.3 and 9.4. go-uefi's own Verify is not enough: it does not compare the signed message digest with the
// content, and it crashes on a signature without attributes.
func verify(a *authenticode.Authenticode, sum [32]byte, certificate *x509.Certificate) error {
	if !a.Algid.Algorithm.Equal(pkcs7.OIDDigestAlgorithmSHA256) || !bytes.Equal(a.Digest, sum[:]) {
		return errors.New("it was made for another image")
	}
	der, content := cryptobyte.String(a.Pkcs.ContentInfo), cryptobyte.String(nil)
	if !der.ReadASN1(&content, asn1.SEQUENCE) || !der.Empty() || len(a.Pkcs.SignerInfo) != 1 {
		return errors.New("want one content and one signer")
	}
	signer := a.Pkcs.SignerInfo[0]
	if !bytes.Equal(signer.IssuerAndSerialnumber.RawIssuer, certificate.RawIssuer) || signer.IssuerAndSerialnumber.SerialNumber.Cmp(certificate.SerialNumber) != 0 {
		return errors.New("it is another's")
	}
	if !signer.DigestAlgorithm.Algorithm.Equal(pkcs7.OIDDigestAlgorithmSHA256) {
		return fmt.Errorf("hash %v, want SHA-256", signer.DigestAlgorithm.Algorithm)
	}
	signed := []byte(content)
	if attributes := signer.AuthenticatedAttributes; attributes != nil {
		hash := sha256.Sum256(content)
		if !attributes.ContentType.Equal(authenticode.OIDSpcIndirectDataContent) || !bytes.Equal(attributes.MessageDigest, hash[:]) {
			return errors.New("its attributes are of other content")
		}
		signed = attributes.RawBytes
	}
	return certificate.CheckSignature(x509.SHA256WithRSA, signed, signer.EncryptedDigest)
}

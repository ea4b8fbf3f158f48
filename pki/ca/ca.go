// SPDX-License-Identifier: Apache-2.0

// Package ca makes the house's authorities and signs certificates with them. An authority's key lies in a file, encrypted
// with age to an identity that is kept in another place; it signs only the profiles that are its own.
package ca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"time"

	"sdbox/internal/ident"
	"sdbox/pki/profile"

	"filippo.io/age"
)

// The files of an authority folder.
const (
	certFile  = "cert.pem"
	keyFile   = "key.age"
	trustFile = "ca.pem"
	// IdentityFile is the age identity Init makes when it is given none.
	IdentityFile = "identity.txt"
)

// maxFile bounds every file this package reads, in bytes.
const maxFile = 1 << 20

// Init makes a new house of authorities in dir, which must not exist: {root,devices,cards,gateways,logon,code}/{cert.pem,
// key.age} and ca.pem. The keys are encrypted to the identity in the file identity, which is made if it does not exist;
// empty means dir/identity.txt. The folder appears whole or not at all.
func Init(dir string, domain ident.Domain, identity string, now time.Time) (err error) {
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("make authorities: %s is already there", dir)
	}
	parent := filepath.Dir(filepath.Clean(dir))
	tmp, err := os.MkdirTemp(parent, ".pki-*")
	if err != nil {
		return fmt.Errorf("make authorities: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	if identity == "" {
		identity = filepath.Join(tmp, IdentityFile)
	}
	id, err := ensureIdentity(identity)
	if err != nil {
		return fmt.Errorf("make authorities: %w", err)
	}
	if err := fill(tmp, domain, id.Recipient(), now); err != nil {
		return fmt.Errorf("make authorities: %w", err)
	}
	if err := os.Rename(tmp, dir); err != nil {
		return fmt.Errorf("make authorities: %w", err)
	}
	return syncDir(parent)
}

func fill(dir string, domain ident.Domain, to age.Recipient, now time.Time) error {
	rootKey, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		return err
	}
	root := &Authority{name: profile.Root, domain: domain, key: rootKey}
	if root.cert, err = root.sign(profile.Authority{Name: profile.Root, Key: rootKey.Public()}, now); err != nil {
		return err
	}
	if err := save(filepath.Join(dir, string(profile.Root)), root.cert, rootKey, to); err != nil {
		return err
	}
	bundle := encodeCert(root.cert.Raw)
	for _, name := range profile.Issuers() {
		// P-256 below a P-384 root: a login verifies a chain in 0.2 ms instead of 2.
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return err
		}
		cert, err := root.sign(profile.Authority{Name: name, Key: key.Public()}, now)
		if err != nil {
			return err
		}
		if err := save(filepath.Join(dir, string(name)), cert, key, to); err != nil {
			return err
		}
		bundle = append(bundle, encodeCert(cert.Raw)...)
	}
	return writeFile(filepath.Join(dir, trustFile), bundle)
}

func save(dir string, cert *x509.Certificate, key *ecdsa.PrivateKey, to age.Recipient) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	if err := writeFile(filepath.Join(dir, certFile), encodeCert(cert.Raw)); err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	var sealed bytes.Buffer
	w, err := age.Encrypt(&sealed, to)
	if err != nil {
		return err
	}
	if err := pem.Encode(w, &pem.Block{Type: "PRIVATE KEY", Bytes: der}); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return writeFile(filepath.Join(dir, keyFile), sealed.Bytes())
}

// Authority is one authority with its key in memory.
type Authority struct {
	name   profile.Issuer
	domain ident.Domain
	cert   *x509.Certificate
	key    crypto.Signer
	trust  *profile.Trust // nil only while Init makes the root
}

// Open reads one authority of dir and opens its key with the age identity file; empty means dir/identity.txt.
func Open(dir string, name profile.Issuer, identity string) (*Authority, error) {
	a, err := open(dir, name, identity)
	if err != nil {
		return nil, fmt.Errorf("authority %s: %w", name, err)
	}
	return a, nil
}

func open(dir string, name profile.Issuer, identity string) (*Authority, error) {
	if name != profile.Root && !slices.Contains(profile.Issuers(), name) {
		return nil, fmt.Errorf("want root or one of %v", profile.Issuers())
	}
	trust, err := LoadTrust(dir)
	if err != nil {
		return nil, err
	}
	cert, err := readCert(filepath.Join(dir, string(name), certFile))
	if err != nil {
		return nil, err
	}
	if identity == "" {
		identity = filepath.Join(dir, IdentityFile)
	}
	key, err := openKey(filepath.Join(dir, string(name), keyFile), identity)
	if err != nil {
		return nil, err
	}
	if public, ok := cert.PublicKey.(*ecdsa.PublicKey); !ok || !public.Equal(key.Public()) {
		return nil, fmt.Errorf("%s and %s do not belong together", certFile, keyFile)
	}
	return &Authority{name: name, domain: trust.Domain(), cert: cert, key: key, trust: trust}, nil
}

func openKey(file, identity string) (*ecdsa.PrivateKey, error) {
	ids, err := readIdentities(identity)
	if err != nil {
		return nil, err
	}
	sealed, err := readFile(file)
	if err != nil {
		return nil, err
	}
	r, err := age.Decrypt(bytes.NewReader(sealed), ids...)
	if err != nil {
		return nil, fmt.Errorf("open %s with identity %s: %w", keyFile, filepath.Base(identity), err)
	}
	text, err := io.ReadAll(io.LimitReader(r, maxFile))
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", keyFile, err)
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, fmt.Errorf("%s holds no private key", keyFile)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", keyFile, err)
	}
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s holds a key of type %T: want ECDSA", keyFile, key)
	}
	return ec, nil
}

// LoadTrust reads ca.pem of an authority folder; the domain is the one the root names.
func LoadTrust(dir string) (*profile.Trust, error) {
	bundle, err := readFile(filepath.Join(dir, trustFile))
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(bundle)
	if block == nil {
		return nil, fmt.Errorf("%s holds no certificate", trustFile)
	}
	first, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", trustFile, err)
	}
	if len(first.Subject.Organization) != 1 {
		return nil, fmt.Errorf("%s names no domain", trustFile)
	}
	domain, err := ident.ParseDomain(first.Subject.Organization[0])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", trustFile, err)
	}
	return profile.ParseTrust(domain, bundle)
}

// Trust is the root and the issuing authorities.
func (a *Authority) Trust() *profile.Trust { return a.trust }

// Issued is a new certificate.
type Issued struct {
	Certificate *x509.Certificate
	Chain       [][]byte // DER: the certificate, then its authority; without the root
}

// PEM is the chain as text, for cert.pem.
func (i Issued) PEM() []byte {
	var text []byte
	for _, der := range i.Chain {
		text = append(text, encodeCert(der)...)
	}
	return text
}

// Issue signs a certificate of one of this authority's profiles. Before it is handed out, it is read back and must pass the
// check that those who receive it will make.
func (a *Authority) Issue(p profile.Profile) (Issued, error) {
	if p.Issuer() != a.name || a.name == profile.Root {
		return Issued{}, fmt.Errorf("issue: authority %s does not sign the profiles of %s", a.name, p.Issuer())
	}
	now := time.Now()
	cert, err := a.sign(p, now)
	if err != nil {
		return Issued{}, fmt.Errorf("issue: %w", err)
	}
	if err := profile.Check(a.trust, p, cert.Raw, now); err != nil {
		return Issued{}, fmt.Errorf("issue: read back: %w", err)
	}
	return Issued{cert, [][]byte{cert.Raw, a.cert.Raw}}, nil
}

func (a *Authority) sign(p profile.Profile, now time.Time) (*x509.Certificate, error) {
	t, err := p.Template(a.domain, now)
	if err != nil {
		return nil, err
	}
	serial := make([]byte, 16) // 126 random bits, never negative (RFC 5280, 4.1.2.2)
	rand.Read(serial)
	serial[0] = serial[0]&0x7f | 0x40
	t.SerialNumber = new(big.Int).SetBytes(serial)
	parent := a.cert
	if parent == nil { // the root signs itself
		parent = t
	}
	if t.NotAfter.After(parent.NotAfter) {
		return nil, fmt.Errorf("authority %s ends on %s, before the certificate would: renew it first", a.name, parent.NotAfter.Format(time.DateOnly))
	}
	der, err := x509.CreateCertificate(rand.Reader, t, parent, t.PublicKey, a.key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// Lend copies one issuing authority into a new folder out under an identity of its own (out/identity.txt): what a gateway
// gets in order to sign device certificates at enrolment, and with which it can open no other key.
func Lend(dir string, name profile.Issuer, identity, out string) error {
	a, err := Open(dir, name, identity)
	if err != nil {
		return err
	}
	key, ok := a.key.(*ecdsa.PrivateKey)
	if name == profile.Root || !ok {
		return fmt.Errorf("authority %s is not lent", name)
	}
	if err := os.Mkdir(out, 0o700); err != nil {
		return fmt.Errorf("lend authority %s: %w", name, err)
	}
	id, err := ensureIdentity(filepath.Join(out, IdentityFile))
	if err != nil {
		return fmt.Errorf("lend authority %s: %w", name, err)
	}
	if err := save(filepath.Join(out, string(name)), a.cert, key, id.Recipient()); err != nil {
		return fmt.Errorf("lend authority %s: %w", name, err)
	}
	if err := writeFile(filepath.Join(out, trustFile), a.trust.PEM()); err != nil {
		return fmt.Errorf("lend authority %s: %w", name, err)
	}
	return nil
}

// Info is one authority as it lies in a folder.
type Info struct {
	Name        profile.Issuer
	Certificate *x509.Certificate
}

// Show lists the authorities of a folder. It needs no identity.
func Show(dir string) (domain ident.Domain, list []Info, err error) {
	trust, err := LoadTrust(dir)
	if err != nil {
		return "", nil, fmt.Errorf("authorities: %w", err)
	}
	for _, name := range append([]profile.Issuer{profile.Root}, profile.Issuers()...) {
		cert, err := readCert(filepath.Join(dir, string(name), certFile))
		if errors.Is(err, fs.ErrNotExist) {
			continue // a lent folder has but one
		}
		if err != nil {
			return "", nil, fmt.Errorf("authorities: %w", err)
		}
		list = append(list, Info{name, cert})
	}
	return trust.Domain(), list, nil
}

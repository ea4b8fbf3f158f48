// SPDX-License-Identifier: Apache-2.0

// Package keys holds the Secure Boot keys of a site: a folder of four key pairs, and what enrols them in a machine's firmware.
//
//	owner                     GUID that marks the site's entries in a firmware's lists
//	NAME.pem  NAME.key        certificate and secret key, for NAME PK, KEK, db and db-dev
//	NAME.esl                  the value of the variable (db-dev: of db, on a machine that runs development images)
//	NAME.auth                 the same, signed, as it is written in setup mode or later
//
// db signs images that production machines start, db-dev those with a serial console. PK, KEK and db belong on a machine without a
// network; building an image needs db.key only, and with a token not even that.
package keys

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"sdbox/firmware/efivar"

	"github.com/foxboron/go-uefi/pkcs7"
	"golang.org/x/crypto/cryptobyte"
)

// The key pairs of a site.
const (
	PK  = "PK"     // signs changes of PK and KEK
	KEK = "KEK"    // signs changes of db and dbx
	DB  = "db"     // signs images
	Dev = "db-dev" // signs development images
)

const (
	bits     = 2048 // what every firmware knows (UEFI 2.10, 32.4.1)
	lifetime = 20   // years; firmware does not look
	maxFile  = 64 << 10
)

// Pair is a key and its certificate. The key may live in a token.
type Pair struct {
	Key         crypto.Signer
	Certificate *x509.Certificate
}

// Generate makes the pair of one name.
func Generate(site, name string, now time.Time) (Pair, error) {
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		return Pair{}, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return Pair{}, err
	}
	id := sha256.Sum256(x509.MarshalPKCS1PublicKey(&key.PublicKey))
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: site + " " + name}, SubjectKeyId: id[:20],
		NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(lifetime, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return Pair{}, err
	}
	c, err := x509.ParseCertificate(der)
	return Pair{key, c}, err
}

// Make makes a folder of new keys; it must not exist. site is the name people see, in a firmware's menus too.
func Make(dir, site string, now time.Time) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("make keys: %w", err)
	}
	var owner efivar.GUID
	if _, err := rand.Read(owner[:]); err != nil {
		return err
	}
	owner[7], owner[8] = owner[7]&0x0f|0x40, owner[8]&0x3f|0x80 // version 4 (RFC 9562, 5.4)
	pairs := map[string]Pair{}
	for _, name := range []string{PK, KEK, DB, Dev} {
		p, err := Generate(site, name, now)
		if err != nil {
			return fmt.Errorf("make keys: %w", err)
		}
		pairs[name] = p
	}
	files, err := contents(owner, pairs, now)
	if err != nil {
		return fmt.Errorf("make keys: %w", err)
	}
	for name, content := range files {
		mode := os.FileMode(0o644)
		if filepath.Ext(name) == ".key" {
			mode = 0o600
		}
		if err := os.WriteFile(filepath.Join(dir, name), content, mode); err != nil {
			return fmt.Errorf("make keys: %w", err)
		}
	}
	return nil
}

func contents(owner efivar.GUID, pairs map[string]Pair, now time.Time) (map[string][]byte, error) {
	files := map[string][]byte{"owner": []byte(owner.String() + "\n")}
	for _, v := range []struct{ name, variable, by string }{{PK, efivar.PK, PK}, {KEK, efivar.KEK, PK}, {DB, efivar.DB, KEK}, {Dev, efivar.DB, KEK}} {
		p := pairs[v.name]
		der, err := x509.MarshalPKCS8PrivateKey(p.Key)
		if err != nil {
			return nil, err
		}
		list, err := efivar.Lists(efivar.Signature{Kind: efivar.KindX509, Owner: owner, Data: p.Certificate.Raw})
		if err != nil {
			return nil, err
		}
		files[v.name+".pem"] = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Certificate.Raw})
		files[v.name+".key"] = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
		files[v.name+".esl"] = list
		if files[v.name+".auth"], err = Authenticate(efivar.Change{Name: v.variable, Value: list, Time: now}, pairs[v.by]); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// Authenticate signs a change of a variable. Same change and key, same bytes.
func Authenticate(c efivar.Change, by Pair) ([]byte, error) {
	public, ok := by.Certificate.PublicKey.(*rsa.PublicKey)
	if !ok || !public.Equal(by.Key.Public()) {
		return nil, fmt.Errorf("sign %s: want an RSA key and its certificate", c.Name)
	}
	message, err := c.Message()
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	der, err := pkcs7.SignPKCS7(by.Key, by.Certificate, pkcs7.OIDData, message, pkcs7.NoAttr())
	if err != nil {
		return nil, fmt.Errorf("sign %s: %w", c.Name, err)
	}
	whole := cryptobyte.String(der)
	_, signed, err := pkcs7.ParseContentInfo(&whole)
	if err != nil {
		return nil, fmt.Errorf("sign %s: %w", c.Name, err)
	}
	return c.Signed(signed)
}

// Load reads the pair of one name from a folder of keys.
func Load(dir, name string) (Pair, error) {
	key, err := read(filepath.Join(dir, name+".key"), "PRIVATE KEY")
	if err != nil {
		return Pair{}, err
	}
	c, err := Certificate(filepath.Join(dir, name+".pem"))
	if err != nil {
		return Pair{}, err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(key)
	if err != nil {
		return Pair{}, fmt.Errorf("%s.key: %w", name, err)
	}
	rsaKey, ok := parsed.(*rsa.PrivateKey)
	if !ok || !rsaKey.PublicKey.Equal(c.PublicKey) {
		return Pair{}, fmt.Errorf("%s.key is not the RSA key of %s.pem", name, name)
	}
	return Pair{rsaKey, c}, nil
}

// Certificate reads a file with one PEM certificate.
func Certificate(path string) (*x509.Certificate, error) {
	der, err := read(path, "CERTIFICATE")
	if err != nil {
		return nil, err
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// Lists reads what a firmware with these keys enrolled has in PK, KEK and db; dev is a machine for development images.
func Lists(dir string, dev bool) (pk, kek, db []byte, err error) {
	name := DB
	if dev {
		name = Dev
	}
	for _, l := range []struct {
		into *[]byte
		name string
	}{{&pk, PK}, {&kek, KEK}, {&db, name}} {
		if *l.into, err = readCapped(filepath.Join(dir, l.name+".esl")); err != nil {
			return nil, nil, nil, err
		}
	}
	return pk, kek, db, nil
}

// Enrolment reads what makes a machine trust these keys alone; dev is a machine for development images.
func Enrolment(dir string, dev bool) (e efivar.Enrolment, err error) {
	name := DB
	if dev {
		name = Dev
	}
	for _, a := range []struct {
		into *[]byte
		name string
	}{{&e.DB, name}, {&e.KEK, KEK}, {&e.PK, PK}} {
		if *a.into, err = readCapped(filepath.Join(dir, a.name+".auth")); err != nil {
			return efivar.Enrolment{}, err
		}
	}
	return e, nil
}

func read(path, kind string) ([]byte, error) {
	text, err := readCapped(path)
	if err != nil {
		return nil, err
	}
	block, rest := pem.Decode(text)
	if block == nil || block.Type != kind || len(bytes.TrimSpace(rest)) > 0 {
		return nil, fmt.Errorf("%s: want one PEM block %s", path, kind)
	}
	return block.Bytes, nil
}

func readCapped(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxFile {
		return nil, errors.New(path + ": too long for a key")
	}
	return os.ReadFile(path)
}

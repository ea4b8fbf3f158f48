// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"filippo.io/age"
)

// readIdentities reads an age identity file as age-keygen writes it.
func readIdentities(file string) ([]age.Identity, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("identity %s: others may read it (mode %04o): want 0600", filepath.Base(file), info.Mode().Perm())
	}
	text, err := readFile(file)
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	ids, err := age.ParseIdentities(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("identity %s: %w", filepath.Base(file), err)
	}
	return ids, nil
}

// ensureIdentity reads the X25519 identity of a file, or makes one there.
func ensureIdentity(file string) (*age.X25519Identity, error) {
	ids, err := readIdentities(file)
	if err == nil {
		if id, ok := ids[0].(*age.X25519Identity); ok && len(ids) == 1 {
			return id, nil
		}
		return nil, fmt.Errorf("identity %s: want one X25519 identity", filepath.Base(file))
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	id, err := age.GenerateX25519Identity()
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	text := fmt.Sprintf("# created: %s\n# public key: %s\n%s\n", time.Now().UTC().Format(time.RFC3339), id.Recipient(), id)
	if err := writeFile(file, []byte(text)); err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	return id, nil
}

func readCert(file string) (*x509.Certificate, error) {
	text, err := readFile(file)
	if err != nil {
		return nil, err
	}
	block, rest := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" || len(bytes.TrimSpace(rest)) > 0 {
		return nil, fmt.Errorf("%s: want one certificate in PEM", filepath.Base(file))
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Base(file), err)
	}
	return c, nil
}

func encodeCert(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close() // only read from
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("%s: more than %d bytes", filepath.Base(name), maxFile)
	}
	return data, err
}

// writeFile makes a file of mode 0600 that was not there, and is on the disk on return.
func writeFile(name string, data []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// WriteIdentity writes the folder a program is given, which must not exist: cert.pem (the chain), ca.pem, and key.pem if
// there is a key, all of mode 0600.
func (a *Authority) WriteIdentity(dir string, issued Issued, key *ecdsa.PrivateKey) error {
	files := map[string][]byte{certFile: issued.PEM(), trustFile: a.trust.PEM()}
	if key != nil {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return fmt.Errorf("write %s: %w", dir, err)
		}
		files["key.pem"] = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	}
	if err := os.MkdirAll(filepath.Dir(filepath.Clean(dir)), 0o700); err != nil {
		return fmt.Errorf("write %s: %w", dir, err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("write %s: %w", dir, err)
	}
	for name, data := range files {
		if err := writeFile(filepath.Join(dir, name), data); err != nil {
			return fmt.Errorf("write %s: %w", dir, err)
		}
	}
	return syncDir(dir)
}

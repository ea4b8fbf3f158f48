// SPDX-License-Identifier: Apache-2.0

package profile

import (
	"crypto/tls"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"sdbox/internal/ident"
)

// Identity is a program's own key with its certificate, and whom it trusts: the folder <state>/tls.
type Identity struct {
	TLS   tls.Certificate // leaf first, then its authority; Leaf is set
	Trust *Trust
}

// LoadIdentity reads cert.pem, key.pem and ca.pem of a folder. A key that others may read is refused.
func LoadIdentity(dir string, domain ident.Domain) (Identity, error) {
	var files [3][]byte
	for i, name := range []string{"cert.pem", "key.pem", "ca.pem"} {
		f, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			return Identity{}, fmt.Errorf("identity: %w", err)
		}
		info, err := f.Stat()
		if err == nil && name == "key.pem" && info.Mode().Perm()&0o077 != 0 {
			err = fmt.Errorf("%s: others may read it (mode %04o): want 0600", name, info.Mode().Perm())
		}
		if err == nil {
			files[i], err = io.ReadAll(io.LimitReader(f, 1<<20))
		}
		if closed := f.Close(); err == nil {
			err = closed
		}
		if err != nil {
			return Identity{}, fmt.Errorf("identity: %w", err)
		}
	}
	pair, err := tls.X509KeyPair(files[0], files[1])
	if err != nil {
		return Identity{}, fmt.Errorf("identity: cert.pem, key.pem: %w", err)
	}
	trust, err := ParseTrust(domain, files[2])
	if err != nil {
		return Identity{}, fmt.Errorf("identity: ca.pem: %w", err)
	}
	return Identity{TLS: pair, Trust: trust}, nil
}

// SPDX-License-Identifier: Apache-2.0

package attest

import (
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"sdbox/internal/ident"
	"sdbox/internal/tpm"
)

// Limits of endorsement certificates, ours, in bytes.
const (
	maxEKCert  = 8192
	maxEKRoots = 1 << 20
)

// The names by which a simulated TPM's certificates are known: swtpm's own manufacturer says so.
const (
	simulatedIssuer = "swtpm"
	simulatedModel  = "swtpm"
)

// EKRoots are the TPM manufacturers a site trusts.
type EKRoots struct {
	roots, issuers *x509.CertPool
	domain         ident.Domain
}

// Model is what a TPM's manufacturer says of it (EK Credential Profile 2.5, 3.1.2).
type Model struct {
	Manufacturer string // for example "id:494E5443"
	Model        string
	Version      string
}

// NewEKRoots reads the manufacturers' root certificates and those of their issuers, PEM. Outside the trust domain "lab" it refuses
// those of a simulated TPM, with SimulatedTPM.
func NewEKRoots(domain ident.Domain, text []byte) (*EKRoots, error) {
	if len(text) > maxEKRoots {
		return nil, fmt.Errorf("endorsement roots: %d bytes, limit %d", len(text), maxEKRoots)
	}
	r := &EKRoots{roots: x509.NewCertPool(), issuers: x509.NewCertPool(), domain: domain}
	found := false
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil || block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("endorsement roots: a %s block is no certificate: %w", block.Type, err)
		}
		if domain != ident.Lab && strings.HasPrefix(cert.Subject.CommonName, simulatedIssuer) {
			return nil, fmt.Errorf("endorsement roots: %q: %w outside the lab", cert.Subject.CommonName, SimulatedTPM)
		}
		if cert.CheckSignatureFrom(cert) == nil {
			r.roots.AddCert(cert)
			found = true
			continue
		}
		r.issuers.AddCert(cert)
	}
	if !found {
		return nil, errors.New("endorsement roots: no root certificate among them")
	}
	return r, nil
}

// Check says whether a certificate is a trusted manufacturer's for this endorsement key, now. Refusals wrap BadEKCert or
// SimulatedTPM. The bytes may come from anyone.
func (r *EKRoots) Check(certificate, ekPublic []byte, now time.Time) (Model, error) {
	m, err := r.check(certificate, ekPublic, now)
	if err != nil {
		return Model{}, fmt.Errorf("check endorsement certificate: %w", err)
	}
	return m, nil
}

func (r *EKRoots) check(certificate, ekPublic []byte, now time.Time) (Model, error) {
	ek, err := tpm.ParseEK(ekPublic)
	if err != nil {
		return Model{}, fmt.Errorf("%w: %w", BadEK, err)
	}
	if len(certificate) == 0 || len(certificate) > maxEKCert {
		return Model{}, fmt.Errorf("%w: %d bytes, want 1 to %d", BadEKCert, len(certificate), maxEKCert)
	}
	cert, err := x509.ParseCertificate(certificate)
	if err != nil {
		return Model{}, fmt.Errorf("%w: %w", BadEKCert, err)
	}
	if key, isRSA := cert.PublicKey.(*rsa.PublicKey); !isRSA || !key.Equal(ek.RSA) {
		return Model{}, fmt.Errorf("%w: it is for another key", BadEKCert)
	}
	model, err := modelOf(cert)
	if err != nil {
		return Model{}, fmt.Errorf("%w: %w", BadEKCert, err)
	}
	if r.domain != ident.Lab && model.Model == simulatedModel {
		return Model{}, SimulatedTPM
	}
	if !slices.ContainsFunc(cert.UnknownExtKeyUsage, asn1.ObjectIdentifier{2, 23, 133, 8, 1}.Equal) {
		return Model{}, fmt.Errorf("%w: its use is not that of an endorsement key", BadEKCert)
	}
	// The subject's name is a directory name in a critical extension, which x509 does not read. modelOf has; nothing else is forgiven.
	cert.UnhandledCriticalExtensions = slices.DeleteFunc(cert.UnhandledCriticalExtensions, oidSAN().Equal)
	_, err = cert.Verify(x509.VerifyOptions{
		Roots:         r.roots,
		Intermediates: r.issuers,
		CurrentTime:   now,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		return Model{}, fmt.Errorf("%w: %w", BadEKCert, err)
	}
	return model, nil
}

func oidSAN() asn1.ObjectIdentifier { return asn1.ObjectIdentifier{2, 5, 29, 17} }

// modelOf reads manufacturer, model and version from the subject alternative name (EK Credential Profile 2.5, 3.2.9).
func modelOf(cert *x509.Certificate) (Model, error) {
	var m Model
	for _, ext := range cert.Extensions {
		if !ext.Id.Equal(oidSAN()) {
			continue
		}
		var names []asn1.RawValue
		if rest, err := asn1.Unmarshal(ext.Value, &names); err != nil || len(rest) != 0 {
			return m, errors.New("its alternative name is not readable")
		}
		for _, name := range names {
			if name.Class != asn1.ClassContextSpecific || name.Tag != 4 { // directoryName (RFC 5280, 4.2.1.6)
				continue
			}
			var rdn pkix.RDNSequence
			if rest, err := asn1.Unmarshal(name.Bytes, &rdn); err != nil || len(rest) != 0 {
				return m, errors.New("its directory name is not readable")
			}
			m.read(rdn)
		}
	}
	if m.Manufacturer == "" || m.Model == "" || m.Version == "" {
		return m, errors.New("it names no manufacturer, model and version")
	}
	return m, nil
}

func (m *Model) read(rdn pkix.RDNSequence) {
	for _, set := range rdn {
		for _, attribute := range set {
			value, _ := attribute.Value.(string)
			switch attribute.Type.String() {
			case "2.23.133.2.1":
				m.Manufacturer = value
			case "2.23.133.2.2":
				m.Model = value
			case "2.23.133.2.3":
				m.Version = value
			}
		}
	}
}

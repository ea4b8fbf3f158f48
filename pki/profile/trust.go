// SPDX-License-Identifier: Apache-2.0

package profile

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"sdbox/internal/ident"
)

// What a caller branches on when a certificate is refused.
var (
	// ErrForeign says that no authority of this house signed it.
	ErrForeign = errors.New("not signed by this house")
	// ErrExpired says that it is good but for the time: it ended, or has not begun. The facts are returned beside this error.
	ErrExpired = errors.New("outside its validity")
	// ErrProfile says that the house signed it, and that it is not a certificate of the kind asked for.
	ErrProfile = errors.New("not of the right profile")
)

// maxCertificate bounds a certificate from outside, in bytes of DER. A card's object holds less than 2 kB.
const maxCertificate = 4096

// Trust is the root and the issuing authorities of one domain. It is not changed after it was made.
type Trust struct {
	domain  ident.Domain
	root    *x509.Certificate
	issuers []*x509.Certificate
	anchor  *x509.CertPool // the root alone
	between *x509.CertPool // the issuers
}

// NewTrust takes the root certificate and the issuing authorities under it; each must carry the domain's name and verify.
func NewTrust(domain ident.Domain, root *x509.Certificate, issuers ...*x509.Certificate) (*Trust, error) {
	for _, c := range append([]*x509.Certificate{root}, issuers...) {
		if !c.IsCA || !slices.Equal(c.Subject.Organization, []string{string(domain)}) {
			return nil, fmt.Errorf("certificate %.60q is no authority of domain %s", c.Subject, domain)
		}
		if err := c.CheckSignatureFrom(root); err != nil {
			return nil, fmt.Errorf("certificate %.60q is not signed by the root: %w", c.Subject, err)
		}
	}
	t := &Trust{domain: domain, root: root, issuers: slices.Clone(issuers), anchor: x509.NewCertPool(), between: x509.NewCertPool()}
	t.anchor.AddCert(root)
	for _, c := range issuers {
		t.between.AddCert(c)
	}
	return t, nil
}

// ParseTrust reads ca.pem: the self-signed root, and the issuing authorities, in any order.
func ParseTrust(domain ident.Domain, bundle []byte) (*Trust, error) {
	certs, err := parsePEM(bundle)
	if err != nil {
		return nil, err
	}
	var root *x509.Certificate
	var issuers []*x509.Certificate
	for _, c := range certs {
		switch {
		case string(c.RawIssuer) != string(c.RawSubject):
			issuers = append(issuers, c)
		case root != nil:
			return nil, errors.New("trust anchors: more than one root")
		default:
			root = c
		}
	}
	if root == nil {
		return nil, errors.New("trust anchors: no self-signed root certificate")
	}
	return NewTrust(domain, root, issuers...)
}

func parsePEM(bundle []byte) ([]*x509.Certificate, error) {
	if len(bundle) > 1<<20 {
		return nil, errors.New("certificates: more than 1 MiB")
	}
	var certs []*x509.Certificate
	for rest := bundle; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			if len(strings.TrimSpace(string(rest))) > 0 {
				return nil, errors.New("certificates: text that is not PEM")
			}
			return certs, nil
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("certificates: a PEM block of type %.40q", block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificates: %w", err)
		}
		certs = append(certs, c)
	}
}

// Domain is the trust domain.
func (t *Trust) Domain() ident.Domain { return t.domain }

// Roots returns a pool with the root alone, for tls.Config. A TLS peer's certificate must also pass the check of its profile.
func (t *Trust) Roots() *x509.CertPool { return t.anchor.Clone() }

// PEM is the text ParseTrust reads: ca.pem.
func (t *Trust) PEM() []byte {
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: t.root.Raw})
	for _, c := range t.issuers {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return text
}

// Issuer returns the DER of the issuing authority's certificate, which a server sends after its own.
func (t *Trust) Issuer(name Issuer) ([]byte, error) {
	for _, c := range t.issuers {
		if c.Subject.CommonName == "SD-Box "+string(name) {
			return slices.Clone(c.Raw), nil
		}
	}
	return nil, fmt.Errorf("authority %s is not among the trust anchors", name)
}

// Person is what a 9A certificate says.
type Person struct {
	GUID     ident.GUID
	Method   Method
	Subject  string // common name
	NotAfter time.Time
	Key      *ecdsa.PublicKey
}

// VerifyPerson checks the certificate of a card's key 9A, in DER. An expired one returns its facts and ErrExpired.
func (t *Trust) VerifyPerson(der []byte, now time.Time) (Person, error) {
	c, p, err := t.verify(der, now, []policy{policyFingerOnCard, policyFingerOnToken, policyPIN}, x509.ExtKeyUsageClientAuth)
	if c == nil {
		return Person{}, fmt.Errorf("person certificate: %w", err)
	}
	guid, shape := cardGUID(c)
	if shape != nil {
		return Person{}, fmt.Errorf("person certificate: %w: %w", ErrProfile, shape)
	}
	person := Person{GUID: guid, Method: methodOf(p), Subject: c.Subject.CommonName, NotAfter: c.NotAfter, Key: c.PublicKey.(*ecdsa.PublicKey)}
	if err != nil {
		return person, fmt.Errorf("person certificate: %w", err)
	}
	return person, nil
}

// Presence is what a 9E certificate says.
type Presence struct {
	GUID     ident.GUID
	NotAfter time.Time
	Key      *ecdsa.PublicKey
}

// VerifyPresence checks the certificate of a card's key 9E, in DER. Its usage is one Go has no name for, so the chain is
// verified for any usage and the usage is looked up.
func (t *Trust) VerifyPresence(der []byte, now time.Time) (Presence, error) {
	c, _, err := t.verify(der, now, []policy{policyPresence}, x509.ExtKeyUsageAny)
	if c == nil {
		return Presence{}, fmt.Errorf("presence certificate: %w", err)
	}
	guid, shape := cardGUID(c)
	if shape == nil && (len(c.ExtKeyUsage) != 0 || len(c.UnknownExtKeyUsage) != 1 || !c.UnknownExtKeyUsage[0].Equal(oidPIVCardAuth())) {
		shape = errors.New("its usage is not card authentication")
	}
	if shape != nil {
		return Presence{}, fmt.Errorf("presence certificate: %w: %w", ErrProfile, shape)
	}
	presence := Presence{GUID: guid, NotAfter: c.NotAfter, Key: c.PublicKey.(*ecdsa.PublicKey)}
	if err != nil {
		return presence, fmt.Errorf("presence certificate: %w", err)
	}
	return presence, nil
}

func cardGUID(c *x509.Certificate) (ident.GUID, error) {
	if len(c.URIs) != 1 || len(c.DNSNames)+len(c.EmailAddresses)+len(c.IPAddresses) > 0 {
		return ident.GUID{}, errors.New("want one urn:uuid name and no other")
	}
	guid, err := ident.ParsePersonURI(c.URIs[0])
	if err != nil {
		return ident.GUID{}, err
	}
	if c.URIs[0].String() != guid.URI().String() {
		return ident.GUID{}, errors.New("the urn:uuid name has a second way to be written")
	}
	return guid, nil
}

// Box is what a device certificate says.
type Box struct {
	Serial   string
	AKName   []byte
	NotAfter time.Time
	Key      *ecdsa.PublicKey
}

// VerifyBox checks the certificate of a device key, in DER. An expired one returns its facts and ErrExpired.
func (t *Trust) VerifyBox(der []byte, now time.Time) (Box, error) {
	c, _, err := t.verify(der, now, []policy{policyDevice}, x509.ExtKeyUsageClientAuth)
	if c == nil {
		return Box{}, fmt.Errorf("device certificate: %w", err)
	}
	box, shape := t.boxOf(c)
	if shape != nil {
		return Box{}, fmt.Errorf("device certificate: %w: %w", ErrProfile, shape)
	}
	if err != nil {
		return box, fmt.Errorf("device certificate: %w", err)
	}
	return box, nil
}

func (t *Trust) boxOf(c *x509.Certificate) (Box, error) {
	if len(c.URIs) != 1 || len(c.DNSNames)+len(c.EmailAddresses)+len(c.IPAddresses) > 0 {
		return Box{}, errors.New("want one box name and no other")
	}
	serial, err := t.domain.ParseBox(c.URIs[0])
	if err != nil {
		return Box{}, err
	}
	if c.URIs[0].String() != t.domain.Box(serial).String() {
		return Box{}, errors.New("the box name has a second way to be written")
	}
	ak, err := AKName(c)
	if err != nil {
		return Box{}, err
	}
	return Box{Serial: serial, AKName: ak, NotAfter: c.NotAfter, Key: c.PublicKey.(*ecdsa.PublicKey)}, nil
}

// AKName returns the TPM Name of the attestation key a device certificate is bound to.
func AKName(c *x509.Certificate) ([]byte, error) {
	for _, e := range c.Extensions {
		if !e.Id.Equal(oidAKName()) {
			continue
		}
		var name []byte
		if rest, err := asn1.Unmarshal(e.Value, &name); err != nil || len(rest) > 0 {
			return nil, errors.New("the AK name is not an octet string")
		}
		return name, checkAKName(name)
	}
	return nil, errors.New("no AK name")
}

// VerifyOperator checks the certificate of an operator, in DER, and returns the login name.
func (t *Trust) VerifyOperator(der []byte, now time.Time) (string, error) {
	c, _, err := t.verify(der, now, []policy{policyOperator}, x509.ExtKeyUsageClientAuth)
	if err != nil {
		return "", fmt.Errorf("operator certificate: %w", err)
	}
	if !operatorPattern.MatchString(c.Subject.CommonName) || len(c.URIs)+len(c.DNSNames)+len(c.EmailAddresses)+len(c.IPAddresses) > 0 {
		return "", fmt.Errorf("operator certificate: %w: want a login name and no other", ErrProfile)
	}
	return c.Subject.CommonName, nil
}

// VerifyGateway checks the certificate of a gateway, in DER, and returns its short name.
func (t *Trust) VerifyGateway(der []byte, now time.Time) (string, error) {
	c, _, err := t.verify(der, now, []policy{policyGateway}, x509.ExtKeyUsageServerAuth)
	if err != nil {
		return "", fmt.Errorf("gateway certificate: %w", err)
	}
	return dnsName(c, "gateway", t.domain.Gateway)
}

// VerifyBubble checks the certificate of a bubble, in DER, and returns its short name.
func (t *Trust) VerifyBubble(der []byte, now time.Time) (string, error) {
	c, _, err := t.verify(der, now, []policy{policyBubble}, x509.ExtKeyUsageServerAuth)
	if err != nil {
		return "", fmt.Errorf("bubble certificate: %w", err)
	}
	return dnsName(c, "bubble", t.domain.Bubble)
}

// dnsName returns the short name of a certificate whose one DNS name is full(short).
func dnsName(c *x509.Certificate, what string, full func(string) string) (string, error) {
	if len(c.DNSNames) == 1 && len(c.URIs)+len(c.EmailAddresses)+len(c.IPAddresses) == 0 {
		short, _, _ := strings.Cut(c.DNSNames[0], ".")
		if ident.CheckBubble(short) == nil && full(short) == c.DNSNames[0] {
			return short, nil
		}
	}
	return "", fmt.Errorf("%s certificate: %w: its name is not that of a %s", what, ErrProfile, what)
}

// verify checks all that profiles share and returns the certificate with the one policy it has of those wanted. The
// certificate is nil unless everything holds, or everything but the time: then the error is ErrExpired.
func (t *Trust) verify(der []byte, now time.Time, wanted []policy, usage x509.ExtKeyUsage) (*x509.Certificate, policy, error) {
	if len(der) > maxCertificate {
		return nil, 0, fmt.Errorf("%d bytes: at most %d", len(der), maxCertificate)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, 0, fmt.Errorf("%w: %w", ErrForeign, err)
	}
	chain, late, err := t.chain(c, now, usage)
	if err != nil {
		return nil, 0, err
	}
	// Go builds the chain and leaves the policies to us unless a certificate demands them: an authority signs its own only.
	if len(c.Policies) != 1 {
		return nil, 0, fmt.Errorf("%w: %d policies, want 1", ErrProfile, len(c.Policies))
	}
	i := slices.IndexFunc(wanted, func(p policy) bool { return p.oid().Equal(c.Policies[0]) })
	if i < 0 || !slices.ContainsFunc(chain[1].Policies, c.Policies[0].Equal) {
		return nil, 0, fmt.Errorf("%w: policy %s under %.60q", ErrProfile, c.Policies[0], chain[1].Subject)
	}
	if c.IsCA || c.KeyUsage != x509.KeyUsageDigitalSignature {
		return nil, 0, fmt.Errorf("%w: its key may do other than sign", ErrProfile)
	}
	if err := checkKey(c.PublicKey); err != nil {
		return nil, 0, fmt.Errorf("%w: %w", ErrProfile, err)
	}
	if late {
		return c, wanted[i], fmt.Errorf("%w: %s to %s", ErrExpired, c.NotBefore.Format(time.DateOnly), c.NotAfter.Format(time.DateOnly))
	}
	return c, wanted[i], nil
}

// chain returns leaf, issuing authority, root. late says that it holds only at a time the leaf was valid.
func (t *Trust) chain(c *x509.Certificate, now time.Time, usage x509.ExtKeyUsage) (chain []*x509.Certificate, late bool, err error) {
	opts := x509.VerifyOptions{Roots: t.anchor, Intermediates: t.between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage}}
	chains, err := c.Verify(opts)
	var invalid x509.CertificateInvalidError
	if errors.As(err, &invalid) && invalid.Reason == x509.Expired && invalid.Cert.Equal(c) {
		late, opts.CurrentTime = true, c.NotAfter
		chains, err = c.Verify(opts)
	}
	if errors.As(err, &invalid) && invalid.Reason == x509.IncompatibleUsage {
		return nil, false, fmt.Errorf("%w: %w", ErrProfile, err)
	}
	if err != nil {
		return nil, false, fmt.Errorf("%w: %w", ErrForeign, err)
	}
	for _, chain := range chains {
		if len(chain) == 3 {
			return chain, late, nil
		}
	}
	return nil, false, fmt.Errorf("%w: the chain is not leaf, authority, root", ErrForeign)
}

// Check makes the check of p's kind on a certificate just issued and compares what it says with what was asked for.
func Check(t *Trust, p Profile, der []byte, now time.Time) error {
	same := false
	var err error
	switch p := p.(type) {
	case Device:
		var b Box
		b, err = t.VerifyBox(der, now)
		same = b.Serial == p.Serial && string(b.AKName) == string(p.AKName)
	case CardAuth:
		var c Person
		c, err = t.VerifyPerson(der, now)
		same = c.GUID == p.GUID && c.Method == p.Method && c.Subject == p.Name
	case CardPresence:
		var c Presence
		c, err = t.VerifyPresence(der, now)
		same = c.GUID == p.GUID
	case Gateway:
		var name string
		name, err = t.VerifyGateway(der, now)
		same = name == p.Name
	case Bubble:
		var name string
		name, err = t.VerifyBubble(der, now)
		same = name == p.Name
	case Operator:
		var name string
		name, err = t.VerifyOperator(der, now)
		same = name == p.Name
	default:
		err = fmt.Errorf("%T: %w", p, ErrProfile)
	}
	if err == nil && !same {
		err = fmt.Errorf("certificate says other than asked for: %w", ErrProfile)
	}
	return err
}

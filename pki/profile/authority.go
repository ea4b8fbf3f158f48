// SPDX-License-Identifier: Apache-2.0

package profile

import (
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"time"

	"sdbox/internal/ident"
)

// Authority is the certificate of the root (20 years) or of an issuing authority (10 years). The root signs them all.
type Authority struct {
	Name Issuer
	Key  crypto.PublicKey
}

// Issuer is Root.
func (Authority) Issuer() Issuer { return Root }

// authorityUsages lists what an issuing authority may certify. OCSPSigning is in every list, else the certificates of its
// delegated responders do not verify (Go checks that usages nest).
func (a Authority) usages() (usages []x509.ExtKeyUsage, more []asn1.ObjectIdentifier, policies []policy) {
	switch a.Name {
	case Devices:
		return []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageOCSPSigning}, nil, []policy{policyDevice}
	case Cards:
		return []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageOCSPSigning},
			[]asn1.ObjectIdentifier{oidSmartcardLogon(), oidKerberosClient(), oidPIVCardAuth()},
			[]policy{policyFingerOnCard, policyFingerOnToken, policyPIN, policyPresence, policyOperator}
	case Gateways:
		return []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageOCSPSigning}, nil, []policy{policyGateway, policyBubble}
	case Logon:
		return []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageOCSPSigning},
			[]asn1.ObjectIdentifier{oidSmartcardLogon(), oidKerberosClient()}, []policy{policyLogon}
	case Code:
		return []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning, x509.ExtKeyUsageOCSPSigning}, nil, []policy{policyCode}
	}
	return nil, nil, nil
}

// Template implements Profile. Name constraints are on Devices and Gateways only: under Go a chain with any name
// constraint refuses the urn:uuid names that card certificates must carry (FIPS 201-3), so Cards is held by usages and policies.
func (a Authority) Template(domain ident.Domain, now time.Time) (*x509.Certificate, error) {
	t := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "SD-Box " + string(a.Name), Organization: []string{string(domain)}},
		PublicKey:             a.Key,
		NotBefore:             now.Add(-Backdate).UTC().Truncate(time.Second),
		NotAfter:              now.Add(10 * 365 * day).UTC().Truncate(time.Second),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
	}
	if a.Name == Root {
		t.MaxPathLen, t.MaxPathLenZero = 1, false
		t.NotAfter = now.Add(20 * 365 * day).UTC().Truncate(time.Second)
		return t, nil
	}
	var policies []policy
	t.ExtKeyUsage, t.UnknownExtKeyUsage, policies = a.usages()
	if policies == nil {
		return nil, fmt.Errorf("authority %.40q: want root, devices, cards, gateways, logon or code", a.Name)
	}
	for _, p := range policies {
		t.Policies = append(t.Policies, p.oid())
	}
	switch a.Name {
	case Devices:
		t.PermittedDNSDomainsCritical = true
		t.PermittedURIDomains = []string{"boxes." + string(domain)}
	case Gateways:
		t.PermittedDNSDomainsCritical = true
		t.PermittedDNSDomains = []string{string(domain)}
	}
	return t, nil
}

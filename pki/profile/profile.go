// SPDX-License-Identifier: Apache-2.0

// Package profile says what every certificate of the house looks like, as data, and checks a certificate that comes from
// outside against it: whose it is, what it may be used for, and that the right authority signed it.
package profile

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"sdbox/internal/ident"
)

// Issuer names an authority: the folder it lives in and the only signer of some profiles.
type Issuer string

// The authorities. Root signs only the others.
const (
	Root     Issuer = "root"
	Devices  Issuer = "devices"
	Cards    Issuer = "cards"
	Gateways Issuer = "gateways"
	Logon    Issuer = "logon"
	Code     Issuer = "code"
)

// Issuers lists the issuing authorities, without the root.
func Issuers() []Issuer { return []Issuer{Devices, Cards, Gateways, Logon, Code} }

// Method is how a card makes sure of its person before it signs, named by the policy OID of the 9A certificate.
type Method string

// The methods.
const (
	FingerOnCard  Method = "finger-on-card"
	FingerOnToken Method = "finger-on-token"
	PIN           Method = "pin"
)

// policy is the last arc of a certificate policy OID below 2.999.1.1 (2.999 is the example arc of ITU-T X.660).
type policy uint64

const (
	policyDevice        policy = 1
	policyGateway       policy = 2
	policyBubble        policy = 3
	policyOperator      policy = 4
	policyPresence      policy = 5
	policyFingerOnCard  policy = 10
	policyFingerOnToken policy = 11
	policyPIN           policy = 12
	policyLogon         policy = 20
	policyCode          policy = 21
)

func (p policy) oid() x509.OID {
	id, err := x509.OIDFromInts([]uint64{2, 999, 1, 1, uint64(p)})
	if err != nil {
		panic("profile: a fixed OID: " + err.Error())
	}
	return id
}

func (m Method) policy() (policy, error) {
	switch m {
	case FingerOnCard:
		return policyFingerOnCard, nil
	case FingerOnToken:
		return policyFingerOnToken, nil
	case PIN:
		return policyPIN, nil
	}
	return 0, fmt.Errorf("method %.40q: want finger-on-card, finger-on-token or pin", m)
}

func methodOf(p policy) Method {
	for _, m := range []Method{FingerOnCard, FingerOnToken, PIN} {
		if known, err := m.policy(); err == nil && known == p {
			return m
		}
	}
	return ""
}

type oid = asn1.ObjectIdentifier

// OIDs of the fields that crypto/x509 has no name for.
func oidAKName() oid           { return oid{2, 999, 1, 2, 1} }
func oidUPN() oid              { return oid{1, 3, 6, 1, 4, 1, 311, 20, 2, 3} } // MS-WCCE 2.2.2.7.7.3
func oidSmartcardLogon() oid   { return oid{1, 3, 6, 1, 4, 1, 311, 20, 2, 2} } // MS-PKCA 3.1.5.2.1
func oidKerberosClient() oid   { return oid{1, 3, 6, 1, 5, 2, 3, 4} }          // RFC 4556, 3.2.4
func oidPIVCardAuth() oid      { return oid{2, 16, 840, 1, 101, 3, 6, 8} }     // FIPS 201-3, 4.2.2.5
func oidSubjectAltName() oid   { return oid{2, 5, 29, 17} }                    // RFC 5280, 4.2.1.6
func oidExtendedKeyUsage() oid { return oid{2, 5, 29, 37} }                    // RFC 5280, 4.2.1.12

// Profile is a certificate to be: what Template makes of it is signed by Issuer and by nobody else.
type Profile interface {
	// Issuer is the authority whose profile it is.
	Issuer() Issuer
	// Template returns the certificate without serial number and signature, its PublicKey set. The error says which field is wrong.
	Template(domain ident.Domain, now time.Time) (*x509.Certificate, error)
}

// Backdate is how long before its issue a certificate begins to be valid, for clocks that are late.
const Backdate = 5 * time.Minute

const day = 24 * time.Hour

// Device is the certificate of a box's device key, 7 days.
type Device struct {
	Serial string
	AKName []byte // TPM Name of the attestation key: an algorithm of 2 bytes and a SHA-256 digest (TPM 2.0 Part 1, 16)
	Key    crypto.PublicKey
}

// Issuer is Devices.
func (Device) Issuer() Issuer { return Devices }

// Template implements Profile.
func (p Device) Template(domain ident.Domain, now time.Time) (*x509.Certificate, error) {
	if err := ident.CheckSerial(p.Serial); err != nil {
		return nil, err
	}
	if err := checkAKName(p.AKName); err != nil {
		return nil, err
	}
	value, err := asn1.Marshal(p.AKName)
	if err != nil {
		return nil, fmt.Errorf("AK name: %w", err)
	}
	t, err := leaf(p.Serial, p.Key, policyDevice, now, 7*day, x509.ExtKeyUsageClientAuth)
	if err != nil {
		return nil, err
	}
	t.URIs = append(t.URIs, domain.Box(p.Serial))
	t.ExtraExtensions = []pkix.Extension{{Id: oidAKName(), Value: value}}
	return t, nil
}

func checkAKName(name []byte) error {
	if len(name) != 34 || name[0] != 0x00 || name[1] != 0x0b {
		return fmt.Errorf("AK name of %d bytes: want 000b and a SHA-256 digest", len(name))
	}
	return nil
}

// CardAuth is the certificate of a card's key 9A: the person, by a method. 3 years, or until an earlier end.
type CardAuth struct {
	GUID   ident.GUID
	Name   string // common name, for people
	UPN    string // user principal name, for directory logon: alice@DOMAIN; may be empty
	Method Method
	Key    crypto.PublicKey
	Until  time.Time // its last second, for somebody who leaves sooner; zero = 3 years
}

// Issuer is Cards.
func (CardAuth) Issuer() Issuer { return Cards }

// Template implements Profile (FIPS 201-3, 4.2.2.1).
func (p CardAuth) Template(_ ident.Domain, now time.Time) (*x509.Certificate, error) {
	number, err := p.Method.policy()
	if err != nil {
		return nil, err
	}
	if err := checkCommonName(p.Name); err != nil {
		return nil, err
	}
	if p.GUID == (ident.GUID{}) {
		return nil, errors.New("card GUID: want one that is not zero")
	}
	names, err := personNames(p.GUID, p.UPN)
	if err != nil {
		return nil, err
	}
	t, err := leaf(p.Name, p.Key, number, now, 3*365*day, x509.ExtKeyUsageClientAuth)
	if err != nil {
		return nil, err
	}
	if !p.Until.IsZero() {
		if until := p.Until.UTC().Truncate(time.Second); until.After(now) && until.Before(t.NotAfter) {
			t.NotAfter = until
		} else {
			return nil, fmt.Errorf("end %s: want a time in the coming 3 years", until.Format(time.RFC3339))
		}
	}
	t.UnknownExtKeyUsage = []asn1.ObjectIdentifier{oidSmartcardLogon(), oidKerberosClient()}
	t.ExtraExtensions = []pkix.Extension{names}
	return t, nil
}

// CardPresence is the certificate of a card's key 9E: the same card, without its person. 3 years.
type CardPresence struct {
	GUID ident.GUID
	Key  crypto.PublicKey
}

// Issuer is Cards.
func (CardPresence) Issuer() Issuer { return Cards }

// Template implements Profile (FIPS 201-3, 4.2.2.5). The extended key usage is critical, and so is the name, which is the only one.
func (p CardPresence) Template(_ ident.Domain, now time.Time) (*x509.Certificate, error) {
	if p.GUID == (ident.GUID{}) {
		return nil, errors.New("card GUID: want one that is not zero")
	}
	names, err := personNames(p.GUID, "")
	if err != nil {
		return nil, err
	}
	names.Critical = true
	usage, err := asn1.Marshal([]asn1.ObjectIdentifier{oidPIVCardAuth()})
	if err != nil {
		return nil, fmt.Errorf("extended key usage: %w", err)
	}
	t, err := leaf("", p.Key, policyPresence, now, 3*365*day)
	if err != nil {
		return nil, err
	}
	t.ExtraExtensions = []pkix.Extension{names, {Id: oidExtendedKeyUsage(), Critical: true, Value: usage}}
	return t, nil
}

// Gateway is the certificate of a gateway, 180 days.
type Gateway struct {
	Name string // short name: gw1
	Key  crypto.PublicKey
}

// Issuer is Gateways.
func (Gateway) Issuer() Issuer { return Gateways }

// Template implements Profile.
func (p Gateway) Template(domain ident.Domain, now time.Time) (*x509.Certificate, error) {
	if err := ident.CheckBubble(p.Name); err != nil || p.Name == "bubbles" {
		return nil, fmt.Errorf("gateway name %.40q: want 2 to 32 lower-case letters, digits and hyphens", p.Name)
	}
	t, err := leaf(domain.Gateway(p.Name), p.Key, policyGateway, now, 180*day, x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth)
	if err != nil {
		return nil, err
	}
	t.DNSNames = []string{domain.Gateway(p.Name)}
	return t, nil
}

// Bubble is the certificate of a bubble, 180 days.
type Bubble struct {
	Name string // short name: epi
	Key  crypto.PublicKey
}

// Issuer is Gateways.
func (Bubble) Issuer() Issuer { return Gateways }

// Template implements Profile.
func (p Bubble) Template(domain ident.Domain, now time.Time) (*x509.Certificate, error) {
	if err := ident.CheckBubble(p.Name); err != nil {
		return nil, err
	}
	t, err := leaf(p.Name, p.Key, policyBubble, now, 180*day, x509.ExtKeyUsageServerAuth)
	if err != nil {
		return nil, err
	}
	t.DNSNames = []string{domain.Bubble(p.Name)}
	return t, nil
}

// Operator is the certificate of someone who watches and acts at the console, 1 year.
type Operator struct {
	Name string // login name: alice
	Key  crypto.PublicKey
}

// Issuer is Cards.
func (Operator) Issuer() Issuer { return Cards }

// operatorPattern is a login name's: it keeps an operator from being mistaken for a box, a person or a sentence.
var operatorPattern = regexp.MustCompile(`^[a-z][a-z0-9._-]{0,31}$`)

// Template implements Profile.
func (p Operator) Template(_ ident.Domain, now time.Time) (*x509.Certificate, error) {
	if !operatorPattern.MatchString(p.Name) {
		return nil, fmt.Errorf("operator name %.40q: want 1 to 32 lower-case letters, digits, dots, hyphens and underscores", p.Name)
	}
	return leaf(p.Name, p.Key, policyOperator, now, 365*day, x509.ExtKeyUsageClientAuth)
}

// leaf is what all end certificates share.
func leaf(name string, key crypto.PublicKey, p policy, now time.Time, life time.Duration, usages ...x509.ExtKeyUsage) (*x509.Certificate, error) {
	if err := checkKey(key); err != nil {
		return nil, err
	}
	return &x509.Certificate{
		Subject:               pkix.Name{CommonName: name},
		PublicKey:             key,
		NotBefore:             now.Add(-Backdate).UTC().Truncate(time.Second),
		NotAfter:              now.Add(life).UTC().Truncate(time.Second),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           usages,
		Policies:              []x509.OID{p.oid()},
		BasicConstraintsValid: true,
	}, nil
}

func checkKey(key crypto.PublicKey) error {
	k, ok := key.(*ecdsa.PublicKey)
	if !ok || k == nil || k.Curve != elliptic.P256() {
		return fmt.Errorf("key of type %T: want ECDSA on P-256", key)
	}
	if _, err := k.ECDH(); err != nil {
		return fmt.Errorf("key: %w", err)
	}
	return nil
}

func checkCommonName(s string) error {
	if s == "" || len(s) > 64 || !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return fmt.Errorf("name %.70q: want 1 to 64 bytes of text (RFC 5280, ub-common-name)", s)
	}
	return nil
}

// personNames is the subjectAltName of a card: urn:uuid:GUID, and the UPN as otherName. crypto/x509 cannot write otherNames.
func personNames(guid ident.GUID, upn string) (pkix.Extension, error) {
	names := []asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(guid.URI().String())}}
	if upn != "" {
		if len(upn) > 128 || !utf8.ValidString(upn) || strings.Count(upn, "@") != 1 || strings.ContainsFunc(upn, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
			return pkix.Extension{}, fmt.Errorf("user principal name %.60q: want NAME@DOMAIN", upn)
		}
		other := struct {
			ID    asn1.ObjectIdentifier
			Value string `asn1:"utf8,explicit,tag:0"`
		}{oidUPN(), upn}
		der, err := asn1.MarshalWithParams(other, "tag:0")
		if err != nil {
			return pkix.Extension{}, fmt.Errorf("user principal name: %w", err)
		}
		names = append(names, asn1.RawValue{FullBytes: der})
	}
	der, err := asn1.Marshal(names)
	if err != nil {
		return pkix.Extension{}, fmt.Errorf("names of the card: %w", err)
	}
	return pkix.Extension{Id: oidSubjectAltName(), Value: der}, nil
}

// SPDX-License-Identifier: Apache-2.0

package profile

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"os/exec"
	"strings"
	"testing"
	"time"

	"sdbox/internal/ident"

	"github.com/stretchr/testify/require"
)

// town is a house of authorities in memory that signs whatever it is told to.
type town struct {
	t     testing.TB
	certs map[Issuer]*x509.Certificate
	keys  map[Issuer]*ecdsa.PrivateKey
	trust *Trust
	now   time.Time
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	return key
}

func newTown(t testing.TB, domain ident.Domain) *town {
	t.Helper()
	w := &town{t: t, certs: map[Issuer]*x509.Certificate{}, keys: map[Issuer]*ecdsa.PrivateKey{}, now: time.Now()}
	for _, name := range append([]Issuer{Root}, Issuers()...) {
		w.keys[name] = newKey(t)
		template, err := Authority{name, w.keys[name].Public()}.Template(domain, w.now)
		require.NoError(t, err)
		w.certs[name] = w.sign(Root, template)
	}
	var issuers []*x509.Certificate
	for _, name := range Issuers() {
		issuers = append(issuers, w.certs[name])
	}
	var err error
	w.trust, err = NewTrust(domain, w.certs[Root], issuers...)
	require.NoError(t, err)
	return w
}

func (w *town) sign(by Issuer, template *x509.Certificate) *x509.Certificate {
	w.t.Helper()
	template.SerialNumber = big.NewInt(1 + time.Now().UnixNano())
	parent := w.certs[by]
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, template.PublicKey, w.keys[by])
	require.NoError(w.t, err)
	c, err := x509.ParseCertificate(der)
	require.NoError(w.t, err)
	return c
}

// issue signs a profile after change spoilt its template.
func (w *town) issue(by Issuer, p Profile, change func(*x509.Certificate)) []byte {
	w.t.Helper()
	template, err := p.Template(w.trust.domain, w.now)
	require.NoError(w.t, err)
	if change != nil {
		change(template)
	}
	return w.sign(by, template).Raw
}

func akName() []byte { return append([]byte{0x00, 0x0b}, make([]byte, 32)...) }

func samples(key crypto.PublicKey) map[string]Profile {
	return map[string]Profile{
		"box":      Device{Serial: "PARIS-0042", AKName: akName(), Key: key},
		"person":   CardAuth{GUID: ident.GUID{1}, Name: "Zoé O'Hara", UPN: "zoe@lab", Method: FingerOnCard, Key: key},
		"presence": CardPresence{GUID: ident.GUID{1}, Key: key},
		"gateway":  Gateway{Name: "gw1", Key: key},
		"bubble":   Bubble{Name: "epi", Key: key},
		"operator": Operator{Name: "olga", Key: key},
	}
}

func checks(t *Trust) map[string]func([]byte, time.Time) error {
	return map[string]func([]byte, time.Time) error{
		"box":      func(der []byte, now time.Time) error { _, err := t.VerifyBox(der, now); return err },
		"person":   func(der []byte, now time.Time) error { _, err := t.VerifyPerson(der, now); return err },
		"presence": func(der []byte, now time.Time) error { _, err := t.VerifyPresence(der, now); return err },
		"gateway":  func(der []byte, now time.Time) error { _, err := t.VerifyGateway(der, now); return err },
		"bubble":   func(der []byte, now time.Time) error { _, err := t.VerifyBubble(der, now); return err },
		"operator": func(der []byte, now time.Time) error { _, err := t.VerifyOperator(der, now); return err },
	}
}

func TestEachCheckAcceptsItsProfileAndRefusesEveryOther(t *testing.T) {
	w := newTown(t, "lab")
	for name, p := range samples(newKey(t).Public()) {
		der := w.issue(p.Issuer(), p, nil)
		for kind, check := range checks(w.trust) {
			if kind == name {
				require.NoError(t, check(der, w.now), kind)
				continue
			}
			require.ErrorIs(t, check(der, w.now), ErrProfile, "%s taken for %s", name, kind)
		}
	}
}

func TestFactsAreThoseOfTheCertificate(t *testing.T) {
	w := newTown(t, "lab")
	key := newKey(t)
	person, err := w.trust.VerifyPerson(w.issue(Cards, CardAuth{GUID: ident.GUID{7}, Name: "Ada", Method: PIN, Key: key.Public()}, nil), w.now)
	require.NoError(t, err)
	require.Equal(t, ident.GUID{7}, person.GUID)
	require.Equal(t, PIN, person.Method)
	require.Equal(t, "Ada", person.Subject)
	require.True(t, key.PublicKey.Equal(person.Key))

	der := w.issue(Devices, samples(key.Public())["box"], nil)
	box, err := w.trust.VerifyBox(der, w.now)
	require.NoError(t, err)
	require.Equal(t, "PARIS-0042", box.Serial)
	require.Equal(t, akName(), box.AKName)
	_, err = w.trust.VerifyBox(der, w.now.Add(6*day))
	require.NoError(t, err)
}

func TestExpiredCardIsNamedWithItsEnd(t *testing.T) {
	w := newTown(t, "lab")
	der := w.issue(Cards, samples(newKey(t).Public())["person"], nil)
	person, err := w.trust.VerifyPerson(der, w.now.Add(4*365*day))
	require.ErrorIs(t, err, ErrExpired)
	require.Equal(t, ident.GUID{1}, person.GUID)
	require.WithinDuration(t, w.now.Add(3*365*day), person.NotAfter, time.Second)
	_, err = w.trust.VerifyPerson(der, w.now.Add(-day))
	require.ErrorIs(t, err, ErrExpired)
	_, err = w.trust.VerifyPerson(der, w.now.Add(15*365*day))
	require.ErrorIs(t, err, ErrExpired, "the authority has ended too: nothing but the time is wrong")

	// Expired and foreign is foreign: whose card ended is said of our own cards only.
	_, err = newTown(t, "lab").trust.VerifyPerson(der, w.now.Add(4*365*day))
	require.ErrorIs(t, err, ErrForeign)
}

// spoiling is one way in which a certificate is not what it is shown as.
type spoiling struct {
	name, kind string
	by         Issuer
	change     func(*x509.Certificate)
	want       error
}

func spoilt(t testing.TB) []spoiling {
	uri := func(s string) []*url.URL {
		u, err := url.Parse(s)
		require.NoError(t, err)
		return []*url.URL{u}
	}
	with := func(p policy) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.Policies = []x509.OID{p.oid()} }
	}
	names := func(uris ...string) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			c.ExtraExtensions = nil
			c.URIs = nil
			for _, s := range uris {
				c.URIs = append(c.URIs, uri(s)...)
			}
		}
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	require.NoError(t, err)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)

	return []spoiling{
		{"person signed by the gateways' authority", "person", Gateways, nil, ErrForeign},
		{"person signed by the devices' authority", "person", Devices, nil, ErrForeign},
		{"person signed by the logon authority", "person", Logon, nil, ErrProfile},
		{"person signed by the root", "person", Root, nil, ErrForeign},
		{"box signed by the cards' authority", "box", Cards, nil, ErrProfile},
		{"gateway signed by the cards' authority", "gateway", Cards, nil, ErrProfile},
		{"operator signed by the gateways' authority", "operator", Gateways, nil, ErrProfile},
		{"operator signed by the devices' authority", "operator", Devices, nil, ErrProfile},
		{"person without a method", "person", Cards, func(c *x509.Certificate) { c.Policies = nil }, ErrProfile},
		{"person with two methods", "person", Cards, func(c *x509.Certificate) {
			c.Policies = append(c.Policies, policyPIN.oid())
		}, ErrProfile},
		{"person with the operators' policy", "person", Cards, with(policyOperator), ErrProfile},
		{"operator with a person's policy", "operator", Cards, with(policyFingerOnCard), ErrProfile},
		{"operator that also names a card", "operator", Cards, names("urn:uuid:01000000-0000-0000-0000-000000000000"), ErrProfile},
		{"person that names two cards", "person", Cards, names("urn:uuid:01000000-0000-0000-0000-000000000000", "urn:uuid:02000000-0000-0000-0000-000000000000"), ErrProfile},
		{"person that names a box", "person", Cards, names("spiffe://boxes.lab/box/PARIS-0042"), ErrProfile},
		{"person whose GUID is in capitals", "person", Cards, names("urn:uuid:01000000-0000-0000-0000-00000000000A"), ErrProfile},
		{"person whose name has a query", "person", Cards, names("urn:uuid:01000000-0000-0000-0000-000000000000?x"), ErrProfile},
		{"person without a name", "person", Cards, names(), ErrProfile},
		{"person with a DNS name beside", "person", Cards, func(c *x509.Certificate) {
			names("urn:uuid:01000000-0000-0000-0000-000000000000")(c)
			c.DNSNames = []string{"gw1.lab"}
		}, ErrProfile},
		{"box of another domain", "box", Devices, func(c *x509.Certificate) { c.URIs = uri("spiffe://boxes.evil/box/PARIS-0042") }, ErrForeign},
		{"box with a path below", "box", Devices, func(c *x509.Certificate) { c.URIs = uri("spiffe://boxes.lab/box/PARIS-0042/x") }, ErrProfile},
		{"box with an escaped letter", "box", Devices, func(c *x509.Certificate) { c.URIs = uri("spiffe://boxes.lab/box/%50ARIS-0042") }, ErrProfile},
		{"box without AK name", "box", Devices, func(c *x509.Certificate) { c.ExtraExtensions = nil }, ErrProfile},
		{"box with a short AK name", "box", Devices, func(c *x509.Certificate) { c.ExtraExtensions[0].Value = []byte{4, 2, 0, 11} }, ErrProfile},
		{"box with an AK name of no form", "box", Devices, func(c *x509.Certificate) { c.ExtraExtensions[0].Value = []byte{0xff} }, ErrProfile},
		{"box with a usage for servers", "box", Devices, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }, ErrProfile},
		{"gateway of another domain", "gateway", Gateways, func(c *x509.Certificate) { c.DNSNames = []string{"gw1.evil"} }, ErrForeign},
		{"gateway with a wildcard", "gateway", Gateways, func(c *x509.Certificate) { c.DNSNames = []string{"*.lab"} }, ErrProfile},
		{"gateway with two names", "gateway", Gateways, func(c *x509.Certificate) { c.DNSNames = append(c.DNSNames, "gw2.lab") }, ErrProfile},
		{"gateway with an address", "gateway", Gateways, func(c *x509.Certificate) { c.IPAddresses = []net.IP{{127, 0, 0, 1}} }, ErrProfile},
		{"bubble that calls itself a gateway", "bubble", Gateways, func(c *x509.Certificate) { c.DNSNames = []string{"gw1.lab"} }, ErrProfile},
		{"presence without its usage", "presence", Cards, func(c *x509.Certificate) { c.ExtraExtensions = c.ExtraExtensions[:1] }, ErrProfile},
		{"a critical extension nobody knows", "person", Cards, func(c *x509.Certificate) {
			c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}})
		}, ErrForeign},
		{"an authority that shows itself", "person", Cards, func(c *x509.Certificate) {
			c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign|x509.KeyUsageDigitalSignature
		}, ErrProfile},
		{"a key that may encipher", "person", Cards, func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageKeyEncipherment }, ErrProfile},
		{"a key on P-384", "person", Cards, func(c *x509.Certificate) { c.PublicKey = p384.Public() }, ErrProfile},
		{"an RSA key", "person", Cards, func(c *x509.Certificate) { c.PublicKey = rsaKey.Public() }, ErrProfile},
	}
}

func TestCertificateOutOfItsProfileIsRefused(t *testing.T) {
	w := newTown(t, "lab")
	p := samples(newKey(t).Public())
	for _, c := range spoilt(t) {
		t.Run(c.name, func(t *testing.T) {
			require.ErrorIs(t, checks(w.trust)[c.kind](w.issue(c.by, p[c.kind], c.change), w.now), c.want)
		})
	}
}

func TestLeafCannotSignBelowItself(t *testing.T) {
	w := newTown(t, "lab")
	key := newKey(t)
	holder := w.issue(Cards, CardAuth{GUID: ident.GUID{1}, Name: "Mallory", Method: FingerOnCard, Key: key.Public()}, nil)
	var err error
	w.certs["mallory"], err = x509.ParseCertificate(holder)
	require.NoError(t, err)
	w.keys["mallory"] = key
	forged := w.issue("mallory", CardAuth{GUID: ident.GUID{2}, Name: "Ada", Method: FingerOnCard, Key: newKey(t).Public()}, nil)
	_, err = w.trust.VerifyPerson(forged, w.now)
	require.ErrorIs(t, err, ErrForeign)
	_, err = NewTrust("lab", w.certs[Root], w.certs["mallory"])
	require.Error(t, err, "a leaf among the authorities")
}

func TestForeignHouseWithTheSameNamesIsForeign(t *testing.T) {
	ours, theirs := newTown(t, "lab"), newTown(t, "lab")
	for name, p := range samples(newKey(t).Public()) {
		require.ErrorIs(t, checks(ours.trust)[name](theirs.issue(p.Issuer(), p, nil), ours.now), ErrForeign, name)
	}
	_, err := NewTrust("lab", ours.certs[Root], theirs.certs[Cards])
	require.ErrorContains(t, err, "not signed by the root")
	_, err = NewTrust("example.org", ours.certs[Root])
	require.ErrorContains(t, err, "no authority of domain")
}

func TestTrustBundleRoundTrip(t *testing.T) {
	w := newTown(t, "lab")
	back, err := ParseTrust("lab", w.trust.PEM())
	require.NoError(t, err)
	require.Equal(t, w.trust.PEM(), back.PEM())
	der, err := back.Issuer(Cards)
	require.NoError(t, err)
	require.Equal(t, w.certs[Cards].Raw, der)

	key, err := x509.MarshalPKCS8PrivateKey(newKey(t))
	require.NoError(t, err)
	for name, bad := range map[string][]byte{
		"nothing":       nil,
		"text":          []byte("hello"),
		"text after":    append(w.trust.PEM(), "hello"...),
		"no root":       pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: w.certs[Cards].Raw}),
		"two roots":     append(w.trust.PEM(), newTown(t, "lab").trust.PEM()...),
		"a private key": append(w.trust.PEM(), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})...),
		"too long":      []byte(strings.Repeat(" ", 2<<20)),
		"not a certificate": append(w.trust.PEM(),
			pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte{0x30, 0}})...),
	} {
		_, err := ParseTrust("lab", bad)
		require.Error(t, err, name)
	}
}

func TestTemplateRefusesWrongFields(t *testing.T) {
	key := newKey(t).Public()
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	require.NoError(t, err)
	for name, p := range map[string]Profile{
		"serial":       Device{Serial: "paris", AKName: akName(), Key: key},
		"no AK":        Device{Serial: "PARIS-0042", Key: key},
		"SHA-1 AK":     Device{Serial: "PARIS-0042", AKName: append([]byte{0, 4}, make([]byte, 32)...), Key: key},
		"no key":       Device{Serial: "PARIS-0042", AKName: akName()},
		"nil key":      Device{Serial: "PARIS-0042", AKName: akName(), Key: (*ecdsa.PublicKey)(nil)},
		"P-384":        Bubble{Name: "epi", Key: p384.Public()},
		"method":       CardAuth{GUID: ident.GUID{1}, Name: "Ada", Method: "smile", Key: key},
		"no GUID":      CardAuth{Name: "Ada", Method: PIN, Key: key},
		"no name":      CardAuth{GUID: ident.GUID{1}, Method: PIN, Key: key},
		"long name":    CardAuth{GUID: ident.GUID{1}, Name: strings.Repeat("a", 65), Method: PIN, Key: key},
		"newline":      CardAuth{GUID: ident.GUID{1}, Name: "Ada\nroot", Method: PIN, Key: key},
		"UPN":          CardAuth{GUID: ident.GUID{1}, Name: "Ada", UPN: "ada", Method: PIN, Key: key},
		"9E no GUID":   CardPresence{Key: key},
		"gateway name": Gateway{Name: "bubbles", Key: key},
		"gateway dots": Gateway{Name: "gw1.evil", Key: key},
		"bubble name":  Bubble{Name: "*", Key: key},
		"operator":     Operator{Name: "Olga Petrova", Key: key},
		"authority":    Authority{Name: "kings", Key: key},
	} {
		_, err := p.Template("lab", time.Now())
		require.Error(t, err, name)
	}
}

// TestOtherReadersAgree holds our encodings against openssl, which no code of ours has a part in.
func TestOtherReadersAgree(t *testing.T) {
	w := newTown(t, "lab")
	p := samples(newKey(t).Public())
	text := func(kind string) string {
		cmd := exec.Command("openssl", "x509", "-inform", "DER", "-noout", "-text")
		cmd.Stdin = strings.NewReader(string(w.issue(p[kind].Issuer(), p[kind], nil)))
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, string(out))
		return string(out)
	}
	person := text("person")
	require.Contains(t, person, "othername: UPN::zoe@lab")
	require.Contains(t, person, "URI:urn:uuid:01000000-0000-0000-0000-000000000000")
	require.Contains(t, person, "Policy: 2.999.1.1.10")
	require.Contains(t, person, "Microsoft Smartcard Login")
	presence := text("presence")
	require.Contains(t, presence, "X509v3 Extended Key Usage: critical\n                2.16.840.1.101.3.6.8")
	require.Contains(t, presence, "X509v3 Subject Alternative Name: critical")
	require.Contains(t, text("box"), "URI:spiffe://boxes.lab/box/PARIS-0042")
}

func FuzzVerify(f *testing.F) {
	w := newTown(f, "lab")
	for _, p := range samples(newKey(f).Public()) {
		f.Add(w.issue(p.Issuer(), p, nil))
	}
	for _, c := range spoilt(f) {
		f.Add(w.issue(c.by, samples(newKey(f).Public())[c.kind], c.change))
	}
	f.Add(w.issue(Cards, CardPresence{GUID: ident.GUID{1}, Key: newKey(f).Public()}, func(c *x509.Certificate) { c.NotBefore, c.NotAfter = w.now.Add(-2*time.Hour), w.now.Add(-time.Hour) }))
	f.Add([]byte{0x30, 0x80})
	f.Add(make([]byte, maxCertificate+1))
	stranger, err := hex.DecodeString("3003020101")
	require.NoError(f, err)
	f.Add(stranger)
	f.Fuzz(func(t *testing.T, der []byte) {
		accepted := 0
		for _, check := range checks(w.trust) {
			if check(der, w.now) == nil {
				accepted++
			}
		}
		if accepted > 1 {
			t.Fatalf("one certificate passes for %d kinds", accepted)
		}
	})
}

func FuzzParseTrust(f *testing.F) {
	w := newTown(f, "lab")
	good := w.trust.PEM()
	first := good[:bytes.Index(good, []byte("-----END"))+len("-----END CERTIFICATE-----\n")]
	f.Add(good)
	f.Add(first)
	f.Add(good[len(first):])
	f.Add(append(bytes.Clone(first), good...))
	f.Add(append(bytes.Clone(good), "x"...))
	f.Add(bytes.ReplaceAll(good, []byte("CERTIFICATE"), []byte("EC PRIVATE KEY")))
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))
	f.Add(append(bytes.Clone(good), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: w.issue(Gateways, Gateway{Name: "gw1", Key: newKey(f).Public()}, nil)})...))
	f.Add(make([]byte, 1<<20+1))
	f.Fuzz(func(t *testing.T, text []byte) {
		trust, err := ParseTrust("lab", text)
		if err != nil {
			return
		}
		same, err := ParseTrust("lab", trust.PEM())
		require.NoError(t, err)
		require.Equal(t, trust.PEM(), same.PEM())
	})
}

// SPDX-License-Identifier: Apache-2.0

// Package ident names the things sdbox speaks of: trust domains, boxes, people, bubbles, cards and
// sessions. It only builds and parses names; it decides nothing.
package ident

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/hex"
	"fmt"
	"net/url"
	"regexp"
	"strings"
)

// Lab is the trust domain of the simulated house. Simulated hardware is refused outside it.
const Lab Domain = "lab"

var (
	domainPattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,62}\.)*[a-z0-9-]{0,62}[a-z0-9]$|^[a-z0-9]$`)
	namePattern   = regexp.MustCompile(`^[a-z][a-z0-9-]{0,30}[a-z0-9]$`)
	serialPattern = regexp.MustCompile(`^[A-Z0-9][A-Z0-9-]{0,30}[A-Z0-9]$`)
	base32Lower   = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)
)

// ID is a random identifier of 16 bytes, written as 26 letters and digits of lower-case base32 (RFC 4648, 6).
type ID [16]byte

// NewID draws an ID from the system's random source.
func NewID() ID {
	var id ID
	rand.Read(id[:]) // never fails: crypto/rand ends the program instead
	return id
}

// ParseID reads the 26-character form.
func ParseID(s string) (ID, error) {
	var id ID
	raw, err := base32Lower.DecodeString(s)
	if err != nil || len(raw) != len(id) || base32Lower.EncodeToString(raw) != s {
		return ID{}, fmt.Errorf("id %.40q: want 26 characters of a-z and 2-7", s)
	}
	copy(id[:], raw)
	return id, nil
}

// String returns the 26-character form.
func (id ID) String() string { return base32Lower.EncodeToString(id[:]) }

// IsZero says whether the ID was never set.
func (id ID) IsZero() bool { return id == ID{} }

// GUID is the 16-byte card holder identifier of a PIV card (SP 800-73-5 Part 1, 3.1.2) and so the name of a person's card.
type GUID [16]byte

// ParseGUID reads the RFC 9562 form, 8-4-4-4-12 lower-case hexadecimal digits.
func ParseGUID(s string) (GUID, error) {
	var g GUID
	raw, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(raw) != len(g) {
		return GUID{}, fmt.Errorf("card GUID %.40q: want 8-4-4-4-12 hexadecimal digits", s)
	}
	copy(g[:], raw)
	if g.String() != s {
		return GUID{}, fmt.Errorf("card GUID %.40q: want 8-4-4-4-12 lower-case hexadecimal digits", s)
	}
	return g, nil
}

// String returns the RFC 9562 form.
func (g GUID) String() string {
	h := hex.EncodeToString(g[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// URI is the name a card certificate carries: urn:uuid:GUID (FIPS 201-3, 2.9.1).
func (g GUID) URI() *url.URL { return &url.URL{Scheme: "urn", Opaque: "uuid:" + g.String()} }

// ParsePersonURI reads urn:uuid:GUID.
func ParsePersonURI(u *url.URL) (GUID, error) {
	rest, found := strings.CutPrefix(u.Opaque, "uuid:")
	if u.Scheme != "urn" || !found {
		return GUID{}, fmt.Errorf("person name %.60q: want urn:uuid:GUID", u)
	}
	return ParseGUID(rest)
}

// Domain is a trust domain, for example "lab" or "sd.example.org". Everything a house signs is valid in its domain only.
type Domain string

// ParseDomain accepts a lower-case DNS name of at most 200 bytes.
func ParseDomain(s string) (Domain, error) {
	if len(s) > 200 || !domainPattern.MatchString(s) {
		return "", fmt.Errorf("trust domain %.60q: want a lower-case DNS name", s)
	}
	return Domain(s), nil
}

// Gateway is the DNS name of a gateway, for example gw1.lab.
func (d Domain) Gateway(name string) string { return name + "." + string(d) }

// Bubble is the DNS name of a bubble, for example epi.bubbles.lab.
func (d Domain) Bubble(name string) string { return name + ".bubbles." + string(d) }

// Box is the URI a device certificate carries: spiffe://boxes.DOMAIN/box/SERIAL.
func (d Domain) Box(serial string) *url.URL {
	return &url.URL{Scheme: "spiffe", Host: "boxes." + string(d), Path: "/box/" + serial}
}

// ParseBox returns the serial of a box URI of this domain.
func (d Domain) ParseBox(u *url.URL) (string, error) {
	serial, found := strings.CutPrefix(u.Path, "/box/")
	if u.Scheme != "spiffe" || u.Host != "boxes."+string(d) || !found || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return "", fmt.Errorf("box name %.80q: want spiffe://boxes.%s/box/SERIAL", u, d)
	}
	return serial, CheckSerial(serial)
}

// CheckSerial accepts a box serial: 2 to 32 upper-case letters, digits and inner hyphens, for example PARIS-0042.
func CheckSerial(s string) error {
	if !serialPattern.MatchString(s) {
		return fmt.Errorf("box serial %.40q: want 2 to 32 upper-case letters, digits and hyphens", s)
	}
	return nil
}

// CheckBubble accepts a bubble's short name: 2 to 32 lower-case letters, digits and inner hyphens, beginning with a letter.
func CheckBubble(s string) error {
	if !namePattern.MatchString(s) {
		return fmt.Errorf("bubble name %.40q: want 2 to 32 lower-case letters, digits and hyphens", s)
	}
	return nil
}

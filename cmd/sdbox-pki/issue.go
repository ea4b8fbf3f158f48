// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"sdbox/internal/ident"
	"sdbox/pki/ca"
	"sdbox/pki/profile"
)

type issueCmd struct {
	Device   deviceCmd   `cmd:"" help:"A box's device key (by hand; boxes enrol at the gateway)."`
	Card     cardCmd     `cmd:"" help:"A person's card: keys 9A and 9E."`
	Gateway  gatewayCmd  `cmd:"" help:"A gateway."`
	Bubble   bubbleCmd   `cmd:"" help:"A bubble."`
	Operator operatorCmd `cmd:"" help:"Someone who watches and acts at the console."`
}

// target says for which key and where to.
type target struct {
	authority
	Public string `placeholder:"FILE" help:"Certify this public key (PEM) instead of making a key."`
	Out    string `required:"" placeholder:"DIR" help:"Folder to make: cert.pem, ca.pem and, for a new key, key.pem."`
}

// issue certifies the key of a target and writes its folder.
func (t target) issue(out io.Writer, of func(key *ecdsa.PublicKey) profile.Profile) error {
	var private *ecdsa.PrivateKey
	var public *ecdsa.PublicKey
	var err error
	if t.Public != "" {
		public, err = readPublic(t.Public)
	} else {
		if private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err == nil {
			public = &private.PublicKey
		}
	}
	if err != nil {
		return err
	}
	p := of(public)
	a, err := t.open(p.Issuer())
	if err != nil {
		return err
	}
	issued, err := a.Issue(p)
	if err != nil {
		return hinted(err)
	}
	if err := a.WriteIdentity(t.Out, issued, private); err != nil {
		return hinted(err)
	}
	fmt.Fprintf(out, "%s: until %s\n", t.Out, issued.Certificate.NotAfter.Format(time.DateOnly))
	return nil
}

func readPublic(name string) (*ecdsa.PublicKey, error) {
	text, err := readSmall(name)
	if err != nil {
		return nil, hint(err, "want the file of a public key in PEM")
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PUBLIC KEY" {
		return nil, hint(fmt.Errorf("%s: no public key", name), "want a PEM file that begins with BEGIN PUBLIC KEY, an ECDSA key on P-256")
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	ec, ok := key.(*ecdsa.PublicKey)
	if !ok || ec.Curve != elliptic.P256() {
		return nil, hint(fmt.Errorf("%s: a key of type %T", name, key), "want an ECDSA key on P-256")
	}
	return ec, nil
}

type deviceCmd struct {
	target
	Serial string `arg:"" help:"Serial of the box: PARIS-0042."`
	AKName string `name:"ak-name" required:"" placeholder:"HEX" help:"TPM Name of its attestation key, 68 hexadecimal digits."`
}

func (c *deviceCmd) Run(out io.Writer) error {
	ak, err := hex.DecodeString(c.AKName)
	if err != nil {
		return hint(fmt.Errorf("AK name: %w", err), "want 000b and the 64 hexadecimal digits of a SHA-256 digest")
	}
	return c.issue(out, func(key *ecdsa.PublicKey) profile.Profile {
		return profile.Device{Serial: c.Serial, AKName: ak, Key: key}
	})
}

type gatewayCmd struct {
	target
	Name string `arg:"" help:"Short name: gw1."`
}

func (c *gatewayCmd) Run(out io.Writer) error {
	return c.issue(out, func(key *ecdsa.PublicKey) profile.Profile { return profile.Gateway{Name: c.Name, Key: key} })
}

type bubbleCmd struct {
	target
	Name string `arg:"" help:"Short name: epi."`
}

func (c *bubbleCmd) Run(out io.Writer) error {
	return c.issue(out, func(key *ecdsa.PublicKey) profile.Profile { return profile.Bubble{Name: c.Name, Key: key} })
}

type operatorCmd struct {
	target
	Name string `arg:"" help:"Login name: olga."`
}

func (c *operatorCmd) Run(out io.Writer) error {
	return c.issue(out, func(key *ecdsa.PublicKey) profile.Profile { return profile.Operator{Name: c.Name, Key: key} })
}

type cardCmd struct {
	authority
	GUID     string    `name:"guid" arg:"" help:"GUID of the card: 8-4-4-4-12 hexadecimal digits."`
	Name     string    `required:"" help:"Name of the person."`
	UPN      string    `name:"upn" placeholder:"NAME@DOMAIN" help:"User principal name, for directory logon."`
	Method   string    `enum:"finger-on-card,finger-on-token,pin" default:"finger-on-card" help:"How the card makes sure of its person: ${enum}."`
	Auth     string    `name:"auth" required:"" placeholder:"FILE" help:"Public key of 9A (PEM), made on the card."`
	Presence string    `name:"presence" required:"" placeholder:"FILE" help:"Public key of 9E (PEM), made on the card."`
	Until    time.Time `help:"End of the 9A certificate, for somebody who leaves sooner. Default: in 3 years."`
	Out      string    `required:"" placeholder:"DIR" help:"Folder to make: 9a.pem and 9e.pem."`
}

func (c *cardCmd) Run(out io.Writer) error {
	guid, err := ident.ParseGUID(c.GUID)
	if err != nil {
		return err
	}
	auth, err := readPublic(c.Auth)
	if err != nil {
		return err
	}
	presence, err := readPublic(c.Presence)
	if err != nil {
		return err
	}
	if auth.Equal(presence) {
		return hint(errors.New("9A and 9E are the same key"), "make a key in each slot of the card")
	}
	a, err := c.open(profile.Cards)
	if err != nil {
		return err
	}
	person, err := a.Issue(profile.CardAuth{GUID: guid, Name: c.Name, UPN: c.UPN, Method: profile.Method(c.Method), Key: auth, Until: c.Until})
	if err != nil {
		return hinted(err)
	}
	card, err := a.Issue(profile.CardPresence{GUID: guid, Key: presence})
	if err != nil {
		return hinted(err)
	}
	if err := writeCard(c.Out, person, card); err != nil {
		return hinted(err)
	}
	fmt.Fprintf(out, "%s: 9a.pem and 9e.pem of card %s, until %s\n", c.Out, guid, person.Certificate.NotAfter.Format(time.DateOnly))
	return nil
}

func writeCard(dir string, person, card ca.Issued) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	for name, issued := range map[string]ca.Issued{"9a.pem": person, "9e.pem": card} {
		text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: issued.Chain[0]}) // the leaf alone goes onto a card
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			return err
		}
	}
	return nil
}

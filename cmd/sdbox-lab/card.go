// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"syscall"
	"time"

	"sdbox/internal/card"
	"sdbox/internal/card/cardsim"
	"sdbox/internal/finger/fingersim"
	"sdbox/internal/ident"
	"sdbox/pki/profile"
)

type cardCmd struct {
	Profile string `default:"nist-occ" enum:"nist-occ,yubikey-5.7" help:"Kind of card: ${enum}."`
	Person  string `default:"Camille Durand" help:"Whose card it is: the name on it and in its certificate."`
	VPCD    string `name:"vpcd" default:"127.0.0.1:35963" help:"HOST:PORT of the virtual reader (package vsmartcard-vpcd)."`
	File    string `type:"path" help:"Keep the card in this file; it is the same card the next time."`
	PIN     string `name:"pin" help:"Set the PIN, 6 to 8 digits. Without it nobody knows the PIN of a new nist-occ card, and a new yubikey-5.7 has its factory's, 123456."`
	Finger  uint64 `default:"1" help:"Number of the simulated finger that a new nist-occ card knows."`
}

// Run is a card in a reader until the context ends.
func (c *cardCmd) Run(ctx context.Context, out io.Writer) error {
	sim, err := c.open()
	if err != nil {
		return err
	}
	if c.PIN != "" {
		if err := sim.SetPIN(c.PIN); err != nil {
			return err
		}
	}
	who := sim.Person()
	fmt.Fprintf(out, "card of %s, GUID %s, for the reader at %s\n", who.Name, who.GUID, c.VPCD)
	fmt.Fprintf(out, "try: pkcs11-tool --list-objects (package opensc); Ctrl-C pulls the card\n")
	err = sim.DialVPCD(ctx, c.VPCD)
	switch {
	case ctx.Err() != nil:
		return nil
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w\nhint: no virtual reader listens at %s: install pcscd and vsmartcard-vpcd, and start pcscd", err, c.VPCD)
	}
	return err
}

// open loads the card, or makes one.
func (c *cardCmd) open() (*cardsim.Sim, error) {
	if c.File != "" {
		sim, err := cardsim.Load(c.File)
		if !errors.Is(err, os.ErrNotExist) {
			return sim, err
		}
	}
	sim, err := cardsim.New(c.Profile, cardsim.Person{GUID: ident.GUID(ident.NewID()), Name: c.Person})
	if err != nil {
		return nil, err
	}
	if err := c.personalise(sim); err != nil {
		return nil, fmt.Errorf("personalise card: %w", err)
	}
	if c.File != "" {
		if err := sim.Save(c.File); err != nil {
			return nil, err
		}
	}
	return sim, nil
}

// desk makes keys on a card and writes certificates to it: by commands and the management key, or by an issuer's channel.
type desk interface {
	Generate(card.Slot) (*ecdsa.PublicKey, error)
	PutCertificate(card.Slot, []byte) error
}

// personalise gives a card what a desk gives it: keys, certificates for them, a finger where it compares one. The authority
// is made for this one card and forgotten.
func (c *cardCmd) personalise(sim *cardsim.Sim) error {
	var at desk = sim
	method := profile.FingerOnCard
	if c.Profile == cardsim.YubiKey57 {
		method = profile.PIN
		selected, err := card.Select(sim, card.Limits{Extended: true})
		if err != nil {
			return err
		}
		defer sim.Reset()
		if err := selected.Authenticate([]byte(cardsim.FactoryManagementKey)); err != nil {
			return err
		}
		at = selected
	} else if err := sim.Enrol(card.RefFinger, fingersim.NewFinger(c.Finger).Reference().Encode()); err != nil {
		return err
	}
	authority, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	who := sim.Person()
	for slot, of := range map[card.Slot]func(*ecdsa.PublicKey) profile.Profile{
		card.Slot9A: func(key *ecdsa.PublicKey) profile.Profile {
			return profile.CardAuth{GUID: who.GUID, Name: who.Name, Method: method, Key: key}
		},
		card.Slot9E: func(key *ecdsa.PublicKey) profile.Profile { return profile.CardPresence{GUID: who.GUID, Key: key} },
	} {
		pub, err := at.Generate(slot)
		if err != nil {
			return err
		}
		der, err := certify(of(pub), authority)
		if err != nil {
			return err
		}
		if err := at.PutCertificate(slot, der); err != nil {
			return err
		}
	}
	return nil
}

// certify signs a certificate of a profile.
func certify(p profile.Profile, authority *ecdsa.PrivateKey) ([]byte, error) {
	t, err := p.Template("lab", time.Now())
	if err != nil {
		return nil, err
	}
	serial := ident.NewID()
	t.SerialNumber = new(big.Int).SetBytes(serial[:])
	issuer := &x509.Certificate{Subject: pkix.Name{CommonName: "sdbox-lab: cards without a house"}}
	return x509.CreateCertificate(rand.Reader, t, issuer, t.PublicKey, authority)
}

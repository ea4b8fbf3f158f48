// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"sdbox/internal/card"
	"sdbox/internal/card/cardsim"
	"sdbox/internal/ident"
)

type cardCmd struct {
	Profile string `default:"nist-occ" enum:"nist-occ" help:"Kind of card: ${enum}."`
	Person  string `default:"Camille Durand" help:"Name printed on the card."`
	VPCD    string `name:"vpcd" default:"127.0.0.1:35963" help:"HOST:PORT of the virtual reader (package vsmartcard-vpcd)."`
	File    string `type:"path" help:"Keep the card in this file; it is the same card the next time."`
	PIN     string `name:"pin" help:"Set the PIN, 6 to 8 digits. Without it nobody knows a new card's PIN."`
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
	fmt.Fprintf(out, "card of %s, GUID %s, in the reader at %s; Ctrl-C pulls it\n", who.Name, who.GUID, c.VPCD)
	if err := sim.DialVPCD(ctx, c.VPCD); err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}

// open loads the card, or makes one with keys and certificates of its own making.
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
	for _, slot := range []card.Slot{card.Slot9A, card.Slot9E} {
		if _, err := sim.Generate(slot); err != nil {
			return nil, err
		}
	}
	if c.File != "" {
		if err := sim.Save(c.File); err != nil {
			return nil, err
		}
	}
	return sim, nil
}

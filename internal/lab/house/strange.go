// SPDX-License-Identifier: Apache-2.0

package house

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"sdbox/firmware/eventlog"
	"sdbox/internal/card"
	"sdbox/internal/card/cardsim"
	"sdbox/internal/ident"
	"sdbox/internal/lab/vm"
	"sdbox/internal/tpm/tpmsim"
)

// The cards a box must turn away, each put into the tray as the GUID of the card itself.

// PurseCard is a card without the PIV application.
func (s *Site) PurseCard() (ident.GUID, error) {
	return s.stray(cardsim.NoPIV, "Carte bancaire", func(*cardsim.Sim) error { return nil })
}

// ForgedCard carries a person's certificates and keys of its own, with a finger of whoever forged it: certificates are no secret.
func (s *Site) ForgedCard(p *Person) (ident.GUID, error) {
	return s.stray(cardsim.NISTOCC, p.Name, func(sim *cardsim.Sim) error {
		for _, slot := range []card.Slot{card.Slot9A, card.Slot9E} {
			if _, err := sim.Generate(slot); err != nil {
				return err
			}
		}
		if err := sim.Enrol(card.RefFinger, p.hand[Wrong].Reference().Encode()); err != nil {
			return err
		}
		return putCertificates(sim, filepath.Join(s.desk(p), "certificates"))
	})
}

func (s *Site) stray(profile, name string, furnish func(*cardsim.Sim) error) (ident.GUID, error) {
	guid := ident.GUID(ident.NewID())
	sim, err := cardsim.New(profile, cardsim.Person{GUID: guid, Name: name})
	if err != nil {
		return guid, err
	}
	if err := furnish(sim); err != nil {
		return guid, err
	}
	s.Tray.Add(sim)
	return guid, nil
}

// ForeignCard is good, and of another house of the same name.
func (s *Site) ForeignCard(ctx context.Context) (ident.GUID, error) {
	p := newPerson("Ana Ruiz", "ruiz", "en", 2003, 2042)
	elsewhere := filepath.Join(s.House.dir, "elsewhere")
	if _, err := s.program(ctx, "sdbox-pki", "init", elsewhere, "--domain", string(Domain)); err != nil {
		return p.GUID, err
	}
	sim, err := s.certifyCard(ctx, p, elsewhere)
	if err != nil {
		return p.GUID, err
	}
	s.Tray.Add(sim)
	return p.GUID, nil
}

// EndingCard is a registered person's, and its certificate ends at a time to come.
func (s *Site) EndingCard(ctx context.Context, until time.Time) (ident.GUID, error) {
	p := newPerson("Marek Nowak", "nowak", "fr", 2004, 3042)
	sim, err := s.certifyCard(ctx, p, s.pki(), "--until", until.Format(time.RFC3339))
	if err != nil {
		return p.GUID, err
	}
	s.Tray.Add(sim)
	return p.GUID, s.registerPerson(ctx, p)
}

// Tamper measures something more into the box's TPM and its event log, as firmware that was changed does.
// The firmware of a machine gets a second key whose programs it starts, before its next boot.
func (s *Site) Tamper(b *Box) error {
	if s.form == ImageForm {
		if _, err := s.equip(b); err != nil {
			return err
		}
		return vm.MakeVariables(filepath.Join(b.Place.dir, "variables.fd"), s.secureBoot(), "db", "db-dev")
	}
	log, err := eventlog.Read(b.Place.Outside(eventLog))
	if err != nil {
		return err
	}
	loader := eventlog.Event{PCR: 4, Type: 0x80000003, Digest: [32]byte{0xee}, Data: []byte("another boot loader")}
	log.Events = append(log.Events, loader)
	return errors.Join(
		tpmsim.Boot(b.Place.Outside(tpmSocket), &eventlog.Log{Events: []eventlog.Event{loader}}),
		os.WriteFile(b.Place.Outside(eventLog), log.Encode(), 0o444))
}

// SPDX-License-Identifier: Apache-2.0

package house

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"sdbox/internal/card"
	"sdbox/internal/card/cardsim"
)

// people are the researchers of the lab; the first one's day is played.
func people() []*Person {
	return []*Person{
		newPerson("Camille Durand", "durand", "en", 2001, 42),
		newPerson("Jonas Weber", "weber", "fr", 2002, 1042),
	}
}

// bubbles are the projects of the lab, in the order of their list.
func bubbles() []BubbleSpec {
	return []BubbleSpec{
		{Name: "epi", Title: "Respiratory infections 2026", Colour: "#1f8a5b", Number: 1, Session: "epi.sh", Data: []string{"cohort.csv"}},
		{Name: "econ", Title: "Consumer prices", Colour: "#1b6fb8", Number: 2, Session: "econ.sh", Data: []string{"prices.dat", "plot.gp"}},
		{Name: "hist", Title: "Mortality 1850 to 1950", Colour: "#7a4fb5", Number: 3, Session: "hist.sh", Ended: true},
		{Name: "tax", Title: "Tax records", Colour: "#b5562a", Countries: []string{"FR"}},
	}
}

// makeBubbles opens a place for each project that has a machine, and starts sdbox-bubble there.
func (s *Site) makeBubbles(ctx context.Context) error {
	var accounts []Account
	for _, p := range s.People {
		accounts = append(accounts, p.account())
	}
	for _, spec := range bubbles() {
		b := &Bubble{BubbleSpec: spec}
		s.Bubbles = append(s.Bubbles, b)
		if spec.Number == 0 {
			continue
		}
		place, err := s.House.NewPlace(spec.Name, accounts...)
		if err != nil {
			return err
		}
		b.Place = place
		err = s.House.Wire(End{Place: s.Gateway, Interface: fmt.Sprintf("bub%d", spec.Number), Address: fmt.Sprintf("10.72.%d.1/24", spec.Number)},
			End{Place: place, Interface: "eth0", Address: fmt.Sprintf("10.72.%d.2/24", spec.Number)})
		if err != nil {
			return err
		}
		if err := s.issue(ctx, "bubble", spec.Name, filepath.Join(place.dir, "tls")); err != nil {
			return err
		}
		if err := s.furnishBubble(b); err != nil {
			return fmt.Errorf("bubble %s: %w", spec.Name, err)
		}
	}
	for _, b := range s.Bubbles {
		if b.Place == nil {
			continue
		}
		var err error
		if b.Program, err = b.Place.Start("bubble", searchPath(), binDir+"/sdbox-bubble", "run", "--config", insideDir+"/bubble.toml"); err != nil {
			return err
		}
	}
	return s.awaitBubbles(ctx)
}

func (s *Site) awaitBubbles(ctx context.Context) error {
	for _, b := range s.Bubbles {
		if b.Place == nil {
			continue
		}
		if err := b.Place.await(ctx, b.Program, b.machine()); err != nil {
			return err
		}
	}
	return nil
}

// machine is where the bubble's sdbox-bubble listens, as the gateway reaches it; a project without a machine has an address
// at which nobody is.
func (b *Bubble) machine() string {
	if b.Number == 0 {
		return "10.72.250.2:7443"
	}
	return fmt.Sprintf("10.72.%d.2:7443", b.Number)
}

// furnishBubble writes the configuration, the script of a desktop's programs, and the project's data into every home.
func (s *Site) furnishBubble(b *Bubble) error {
	var conf strings.Builder
	fmt.Fprintf(&conf, "domain = %q\nname = %q\nlisten = \"10.72.%d.2:7443\"\nstate = \"state\"\nrun = %q\ntls = \"tls\"\nsession = \"sh %s/session.sh\"\n",
		Domain, b.Name, b.Number, desktopDir, insideDir)
	for _, p := range s.People {
		fmt.Fprintf(&conf, "\n[[accounts]]\nname = %q\nuid = %d\nhome = \"/home/%s\"\n", p.Account, p.UID, p.Account)
	}
	script, err := content.ReadFile("content/" + b.Session)
	if err != nil {
		return err
	}
	err = errors.Join(
		os.WriteFile(filepath.Join(b.Place.dir, "bubble.toml"), []byte(conf.String()), 0o644),
		os.WriteFile(filepath.Join(b.Place.dir, "session.sh"), script, 0o644))
	if err != nil {
		return err
	}
	for _, p := range s.People {
		for _, name := range b.Data {
			data, err := content.ReadFile("content/" + name)
			if err != nil {
				return err
			}
			path := b.Place.Outside(filepath.Join("/home", p.Account, name))
			if err := errors.Join(os.WriteFile(path, data, 0o600), os.Chown(path, p.UID, p.UID)); err != nil {
				return err
			}
		}
	}
	return nil
}

// makeCards makes a card for each person as a desk does: keys on the card, certificates for them, two fingers enrolled.
func (s *Site) makeCards(ctx context.Context) error {
	for _, p := range s.People {
		if err := s.makeCard(ctx, p); err != nil {
			return fmt.Errorf("card of %s: %w", p.Name, err)
		}
	}
	return nil
}

func (s *Site) makeCard(ctx context.Context, p *Person) error {
	sim, err := s.certifyCard(ctx, p, s.pki())
	if err != nil {
		return err
	}
	if err := sim.Save(filepath.Join(s.desk(p), "card.json")); err != nil {
		return err
	}
	s.Tray.Add(sim)
	return nil
}

// desk is where the desk keeps what it made for a person.
func (s *Site) desk(p *Person) string { return filepath.Join(s.House.dir, "desk", p.Account) }

// certifyCard makes a person's card with the authorities of a folder; more are further options of sdbox-pki issue card.
func (s *Site) certifyCard(ctx context.Context, p *Person, pki string, more ...string) (*cardsim.Sim, error) {
	dir := s.desk(p)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	sim, err := cardsim.New(cardsim.NISTOCC, cardsim.Person{GUID: p.GUID, Name: p.Name})
	if err != nil {
		return nil, err
	}
	keys := map[card.Slot]string{card.Slot9A: filepath.Join(dir, "9a.pub"), card.Slot9E: filepath.Join(dir, "9e.pub")}
	for slot, file := range keys {
		public, err := sim.Generate(slot)
		if err == nil {
			err = writePublic(file, public)
		}
		if err != nil {
			return nil, err
		}
	}
	certificates := filepath.Join(dir, "certificates")
	_, err = s.program(ctx, "sdbox-pki", slices.Concat([]string{"issue", "card", p.GUID.String(), "--name", p.Name, "--pki", pki,
		"--auth", keys[card.Slot9A], "--presence", keys[card.Slot9E], "--out", certificates}, more)...)
	if err != nil {
		return nil, err
	}
	return sim, errors.Join(
		putCertificates(sim, certificates),
		sim.Enrol(card.RefFinger, p.hand[Right].Reference().Encode()),
		sim.Enrol(card.RefFinger2, p.hand[Left].Reference().Encode()))
}

// putCertificates writes the certificates of a folder onto a card.
func putCertificates(sim *cardsim.Sim, certificates string) error {
	for slot, file := range map[card.Slot]string{card.Slot9A: "9a.pem", card.Slot9E: "9e.pem"} {
		text, err := os.ReadFile(filepath.Join(certificates, file))
		if err != nil {
			return err
		}
		block, _ := pem.Decode(text)
		if block == nil {
			return fmt.Errorf("%s: no PEM", file)
		}
		if err := sim.PutCertificate(slot, block.Bytes); err != nil {
			return err
		}
	}
	return nil
}

func writePublic(path string, key *ecdsa.PublicKey) error {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return err
	}
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600)
}

// register tells the gateway who is who and who may enter what, by sdboxctl.
func (s *Site) register(ctx context.Context) error {
	for i, b := range s.Bubbles {
		args := []string{"bubble", "add", b.Name, "--title", b.Title, "--address", b.machine(), "--colour", b.Colour, "--place", fmt.Sprint(i + 1)}
		for _, country := range b.Countries {
			args = append(args, "--countries", country)
		}
		if _, err := s.Ctl(ctx, args...); err != nil {
			return err
		}
	}
	for _, p := range s.People {
		if err := s.registerPerson(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

func (s *Site) registerPerson(ctx context.Context, p *Person) error {
	out, err := s.Ctl(ctx, "person", "add", "--name", p.Name, "--language", p.Language)
	if err != nil {
		return err
	}
	var person struct {
		ID string `json:"id"`
	}
	if err := json.NewDecoder(bytes.NewReader(out)).Decode(&person); err != nil {
		return fmt.Errorf("register %s: %w", p.Name, err)
	}
	// The gateway's operator gets the card's certificates from the desk.
	desk := filepath.Join(s.desk(p), "certificates")
	handed := filepath.Join(s.Gateway.dir, "cards", p.Account)
	if err := os.CopyFS(handed, os.DirFS(desk)); err != nil {
		return err
	}
	inside := filepath.Join(insideDir, "cards", p.Account)
	if _, err := s.Ctl(ctx, "card", "add", "--person", person.ID, "--certificate", inside+"/9a.pem", "--presence", inside+"/9e.pem"); err != nil {
		return err
	}
	for _, b := range s.Bubbles {
		args := []string{"member", "add", "--person", person.ID, "--bubble", b.Name, "--account", p.Account}
		if b.Ended {
			end := lastEndOfJune(time.Now())
			args = append(args, "--from", end.AddDate(-2, 0, 0).Format(time.RFC3339), "--until", end.Format(time.RFC3339))
		}
		if _, err := s.Ctl(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}

// lastEndOfJune is the last moment of the most recent 30 June in the past, in UTC.
func lastEndOfJune(now time.Time) time.Time {
	end := time.Date(now.UTC().Year(), time.June, 30, 21, 59, 59, 0, time.UTC)
	if !end.Before(now) {
		end = end.AddDate(-1, 0, 0)
	}
	return end
}

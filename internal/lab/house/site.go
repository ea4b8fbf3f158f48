// SPDX-License-Identifier: Apache-2.0

package house

import (
	"errors"
	"fmt"
	"math/rand/v2"

	"sdbox/internal/finger"
	"sdbox/internal/finger/fingersim"
	"sdbox/internal/ident"
	"sdbox/internal/refusal"
)

// Domain is the trust domain of the lab, GatewayName the short name of its one gateway.
const (
	Domain      = ident.Lab
	GatewayName = "gw1"
)

// Finger names a finger of a person as the lab speaks of it.
type Finger string

// The fingers. Right and Left are enrolled on the person's card, as references 96 and 97; Wrong is not.
const (
	Right Finger = "right"
	Left  Finger = "left"
	Wrong Finger = "wrong"
)

// Person is a researcher of the lab.
type Person struct {
	Name     string
	Account  string // in every bubble
	UID      int
	Language string // "en" or "fr"
	GUID     ident.GUID

	hand map[Finger]*fingersim.Finger
}

// newPerson grows the hand of a person from a seed.
func newPerson(name, account, language string, uid int, seed uint64) *Person {
	return &Person{Name: name, Account: account, UID: uid, Language: language, GUID: ident.GUID(ident.NewID()), hand: map[Finger]*fingersim.Finger{
		Right: fingersim.NewFinger(seed), Left: fingersim.NewFinger(seed + 1), Wrong: fingersim.NewFinger(seed + 2),
	}}
}

func (p *Person) account() Account { return Account{Name: p.Account, UID: p.UID, Full: p.Name} }

// Impression is the finger placed once more; no two are equal.
func (p *Person) Impression(f Finger) (finger.Template, error) {
	grown, ok := p.hand[f]
	if !ok {
		return nil, fmt.Errorf("finger %q: want right, left or wrong", f)
	}
	return grown.Impression(rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))), nil
}

// Site is the whole house with everything in it: the gateway, boxes, bubbles, people and their cards.
type Site struct {
	House          *House
	Gateway        *Place
	GatewayProgram *Program
	Console        *Console
	Boxes          []*Box
	Bubbles        []*Bubble
	People         []*Person
	Tray           *Tray
	Language       refusal.Lang // of the site

	bin   string // folder of the shipped programs
	form  Form
	cache string

	accelerator string // of the boxes' machines
	dev         bool
}

// Form is how the house's boxes run.
func (s *Site) Form() Form { return s.form }

// errNoPerson says that nobody of that account is in the house.
var errNoPerson = errors.New("there is no such person")

// Person finds a person by account.
func (s *Site) Person(account string) (*Person, error) {
	for _, p := range s.People {
		if p.Account == account {
			return p, nil
		}
	}
	return nil, errNoPerson
}

// Close pulls the cards, switches the boxes off and ends every program and place. Files stay in the house's folder.
func (s *Site) Close() error {
	s.Tray.Close()
	var errs []error
	for _, b := range s.Boxes {
		errs = append(errs, b.close())
	}
	return errors.Join(append(errs, s.House.Close())...)
}

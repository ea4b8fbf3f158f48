// SPDX-License-Identifier: Apache-2.0

// Package cardsim is a PIV card in software: real command APDUs in, real responses out, with objects, keys, retry counters
// and a fingerprint matcher of its own. It has three fronts: Transmit, in memory; DialVPCD, behind a PC/SC daemon with the
// virtual reader of vsmartcard, so that any PC/SC program can use it; InsertVSCard, in the USB reader of a virtual machine.
//
// As on a card, what must last (objects, keys, fingers, counters) is kept apart from what power loss clears (the selected
// application, verified references, half-sent chains). A retry counter is lowered before a comparison and raised after a
// match, so that pulling the card in between buys no try.
package cardsim

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"sync"

	"sdbox/internal/card"
	"sdbox/internal/ident"
)

// NISTOCC is the profile of a SP 800-73-5 card with on-card comparison of two fingers: T=1, extended length, P-256 keys.
const NISTOCC = "nist-occ"

// NoPIV is the profile of a contact card without the PIV application, such as a bank's or a transport company's: what a person takes
// out of her purse by mistake.
const NoPIV = "no-piv"

// maxObject is the most a data object of any profile holds (SP 800-73-5 Part 1, Table 3, asks 1,857 bytes of a 9A certificate
// at least).
const maxObject = 4096

// maxName is the length of a name in the printed information (SP 800-73-5 Part 1, Table 13).
const maxName = 125

// Person is whom a card is for.
type Person struct {
	GUID ident.GUID // names the card, and its holder in the certificates
	Name string     // as printed on the card, UTF-8, 1 to 125 bytes
}

// Sim is one card. Its methods may be called from any goroutine; like a chip, it does one thing at a time.
type Sim struct {
	profile profile

	mu      sync.Mutex
	nvm     nvm     // what lasts; guarded by mu
	path    string  // where nvm is kept; empty until Save or Load; guarded by mu
	ram     ram     // what a reset clears; guarded by mu
	inserts *insert // its stay in a reader now; guarded by mu
	t0      bool    // that reader speaks T=0; guarded by mu
	power   power   // guarded by mu
	tears   bool    // PUT DATA is not atomic; guarded by mu
}

// ram is the card's volatile state.
type ram struct {
	selected bool
	verified map[byte]bool // by reference
	fresh    bool          // verified since the last use of a key that asks each time
	witness  []byte        // what the management key has to decrypt
	managed  bool          // the management key was proved
	chain    *command      // first parts of a chained command
	pending  []byte        // response data not fetched yet
}

// New makes a blank card of a profile for a person: identity objects, no key, no finger. A NISTOCC card has a random PIN that
// nobody knows; a YubiKey57 has the secrets of the factory.
func New(profileName string, who Person) (*Sim, error) {
	p, err := profileNamed(profileName)
	if err != nil {
		return nil, err
	}
	if who.Name == "" || len(who.Name) > maxName || who.GUID == (ident.GUID{}) {
		return nil, fmt.Errorf("new card: want a GUID and a name of 1 to %d bytes, have %q", maxName, who.Name)
	}
	s := &Sim{profile: p, nvm: nvm{
		Version: nvmVersion, Profile: profileName, GUID: who.GUID.String(), Name: who.Name,
		Objects: map[string][]byte{}, Keys: map[string]*slotKey{}, References: map[string]*reference{},
	}}
	if p.yubico {
		if err := p.manufacture(&s.nvm); err != nil {
			return nil, fmt.Errorf("new card: %w", err)
		}
	} else {
		pin := make([]byte, 8)
		for i := range pin {
			pin[i] = '0' + byte(rand.Text()[0])%10
		}
		s.nvm.References[refName(card.RefPIN)] = &reference{Value: pin, Left: p.pinTries, Max: p.pinTries}
	}
	s.nvm.Objects[tagCHUID] = chuid(who.GUID)
	s.nvm.Objects[tagCapabilities] = capabilities(who.GUID)
	s.nvm.Objects[tagPrinted] = printedInformation(who.Name)
	return s, nil
}

// Person is whom the card is for.
func (s *Sim) Person() Person {
	s.mu.Lock()
	defer s.mu.Unlock()
	guid, err := ident.ParseGUID(s.nvm.GUID)
	if err != nil {
		panic("cardsim: " + err.Error()) // New and Load checked it
	}
	return Person{GUID: guid, Name: s.nvm.Name}
}

// ATR is the card's answer to reset.
func (s *Sim) ATR() []byte { return []byte(s.profile.atr) }

// Generate makes a new P-256 key in a slot and returns its public half. The slot's old key is gone. It stands for the
// issuer's secure channel of the card desk, as PutCertificate, Enrol and SetPIN do.
func (s *Sim) Generate(slot card.Slot) (*ecdsa.PublicKey, error) {
	if !s.profile.hasSlot(slot) {
		return nil, fmt.Errorf("generate key: the card has no slot %02X", byte(slot))
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate key: %w", err)
	}
	stored, err := newKey(key, usualPIN(slot))
	if err != nil {
		return nil, fmt.Errorf("generate key: %w", err)
	}
	if err := s.change(func(n *nvm) { n.Keys[slotName(slot)] = stored }); err != nil {
		return nil, fmt.Errorf("generate key: %w", err)
	}
	return &key.PublicKey, nil
}

// PutCertificate writes a slot's certificate, X.509 DER, uncompressed.
func (s *Sim) PutCertificate(slot card.Slot, der []byte) error {
	if !s.profile.hasSlot(slot) {
		return fmt.Errorf("put certificate: the card has no slot %02X", byte(slot))
	}
	if _, err := x509.ParseCertificate(der); err != nil {
		return fmt.Errorf("put certificate: %w", err)
	}
	object := certificateObject(der)
	if len(object) > s.profile.maxObject {
		return fmt.Errorf("put certificate: %d bytes, the card takes %d", len(object), s.profile.maxObject)
	}
	if err := s.change(func(n *nvm) { n.Objects[certificateTag(slot)] = object }); err != nil {
		return fmt.Errorf("put certificate: %w", err)
	}
	return nil
}

// Enrol stores a finger, minutiae in the compact card format, under card.RefFinger or card.RefFinger2. A reference that
// was blocked has all its tries again.
func (s *Sim) Enrol(ref byte, minutiae []byte) error {
	if ref != card.RefFinger && ref != card.RefFinger2 {
		return fmt.Errorf("enrol finger: reference %02X is no finger", ref)
	}
	if s.profile.maxMinutiae == 0 {
		return fmt.Errorf("enrol finger: a %s compares none", s.nvm.Profile)
	}
	if !s.profile.takes(minutiae) {
		return fmt.Errorf("enrol finger: %d bytes: want %d to %d minutiae of 3 bytes", len(minutiae), s.profile.minMinutiae, s.profile.maxMinutiae)
	}
	tries := s.profile.fingerTries
	finger := &reference{Value: append([]byte(nil), minutiae...), Left: tries, Max: tries}
	if err := s.change(func(n *nvm) { n.References[refName(ref)] = finger }); err != nil {
		return fmt.Errorf("enrol finger: %w", err)
	}
	return nil
}

// SetPIN replaces the PIN: 6 to 8 digits. Without it nobody knows the card's PIN, and only a finger opens key 9A.
func (s *Sim) SetPIN(pin string) error {
	value, ok := s.profile.pinBlock([]byte(pin))
	if !ok {
		return errors.New("set PIN: want 6 to 8 digits")
	}
	err := s.change(func(n *nvm) {
		tries := n.References[refName(card.RefPIN)].Max
		n.References[refName(card.RefPIN)] = &reference{Value: value, Left: tries, Max: tries}
	})
	if err != nil {
		return fmt.Errorf("set PIN: %w", err)
	}
	return nil
}

// Tries is how many tries a reference has left; 0 for one that is blocked or was never set.
func (s *Sim) Tries(ref byte) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.nvm.References[refName(ref)]; r != nil {
		return r.Left
	}
	return 0
}

// Reset does what power loss does: nothing selected, nothing verified, nothing half sent.
func (s *Sim) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.resetLocked()
}

// change makes one change of the NVM whole: if it cannot be kept, it was not made.
func (s *Sim) change(f func(*nvm)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changeLocked(f)
}

func (s *Sim) changeLocked(f func(*nvm)) error {
	if s.power.dying {
		return errNoPower
	}
	next := s.nvm
	next.Objects = maps.Clone(s.nvm.Objects)
	next.Keys = maps.Clone(s.nvm.Keys)
	next.References = map[string]*reference{}
	for name, r := range s.nvm.References {
		copied := *r
		next.References[name] = &copied
	}
	f(&next)
	if s.path != "" {
		if err := next.write(s.path); err != nil {
			return err
		}
	}
	s.nvm = next
	s.power.dying = s.power.last
	return nil
}

// SPDX-License-Identifier: Apache-2.0

package cardsim

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"sdbox/internal/card"
	"sdbox/internal/ident"
)

// nvmVersion is the version of the file format.
const nvmVersion = 2

// maxNVM bounds the file Load reads.
const maxNVM = 256 << 10

// nvm is what a card keeps without power, and the file it is saved in.
type nvm struct {
	Version    int                   `json:"version"`
	Profile    string                `json:"profile"`
	GUID       string                `json:"guid"`
	Name       string                `json:"name"`
	Objects    map[string][]byte     `json:"objects"`    // by tag in hexadecimal: contents without the outer 53
	Keys       map[string]*slotKey   `json:"keys"`       // by slot in hexadecimal
	References map[string]*reference `json:"references"` // by key reference in hexadecimal
	Management *management           `json:"management,omitempty"`
}

// reference is a PIN or a finger with its retry counter.
type reference struct {
	Value []byte `json:"value"`
	Left  int    `json:"left"`
	Max   int    `json:"max"`
}

// Save writes the card to a file (mode 0600: it holds private keys) and keeps it there: from now on every change is in the
// file before the command that made it is answered.
func (s *Sim) Save(path string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.nvm.write(path); err != nil {
		return fmt.Errorf("save card: %w", err)
	}
	s.path = path
	return nil
}

// Load reads a card from a file of Save and keeps it there.
func Load(path string) (*Sim, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("load card: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxNVM+1))
	if err != nil {
		return nil, fmt.Errorf("load card: %w", err)
	}
	s, err := parseNVM(b)
	if err != nil {
		return nil, fmt.Errorf("load card %s: %w", filepath.Base(path), err)
	}
	s.path = path
	return s, nil
}

// write replaces the file in one step, so that a card cut off in the middle is the old one or the new one.
func (n *nvm) write(path string) error {
	b, err := json.MarshalIndent(n, "", "\t")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".card-*") // made with mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(append(b, '\n'))
	if err := errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// parseNVM reads the file format strictly.
func parseNVM(b []byte) (*Sim, error) {
	if len(b) > maxNVM {
		return nil, fmt.Errorf("more than %d bytes", maxNVM)
	}
	var n nvm
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&n); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more after its end")
	}
	if n.Version != nvmVersion {
		return nil, fmt.Errorf("version %d, want %d", n.Version, nvmVersion)
	}
	p, err := profileNamed(n.Profile)
	if err != nil {
		return nil, err
	}
	if _, err := ident.ParseGUID(n.GUID); err != nil {
		return nil, err
	}
	if n.Name == "" || len(n.Name) > maxName {
		return nil, fmt.Errorf("name of %d bytes, want 1 to %d", len(n.Name), maxName)
	}
	for tag, content := range n.Objects {
		if !validTag(tag) || len(content) > maxObject {
			return nil, fmt.Errorf("object %.10q of %d bytes", tag, len(content))
		}
	}
	if err := p.checkKeys(&n); err != nil {
		return nil, err
	}
	for name, r := range n.References {
		if err := p.checkReference(name, r); err != nil {
			return nil, err
		}
	}
	if n.Objects == nil || n.Keys == nil || n.References[refName(card.RefPIN)] == nil || p.yubico && n.References[refName(refPUK)] == nil {
		return nil, errors.New("objects, keys, the PIN or the PUK are missing")
	}
	return &Sim{profile: p, nvm: n}, nil
}

func (p profile) checkKeys(n *nvm) error {
	if (n.Management != nil) != p.yubico {
		return errors.New("management key: a card of this profile has none, or must have one")
	}
	if n.Management != nil {
		if _, err := n.Management.cipher(); err != nil {
			return err
		}
	}
	for slot, key := range n.Keys {
		if key == nil || key.PIN < pinNever || key.PIN > pinAlways {
			return fmt.Errorf("key of slot %.10q is malformed", slot)
		}
		if _, err := key.private(); err != nil {
			return fmt.Errorf("key of slot %.10q: %w", slot, err)
		}
	}
	return nil
}

func (p profile) checkReference(name string, r *reference) error {
	ok := r != nil && r.Left >= 0 && r.Left <= r.Max && r.Max >= 1 && r.Max <= p.maxTries
	switch {
	case !ok:
	case name == refName(card.RefPIN), name == refName(refPUK) && p.yubico:
		block, good := p.pinBlock(r.Value)
		ok = good && bytes.Equal(block, r.Value)
	case name == refName(card.RefFinger) || name == refName(card.RefFinger2):
		ok = p.takes(r.Value)
	default:
		ok = false
	}
	if !ok {
		return fmt.Errorf("reference %.10q is malformed", name)
	}
	return nil
}

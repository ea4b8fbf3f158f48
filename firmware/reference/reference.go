// SPDX-License-Identifier: Apache-2.0

// Package reference holds what a good box's registers contain: reference values (RFC 9334, 2.2), for one image on one firmware,
// signed by k of n release keys that live offline. No operator and no database can add to them.
//
// A statement of reference values is a C2SP signed note (c2sp.org/signed-note). Its text:
//
//	sdbox reference values 1
//	name lab-qemu
//	version 2026.11.24
//	pcr 0 eaa650ae9b6b9c6d0ef4fab4dda3af9769f23c839ca3c98307a7a84831cbb472
//	pcr 1 b23562cf074785483c8a20350d1a3246ab26ab6f2dd1bc1be1c3f538e66a1380
//
// with one line for each register, in rising order, SHA-256 in lower-case hexadecimal. A register of the firmware may have, in place
// of its one value, the events that must be in it, in order, each with its type:
//
//	event 2 0x00000004 df3f619804a92fdb4057192dc43dd748ea778adc52bc498ce80524c014b81119
//
// What a machine's own list of boot entries adds to register 1, and the partition table of its disk to register 5, may then vary.
package reference

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

// MaxNote is the longest statement that Open looks at, in bytes.
const MaxNote = 16384

const (
	firstLine    = "sdbox reference values 1"
	maxRegisters = 24
	maxKeys      = 16 // release keys of a site, ours
)

var word = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{0,63}$`)

// ErrUnsigned is wrapped by Open when fewer release keys than the threshold signed.
var ErrUnsigned = errors.New("not signed by enough release keys")

// PCR is what a register must hold: one value, or what exactly these events leave in it beside boot variables.
type PCR struct {
	Index  uint8
	Digest [32]byte // zero if there are events
	Events []Event  // of a register judged by events, in order
}

// String is the line in a note of a register that has one value.
func (p PCR) String() string { return fmt.Sprintf("pcr %d %x", p.Index, p.Digest) }

// Values are the reference values of one image on one firmware.
type Values struct {
	Name    string // 1 to 64 of a-z 0-9 . -
	Version string // likewise
	PCRs    []PCR  // in rising order, at least one
}

// String returns name and version, as a person reads them.
func (v Values) String() string { return v.Name + " " + v.Version }

// Lookup returns what a register must hold, if the reference says.
func (v Values) Lookup(index uint8) (PCR, bool) {
	i, found := slices.BinarySearchFunc(v.PCRs, index, func(p PCR, index uint8) int { return int(p.Index) - int(index) })
	if !found {
		return PCR{}, false
	}
	return v.PCRs[i], true
}

// Text is the body of the note: one text for the same values, and Parse's inverse.
func (v Values) Text() ([]byte, error) {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s\nname %s\nversion %s\n", firstLine, v.Name, v.Version)
	for _, p := range v.PCRs {
		b.WriteString(p.text())
	}
	if _, err := parse(b.String()); err != nil {
		return nil, fmt.Errorf("write reference values: %w", err)
	}
	return b.Bytes(), nil
}

// parse is strict: the text of Values, and no other.
func parse(text string) (Values, error) {
	lines := strings.Split(text, "\n")
	if len(lines) < 5 || lines[0] != firstLine || lines[len(lines)-1] != "" {
		return Values{}, fmt.Errorf("want %q, name, version and registers, each on a line", firstLine)
	}
	var v Values
	var hasName, hasVersion bool
	v.Name, hasName = strings.CutPrefix(lines[1], "name ")
	v.Version, hasVersion = strings.CutPrefix(lines[2], "version ")
	if !hasName || !hasVersion || !word.MatchString(v.Name) || !word.MatchString(v.Version) {
		return Values{}, errors.New("name and version: want 1 to 64 letters a-z, digits, dots and hyphens")
	}
	for _, line := range lines[3 : len(lines)-1] { // at most MaxNote bytes
		if err := v.add(line); err != nil {
			return Values{}, err
		}
	}
	return v, nil
}

// ParsePCR reads one register's line, as String writes it.
func ParsePCR(line string) (PCR, error) {
	fields := strings.Split(line, " ")
	if len(fields) != 3 || fields[0] != "pcr" {
		return PCR{}, fmt.Errorf("line %.40q: want pcr, register, digest", line)
	}
	index, err := strconv.ParseUint(fields[1], 10, 8)
	if err != nil || index >= maxRegisters || strconv.FormatUint(index, 10) != fields[1] {
		return PCR{}, fmt.Errorf("register %.20q: want 0 to %d", fields[1], maxRegisters-1)
	}
	digest, err := hex.DecodeString(fields[2])
	if err != nil || len(digest) != 32 || hex.EncodeToString(digest) != fields[2] {
		return PCR{}, fmt.Errorf("register %d: want 64 lower-case hexadecimal digits", index)
	}
	return PCR{Index: uint8(index), Digest: [32]byte(digest)}, nil
}

// GenerateKey makes a release key: the secret one, for Sign, and the public one, for NewTrust, each one line of text. The name is
// that of who holds it, without spaces and plus signs, for example "release-1.example.org".
func GenerateKey(name string) (secret, public string, err error) {
	secret, public, err = note.GenerateKey(rand.Reader, name)
	if err == nil {
		_, err = note.NewVerifier(public) // it alone checks the name
	}
	if err != nil {
		return "", "", fmt.Errorf("make release key %.80q: %w", name, err)
	}
	return secret, public, nil
}

// Sign makes the signed note of reference values, by the holders of these secret keys.
func Sign(v Values, secrets ...string) ([]byte, error) {
	text, err := v.Text()
	if err != nil {
		return nil, err
	}
	signed, err := AddSignatures(text, secrets...)
	if err != nil {
		return nil, fmt.Errorf("sign reference values: %w", err)
	}
	return signed, nil
}

// AddSignatures signs the text of a note, or a note that others have signed, by the holders of these secret keys. It does not read
// the text: what is signed is the caller's to know.
func AddSignatures(textOrNote []byte, secrets ...string) ([]byte, error) {
	n := &note.Note{Text: string(textOrNote)}
	var before *note.UnverifiedNoteError
	if _, err := note.Open(textOrNote, note.VerifierList()); errors.As(err, &before) {
		n = before.Note
	}
	signers := make([]note.Signer, 0, len(secrets))
	for i, secret := range secrets {
		s, err := note.NewSigner(secret)
		if err != nil {
			return nil, fmt.Errorf("release key %d: %w", i+1, err)
		}
		signers = append(signers, s)
	}
	signed, err := note.Sign(n, signers...)
	if err != nil {
		return nil, err
	}
	if len(signed) > MaxNote {
		return nil, fmt.Errorf("%d bytes, limit %d", len(signed), MaxNote)
	}
	return signed, nil
}

// Trust is the release keys a site trusts, and how many of them must have signed. It is immutable.
type Trust struct {
	threshold int
	verifiers note.Verifiers
}

// NewTrust takes public release keys as GenerateKey wrote them. A key counts once, under whatever names it comes.
func NewTrust(threshold int, publics ...string) (*Trust, error) {
	if threshold < 1 || threshold > len(publics) || len(publics) > maxKeys {
		return nil, fmt.Errorf("release keys: threshold %d of %d keys: want at least 1 of at most %d", threshold, len(publics), maxKeys)
	}
	verifiers := make([]note.Verifier, 0, len(publics))
	seenKey, seenName := map[string]bool{}, map[string]bool{}
	for i, public := range publics {
		v, err := note.NewVerifier(public)
		if err != nil {
			return nil, fmt.Errorf("release key %d: %w", i+1, err)
		}
		material, err := keyMaterial(public)
		if err != nil {
			return nil, fmt.Errorf("release key %d: %w", i+1, err)
		}
		if seenKey[material] || seenName[v.Name()] {
			return nil, fmt.Errorf("release key %q comes twice", v.Name())
		}
		seenKey[material], seenName[v.Name()] = true, true
		verifiers = append(verifiers, v)
	}
	return &Trust{threshold: threshold, verifiers: note.VerifierList(verifiers...)}, nil
}

// keyMaterial is the key itself, without the name it comes under: name+hash+base64.
func keyMaterial(public string) (string, error) {
	fields := strings.SplitN(public, "+", 3)
	if len(fields) != 3 {
		return "", errors.New("want name+hash+key")
	}
	raw, err := base64.StdEncoding.DecodeString(fields[2])
	return string(raw), err
}

// Open reads a signed note and returns its values if enough release keys signed it. The bytes may come from anyone.
func (t *Trust) Open(signed []byte) (Values, error) {
	text, err := t.Text(signed)
	if err != nil {
		return Values{}, fmt.Errorf("open reference values: %w", err)
	}
	v, err := parse(text)
	if err != nil {
		return Values{}, fmt.Errorf("open reference values: %w", err)
	}
	return v, nil
}

// Text returns the text of a signed note, of whatever kind its first line says, if enough release keys signed it. The bytes may come
// from anyone.
func (t *Trust) Text(signed []byte) (string, error) {
	if len(signed) > MaxNote {
		return "", fmt.Errorf("%d bytes, limit %d", len(signed), MaxNote)
	}
	n, err := note.Open(signed, t.verifiers)
	var unverified *note.UnverifiedNoteError
	if errors.As(err, &unverified) {
		return "", ErrUnsigned
	}
	if err != nil {
		return "", err
	}
	if len(n.Sigs) < t.threshold { // a key counts once: note.Open drops its second signature
		return "", fmt.Errorf("%w: %d of %d", ErrUnsigned, len(n.Sigs), t.threshold)
	}
	return n.Text, nil
}

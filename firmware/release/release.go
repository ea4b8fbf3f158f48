// SPDX-License-Identifier: Apache-2.0

// Package release brings a new system image to a box: what a release is, signed by k of n release keys that live offline; how its
// bytes travel; and how they reach the idle one of two slots so that a power cut at any moment leaves a box that boots.
//
// A release is a C2SP signed note (c2sp.org/signed-note). Its text:
//
//	sdbox release 1
//	model qemu
//	version 2026.11.24
//	minimum 2026.11.20
//	expires 2027-02-24T00:00:00Z
//	image 9f64a747e1b97f131fabb6b447296c9b6f0201e79fb3c5356e6c77e89b6a806a 65011712
//	uki 4bf5122f344554c53bde2ebb8cd2b7e3d1600ad631c385a5d7cce23c7785459a 33554432
//	full dbc1b4c900ffe48d575b5da5c638040125f65db0fe3e24494b76ea986457d986 12582912
//	delta 2026.11.20 084fed08b978af4d7d196a7446a86b58009e636b611db16211b65a9aadff29c5 65011712 e52d9c508c502347344d8c07ad91cbd6068afc75ff6292f062a09ca381c89e71 196608
//	pcr 4 0a9bc22b6e1f06ab0fa7bf1c4a2cd6ee8d6ee9e8a7d2b1d7b4a6b44c4e6c0a58
//
// minimum is the oldest version that may replace this one. image is the whole EFI system
// partition, uki the one program in it; full and delta are the files a box fetches, a delta with the version and the image it
// applies to. Hashes are SHA-256 in lower-case hexadecimal, sizes bytes.
package release

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"sdbox/firmware/reference"
)

// Limits of a release.
const (
	MaxNote     = reference.MaxNote // bytes of a signed note
	MaxImage    = 128 << 20         // bytes of an EFI system partition
	MaxTransfer = 32 << 20          // bytes of a file that a box fetches: it keeps the whole of it in memory
	MaxDeltas   = 16
)

const (
	firstLine    = "sdbox release 1"
	sectorSize   = 512
	maxRegisters = 24
)

// ParseVersion reads a version: 3 or 4 numbers from 0 to 9999, without leading zeros, with dots between them. A fourth that is missing
// is 0.
func ParseVersion(s string) ([4]int, error) {
	var v [4]int
	parts := strings.Split(s, ".")
	for i, part := range parts {
		n, err := strconv.Atoi(part)
		if err != nil || n < 0 || n > 9999 || strconv.Itoa(n) != part || i == len(v) || len(parts) < 3 {
			return v, fmt.Errorf("version %.40q: want year.month.day", s)
		}
		v[i] = n
	}
	return v, nil
}

// Compare orders versions by their numbers, negative when a is older than b. What is no version is older than all.
func Compare(a, b string) int {
	v, _ := ParseVersion(a)
	w, _ := ParseVersion(b)
	return slices.Compare(v[:], w[:])
}

var word = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{0,63}$`)

// The files of a release in its folder. A delta's name is that of FileDelta.
const (
	FileNote = "release.note"
	FileFull = "full.zst"
)

// FileDelta is the name of the delta from a version.
func FileDelta(from string) string { return "delta-" + from + ".zst" }

// DigestOf names these bytes.
func DigestOf(b []byte) Digest { return Digest{sha256.Sum256(b), int64(len(b))} }

// Digest names bytes by hash and length.
type Digest struct {
	SHA256 [32]byte
	Size   int64 // in bytes, at least 1
}

// String is how a note writes it.
func (d Digest) String() string { return fmt.Sprintf("%x %d", d.SHA256, d.Size) }

// Delta is a file that makes the release's image from another one.
type Delta struct {
	From string // the version that the other image is of
	Base Digest // the other image
	File Digest
}

// Release is what the holders of the release keys sign.
type Release struct {
	Model   string // hardware profile, 1 to 64 of a-z 0-9 . -
	Version string // year.month.day, and a further number where a day has two: 2026.11.24, 2026.11.24.2
	Minimum string // at most Version: a box that runs this release takes none older
	Expires time.Time
	Image   Digest // the whole EFI system partition
	UKI     Digest
	Full    Digest
	Deltas  []Delta
	PCRs    []reference.PCR // predicted, in rising order, at least one
}

// Text is the body of the note: one text for the same release, and parse's inverse.
func (r Release) Text() ([]byte, error) {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s\nmodel %s\nversion %s\nminimum %s\nexpires %s\n", firstLine, r.Model, r.Version, r.Minimum, r.Expires.UTC().Format(time.RFC3339))
	fmt.Fprintf(&b, "image %v\nuki %v\nfull %v\n", r.Image, r.UKI, r.Full)
	for _, d := range r.Deltas {
		fmt.Fprintf(&b, "delta %s %v %v\n", d.From, d.Base, d.File)
	}
	for _, p := range r.PCRs {
		fmt.Fprintln(&b, p)
	}
	if _, err := parse(b.String()); err != nil {
		return nil, fmt.Errorf("write release: %w", err)
	}
	return b.Bytes(), nil
}

// Sign makes the signed note of a release, by the holders of these secret keys of firmware/reference.
func Sign(r Release, secrets ...string) ([]byte, error) {
	text, err := r.Text()
	if err != nil {
		return nil, err
	}
	signed, err := reference.AddSignatures(text, secrets...)
	if err != nil {
		return nil, fmt.Errorf("sign release: %w", err)
	}
	return signed, nil
}

// Open reads a signed note and returns its release if enough release keys signed it (else reference.ErrUnsigned). The bytes may come
// from anyone. Whether the release is one for this box is Check's to say.
func Open(trust *reference.Trust, signed []byte) (Release, error) {
	text, err := trust.Text(signed)
	if err != nil {
		return Release{}, fmt.Errorf("open release: %w", err)
	}
	r, err := parse(text)
	if err != nil {
		return Release{}, fmt.Errorf("open release: %w", err)
	}
	return r, nil
}

// Unverified reads a note that nobody need have signed yet: for who is about to sign it.
func Unverified(textOrNote []byte) (Release, error) {
	text := string(textOrNote)
	if i := strings.Index(text, "\n\n"); i >= 0 { // there is no empty line in a text
		text = text[:i+1]
	}
	r, err := parse(text)
	if err != nil {
		return Release{}, fmt.Errorf("read release: %w", err)
	}
	return r, nil
}

// reader takes a text apart line by line, and keeps the first error.
type reader struct {
	lines []string
	err   error
}

// value is the rest of the next line, which must begin with key and a space.
func (r *reader) value(key string) string {
	if len(r.lines) > 0 {
		if value, ok := strings.CutPrefix(r.lines[0], key+" "); ok {
			r.lines = r.lines[1:]
			return value
		}
	}
	r.fail("want a line %q", key)
	return ""
}

func (r *reader) more(key string) bool {
	return r.err == nil && len(r.lines) > 0 && strings.HasPrefix(r.lines[0], key+" ")
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf(format, args...)
	}
}

func (r *reader) word(key, s string) string {
	if !word.MatchString(s) {
		r.fail("%s: want 1 to 64 letters a-z, digits, dots and hyphens", key)
	}
	return s
}

func (r *reader) version(key, s string) string {
	if _, err := ParseVersion(s); err != nil {
		r.fail("%s: %w", key, err)
	}
	return s
}

func (r *reader) number(key, s string, limit int64) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 1 || n > limit || strconv.FormatInt(n, 10) != s {
		r.fail("%s: %.20q: want 1 to %d", key, s, limit)
		return 0
	}
	return n
}

func (r *reader) hash(key, s string) [32]byte {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != 32 || hex.EncodeToString(b) != s {
		r.fail("%s: want 64 lower-case hexadecimal digits", key)
		return [32]byte{}
	}
	return [32]byte(b)
}

func (r *reader) digest(key string, fields []string, limit int64) Digest {
	if len(fields) != 2 {
		r.fail("%s: want hash and size", key)
		return Digest{}
	}
	return Digest{r.hash(key, fields[0]), r.number(key, fields[1], limit)}
}

func (r *reader) delta() Delta {
	fields := strings.Split(r.value("delta"), " ")
	if len(fields) != 5 {
		r.fail("delta: want version, hash and size of its base, hash and size")
		return Delta{}
	}
	return Delta{r.version("delta", fields[0]), r.digest("delta", fields[1:3], MaxImage), r.digest("delta", fields[3:], MaxTransfer)}
}

// parse is strict: the text of a Release, and no other.
func parse(text string) (Release, error) {
	body, found := strings.CutPrefix(text, firstLine+"\n")
	body, ended := strings.CutSuffix(body, "\n")
	if !found || !ended {
		return Release{}, fmt.Errorf("want %q and then lines", firstLine)
	}
	in := &reader{lines: strings.Split(body, "\n")}
	var r Release
	r.Model = in.word("model", in.value("model"))
	r.Version = in.version("version", in.value("version"))
	if r.Minimum = in.version("minimum", in.value("minimum")); in.err == nil && Compare(r.Minimum, r.Version) > 0 {
		in.fail("minimum: %s is after %s", r.Minimum, r.Version)
	}
	r.Expires = in.moment("expires", in.value("expires"))
	r.Image = in.digest("image", strings.Split(in.value("image"), " "), MaxImage)
	if r.Image.Size%sectorSize != 0 {
		in.fail("image: %d bytes are no whole sectors", r.Image.Size)
	}
	r.UKI = in.digest("uki", strings.Split(in.value("uki"), " "), r.Image.Size)
	r.Full = in.digest("full", strings.Split(in.value("full"), " "), MaxTransfer)
	for in.more("delta") {
		d := in.delta()
		for _, before := range r.Deltas {
			if before.From == d.From {
				in.fail("two deltas from %s", d.From)
			}
		}
		if r.Deltas = append(r.Deltas, d); len(r.Deltas) > MaxDeltas {
			in.fail("more than %d deltas", MaxDeltas)
		}
	}
	for in.more("pcr") {
		p, err := reference.ParsePCR(in.lines[0])
		if err != nil {
			in.fail("%w", err)
		}
		if n := len(r.PCRs); n > 0 && r.PCRs[n-1].Index >= p.Index {
			in.fail("register %d is not in rising order", p.Index)
		}
		in.lines, r.PCRs = in.lines[1:], append(r.PCRs, p)
	}
	if len(in.lines) > 0 || len(r.PCRs) == 0 {
		in.fail("want registers, and nothing after them")
	}
	if in.err != nil {
		return Release{}, in.err
	}
	return r, nil
}

func (r *reader) moment(key, s string) time.Time {
	t, err := time.Parse(time.RFC3339, s)
	if err != nil || t.UTC().Format(time.RFC3339) != s {
		r.fail("%s: want a moment of UTC, as 2027-02-24T00:00:00Z", key)
	}
	return t.UTC()
}

// Why a good release is not one for this box. Nothing has been written when one of them is returned.
var (
	ErrModel   = errors.New("the release is for another model")
	ErrExpired = errors.New("the release has expired")
	ErrOlder   = errors.New("the release is older than this box may run")
	ErrSame    = errors.New("the box already runs this release")
)

// Running is what a box runs: part of its measured image.
type Running struct {
	Model   string
	Version string
	Minimum string // of what may replace it
}

// Check says whether a box may replace what it runs by this release: the same model, not expired, and neither the release nor its own
// minimum older than the minimum of what runs. So the minimum of a box never falls, whatever way it takes through old releases.
func (r Release) Check(running Running, now time.Time) error {
	switch {
	case r.Model != running.Model:
		return fmt.Errorf("%w: %s, this box is %s", ErrModel, r.Model, running.Model)
	case !now.Before(r.Expires):
		return fmt.Errorf("%w: on %s", ErrExpired, r.Expires.Format(time.RFC3339))
	case Compare(r.Version, running.Minimum) < 0 || Compare(r.Minimum, running.Minimum) < 0:
		return fmt.Errorf("%w: release %s (and from it on %s), this box %s", ErrOlder, r.Version, r.Minimum, running.Minimum)
	case r.Version == running.Version:
		return ErrSame
	}
	return nil
}

// Source is the file that makes the image on a box that runs this version: the delta from it and that version's image when there is one,
// else the full file. A box whose slot does not hold what its version says (ErrBase) asks again with the version "".
func (r Release) Source(version string) (file, base Digest) {
	for _, d := range r.Deltas {
		if d.From == version {
			return d.File, d.Base
		}
	}
	return r.Full, Digest{}
}

// MaxKeys is the longest file of release keys that ParseKeys looks at, in bytes.
const MaxKeys = 4096

// ParseKeys reads the release keys of a site as they stand in the image (/etc/sdbox/release.pub): a line "threshold K", then one public
// key of firmware/reference on each line.
func ParseKeys(text []byte) (*reference.Trust, error) {
	if len(text) > MaxKeys {
		return nil, fmt.Errorf("release keys: %d bytes, limit %d", len(text), MaxKeys)
	}
	body, ended := strings.CutSuffix(string(text), "\n")
	in := &reader{lines: strings.Split(body, "\n")}
	threshold := in.number("threshold", in.value("threshold"), MaxKeys)
	if !ended {
		in.fail("the last line has no end")
	}
	if in.err != nil {
		return nil, fmt.Errorf("release keys: %w", in.err)
	}
	return reference.NewTrust(int(threshold), in.lines...)
}

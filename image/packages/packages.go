// SPDX-License-Identifier: Apache-2.0

// Package packages fetches the Debian packages an image is made of, each in the one version and with the one hash a lock names, and
// reads files out of them without installing anything.
//
// Where packages come from is the machine's own apt: this package knows no server. What comes must have the locked hash, so the
// server is not trusted either.
package packages

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
)

// Package is one Debian package of a lock, for amd64.
type Package struct {
	Name, Version string
	SHA256        string // of the .deb, 64 hexadecimal digits
}

// String is the name and the version.
func (p Package) String() string { return p.Name + " " + p.Version }

// file is the name apt gives to the package's file: the colon of an epoch is written %3a.
func (p Package) file(arch string) string {
	return p.Name + "_" + strings.ReplaceAll(p.Version, ":", "%3a") + "_" + arch + ".deb"
}

// Lock is the packages of an image, sorted by name, each once.
type Lock []Package

// maxLock is the longest lock taken, in bytes.
const maxLock = 64 << 10

// Debian policy 5.6.1 and 5.6.12: what a name and a version are made of. Both become arguments of apt and parts of file names.
var (
	nameForm    = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]{1,99}$`)
	versionForm = regexp.MustCompile(`^[0-9][A-Za-z0-9.+~:-]{0,99}$`)
)

// ParseLock reads a lock: lines "NAME VERSION SHA256", comments (#) and empty lines. Errors name the line.
func ParseLock(r io.Reader) (Lock, error) {
	var l Lock
	lines := bufio.NewScanner(io.LimitReader(r, maxLock))
	for n := 1; lines.Scan(); n++ {
		fields := strings.Fields(lines.Text())
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		if len(fields) != 3 {
			return nil, fmt.Errorf("line %d: not NAME VERSION SHA256", n)
		}
		p := Package{fields[0], fields[1], fields[2]}
		if err := p.check(); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		if len(l) > 0 && l[len(l)-1].Name >= p.Name {
			return nil, fmt.Errorf("line %d: %s: the names are not in order, or one is there twice", n, p.Name)
		}
		l = append(l, p)
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if len(l) == 0 {
		return nil, errors.New("no package in it")
	}
	return l, nil
}

func (p Package) check() error {
	sum, err := hex.DecodeString(p.SHA256)
	switch {
	case !nameForm.MatchString(p.Name):
		return fmt.Errorf("%q is no package name", p.Name)
	case !versionForm.MatchString(p.Version):
		return fmt.Errorf("%q is no version", p.Version)
	case err != nil || len(sum) != 32 || p.SHA256 != strings.ToLower(p.SHA256):
		return fmt.Errorf("%q is no SHA-256", p.SHA256)
	}
	return nil
}

// Text is the lock as ParseLock reads it.
func (l Lock) Text() string {
	var b strings.Builder
	b.WriteString("# SPDX-License-Identifier: Apache-2.0\n")
	b.WriteString("# The Debian packages of the image: name, version, SHA-256 of the .deb. Made by \"make image-lock\".\n")
	for _, p := range l {
		fmt.Fprintf(&b, "%s %s %s\n", p.Name, p.Version, p.SHA256)
	}
	return b.String()
}

// Find returns the package of this name.
func (l Lock) Find(name string) (Package, bool) {
	i := slices.IndexFunc(l, func(p Package) bool { return p.Name == name })
	if i < 0 {
		return Package{}, false
	}
	return l[i], true
}

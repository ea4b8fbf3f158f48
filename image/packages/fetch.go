// SPDX-License-Identifier: Apache-2.0

package packages

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// arch is the one architecture an SD-Box has.
const arch = "amd64"

// GoneError says that a package could not be had in the version of the lock.
type GoneError struct {
	Package Package
	Reason  error
}

// Error names the package, its version, and what apt said.
func (e *GoneError) Error() string {
	return fmt.Sprintf("package %s: not to be had in the version of the lock: %v", e.Package, e.Reason)
}

// Unwrap is what apt said.
func (e *GoneError) Unwrap() error { return e.Reason }

// Fetch makes every package of the lock a file in the folder cache, and returns the files in the order of the lock. A file that is there
// with the right hash is not fetched again; one with a wrong hash is fetched anew. note is told what is fetched. The error is a
// *GoneError when apt has no such version or gave other bytes.
func Fetch(ctx context.Context, l Lock, cache string, note func(Package)) ([]string, error) {
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return nil, err
	}
	var files []string
	for _, p := range l {
		path, err := have(p, cache)
		if err == nil && path == "" {
			note(p)
			path, err = download(ctx, p, cache)
		}
		if err != nil {
			return nil, err
		}
		files = append(files, path)
	}
	return files, nil
}

// have returns the package's file in the cache when it is there with the right hash, else "".
func have(p Package, cache string) (string, error) {
	for _, a := range []string{arch, "all"} {
		path := filepath.Join(cache, p.file(a))
		sum, err := sumOf(path)
		if err == nil && sum == p.SHA256 {
			return path, nil
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", err
		}
	}
	return "", nil
}

// download has apt fetch one package into a folder of its own, so that no half file is ever taken for a whole one.
func download(ctx context.Context, p Package, cache string) (string, error) {
	dir, err := os.MkdirTemp(cache, ".fetch-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	if _, err := command(ctx, dir, "apt-get", "-q", "download", p.Name+"="+p.Version); err != nil {
		return "", &GoneError{p, err}
	}
	got, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil || len(got) != 1 {
		return "", &GoneError{p, fmt.Errorf("apt-get left %d files", len(got))}
	}
	sum, err := sumOf(got[0])
	if err != nil {
		return "", err
	}
	if sum != p.SHA256 {
		return "", &GoneError{p, fmt.Errorf("its hash is %s, the lock says %s", sum, p.SHA256)}
	}
	path := filepath.Join(cache, filepath.Base(got[0]))
	return path, os.Rename(got[0], path)
}

// Resolve asks the machine's apt for the newest version and hash of every package named. A name that is one of the kernel's meta packages
// (linux-image-6.12-amd64) stands for the package it depends on, whose name holds its version.
func Resolve(ctx context.Context, names []string) (Lock, error) {
	var l Lock
	for _, name := range names {
		p, depends, err := show(ctx, name)
		if err == nil && strings.HasPrefix(name, "linux-image-") && strings.HasPrefix(depends, "linux-image-") {
			real, _, _ := strings.Cut(depends, " ")
			p, _, err = show(ctx, real)
		}
		if err != nil {
			return nil, err
		}
		l = append(l, p)
	}
	slices.SortFunc(l, func(a, b Package) int { return cmp.Compare(a.Name, b.Name) })
	return l, nil
}

// show reads the first record of apt-cache show: the version apt would install.
func show(ctx context.Context, name string) (p Package, depends string, err error) {
	if !nameForm.MatchString(name) {
		return p, "", fmt.Errorf("%q is no package name", name)
	}
	out, err := command(ctx, "", "apt-cache", "show", "--no-all-versions", name)
	if err != nil {
		return p, "", fmt.Errorf("package %s: apt does not know it: %w", name, err)
	}
	for line := range strings.Lines(string(out)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		switch key {
		case "Package":
			p.Name = value
		case "Version":
			p.Version = value
		case "SHA256":
			p.SHA256 = value
		case "Depends":
			depends = value
		}
	}
	if err := p.check(); err != nil {
		return p, "", fmt.Errorf("package %s: apt-cache show: %w", name, err)
	}
	return p, depends, nil
}

// command runs a program of the machine and returns what it prints; its error is the last line of its complaints.
func command(ctx context.Context, dir, name string, args ...string) ([]byte, error) {
	c := exec.CommandContext(ctx, name, args...)
	var out, errs bytes.Buffer
	c.Dir, c.Stdout, c.Stderr = dir, &out, &errs
	c.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	if err := c.Run(); err != nil {
		said := strings.TrimSpace(errs.String())
		if i := strings.LastIndexByte(said, '\n'); i >= 0 {
			said = said[i+1:]
		}
		return nil, fmt.Errorf("%s: %w: %s", name, err, said)
	}
	return out.Bytes(), nil
}

func sumOf(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

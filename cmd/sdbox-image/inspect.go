// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"sdbox/image/disk"
	"sdbox/image/initramfs"
	"sdbox/image/uki"
)

type inspectCmd struct {
	Image string `arg:"" type:"path" help:"Image: sdbox.efi, or the disk sdbox.img."`
}

// Run prints what is in an image.
func (c *inspectCmd) Run(out io.Writer) error {
	raw, err := readImage(c.Image)
	if err != nil {
		return err
	}
	text, err := inspect(raw)
	if err != nil {
		return err
	}
	_, err = io.WriteString(out, text)
	return err
}

// readImage reads an image, from its file or from the disk it lies on. Its bytes may come from anyone.
func readImage(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	switch {
	case info.Size() == disk.Size:
		parts, err := disk.Partitions(f)
		if err != nil {
			return nil, err
		}
		return disk.UKI(parts[0])
	case !info.Mode().IsRegular() || info.Size() > uki.MaxSize:
		return nil, &hintError{fmt.Errorf("%s: neither an image nor a disk", path), "name the sdbox.efi or the sdbox.img that sdbox-image build made"}
	}
	return io.ReadAll(io.LimitReader(f, uki.MaxSize+1))
}

// inspect says what is in an image, for people. Nothing in it is believed, and no byte of it but letters, digits and signs of a printer
// reaches the terminal.
func inspect(raw []byte) (string, error) {
	i, err := uki.Parse(raw)
	if err != nil {
		return "", err
	}
	var p page
	p.head(i, raw)
	p.title("command line")
	for _, word := range strings.Fields(string(i.Section(uki.CommandLine))) {
		p.line("%s", word)
	}
	p.title("sections, with where they are loaded")
	for _, s := range i.Sections() {
		p.line("%-10s %#10x %10d bytes", s.Name, s.Address, len(s.Data))
	}
	tree, err := initramfs.Read(i.Section(uki.Initrd))
	if err != nil {
		p.title("initramfs")
		p.line("cannot be read: %v", err)
		return p.String(), nil
	}
	p.tree(tree)
	return p.String(), nil
}

// page is a text of lines that are fit for a terminal.
type page struct{ strings.Builder }

func (p *page) title(text string) { fmt.Fprintf(p, "\n%s\n", text) }

func (p *page) line(format string, args ...any) {
	text := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, fmt.Sprintf(format, args...))
	const most = 200
	fmt.Fprintf(p, "  %.*s\n", most, text)
}

func (p *page) head(i *uki.Image, raw []byte) {
	fmt.Fprintln(p, "image")
	p.line("%-12s %d bytes, SHA-256 %x", "file", len(raw), sha256.Sum256(raw))
	for line := range strings.Lines(string(i.Section(uki.OSRelease))) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		p.line("%-12s %s", strings.ToLower(key), value)
	}
	p.line("%-12s %s", "built", i.Built().Format(time.RFC3339))
	p.line("%-12s %s", "kernel", i.Section(uki.Uname))
	_, stub, err := i.Stub()
	if err != nil {
		stub = err.Error()
	}
	p.line("%-12s %s", "stub", stub)
	p.line("%-12s %x", "hash", i.Digest())
	signer, err := i.Signer()
	switch {
	case errors.Is(err, uki.ErrUnsigned):
		p.line("%-12s nobody: no firmware with Secure Boot starts it", "signed by")
	case err != nil:
		p.line("%-12s %v", "signed by", err)
	default:
		p.line("%-12s %s, certificate %x", "signed by", signer.Subject, sha256.Sum256(signer.Raw))
	}
}

func (p *page) tree(t initramfs.Tree) {
	p.title("modules, in the order of loading")
	for line := range strings.Lines(string(t["lib/modules/load"].Data)) {
		name, parameters, _ := strings.Cut(strings.TrimSpace(line), " ")
		p.line("%-28s %8d bytes %s", name, len(t["lib/modules/"+name].Data), parameters)
	}
	p.title("executables")
	for _, name := range t.Executables() {
		p.line("%-28s %8d bytes", name, len(t[name].Data))
	}
	var files, size, special int
	for _, e := range t {
		if e.Mode.IsRegular() {
			files, size = files+1, size+len(e.Data)
		}
		if e.Mode&(fs.ModeSetuid|fs.ModeSetgid) != 0 {
			special++
		}
	}
	p.title("initramfs")
	p.line("%d files, %d bytes, %d of them setuid or setgid", files, size, special)
	if err := t.Check(); err != nil {
		for line := range strings.Lines(err.Error()) {
			p.line("must not be: %s", line)
		}
	}
	p.title("trust anchors")
	const dir = "etc/sdbox/"
	for _, name := range []string{"root.pem", "seal-policy.pem"} {
		if e, there := t[dir+name]; there {
			p.line("%-16s %s", name, pemName(e.Data))
		}
	}
	for _, name := range []string{"release.pub", "escrow.pub"} {
		for line := range strings.Lines(string(t[dir+name].Data)) {
			p.line("%-16s %s", name, strings.TrimSpace(line))
		}
	}
	p.settings(t, dir)
}

// settings are the files that people wrote for this image, whole.
func (p *page) settings(t initramfs.Tree, dir string) {
	for _, name := range []string{"boot.toml", "agent.toml"} {
		if e, there := t[dir+name]; there {
			p.title(name)
			lines := strings.Split(strings.TrimSpace(string(e.Data)), "\n")
			for _, line := range lines[:min(len(lines), 100)] {
				p.line("%s", line)
			}
		}
	}
	var others []string
	for name, e := range t {
		if rest, in := strings.CutPrefix(name, dir); in && e.Mode.IsRegular() {
			others = append(others, fmt.Sprintf("%-16s %8d bytes, SHA-256 %x", rest, len(e.Data), sha256.Sum256(e.Data)))
		}
	}
	slices.Sort(others)
	p.title("files of " + dir)
	for _, line := range others[:min(len(others), 100)] {
		p.line("%s", line)
	}
}

// pemName says whose key or certificate a PEM file holds.
func pemName(text []byte) string {
	block, _ := pem.Decode(text)
	if block == nil {
		return "no PEM"
	}
	if c, err := x509.ParseCertificate(block.Bytes); err == nil {
		return fmt.Sprintf("%s, until %s, certificate %x", c.Subject, c.NotAfter.Format(time.DateOnly), sha256.Sum256(c.Raw))
	}
	return fmt.Sprintf("%s, SHA-256 %x", block.Type, sha256.Sum256(block.Bytes))
}

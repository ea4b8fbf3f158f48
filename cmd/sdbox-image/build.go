// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"sdbox/image"
	"sdbox/image/packages"
)

type buildCmd struct {
	Site       string    `required:"" placeholder:"FILE" type:"path" help:"What the image trusts: site.toml."`
	Agent      string    `required:"" placeholder:"FILE" type:"path" help:"The program sdbox-agent."`
	Version    string    `required:"" placeholder:"YEAR.MONTH.DAY" help:"Version of the image."`
	Built      time.Time `required:"" placeholder:"TIME" help:"The earliest time a box takes for true, such as that of the last change of the sources: 2026-11-24T00:00:00Z."`
	Profile    string    `default:"qemu" help:"Kind of machine: qemu or generic."`
	Dev        bool      `help:"An image with a serial console, signed by the key no production machine trusts."`
	Packages   string    `placeholder:"FILE" type:"path" help:"Lock of the Debian packages; else the one this program was built with."`
	Cache      string    `default:"build/cache" placeholder:"DIR" type:"path" help:"Folder of fetched packages."`
	Kernel     string    `placeholder:"DIR" type:"existingdir" help:"A kernel of one's own, as make kernel makes it; else Debian's."`
	InitrdOnly bool      `help:"Write initrd and kernel alone, for a start without firmware."`
	Readme     string    `hidden:"" type:"path" help:"Text to write the table of contents into."`
	Out        string    `required:"" placeholder:"DIR" type:"path" help:"Folder to write into."`
}

// Run makes the image.
func (c *buildCmd) Run(ctx context.Context, out io.Writer) error {
	spec, err := c.spec(out)
	if err != nil {
		return err
	}
	if c.InitrdOnly {
		parts, err := image.Collect(ctx, spec)
		if err != nil {
			return packageHint(err)
		}
		return c.initrd(parts)
	}
	built, err := image.Build(ctx, spec, c.Out)
	if err != nil {
		return packageHint(err)
	}
	if c.Readme != "" {
		err = errors.Join(built.WriteContents(c.Readme), writeHardening(c.Readme, built.Parts))
	}
	return errors.Join(err, c.say(out, built))
}

// say tells what was made.
func (c *buildCmd) say(out io.Writer, b *image.Built) error {
	_, err := fmt.Fprintf(out, "%s: %s %s, %d bytes, Linux %s\n", filepath.Join(c.Out, image.FileUKI), c.Profile, c.Version, len(b.UKI), b.Parts.Uname)
	return err
}

// initrd writes what a loader without firmware takes.
func (c *buildCmd) initrd(p *image.Parts) error {
	if err := os.MkdirAll(c.Out, 0o755); err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(c.Out, "initrd"))
	if err != nil {
		return err
	}
	err = errors.Join(p.Tree.Write(f), f.Close())
	return errors.Join(err, os.WriteFile(filepath.Join(c.Out, "vmlinuz"), p.Kernel, 0o644))
}

func (c *buildCmd) spec(out io.Writer) (image.Spec, error) {
	s := image.Spec{Profile: c.Profile, Form: image.Production, Version: c.Version, Built: c.Built, Agent: c.Agent, Cache: c.Cache, Kernel: c.Kernel,
		Note: func(text string) { fmt.Fprintln(out, text) }}
	if c.Dev {
		s.Form = image.Dev
	}
	var err error
	if s.Site, err = image.ReadSite(c.Site); err != nil {
		return s, &hintError{err, "image/README.md shows a site.toml"}
	}
	if c.Packages == "" {
		s.Lock, err = image.Lock()
	} else {
		s.Lock, err = readLock(c.Packages)
	}
	return s, err
}

func readLock(path string) (packages.Lock, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	l, err := packages.ParseLock(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return l, nil
}

// packageHint says what to do when the mirror has moved on.
func packageHint(err error) error {
	if _, gone := errors.AsType[*packages.GoneError](err); gone {
		return &hintError{err, "apt-get update; if it is still not there, the mirror has a newer one: make image-lock, and look at what changed"}
	}
	return err
}

type fetchCmd struct {
	Packages string `arg:"" type:"existingfile" help:"Lock."`
	Cache    string `default:"build/cache" placeholder:"DIR" type:"path" help:"Folder of fetched packages."`
}

// Run fetches the packages of a lock and prints their files.
func (c *fetchCmd) Run(ctx context.Context, out io.Writer) error {
	l, err := readLock(c.Packages)
	if err != nil {
		return err
	}
	files, err := packages.Fetch(ctx, l, c.Cache, func(packages.Package) {})
	if err != nil {
		return packageHint(err)
	}
	_, err = fmt.Fprintln(out, strings.Join(files, "\n"))
	return err
}

type lockCmd struct {
	Out string `required:"" placeholder:"FILE" type:"path" help:"Lock to write."`
}

// Run writes the lock and says what is other than in the one this program was built with.
func (c *lockCmd) Run(ctx context.Context, out io.Writer) error {
	now, err := packages.Resolve(ctx, image.Wanted())
	if err != nil {
		return &hintError{err, "apt-get update"}
	}
	was, err := image.Lock()
	if err != nil {
		return err
	}
	changed := 0
	for _, p := range now {
		if old, found := was.Find(p.Name); !found || old != p {
			changed++
			fmt.Fprintf(out, "  %s, was %s\n", p, cmp.Or(old.Version, "not there"))
		}
	}
	if err := os.MkdirAll(filepath.Dir(c.Out), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(c.Out, []byte(now.Text()), 0o644); err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%s: %d packages as apt has them now, %d other than in image/packages.lock\n", c.Out, len(now), changed)
	return err
}

// hintError is an error with what to do about it.
type hintError struct {
	error
	hint string
}

func (h *hintError) Unwrap() error { return h.error }

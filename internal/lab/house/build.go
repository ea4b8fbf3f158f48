// SPDX-License-Identifier: Apache-2.0

package house

import (
	"cmp"
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"sdbox/internal/refusal"

	"golang.org/x/sync/errgroup"
)

//go:embed content
var content embed.FS

// support is whom the lab's screens tell people to call.
const support = "+33 1 70 00 00 00"

// Config says where a lab lives and which programs run in it.
type Config struct {
	Dir      string       // the house's folder: places, logs, keys. It must be empty or missing
	Bin      string       // folder of the shipped programs
	Language refusal.Lang // of the site: what its boxes speak until a person is known; empty = English
	Said     io.Writer    // one line for each part that is ready
	Form     Form         // of the boxes; empty = ProcessForm
	Dev      bool         // image form: of the form dev, which takes drills (agent/boot)
	Cache    string       // image form: folder of fetched packages and of what machines of a model measure, kept between houses
}

// Build furnishes the lab's house: authorities, gateway, bubbles, boxes with their hardware, people with cards, all registered
// by the shipped commands. The boxes are switched off: Boot switches one on.
func Build(ctx context.Context, c Config) (*Site, error) {
	if err := checkEmpty(c.Dir); err != nil {
		return nil, err
	}
	h, err := Open(c.Dir, c.Bin)
	if err != nil {
		return nil, err
	}
	s := &Site{House: h, Tray: &Tray{}, bin: h.bin, People: people(), Language: cmp.Or(c.Language, refusal.English), form: cmp.Or(c.Form, ProcessForm), cache: c.Cache, dev: c.Dev}
	for _, part := range []struct {
		name string
		make func(context.Context) error
	}{
		{"authorities", s.makeAuthorities},
		{"reference values of the boxes", s.makeReference},
		{"gateway's place", s.makeGateway},
		{"boxes: TPM, reader, sensor, keyboard, link", s.makeBoxes},
		{"gateway", s.startGateway},
		{"bubbles", s.makeBubbles},
		{"people and cards", s.makeCards},
		{"rights", s.register},
	} {
		began := time.Now()
		if err := part.make(ctx); err != nil {
			return nil, errors.Join(fmt.Errorf("build the lab: %s: %w", part.name, err), s.Close())
		}
		fmt.Fprintf(c.Said, "  %-50s %6d ms\n", part.name, time.Since(began).Milliseconds())
	}
	return s, nil
}

// checkEmpty wants a folder of our own: what is in it must not be from somebody else.
func checkEmpty(dir string) error {
	list, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err == nil && len(list) > 0 {
		err = fmt.Errorf("%s is not empty", dir)
	}
	return err
}

// program runs a shipped program on the host, for what needs no network: authorities, keys, the audit log.
func (s *Site) program(ctx context.Context, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, name), args...)
	cmd.Env = searchPath()
	out := &head{limit: 1 << 20}
	complaint := &head{limit: 4096}
	cmd.Stdout, cmd.Stderr = out, complaint
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, complaint.data)
	}
	return out.data, nil
}

// pki is the folder of the authorities; only the lab's desk sees it.
func (s *Site) pki() string { return filepath.Join(s.House.dir, "pki") }

func (s *Site) makeAuthorities(ctx context.Context) error {
	_, err := s.program(ctx, "sdbox-pki", "init", s.pki(), "--domain", string(Domain))
	if err != nil {
		return err
	}
	_, err = s.program(ctx, "sdbox-pki", "reference", "key", "--out", s.releaseDir(), "release-1."+string(Domain))
	return err
}

// issue has a certificate made with a new key, into a new folder.
func (s *Site) issue(ctx context.Context, kind, name, out string) error {
	_, err := s.program(ctx, "sdbox-pki", "issue", kind, name, "--pki", s.pki(), "--out", out)
	return err
}

func (s *Site) makeBoxes(ctx context.Context) error {
	specs := []BoxSpec{{Serial: "AMS-0017", Country: "NL", Number: 1}, {Serial: "AMS-0018", Country: "NL", Number: 2}}
	s.Boxes = make([]*Box, len(specs))
	var made errgroup.Group
	for i, spec := range specs {
		made.Go(func() (err error) {
			s.Boxes[i], err = s.House.newBox(ctx, spec, s.form, s.Gateway)
			return err
		})
	}
	err := made.Wait()
	kept := s.Boxes[:0]
	for _, b := range s.Boxes {
		if b != nil {
			kept = append(kept, b)
		}
	}
	s.Boxes = kept
	return err
}

// Boot switches a box on: its machine, or its agent with a configuration file of its own.
func (s *Site) Boot(ctx context.Context, b *Box) error {
	if b.Running() {
		return fmt.Errorf("boot %s: it runs", b.Serial)
	}
	err := b.SwitchOff() // what is left of one that has ended
	switch {
	case err != nil:
	case s.form == ImageForm:
		err = s.startMachine(ctx, b)
	default:
		err = s.startAgent(b)
	}
	if err != nil {
		return fmt.Errorf("boot %s: %w", b.Serial, err)
	}
	return nil
}

func (s *Site) startAgent(b *Box) error {
	root, err := os.ReadFile(filepath.Join(s.pki(), "root", "cert.pem"))
	if err != nil {
		return err
	}
	conf := fmt.Sprintf(`# What the image of a real box holds: whom it trusts, and its hardware.
domain = %q
gateway = [%q]
gateway_name = %q
root = "root.pem"
state = "state"
language = %q
support = %q
layout = "us"

[hardware]
tpm = "unix:%s"
eventlog = %q
screen = "file:%s"
keys = "unix:%s"
finger = "unix:%s"

[screen]
width = %d
height = %d
`, Domain, GatewayAddress+":443", Domain.Gateway(GatewayName), s.Language, support, tpmSocket, eventLog, screenFile, keySocket, touchSocket, ScreenWidth, ScreenHeight)
	err = errors.Join(
		os.WriteFile(filepath.Join(b.Place.dir, "root.pem"), root, 0o644),
		os.WriteFile(filepath.Join(b.Place.dir, "agent.toml"), []byte(conf), 0o644))
	if err != nil {
		return err
	}
	agent, err := b.Place.Start("agent", searchPath(), binDir+"/sdbox-agent", "run", "--config", insideDir+"/agent.toml")
	b.mu.Lock()
	defer b.mu.Unlock()
	b.agent = agent
	return err
}

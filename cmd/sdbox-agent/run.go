// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"

	"sdbox/agent"
	"sdbox/agent/keys"
	"sdbox/agent/screen"
	"sdbox/internal/card/pcsc"
	"sdbox/internal/finger"
	"sdbox/internal/ident"
	"sdbox/internal/refusal"
	"sdbox/internal/tpm"

	"github.com/pelletier/go-toml/v2"
	"golang.org/x/sync/errgroup"
)

// maxConfig is the longest configuration file taken, in bytes.
const maxConfig = 64 << 10

// gcPercent is how much the heap may grow before garbage is collected. Most of it is pictures, which hold no pointer and cost the
// collector nothing to look at.
const gcPercent = 30

// runCommand is "sdbox-agent run".
type runCommand struct {
	Config string `default:"/etc/sdbox/agent.toml" help:"Configuration file." type:"path"`
}

// config is agent.toml. Relative paths count from the file.
type config struct {
	Domain      string   `toml:"domain"`
	Gateway     []string `toml:"gateway"`      // host:port of front doors, best first
	GatewayName string   `toml:"gateway_name"` // DNS name in the gateway's certificate
	Root        string   `toml:"root"`         // PEM file: the root certificate of the centre
	State       string   `toml:"state"`        // folder of what outlives a boot
	Language    string   `toml:"language"`     // "fr" or "en", until the centre says
	Support     string   `toml:"support"`      // whom to call when the centre cannot be reached
	Layout      string   `toml:"layout"`       // keyboard layout of this box
	Hardware    hardware `toml:"hardware"`
	Screen      size     `toml:"screen"`
}

type hardware struct {
	TPM    string `toml:"tpm"`    // "/dev/tpmrm0" or "unix:PATH"
	Screen string `toml:"screen"` // "file:PATH"
	Keys   string `toml:"keys"`   // "evdev" or "unix:PATH"
	Finger string `toml:"finger"` // "unix:PATH"
}

type size struct {
	Width  int `toml:"width"`
	Height int `toml:"height"`
}

// readConfig reads and checks agent.toml; an unknown key is an error.
func readConfig(path string) (*config, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, &useError{fmt.Errorf("configuration: %w", err), "name one with --config; README.md, Run it for real, shows one"}
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil || len(text) > maxConfig {
		return nil, errors.Join(fmt.Errorf("configuration %s: over %d bytes or unreadable", path, maxConfig), err)
	}
	c := &config{State: "/var/lib/sdbox/agent", Language: "en", Layout: "us", Screen: size{1920, 1080}}
	d := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields()
	if err := d.Decode(c); err != nil {
		var strict *toml.StrictMissingError
		if errors.As(err, &strict) {
			return nil, &useError{fmt.Errorf("configuration %s has a key that means nothing here:\n%s", path, strict.String()), hintConfig}
		}
		var wrong *toml.DecodeError
		if errors.As(err, &wrong) {
			line, _ := wrong.Position()
			err = fmt.Errorf("line %d: %w", line, err)
		}
		return nil, &useError{fmt.Errorf("configuration %s: %w", path, err), "it is TOML: key = \"value\""}
	}
	for _, p := range []*string{&c.Root, &c.State} {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(filepath.Dir(path), *p)
		}
	}
	if err := c.check(); err != nil {
		return nil, &useError{fmt.Errorf("configuration %s: %w", path, err), hintConfig}
	}
	return c, nil
}

func (c *config) check() error {
	domain, err := ident.ParseDomain(c.Domain)
	if err != nil {
		return err
	}
	if len(c.Gateway) == 0 || len(c.Gateway) > 8 {
		return errors.New("gateway: want 1 to 8 entries of host:port")
	}
	for _, g := range c.Gateway {
		if _, _, err := net.SplitHostPort(g); err != nil {
			return fmt.Errorf("gateway %.80q: want host:port", g)
		}
	}
	if c.GatewayName == "" || c.Root == "" {
		return errors.New("gateway_name and root are required")
	}
	if l := refusal.Lang(c.Language); l != refusal.French && l != refusal.English {
		return fmt.Errorf("language %.20q: want fr or en", c.Language)
	}
	for key, spec := range map[string]string{"tpm": c.Hardware.TPM, "screen": c.Hardware.Screen, "keys": c.Hardware.Keys, "finger": c.Hardware.Finger} {
		simulated := strings.HasPrefix(spec, "unix:") || strings.HasPrefix(spec, "file:")
		if simulated && domain != ident.Lab {
			return fmt.Errorf("hardware.%s = %.80q: simulated hardware is refused outside the domain %q", key, spec, ident.Lab)
		}
		if spec == "" {
			return fmt.Errorf("hardware.%s is required", key)
		}
	}
	return nil
}

// Run lives until ctx ends.
func (r *runCommand) Run(ctx context.Context, o output) error {
	c, err := readConfig(r.Config)
	if err != nil {
		return err
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	log := slog.New(slog.NewJSONHandler(o.log, &slog.HandlerOptions{Level: slog.LevelInfo}))
	root, err := readRoot(c.Root)
	if err != nil {
		return err
	}
	chip, err := tpm.Open(c.Hardware.TPM)
	if err != nil {
		return &useError{err, hintTPM}
	}
	defer chip.Close()
	path, _ := strings.CutPrefix(c.Hardware.Screen, "file:")
	display, err := screen.OpenFile(path, c.Screen.Width, c.Screen.Height)
	if err != nil {
		return &useError{err, hintScreen}
	}
	input, err := keys.Open(c.Hardware.Keys)
	if err != nil {
		return &useError{errors.Join(err, display.Close()), hintKeys}
	}
	sensor, _ := strings.CutPrefix(c.Hardware.Finger, "unix:")
	cards := pcsc.NewWatcher(log)
	a, err := agent.New(agent.Config{
		Domain: c.Domain, Gateways: c.Gateway, GatewayName: c.GatewayName, Root: root, Language: refusal.Lang(c.Language), Support: c.Support,
		Layout: c.Layout, TPM: chip, Screen: display, Keys: input, Cards: agent.PCSC(cards), Finger: finger.Unix(sensor), Log: log,
	})
	if err != nil {
		return errors.Join(err, display.Close())
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return stopped(ctx, cards.Run(ctx)) })
	g.Go(func() error { return a.Run(ctx) })
	return g.Wait()
}

// stopped takes the end that was asked for as no error.
func stopped(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

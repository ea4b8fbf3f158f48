// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"

	"sdbox/agent"
	"sdbox/agent/boot"
	"sdbox/agent/keys"
	"sdbox/agent/screen"
	"sdbox/cmd/internal/settings"
	"sdbox/firmware/reference"
	"sdbox/internal/card/pcsc"
	"sdbox/internal/finger"
	"sdbox/internal/ident"
	"sdbox/internal/refusal"
	"sdbox/internal/tpm"

	"golang.org/x/sync/errgroup"
)

// gcPercent is how much the heap may grow before garbage is collected. Most of it is pictures, which hold no pointer and cost the
// collector nothing to look at.
const gcPercent = 30

// linuxLog is where Linux shows what the firmware measured.
const linuxLog = "/sys/kernel/security/tpm0/binary_bios_measurements"

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
	TPM    string `toml:"tpm"`      // "/dev/tpmrm0" or "unix:PATH"
	Log    string `toml:"eventlog"` // file of what the firmware measured
	Screen string `toml:"screen"`   // "drm", in a box's own system, or "file:PATH"
	Keys   string `toml:"keys"`     // "evdev" or "unix:PATH"
	Finger string `toml:"finger"`   // "unix:PATH" or "port:NAME", a virtual machine's serial port
}

type size struct {
	Width  int `toml:"width"`
	Height int `toml:"height"`
}

// readConfig reads and checks agent.toml; an unknown key is an error.
func readConfig(path string) (*config, error) {
	c := &config{State: "/var/lib/sdbox/agent", Language: "en", Layout: "us", Screen: size{1920, 1080}, Hardware: hardware{Log: linuxLog}}
	if err := settings.Read(path, c); err != nil {
		return nil, &useError{err, settings.Hint(err, "name one with --config; README.md, Run it for real, shows one", hintConfig)}
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
		simulated := strings.HasPrefix(spec, "unix:") || strings.HasPrefix(spec, "file:") || strings.HasPrefix(spec, "port:")
		if simulated && domain != ident.Lab {
			return fmt.Errorf("hardware.%s = %.80q: simulated hardware is refused outside the domain %q", key, spec, ident.Lab)
		}
		if spec == "" {
			return fmt.Errorf("hardware.%s is required", key)
		}
	}
	return nil
}

// live is the life of a box that is one process of another system; it ends with ctx.
func live(ctx context.Context, config string, o output) error {
	c, err := readConfig(config)
	if err != nil {
		return err
	}
	root, err := readRoot(c.Root)
	if err != nil {
		return err
	}
	path, isFile := strings.CutPrefix(c.Hardware.Screen, "file:")
	if !isFile {
		return &useError{fmt.Errorf("hardware.screen = %.80q: only a box's own system opens a display", c.Hardware.Screen), hintScreen}
	}
	display, err := screen.OpenFile(path, c.Screen.Width, c.Screen.Height)
	if err != nil {
		return &useError{err, hintScreen}
	}
	chip, err := tpm.Open(c.Hardware.TPM)
	if err != nil {
		return &useError{errors.Join(err, display.Close()), hintTPM}
	}
	defer chip.Close()
	return c.live(ctx, o, parts{root: root, tpm: chip, screen: display})
}

// parts are what a box is made of beside its configuration.
type parts struct {
	root   *x509.CertPool // whom the centre's certificate must come from
	tpm    *tpm.TPM
	screen screen.Screen // the agent's to close
	boot   *boot.Client  // nil without a system of its own
	kept   []byte        // by it, of the agent before this one

	releases *reference.Trust // nil = no release is taken
}

func (c *config) live(ctx context.Context, o output, p parts) error {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	log := slog.New(slog.NewJSONHandler(o.log, &slog.HandlerOptions{Level: slog.LevelInfo}))
	input, err := keys.Open(c.Hardware.Keys)
	if err != nil {
		return &useError{errors.Join(err, p.screen.Close()), hintKeys}
	}
	cards := pcsc.NewWatcher(log)
	a, err := agent.New(agent.Config{
		Domain: c.Domain, Gateways: c.Gateway, GatewayName: c.GatewayName, Root: p.root, Language: refusal.Lang(c.Language), Support: c.Support,
		Layout: c.Layout, TPM: p.tpm, EventLog: c.Hardware.Log, Screen: p.screen, Keys: input, Cards: agent.PCSC(cards), Finger: c.sensor(), Log: log,
		Boot: p.boot, Kept: p.kept, Releases: p.releases,
	})
	if err != nil {
		return errors.Join(err, p.screen.Close())
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return stopped(ctx, cards.Run(ctx)) })
	g.Go(func() error { return p.boot.Run(ctx) })
	g.Go(func() error { return a.Run(ctx) })
	return g.Wait()
}

// sensor returns where fingers come from.
func (c *config) sensor() func(context.Context) (finger.Template, error) {
	if name, isPort := strings.CutPrefix(c.Hardware.Finger, "port:"); isPort {
		return finger.Port(func() (string, error) { return boot.FindPort("/sys", "/dev", name) })
	}
	path, _ := strings.CutPrefix(c.Hardware.Finger, "unix:")
	return finger.Unix(path)
}

// stopped takes the end that was asked for as no error.
func stopped(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

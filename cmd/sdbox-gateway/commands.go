// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"sdbox/gateway"
	"sdbox/internal/ident"
	"sdbox/internal/merkle"
	"sdbox/internal/tunnel"
)

type cli struct {
	Run    runCmd    `cmd:"" help:"Run the gateway until it is told to stop."`
	Init   initCmd   `cmd:"" help:"Write a commented configuration file and the keys that stay on this machine."`
	Config configCmd `cmd:"" help:"Look at the configuration."`
}

// useError is a mistake in the command line or in the configuration, with the next thing to try.
type useError struct {
	err  error
	hint string
}

func (e *useError) Error() string { return e.err.Error() }
func (e *useError) Unwrap() error { return e.err }

// gcPercent is how much the heap may grow before garbage is collected. Most of it is pictures, which hold no pointer and cost the
// collector nothing to look at: a low value keeps the memory of a session near what lives of it.
const gcPercent = 30

type runCmd struct {
	Config string `help:"Configuration file." default:"/etc/sdbox/gateway.toml" type:"path"`
	Debug  bool   `help:"Log more: what strangers send, what bubbles answer."`
}

// Run serves until the context ends.
func (c *runCmd) Run(ctx context.Context) error {
	conf, err := readFile(c.Config)
	if err != nil {
		return err
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	level := slog.LevelInfo
	if c.Debug {
		level = slog.LevelDebug
	}
	g, err := gateway.New(ctx, conf, slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: level, ReplaceAttr: utc})))
	if err != nil {
		return err
	}
	return g.Run(ctx)
}

// utc writes a record's time in UTC.
func utc(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey && a.Value.Kind() == slog.KindTime {
		a.Value = slog.TimeValue(a.Value.Time().UTC().Truncate(time.Millisecond))
	}
	return a
}

type configCmd struct {
	Check checkCmd `cmd:"" help:"Read a configuration file and name everything that is wrong with it."`
}

type checkCmd struct {
	File string `arg:"" help:"Configuration file." default:"/etc/sdbox/gateway.toml" type:"path"`
}

// Run reads the file as run would, and looks whether the files it names are there.
func (c *checkCmd) Run(out io.Writer) error {
	conf, err := readFile(c.File)
	if err != nil {
		return err
	}
	var missing []error
	for key, path := range map[string]string{
		"tls": filepath.Join(conf.TLS, "cert.pem"), "tunnel.key": conf.Tunnel.Key, "audit.key": conf.AuditKey, "devices.dir": conf.Devices.Dir,
		"devices.identity": conf.Devices.Identity, "policies": conf.Policies, "ek_roots": conf.EKRoots,
	} {
		if path == "" {
			continue
		}
		if _, err := os.Stat(path); err != nil {
			missing = append(missing, fmt.Errorf("%s: %w", key, err))
		}
	}
	if len(missing) > 0 {
		return &useError{fmt.Errorf("%s: %w", c.File, errors.Join(missing...)), "sdbox-gateway init tells where each of these comes from"}
	}
	_, err = fmt.Fprintf(out, "%s: good. Gateway %s, state in %s\n", c.File, conf.Domain.Gateway(conf.Name), conf.State)
	return err
}

type initCmd struct {
	Dir    string `arg:"" help:"Folder to make: gateway.toml and state/ with the keys that stay here." type:"path"`
	Domain string `help:"Trust domain, as given to sdbox-pki init." required:""`
	Name   string `help:"Short name of this gateway." default:"gw1"`
	At     string `help:"Address of this gateway as boxes reach it: ADDRESS:PORT, UDP." required:""`
}

// Run makes the folder. It never writes over a file that is there.
func (c *initCmd) Run(out io.Writer) error {
	domain, err := ident.ParseDomain(c.Domain)
	if err != nil {
		return &useError{err, "give the domain that sdbox-pki init was given"}
	}
	state := filepath.Join(c.Dir, "state")
	if _, err := netip.ParseAddrPort(c.At); err != nil {
		return &useError{fmt.Errorf("--at %s: %w", c.At, err), "for example 192.0.2.1:443 or [2001:db8::1]:443"}
	}
	if err := os.MkdirAll(state, 0o700); err != nil {
		return err
	}
	private, err := tunnel.NewKey()
	if err != nil {
		return err
	}
	secret, verifier, err := merkle.GenerateKey(domain.Gateway(c.Name) + "/audit")
	if err != nil {
		return err
	}
	conf := strings.NewReplacer("@DOMAIN@", string(domain), "@NAME@", c.Name, "@AT@", c.At).Replace(template)
	for _, f := range []struct {
		path, text string
		mode       fs.FileMode
	}{
		{filepath.Join(state, "tunnel.key"), hex.EncodeToString(private[:]) + "\n", 0o600},
		{filepath.Join(state, "audit.key"), secret + "\n", 0o600},
		{filepath.Join(state, "audit.pub"), verifier + "\n", 0o644},
		{filepath.Join(c.Dir, "gateway.toml"), conf, 0o644},
	} {
		if err := writeNew(f.path, f.text, f.mode); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintf(out, `Made %s.
Next:
  1. sdbox-pki issue gateway %s --out %s
  2. sdbox-pki lend devices --out %s
  3. write the release keys and the support contact into gateway.toml
  4. sdbox-gateway config check %s
Keep %s somewhere else too: with it anyone can check the audit log.
`, c.Dir, c.Name, filepath.Join(state, "tls"), filepath.Join(state, "devices"), filepath.Join(c.Dir, "gateway.toml"), filepath.Join(state, "audit.pub"))
	return err
}

func writeNew(path, text string, mode fs.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s is already there; nothing is written over it", path)
	}
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Sync(), f.Close())
}

// template is the file that init writes.
const template = `# sdbox-gateway. Relative paths count from this file; a key that is not listed here is an error.

domain = "@DOMAIN@"     # trust domain; everything the house signs is valid in it only
name = "@NAME@"         # this gateway is @NAME@.@DOMAIN@
state = "state"         # database and sealed audit log
language = "fr"         # of a box's screen before a card is in: fr or en
support = ""            # whom a person calls; shown on every amber and red screen

tls = "state/tls"       # cert.pem, key.pem, ca.pem: sdbox-pki issue gateway @NAME@
# database = "sqlite:state/gateway.db"
# policies = "policies" # folder of Cedar policies; without it the ones built in are used
# ek_roots = "tpm-manufacturers.pem"

# Who may say what an intact box measures: public release keys, and how many of them must have signed.
references = []
threshold = 1

[front_door]
listen = ":443"         # TCP
endpoints = ["@AT@"]    # where boxes reach the tunnel, UDP, best first
max_waiting = 256       # connections at once

[tunnel]
listen = ":443"         # UDP
key = "state/tunnel.key"
lease = "15m"           # a box proves its state again after two thirds of it; at most 15m

[devices]               # issues device certificates at enrolment: sdbox-pki lend devices
dir = "state/devices"

[console]
listen = ":8443"        # operators' pages and API; operator certificates only

[health]
listen = "127.0.0.1:9090"

[audit]
key = "state/audit.key" # signs the checkpoints of the audit log
`

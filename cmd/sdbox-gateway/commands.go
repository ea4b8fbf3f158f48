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
	"strconv"
	"strings"
	"syscall"
	"time"

	"sdbox/firmware/reference"
	"sdbox/gateway"
	"sdbox/internal/ident"
	"sdbox/internal/merkle"
	"sdbox/internal/notify"
	"sdbox/internal/tunnel"
)

type cli struct {
	Run    runCmd    `cmd:"" help:"Run the gateway until it is told to stop."`
	Init   initCmd   `cmd:"" help:"Write a commented configuration file and the keys that stay on this machine."`
	Config configCmd `cmd:"" help:"Look at the configuration."`

	Backup  backupCmd  `cmd:"" help:"Copy database and sealed audit log into one file, while the gateway runs or not."`
	Restore restoreCmd `cmd:"" help:"Put a backup in the place of the state; the gateway must not run."`
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
	conf, err := lookedAt(c.Config)
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
		return portHint(err)
	}
	if err := notify.Ready(); err != nil { // the ports listen
		return errors.Join(err, g.Close())
	}
	return g.Run(ctx)
}

// portHint says what to do about an address that cannot be listened at, or a gateway that runs already.
func portHint(err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return &useError{err, "another program has this port, perhaps another sdbox-gateway: ss -lntup names it; stop it, or change listen"}
	case errors.Is(err, gateway.ErrRunning):
		return &useError{err, "systemctl status sdbox-gateway shows it; a second gateway has a state folder of its own"}
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return &useError{err, "this machine does not have this address: ip address lists those it has"}
	case errors.Is(err, syscall.EACCES):
		return &useError{err, "ports below 1024 want CAP_NET_BIND_SERVICE, and the state folder its owner: the unit sdbox-gateway.service sees to both"}
	}
	return err
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

// Run reads the file as run would.
func (c *checkCmd) Run(out io.Writer) error {
	conf, err := lookedAt(c.File)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%s: good. Gateway %s, state in %s\n", c.File, conf.Domain.Gateway(conf.Name), conf.State)
	return err
}

// lookedAt reads a configuration file and looks whether the files it names are there and are what they should be.
func lookedAt(file string) (gateway.Config, error) {
	conf, err := readFile(file)
	if err != nil {
		return conf, err
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
		return conf, &useError{fmt.Errorf("%s: %w", file, errors.Join(missing...)), "sdbox-gateway init tells where each of these comes from"}
	}
	if err := conf.CheckFiles(); err != nil {
		return conf, &useError{fmt.Errorf("%s: %w", file, err), fmt.Sprintf(
			"%s is for what sdbox-pki issue gateway %s makes, %s for what sdbox-pki lend devices makes; issue anew into an empty folder", conf.TLS, conf.Name, conf.Devices.Dir)}
	}
	return conf, nil
}

type initCmd struct {
	Dir     string   `arg:"" help:"Folder for gateway.toml; made if it is not there." type:"path"`
	Domain  string   `help:"Trust domain, as given to sdbox-pki init." required:""`
	Name    string   `help:"Short name of this gateway." default:"gw1"`
	At      string   `help:"Address of this gateway as boxes reach it: ADDRESS:PORT, UDP." required:""`
	State   string   `help:"Folder for the database and the keys that stay here. Default: DIR/state." type:"path"`
	Release []string `help:"File of a public release key: who says what an intact box measures." type:"existingfile"`
	Support string   `help:"Whom a person calls; shown on every amber and red screen."`

	Language string `help:"Language of a box's screen before a card is in: fr or en." default:"fr" enum:"fr,en"`
}

// Run makes the folder. It never writes over a file that is there.
func (c *initCmd) Run(out io.Writer) error {
	domain, err := ident.ParseDomain(c.Domain)
	if err != nil {
		return &useError{err, "give the domain that sdbox-pki init was given"}
	}
	if _, err := netip.ParseAddrPort(c.At); err != nil {
		return &useError{fmt.Errorf("--at %s: %w", c.At, err), "for example 192.0.2.1:443 or [2001:db8::1]:443"}
	}
	state, written := filepath.Join(c.Dir, "state"), "state" // relative, so that the folder can be moved
	if c.State != "" {
		state, written = c.State, c.State
	}
	references, err := releaseKeys(c.Release)
	if err != nil {
		return err
	}
	if err := errors.Join(os.MkdirAll(c.Dir, 0o755), os.MkdirAll(filepath.Dir(state), 0o755), os.MkdirAll(state, 0o700)); err != nil {
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
	conf := strings.NewReplacer("@DOMAIN@", string(domain), "@NAME@", c.Name, "@AT@", c.At, "@STATE@", written, "@REFERENCES@", references,
		"@LANGUAGE@", c.Language, "@SUPPORT@", strconv.Quote(c.Support)).Replace(template)
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
  3. fill in what is still empty in gateway.toml
  4. sdbox-gateway config check %s
Keep %s somewhere else too: with it anyone can check the audit log.
`, c.Dir, c.Name, filepath.Join(state, "tls"), filepath.Join(state, "devices"), filepath.Join(c.Dir, "gateway.toml"), filepath.Join(state, "audit.pub"))
	return err
}

// releaseKeys are the public keys of these files as a TOML array.
func releaseKeys(files []string) (string, error) {
	keys := make([]string, len(files))
	for i, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			return "", fmt.Errorf("release key: %w", err)
		}
		key := strings.TrimSpace(string(text))
		if _, err := reference.NewTrust(1, key); err != nil {
			return "", &useError{fmt.Errorf("release key %s: %w", name, err), "name the file release.pub that sdbox-pki reference key made"}
		}
		keys[i] = strconv.Quote(key)
	}
	return "[" + strings.Join(keys, ", ") + "]", nil
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
state = "@STATE@"         # database and sealed audit log
language = "@LANGUAGE@"         # of a box's screen before a card is in: fr or en
support = @SUPPORT@            # whom a person calls; shown on every amber and red screen

tls = "@STATE@/tls"       # cert.pem, key.pem, ca.pem: sdbox-pki issue gateway @NAME@
# database = "sqlite:@STATE@/gateway.db"
# database = "postgres:host=/run/postgresql dbname=sdbox user=sdbox" # version 15 or newer; no password here: passfile=, or the socket's peer
# policies = "policies" # folder of Cedar policies; without it the ones built in are used
# ek_roots = "tpm-manufacturers.pem"

# Who may say what an intact box measures: public release keys, and how many of them must have signed.
references = @REFERENCES@
threshold = 1

[front_door]
listen = ":443"         # TCP
endpoints = ["@AT@"]    # where boxes reach the tunnel, UDP, best first
max_waiting = 256       # connections at once

[tunnel]
listen = ":443"         # UDP
key = "@STATE@/tunnel.key"
lease = "15m"           # a box proves its state again after two thirds of it; at most 15m

[devices]               # issues device certificates at enrolment: sdbox-pki lend devices
dir = "@STATE@/devices"

[console]
listen = ":8443"        # operators' pages and API; operator certificates only

[health]
listen = "127.0.0.1:9090"

[audit]
key = "@STATE@/audit.key" # signs the checkpoints of the audit log
`

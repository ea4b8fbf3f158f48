// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"os/exec"
	"slices"
	"strings"
	"time"

	"sdbox/internal/bubble"
	"sdbox/internal/notify"
)

type commands struct {
	Run    runCommand    `cmd:"" default:"withargs" help:"Serve the bubble's desktops until a signal comes; then end them."`
	Config configCommand `cmd:"" help:"Work on the configuration file."`
}

// useError is a mistake in the command line, the configuration or the machine, with the next thing to try.
type useError struct {
	err  error
	hint string
}

func (e *useError) Error() string { return e.err.Error() }
func (e *useError) Unwrap() error { return e.err }

// hintConfig is what to do about a file that is wrong.
const hintConfig = "change the file and look again with sdbox-bubble config check"

// output is where a command writes: out for people and programs, log for the log.
type output struct{ out, log io.Writer }

// runCommand is "sdbox-bubble run".
type runCommand struct {
	File string `name:"config" default:"/etc/sdbox/bubble.toml" help:"Configuration file." type:"path"`
}

// Run serves until ctx ends.
func (r runCommand) Run(ctx context.Context, o output) error {
	c, err := readConfig(r.File)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewJSONHandler(o.log, &slog.HandlerOptions{ReplaceAttr: utc})).With("bubble", c.Name)
	server, err := c.server(log)
	if err != nil {
		return &useError{err, hintConfig}
	}
	if err := checkPrograms(); err != nil {
		return err
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", c.Listen)
	if err != nil {
		return &useError{fmt.Errorf("listen for gateways, key \"listen\": %w", err), "is another sdbox-bubble running, and is the address one of this machine?"}
	}
	if err := notify.Ready(); err != nil {
		return errors.Join(err, l.Close())
	}
	log.Info("ready", "listen", l.Addr().String(), "accounts", len(c.Accounts))
	return server.Serve(ctx, l)
}

// checkPrograms names the Debian packages of the programs that desktops need and that are not there.
func checkPrograms() error {
	var missing []error
	packages := map[string]bool{}
	for program, debian := range map[string]string{"Xvnc": "tigervnc-standalone-server", "setxkbmap": "x11-xkb-utils", "xkbcomp": "x11-xkb-utils"} {
		if _, err := exec.LookPath(program); err != nil {
			missing = append(missing, fmt.Errorf("%s is missing: %w", program, err))
			packages[debian] = true
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return &useError{errors.Join(missing...), "apt-get install " + strings.Join(slices.Sorted(maps.Keys(packages)), " ")}
}

// utc writes times of the log in UTC.
func utc(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindTime {
		a.Value = slog.TimeValue(a.Value.Time().UTC().Truncate(time.Millisecond))
	}
	return a
}

// configCommand is "sdbox-bubble config".
type configCommand struct {
	Check checkCommand `cmd:"" help:"Say whether the configuration file is good."`
}

type checkCommand struct {
	File string `name:"config" default:"/etc/sdbox/bubble.toml" help:"Configuration file." type:"path"`
}

// Run reads everything the server would read and starts nothing.
func (k checkCommand) Run(o output) error {
	c, err := readConfig(k.File)
	if err != nil {
		return err
	}
	settings, err := c.settings(slog.New(slog.DiscardHandler))
	if err == nil {
		err = bubble.Check(settings)
	}
	if err != nil {
		return &useError{err, hintConfig}
	}
	_, err = fmt.Fprintf(o.out, "%s is good: bubble %s with %d accounts\n", k.File, c.Name, len(c.Accounts))
	return err
}

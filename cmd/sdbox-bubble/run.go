// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os/exec"
	"time"

	"sdbox/internal/bubble"
)

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
		return err
	}
	for program, debian := range map[string]string{"Xvnc": "tigervnc-standalone-server", "setxkbmap": "x11-xkb-utils", "xkbcomp": "x11-xkb-utils"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("%s is missing; install the Debian package %s: %w", program, debian, err)
		}
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", c.Listen)
	if err != nil {
		return fmt.Errorf("listen for gateways, key \"listen\": %w", err)
	}
	log.Info("ready", "listen", l.Addr().String(), "accounts", len(c.Accounts))
	return server.Serve(ctx, l)
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
	if err != nil {
		return err
	}
	if err := bubble.Check(settings); err != nil {
		return err
	}
	_, err = fmt.Fprintf(o.out, "%s is good: bubble %s with %d accounts\n", k.File, c.Name, len(c.Accounts))
	return err
}

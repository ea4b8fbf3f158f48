// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strings"

	"sdbox/agent/boot"
)

// command is one thing this program does. The flags are the standard library's: the other programs' (kong) find commands by the names
// of methods, so that the linker must keep every method of every type, and this program goes over the line with each update of a box.
// Without help it is PID 1's to give, and not shown.
type command struct {
	name, help string
	run        func(ctx context.Context, config string, o output) error
}

// commands are all of them; the first is what happens without a name.
func commands() []command {
	return []command{
		{"run", "Live as an SD-Box until a signal comes.", live},
		{"config check", "Say whether the configuration file is good.", check},
		{"machine", "Print the name of this machine's TPM and what it has measured, for IT.", machine},
		{string(boot.RoleAgent), "", box},
		{string(boot.RoleCard), "", func(context.Context, string, output) error { return boot.RunCard() }},
		{string(boot.RoleNetwork), "", func(ctx context.Context, _ string, o output) error {
			return boot.RunNetworkRole(ctx, slog.New(slog.NewJSONHandler(o.log, nil)).With("room", "network"))
		}},
	}
}

// output is where a command writes: out for people and programs, log for the log.
type output struct{ out, log io.Writer }

// parse finds the command and its configuration file. When help was asked for, and given, the error is flag.ErrHelp.
func parse(args []string, o output) (command, string, error) {
	all := commands()
	do := all[0]
	var words []string
	for len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		words, args = append(words, args[0]), args[1:]
	}
	if name := strings.Join(words, " "); name != "" {
		do = command{}
		for _, c := range all {
			if c.name == name {
				do = c
			}
		}
		if do.run == nil {
			return do, "", wrongUse(fmt.Errorf("no command %.80q", name))
		}
	}
	flags := flag.NewFlagSet("sdbox-agent", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	config := flags.String("config", "/etc/sdbox/agent.toml", "")
	err := flags.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		help(o.out)
		return do, "", err
	}
	if err == nil && flags.NArg() > 0 {
		err = fmt.Errorf("%.80q means nothing here", flags.Arg(0))
	}
	if err != nil {
		return do, "", wrongUse(err)
	}
	path, err := filepath.Abs(*config)
	return do, path, err
}

func wrongUse(err error) error { return &useError{err, "sdbox-agent --help lists the commands"} }

func help(w io.Writer) {
	fmt.Fprint(w, "Usage: sdbox-agent COMMAND [--config FILE]\n\nThe program an SD-Box runs.\n\n")
	for _, c := range commands() {
		if c.help == "" {
			continue
		}
		fmt.Fprintf(w, "  %-14s%s\n", c.name, c.help)
	}
	fmt.Fprint(w, "\n  --config FILE Configuration file (/etc/sdbox/agent.toml).\n")
}

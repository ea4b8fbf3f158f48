// SPDX-License-Identifier: Apache-2.0

// Command sdboxctl is the operators' and IT's hand on a gateway: it registers boxes, people, cards and bubbles, shows and cuts
// sessions, and checks the audit log. It speaks the console's API with an operator certificate; audit verify needs no gateway.
//
// Exit codes: 0 done; 1 failed; 2 wrong use; 3 no such thing; 4 not allowed: the operator certificate has ended or is none; 5 already
// there, or its state forbids it; 6 the gateway does not answer, or another one does, or the box that was asked for does not; 7 the audit log, or the evidence of a session,
// does not verify. What is wrong stands on standard error, with a hint on what to do; with --json as {"error", "hint", "exit"}.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"github.com/alecthomas/kong"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is the whole program: arguments in, exit code out.
func run(ctx context.Context, args []string, out, errs io.Writer) int {
	var c cli
	exited := -1
	parser, err := kong.New(&c, kong.Name("sdboxctl"), kong.Description("Registers, watches and cuts: the operators' hand on an SD-Box gateway."),
		kong.Writers(out, errs), kong.UsageOnError(), kong.Exit(func(code int) { exited = code }), kong.Vars{"config": "/etc/sdbox/ctl.toml"},
		kong.BindTo(ctx, (*context.Context)(nil)))
	if err != nil {
		return report(errs, fmt.Errorf("command line: %w", err), false)
	}
	k, err := parser.Parse(args)
	if exited >= 0 {
		return exited // --help has been printed
	}
	if err != nil {
		return report(errs, hint(exitUsage, err, "sdboxctl --help lists the commands"), slices.Contains(args, "--json"))
	}
	return report(errs, k.Run(&printer{w: out, json: c.JSON}, &c), c.JSON)
}

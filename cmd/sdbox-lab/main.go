// SPDX-License-Identifier: Apache-2.0

// Command sdbox-lab runs the whole of sdbox on one machine: it starts the shipped programs with their own configuration files
// in namespaces, simulates only hardware and links, plays a researcher's day and measures it.
//
// Exit codes: 0 done; 1 failed, or a figure missed its must; 2 wrong use.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"sdbox/internal/lab/house"

	"github.com/alecthomas/kong"
)

type cli struct {
	Up    upCmd    `cmd:"" help:"Start the house, boot its boxes and stay up, for the browser."`
	Day   dayCmd   `cmd:"" help:"Start the house, play a researcher's day, measure it, then stay up (--once: end)."`
	Chart chartCmd `cmd:"" help:"Draw the time of a switch, from the report of a day."`
	Card  cardCmd  `cmd:"" help:"Run one simulated card in a virtual reader, for any PC/SC program."`
}

func main() {
	house.Main() // returns only in the lab itself, not in the first process of a place
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, out, errs io.Writer) int {
	var c cli
	exited := -1
	parser, err := kong.New(&c, kong.Name("sdbox-lab"), kong.Description("The whole of SD-Box on one machine."), kong.Writers(out, errs),
		kong.Exit(func(code int) { exited = code }), kong.BindTo(ctx, (*context.Context)(nil)), kong.BindTo(out, (*io.Writer)(nil)))
	if err != nil {
		fmt.Fprintln(errs, "sdbox-lab:", err)
		return 1
	}
	k, err := parser.Parse(args)
	if exited >= 0 {
		return exited
	}
	if err != nil {
		fmt.Fprintf(errs, "sdbox-lab: %v\nhint: sdbox-lab --help lists the commands\n", err)
		return 2
	}
	if err := k.Run(); err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(errs, "sdbox-lab:", err)
		return 1
	}
	return 0
}

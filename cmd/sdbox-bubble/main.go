// SPDX-License-Identifier: Apache-2.0

// Command sdbox-bubble is the gateway's hand inside a Linux bubble: it finds or starts each person's desktop and hands its RFB to
// the gateway over mutual TLS.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"
)

type commands struct {
	Run    runCommand    `cmd:"" default:"withargs" help:"Serve the bubble's desktops until a signal comes; then end them."`
	Config configCommand `cmd:"" help:"Work on the configuration file."`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "sdbox-bubble:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var c commands
	parser, err := kong.New(&c, kong.Name("sdbox-bubble"), kong.Description("The gateway's hand inside a Linux bubble."),
		kong.Writers(stdout, stderr), kong.BindTo(ctx, (*context.Context)(nil)), kong.Bind(output{stdout, stderr}))
	if err != nil {
		return err
	}
	parsed, err := parser.Parse(args)
	if err != nil {
		return err
	}
	return parsed.Run()
}

// SPDX-License-Identifier: Apache-2.0

// Command sdbox-bubble is the gateway's hand inside a Linux bubble: it finds or starts each person's desktop and hands its RFB to
// the gateway over mutual TLS.
//
// Exit codes: 0 stopped in peace; 1 failed; 2 wrong use or configuration, or a program is missing.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := report(os.Stderr, run(ctx, os.Args[1:], os.Stdout, os.Stderr))
	stop()
	os.Exit(code)
}

// run is the whole program but for the exit code; --help is no error.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var c commands
	helped := false
	parser, err := kong.New(&c, kong.Name("sdbox-bubble"), kong.Description("The gateway's hand inside a Linux bubble."), kong.Writers(stdout, stderr),
		kong.Exit(func(int) { helped = true }), kong.BindTo(ctx, (*context.Context)(nil)), kong.Bind(output{stdout, stderr}))
	if err != nil {
		return err
	}
	parsed, err := parser.Parse(args)
	if helped {
		return nil
	}
	if err != nil {
		return &useError{err, "sdbox-bubble --help lists the commands"}
	}
	return parsed.Run()
}

// report tells a person what failed and what to do next, and returns the exit code.
func report(errs io.Writer, err error) int {
	if err == nil {
		return 0
	}
	fmt.Fprintln(errs, "sdbox-bubble:", err)
	var use *useError
	if errors.As(err, &use) {
		fmt.Fprintln(errs, "hint:", use.hint)
		return 2
	}
	return 1
}

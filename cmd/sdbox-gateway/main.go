// SPDX-License-Identifier: Apache-2.0

// Command sdbox-gateway is the centre of sdbox: boxes prove their state to it, people log in through it, and it shows them the
// desktops of their bubbles. It is run from one strict TOML file.
//
// Exit codes: 0 stopped in peace; 1 failed; 2 wrong use or configuration.
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
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, out, errs io.Writer) int {
	var c cli
	exited := -1
	parser, err := kong.New(&c, kong.Name("sdbox-gateway"), kong.Description("The bubble gateway of SD-Box."), kong.Writers(out, errs),
		kong.Exit(func(code int) { exited = code }), kong.BindTo(ctx, (*context.Context)(nil)), kong.BindTo(out, (*io.Writer)(nil)))
	if err != nil {
		fmt.Fprintln(errs, "sdbox-gateway:", err)
		return 1
	}
	k, err := parser.Parse(args)
	if exited >= 0 {
		return exited
	}
	if err != nil {
		err = &useError{err, "sdbox-gateway --help lists the commands"}
	} else {
		err = k.Run()
	}
	if err == nil {
		return 0
	}
	fmt.Fprintln(errs, "sdbox-gateway:", err)
	var use *useError
	if errors.As(err, &use) {
		fmt.Fprintln(errs, "hint:", use.hint)
		return 2
	}
	return 1
}

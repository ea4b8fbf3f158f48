// SPDX-License-Identifier: Apache-2.0

// Command sdbox-image makes the operating system image of an SD-Box and says what it holds.
//
// Exit codes: 0 done; 1 failed; 2 wrong use.
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

// run is the whole program: arguments in, exit code out.
func run(ctx context.Context, args []string, out, errs io.Writer) int {
	var c cli
	exited := -1
	parser, err := kong.New(&c, kong.Name("sdbox-image"), kong.Description("The operating system image of an SD-Box."), kong.Writers(out, errs),
		kong.Exit(func(code int) { exited = code }), kong.BindTo(ctx, (*context.Context)(nil)), kong.BindTo(out, (*io.Writer)(nil)))
	if err != nil {
		fmt.Fprintln(errs, "sdbox-image:", err)
		return 1
	}
	k, err := parser.Parse(args)
	if exited >= 0 {
		return exited
	}
	if err != nil {
		fmt.Fprintf(errs, "sdbox-image: %v\nhint: sdbox-image --help lists the commands\n", err)
		return 2
	}
	if err := k.Run(); err != nil {
		fmt.Fprintln(errs, "sdbox-image:", err)
		if h, ok := errors.AsType[*hintError](err); ok {
			fmt.Fprintln(errs, "hint:", h.hint)
		}
		return 1
	}
	return 0
}

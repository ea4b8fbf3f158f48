// SPDX-License-Identifier: Apache-2.0

// Command sdbox-agent is the one program an SD-Box runs: it proves the machine, opens the tunnel, logs a person in and shows the
// desktop of a bubble.
//
// Exit codes: 0 stopped in peace; 1 failed; 2 wrong use, configuration or hardware.
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
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var c commands
	exited := -1
	parser, err := kong.New(&c, kong.Name("sdbox-agent"), kong.Description("The program an SD-Box runs."), kong.Writers(stdout, stderr),
		kong.Exit(func(code int) { exited = code }), kong.BindTo(ctx, (*context.Context)(nil)), kong.Bind(output{stdout, stderr}))
	if err != nil {
		fmt.Fprintln(stderr, "sdbox-agent:", err)
		return 1
	}
	parsed, err := parser.Parse(args)
	if exited >= 0 {
		return exited
	}
	if err != nil {
		err = &useError{err, "sdbox-agent --help lists the commands"}
	} else {
		err = parsed.Run()
	}
	if err == nil {
		return 0
	}
	fmt.Fprintln(stderr, "sdbox-agent:", err)
	var use *useError
	if errors.As(err, &use) {
		fmt.Fprintln(stderr, "hint:", use.hint)
		return 2
	}
	return 1
}

// SPDX-License-Identifier: Apache-2.0

// Command sdbox-agent is the one program an SD-Box runs: it proves the machine, opens the tunnel, logs a person in and shows the
// desktop of a bubble.
//
// As the first process of a machine it is package boot, which starts it again as the roles of a box.
//
// Exit codes: 0 stopped in peace; 1 failed; 2 wrong use, configuration or hardware.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"sdbox/agent/boot"
)

func main() {
	if os.Getpid() == 1 && os.Args[0] == "/init" { // the kernel of a box
		boot.Main()
		return // and the kernel starts again
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is the whole program: arguments in, exit code out.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o := output{stdout, stderr}
	do, config, err := parse(args, o)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err == nil {
		err = do.run(ctx, config, o)
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

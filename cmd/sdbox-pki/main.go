// SPDX-License-Identifier: Apache-2.0

// Command sdbox-pki makes the authorities of a house and signs with them: boxes, cards, gateways, bubbles, operators. It also
// makes release keys and signs reference values with them.
//
// Exit codes: 0 done; 1 failed; 2 wrong use.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/alecthomas/kong"
)

type cli struct {
	Init  initCmd  `cmd:"" help:"Make a root and its issuing authorities in a new folder."`
	Issue issueCmd `cmd:"" help:"Sign a certificate, for a new key or for a public key given."`
	Lend  lendCmd  `cmd:"" help:"Copy one issuing authority for a gateway, under an identity of its own."`
	Show  showCmd  `cmd:"" help:"Show the authorities of a folder, or whose a certificate is."`

	Reference referenceCmd `cmd:"" help:"Release keys, and what they say an intact box measures."`
}

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// run is the whole program: arguments in, exit code out.
func run(args []string, out, errs io.Writer) int {
	var c cli
	exited := -1
	parser, err := kong.New(&c, kong.Name("sdbox-pki"), kong.Description("The authorities of an SD-Box house."), kong.Writers(out, errs),
		kong.Exit(func(code int) { exited = code }), kong.BindTo(out, (*io.Writer)(nil)))
	if err != nil {
		fmt.Fprintln(errs, "sdbox-pki:", err)
		return 1
	}
	k, err := parser.Parse(args)
	if exited >= 0 {
		return exited
	}
	if err != nil {
		fmt.Fprintf(errs, "sdbox-pki: %v\nhint: sdbox-pki --help lists the commands\n", err)
		return 2
	}
	if err := k.Run(); err != nil {
		fmt.Fprintln(errs, "sdbox-pki:", err)
		var h *hintError
		if errors.As(err, &h) {
			fmt.Fprintln(errs, "hint:", h.hint)
		}
		return 1
	}
	return 0
}

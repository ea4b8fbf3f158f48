// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
)

// The exit codes; the package comment documents them.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitNotAllowed  = 4
	exitConflict    = 5
	exitUnreachable = 6
	exitBadAudit    = 7
)

// problem is an error with its exit code and, where there is one, the next thing to try.
type problem struct {
	code int
	err  error
	hint string
}

func (p *problem) Error() string { return p.err.Error() }
func (p *problem) Unwrap() error { return p.err }

func hint(code int, err error, text string) error { return &problem{code: code, err: err, hint: text} }

func report(errs io.Writer, err error) int {
	if err == nil {
		return exitDone
	}
	fmt.Fprintln(errs, "sdboxctl:", err)
	var p *problem
	if !errors.As(err, &p) {
		return exitFailed
	}
	if p.hint != "" {
		fmt.Fprintln(errs, "hint:", p.hint)
	}
	return p.code
}

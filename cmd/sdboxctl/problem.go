// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"io"
	"strings"
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

// failure is how --json tells an error, on standard error.
type failure struct {
	Error string `json:"error"`
	Hint  string `json:"hint,omitempty"`
	Exit  int    `json:"exit"`
}

// report tells an error, in words or as JSON, and returns the exit code.
func report(errs io.Writer, err error, asJSON bool) int {
	if err == nil {
		return exitDone
	}
	f := failure{Error: err.Error(), Exit: exitFailed}
	var p *problem
	if errors.As(err, &p) {
		f.Hint, f.Exit = p.hint, p.code
	}
	if asJSON {
		if json.NewEncoder(errs).Encode(f) != nil {
			return exitFailed // nobody reads it
		}
		return f.Exit
	}
	before := "sdboxctl: "
	for line := range strings.Lines(f.Error) { // a gateway's words may be in it
		row(errs, before+line)
		before = "  "
	}
	if f.Hint != "" {
		row(errs, "hint: "+f.Hint)
	}
	return f.Exit
}

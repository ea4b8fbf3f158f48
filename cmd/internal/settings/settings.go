// SPDX-License-Identifier: Apache-2.0

// Package settings reads the configuration file of a program: TOML in which every key means something. What is wrong is named by its
// line and key and never shown, for a password may stand there or beside it, and errors go to the journal.
package settings

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// Max is the longest file taken, in bytes.
const Max = 256 << 10

// What may be wrong with a file besides its not being there (os.ErrNotExist and the like).
var (
	ErrUnknown = errors.New("key that means nothing here")
	ErrSyntax  = errors.New("no configuration file")
	ErrLong    = fmt.Errorf("over %d bytes", Max)
)

// Read fills v, a pointer to a struct with toml tags, with what the file says; what it does not say stays as it is in v. Errors name
// the file and wrap one of the above.
func Read(path string, v any) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, Max+1))
	if err == nil && len(text) > Max {
		err = ErrLong
	}
	if err == nil {
		err = parse(text, v)
	}
	if err != nil {
		return fmt.Errorf("configuration %s: %w", path, err)
	}
	return nil
}

// Hint is what to do about an error of Read: what to do when there is no file, and what for every other mistake, are the program's words.
func Hint(err error, missing, mistake string) string {
	switch {
	case errors.Is(err, os.ErrNotExist):
		return missing
	case errors.Is(err, ErrSyntax):
		return "it is TOML: key = \"value\""
	}
	return mistake
}

func parse(text []byte, v any) error {
	err := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields().Decode(v)
	var unknown *toml.StrictMissingError
	var wrong *toml.DecodeError
	switch {
	case errors.As(err, &unknown):
		var all []error
		for _, e := range unknown.Errors {
			line, _ := e.Position()
			all = append(all, fmt.Errorf("line %d: %s: %w", line, strings.Join(e.Key(), "."), ErrUnknown))
		}
		return errors.Join(all...)
	case errors.As(err, &wrong):
		line, _ := wrong.Position()
		return fmt.Errorf("%w: line %d: %w", ErrSyntax, line, wrong)
	case err != nil:
		return fmt.Errorf("%w: %w", ErrSyntax, err)
	}
	return nil
}

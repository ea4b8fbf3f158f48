// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"sdbox/internal/lab/day"
)

type dayCmd struct {
	lab  `embed:""`
	Once bool `help:"End after the day instead of staying up."`
	Many bool `help:"Measure many times, as for figures that are published."`
	Bare bool `help:"Play the day without measuring figures."`
}

// errMissed says that the day was played but a promise was not kept.
var errMissed = errors.New("a figure is over its must, or a proof failed: see the table above")

// Run plays the day, and stays up for the browser unless told not to.
func (c *dayCmd) Run(ctx context.Context, out io.Writer) (err error) {
	site, err := c.open(ctx, out)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, site.Close()) }()
	p, err := c.openPages(ctx, site)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	samples := day.Few()
	switch {
	case c.Bare:
		samples = nil
	case c.Many:
		samples = day.Many()
	}
	report, err := day.Play(ctx, site, day.Options{Out: c.Out, Print: out, Samples: samples})
	if err == nil && !report.Kept() {
		err = errMissed
	}
	if c.Once || (err != nil && len(report.Steps) == 0) {
		return err
	}
	if err != nil {
		fmt.Fprintln(out, "\nthe day was not whole:", err)
	}
	c.stay(ctx, site, p, out)
	return err
}

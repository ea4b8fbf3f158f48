// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"

	"sdbox/internal/lab/chart"
	"sdbox/internal/lab/day"
)

type chartCmd struct {
	Report string `arg:"" type:"existingfile" help:"report.json of a day."`
	Out    string `arg:"" type:"path" help:"The picture to write, .png or .svg."`
}

// Run draws the time of a switch per round trip time, and prints the figures as README.md has them.
func (c *chartCmd) Run(out io.Writer) error {
	r, err := day.ReadReport(c.Report)
	if err != nil {
		return err
	}
	if err := chart.Switch(r, c.Out); err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "\n%s\n%s\n", r.Markdown(), c.Out)
	return err
}

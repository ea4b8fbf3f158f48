// SPDX-License-Identifier: Apache-2.0

// Package chart draws what README.md shows of the figures: how long a change of project takes, on a logarithmic axis beside
// the system it takes the place of.
package chart

import (
	"errors"
	"fmt"
	"image/color"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"sdbox/internal/lab/day"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// What the system of today takes for one change, in seconds: since its last renewal, and before it.
const today, before = 15, 45

// The size of the picture; 96 dots an inch are what gonum's PNG has.
const width, height = 9 * vg.Inch, 3.6 * vg.Inch

// The ends of the axis, in seconds.
const shortest, longest = 0.01, 100

// The colours, each told apart by its words as well.
func green() color.Color { return color.RGBA{R: 0x1f, G: 0x8a, B: 0x5b, A: 0xff} }
func red() color.Color   { return color.RGBA{R: 0xb3, G: 0x3a, B: 0x2e, A: 0xff} }
func ink() color.Color   { return color.RGBA{R: 0x33, G: 0x3b, B: 0x44, A: 0xff} }
func soft() color.Color  { return color.RGBA{R: 0x9c, G: 0xd0, B: 0xb7, A: 0xff} }
func pale() color.Color  { return color.RGBA{R: 0xe3, G: 0xe7, B: 0xeb, A: 0xff} }

// change is one measured figure: the round trip time of the link, the middle and the slowest but one in twenty, in seconds.
type change struct{ rtt, p50, p95 float64 }

// Switch draws the chart of a report into a file, whose name ends in .png or .svg.
func Switch(r *day.Report, path string) error {
	changes := find(r)
	if len(changes) == 0 {
		return errors.New("draw chart: the report has no figure of a switch")
	}
	p := plot.New()
	p.Title.Text = "From one project to the next: key press to whole picture (logarithmic)"
	p.Title.Padding = vg.Points(8)
	p.X.Scale, p.X.Min, p.X.Max = plot.LogScale{}, shortest, longest
	p.X.Tick.Marker = plot.ConstantTicks{{Value: 0.01, Label: "10 ms"}, {Value: 0.1, Label: "100 ms"}, {Value: 1, Label: "1 s"}, {Value: 10, Label: "10 s"}, {Value: 100, Label: "100 s"}}
	rows := len(changes) + 2
	p.Y.Min, p.Y.Max = -0.6, float64(rows)-0.4
	dress(p)
	grid := plotter.NewGrid()
	grid.Horizontal.Width = 0
	grid.Vertical.Color, grid.Vertical.Width = pale(), vg.Points(1)
	p.Add(grid)
	ticks := plot.ConstantTicks{{Value: float64(rows - 1), Label: "before its last renewal"}, {Value: float64(rows - 2), Label: "the system of today"}}
	err := errors.Join(
		row(p, rows-1, "45 s", bar{before, red()}),
		row(p, rows-2, "15 s", bar{today, red()}))
	for i, c := range changes {
		at := rows - 3 - i
		ticks = append(ticks, plot.Tick{Value: float64(at), Label: fmt.Sprintf("sdbox, RTT %g ms", c.rtt)})
		words := fmt.Sprintf("p50 %.0f ms, p95 %.0f ms", c.p50*1000, c.p95*1000)
		err = errors.Join(err, row(p, at, words, bar{c.p95, soft()}, bar{c.p50, green()}))
	}
	p.Y.Tick.Marker = ticks
	if err == nil {
		err = save(p, path)
	}
	if err != nil {
		return fmt.Errorf("draw chart: %w", err)
	}
	return nil
}

// save draws a plot into a file, with a margin.
func save(p *plot.Plot, path string) (err error) {
	canvas, err := draw.NewFormattedCanvas(width, height, strings.TrimPrefix(filepath.Ext(path), "."))
	if err != nil {
		return err
	}
	const margin = 8
	p.Draw(draw.Crop(draw.New(canvas), margin, -margin, margin, -margin))
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	_, err = canvas.WriteTo(f)
	return err
}

// find picks the figures of a switch, in the report's order.
func find(r *day.Report) (found []change) {
	name := regexp.MustCompile(`^switch: .*RTT (\d+) ms$`)
	for _, f := range r.Figures {
		m := name.FindStringSubmatch(f.Name)
		if m == nil || f.P50 <= 0 || f.P95 <= 0 {
			continue
		}
		if rtt, err := strconv.ParseFloat(m[1], 64); err == nil {
			found = append(found, change{rtt, f.P50 / 1000, f.P95 / 1000})
		}
	}
	return found
}

// dress gives a plot the letters and lines of the README's other pictures.
func dress(p *plot.Plot) {
	p.BackgroundColor = color.White
	for style, size := range map[*text.Style]float64{&p.Title.TextStyle: 14, &p.X.Tick.Label: 11, &p.Y.Tick.Label: 12} {
		style.Font.Variant, style.Font.Size, style.Color = "Sans", font.Length(size), ink()
	}
	for _, axis := range []*plot.Axis{&p.X, &p.Y} {
		axis.LineStyle.Color, axis.Tick.LineStyle.Color = pale(), pale()
		axis.Tick.Length = 0
	}
	p.Y.Padding = 0
}

// bar reaches from the left edge to a number of seconds.
type bar struct {
	seconds float64
	colour  color.Color
}

// row draws bars over one another, the longest first, and words behind that one.
func row(p *plot.Plot, at int, words string, bars ...bar) error {
	for _, b := range bars {
		line, err := plotter.NewLine(plotter.XYs{{X: shortest, Y: float64(at)}, {X: b.seconds, Y: float64(at)}})
		if err != nil {
			return err
		}
		line.Width, line.Color = vg.Points(20), b.colour
		p.Add(line)
	}
	labels, err := plotter.NewLabels(plotter.XYLabels{XYs: plotter.XYs{{X: bars[0].seconds * 1.1, Y: float64(at)}}, Labels: []string{words}})
	if err != nil {
		return err
	}
	style := &labels.TextStyle[0]
	style.Font.Variant, style.Font.Size, style.Color, style.YAlign = "Sans", 12, ink(), text.YCenter
	p.Add(labels)
	return nil
}

// SPDX-License-Identifier: Apache-2.0

// Package chart draws what README.md shows of the figures: how long a change of project takes, on a logarithmic axis beside
// the system it takes the place of.
package chart

import (
	"errors"
	"fmt"
	"image/color"
	"regexp"
	"strconv"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"sdbox/internal/lab/day"
)

// What the system of today takes for one change, in seconds: since its last renewal, and before it (product.md, 1).
const today, before = 15, 45

// The size of the picture; 96 dots an inch are what gonum's PNG has.
const width, height = 8.6 * vg.Inch, 4.6 * vg.Inch

// The colours, each told apart by its words as well.
func green() color.Color { return color.RGBA{R: 0x1f, G: 0x8a, B: 0x5b, A: 0xff} }
func red() color.Color   { return color.RGBA{R: 0xb3, G: 0x3a, B: 0x2e, A: 0xff} }
func ink() color.Color   { return color.RGBA{R: 0x33, G: 0x3b, B: 0x44, A: 0xff} }
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
	p.Title.Text = "From one project to the next: key press to whole picture"
	p.Title.Padding = vg.Points(10)
	p.X.Label.Text = "network between desk and centre, round trip"
	p.Y.Label.Text = "seconds (each line is ten times the one below)"
	p.Y.Scale, p.Y.Min, p.Y.Max = plot.LogScale{}, 0.01, 100
	p.Y.Tick.Marker = plot.ConstantTicks{{Value: 0.01, Label: "0.01"}, {Value: 0.1, Label: "0.1"}, {Value: 1, Label: "1"}, {Value: 10, Label: "10"}, {Value: 100, Label: "100"}}
	p.X.Min, p.X.Max = -0.6, float64(len(changes))-0.4
	dress(p)
	grid := plotter.NewGrid()
	grid.Vertical.Width = 0
	grid.Horizontal.Color = pale()
	p.Add(grid)
	var ticks plot.ConstantTicks
	for i, c := range changes {
		ticks = append(ticks, plot.Tick{Value: float64(i), Label: fmt.Sprintf("%g ms", c.rtt)})
		if err := mark(p, float64(i), c); err != nil {
			return fmt.Errorf("draw chart: %w", err)
		}
	}
	p.X.Tick.Marker = ticks
	err := errors.Join(
		level(p, today, "today's system: 15 s"), level(p, before, "before its last renewal: 45 s"),
		write(p, -0.55, 0.0125, "sdbox: dot p50, bar up to p95, measured on one machine", green()))
	if err == nil {
		err = p.Save(width, height, path)
	}
	if err != nil {
		return fmt.Errorf("draw chart: %w", err)
	}
	return nil
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
	for style, size := range map[*text.Style]float64{
		&p.Title.TextStyle: 15, &p.X.Label.TextStyle: 11, &p.Y.Label.TextStyle: 11, &p.X.Tick.Label: 12, &p.Y.Tick.Label: 11,
	} {
		style.Font.Variant, style.Font.Size, style.Color = "Sans", font.Length(size), ink()
	}
	for _, axis := range []*plot.Axis{&p.X, &p.Y} {
		axis.LineStyle.Color, axis.Tick.LineStyle.Color = pale(), pale()
		axis.Tick.Length = 0
		axis.Label.Padding = vg.Points(6)
	}
}

// mark draws one figure: a dot at p50, a bar to p95, and both as numbers.
func mark(p *plot.Plot, x float64, c change) error {
	bar, err := plotter.NewLine(plotter.XYs{{X: x, Y: c.p50}, {X: x, Y: c.p95}})
	if err != nil {
		return err
	}
	bar.Width, bar.Color = vg.Points(7), green()
	dot, err := plotter.NewScatter(plotter.XYs{{X: x, Y: c.p50}})
	if err != nil {
		return err
	}
	dot.GlyphStyle = draw.GlyphStyle{Color: green(), Radius: vg.Points(7), Shape: draw.CircleGlyph{}}
	p.Add(bar, dot)
	return errors.Join(
		write(p, x+0.08, c.p50*0.86, fmt.Sprintf("p50 %.0f ms", c.p50*1000), ink()),
		write(p, x+0.08, c.p95*1.12, fmt.Sprintf("p95 %.0f ms", c.p95*1000), ink()))
}

// level draws a line over the whole width with words above it.
func level(p *plot.Plot, seconds float64, words string) error {
	line, err := plotter.NewLine(plotter.XYs{{X: p.X.Min, Y: seconds}, {X: p.X.Max, Y: seconds}})
	if err != nil {
		return err
	}
	line.Width, line.Color = vg.Points(2.5), red()
	p.Add(line)
	return write(p, p.X.Min+0.05, seconds*1.1, words, red())
}

// write puts words with their lower left corner at a place of the plot.
func write(p *plot.Plot, x, y float64, words string, colour color.Color) error {
	labels, err := plotter.NewLabels(plotter.XYLabels{XYs: plotter.XYs{{X: x, Y: y}}, Labels: []string{words}})
	if err != nil {
		return err
	}
	labels.TextStyle[0].Font.Variant, labels.TextStyle[0].Font.Size, labels.TextStyle[0].Color = "Sans", 11, colour
	p.Add(labels)
	return nil
}

// SPDX-License-Identifier: Apache-2.0

package day

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// Report is report.json: what was done, how long it took, and whether every promise was kept.
type Report struct {
	Form          string   `json:"form"` // of the boxes: process or image
	Steps         []Step   `json:"steps"`
	Figures       []Figure `json:"figures"`
	PixelsEqual   bool     `json:"pixels_equal"`   // a desktop's picture on a box was bit for bit what xwd read inside the bubble
	AuditVerified bool     `json:"audit_verified"` // sdboxctl audit verify found the log whole, without the gateway
	Machine       Machine  `json:"machine"`        // as it was when the report was written
}

// Machine is what everything ran on. Load is that of the last 1, 5 and 15 minutes (proc(5), loadavg): figures taken beside other
// work are not those of an idle machine.
type Machine struct {
	Cores int    `json:"cores"`
	Load  string `json:"load"`
}

func thisMachine() Machine {
	m := Machine{Cores: runtime.NumCPU(), Load: "unknown"}
	if raw, err := os.ReadFile("/proc/loadavg"); err == nil {
		if fields := strings.Fields(string(raw)); len(fields) > 3 {
			m.Load = strings.Join(fields[:3], " ")
		}
	}
	return m
}

// Step is one step of the day, from what the person did to the picture that answered.
type Step struct {
	Name string `json:"name"`
	MS   int64  `json:"ms"`
}

// Figure is one measured promise. Values are in Unit; OK says that P95 (Max, where the promise is about all) keeps Must.
type Figure struct {
	Name string  `json:"name"`
	Unit string  `json:"unit"`
	N    int     `json:"n"`
	P50  float64 `json:"p50"`
	P95  float64 `json:"p95"`
	Max  float64 `json:"max"`
	Must float64 `json:"must"`
	Goal float64 `json:"goal"`
	OK   bool    `json:"ok"`
}

// newFigure sums values up. An empty list is a figure that was not measured: it does not keep its promise.
func newFigure(name, unit string, must, goal float64, values []float64) Figure {
	f := Figure{Name: name, Unit: unit, N: len(values), Must: round(must), Goal: round(goal)}
	if len(values) == 0 {
		return f
	}
	sorted := slices.Sorted(slices.Values(values))
	f.P50, f.P95, f.Max = round(rank(sorted, 0.50)), round(rank(sorted, 0.95)), round(sorted[len(sorted)-1])
	f.OK = rank(sorted, 0.95) <= must
	return f
}

// rank is the nearest-rank percentile of sorted values: a value that was measured, never one between.
func rank(sorted []float64, share float64) float64 {
	return sorted[max(0, int(math.Ceil(share*float64(len(sorted))))-1)]
}

func round(v float64) float64 { return math.Round(v*10) / 10 }

// milliseconds is a duration in the unit of the figures.
func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// Kept says whether every figure measured keeps its promise and both proofs hold.
func (r *Report) Kept() bool {
	return r.PixelsEqual && r.AuditVerified && !slices.ContainsFunc(r.Figures, func(f Figure) bool { return !f.OK })
}

// Write writes report.json into a folder.
func (r *Report) Write(dir string) error {
	r.Machine = thisMachine()
	raw, err := json.MarshalIndent(r, "", "  ")
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "report.json"), append(raw, '\n'), 0o644)
	}
	if err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}

// maxReport is the longest report read, in bytes.
const maxReport = 1 << 20

// ReadReport reads the file that Write wrote.
func ReadReport(path string) (*Report, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read report: %w", err)
	}
	defer f.Close()
	var r Report
	if err := json.NewDecoder(io.LimitReader(f, maxReport)).Decode(&r); err != nil {
		return nil, fmt.Errorf("read report %s: %w", path, err)
	}
	return &r, nil
}

// Markdown is the table of figures as README.md has it, with the load under which it was taken.
func (r *Report) Markdown() string {
	number := func(v float64) string {
		if v >= 100 {
			return fmt.Sprintf("%.0f", v)
		}
		return fmt.Sprintf("%.1f", v)
	}
	var b strings.Builder
	b.WriteString("| figure | n | p50 | p95 | max | must | goal | |\n|---|--:|--:|--:|--:|--:|--:|---|\n")
	for _, f := range r.Figures {
		mark := f.Unit
		if !f.OK {
			mark += ", NOT KEPT"
		}
		fmt.Fprintf(&b, "| %s | %d | %s | %s | %s | %.0f | %.0f | %s |\n", f.Name, f.N, number(f.P50), number(f.P95), number(f.Max), f.Must, f.Goal, mark)
	}
	fmt.Fprintf(&b, "\nMachine: %d cores, load %s (1, 5, 15 minutes) at the end.\n", r.Machine.Cores, r.Machine.Load)
	return b.String()
}

// Print shows the figures as a table, and what was not kept.
func (r *Report) Print(w io.Writer) error {
	var err error
	if len(r.Figures) > 0 {
		_, err = fmt.Fprintf(w, "\n%-58s %4s %9s %9s %9s %9s %9s\n", "figure", "n", "p50", "p95", "max", "must", "goal")
	}
	for _, f := range r.Figures {
		mark := ""
		if !f.OK {
			mark = "  NOT KEPT"
		}
		_, e := fmt.Fprintf(w, "%-58s %4d %9.1f %9.1f %9.1f %9.1f %9.1f %s%s\n", f.Name, f.N, f.P50, f.P95, f.Max, f.Must, f.Goal, f.Unit, mark)
		err = errors.Join(err, e)
	}
	_, e := fmt.Fprintf(w, "\npixels equal to xwd inside the bubble: %v\naudit log verified offline: %v\nmachine: %d cores, load %s at the end\n", r.PixelsEqual, r.AuditVerified, r.Machine.Cores, r.Machine.Load)
	return errors.Join(err, e)
}

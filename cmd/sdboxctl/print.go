// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"sdbox/gateway/console"
	"sdbox/gateway/registry"
)

// printer writes answers for people, as tables, or for programs, as JSON.
type printer struct {
	w    io.Writer
	json bool
}

func (p *printer) print(v any) error {
	if p.json {
		enc := json.NewEncoder(p.w)
		enc.SetIndent("", "  ")
		return enc.Encode(v)
	}
	t := tabwriter.NewWriter(p.w, 0, 4, 2, ' ', 0)
	switch v := v.(type) {
	case struct{}:
		fmt.Fprintln(t, "done")
	case console.Box:
		boxes(t, v)
	case []console.Box:
		boxes(t, v...)
	case console.Ping:
		row(t, v.Box, fmt.Sprintf("%.1f ms", v.MS))
	case console.Person:
		row(t, v.ID)
	case []console.Person:
		for _, x := range v {
			row(t, x.ID, x.Name, x.Language)
		}
	case console.Card:
		row(t, v.GUID)
	case []console.Card:
		for _, x := range v {
			row(t, x.GUID, x.Person, x.State)
		}
	default:
		p.more(t, v)
	}
	return t.Flush()
}

func (p *printer) more(t io.Writer, v any) {
	switch v := v.(type) {
	case console.Bubble:
		row(t, v.Name, v.Title, v.Address)
	case []console.Bubble:
		for _, x := range v {
			row(t, x.Name, x.Title, x.Address, strings.Join(x.Countries, ","), stamp(x.Closes))
		}
	case console.Membership:
		row(t, v.Person, v.Bubble, v.Account, stamp(v.Until))
	case []console.Membership:
		for _, x := range v {
			row(t, x.Person, x.Bubble, x.Account, stamp(x.Until))
		}
	case console.Reference:
		row(t, v.Name, v.Model)
	case []console.Reference:
		for _, x := range v {
			row(t, x.Name, x.Model)
		}
	case console.Release:
		release(t, v)
	case []console.Release:
		release(t, v...)
	case console.Lock:
		row(t, v.ID, v.Target, v.Message)
	case []console.Lock:
		for _, x := range v {
			row(t, x.ID, x.Target, x.Message)
		}
	case []console.Session:
		row(t, "SESSION", "PERSON", "BOX", "BUBBLE", "STATE", "SINCE")
		for _, x := range v {
			state := x.State
			if !x.LostSince.IsZero() {
				state += ", line lost since " + stamp(x.LostSince)
			}
			row(t, x.ID, x.Person, x.Box, x.Bubble, state, stamp(x.Since))
		}
	case []console.Why:
		why(t, v)
	case exportReport:
		fmt.Fprintf(t, "%d files in %s; check them with sdboxctl audit verify\n", v.Files, v.Dir)
	case sessionReport:
		session(t, v)
	case verifyReport:
		fmt.Fprintf(t, "The audit log %s is whole: %d rows, %s to %s, tree %s\n", v.Log, v.Rows, v.First, v.Last, v.Root)
	default:
		panic(fmt.Sprintf("sdboxctl: no table for %T", v))
	}
}

// row writes the cells of a line. What stands in them may have been said by a box or a bubble: none of it steers the terminal.
func row(w io.Writer, cells ...string) {
	plain := make([]string, len(cells))
	for i, c := range cells {
		plain[i] = registry.Plain(c)
	}
	fmt.Fprintln(w, strings.Join(plain, "\t"))
}

func boxes(t io.Writer, list ...console.Box) {
	row(t, "BOX", "COUNTRY", "SITE", "STATE", "SYSTEM", "ADDRESS")
	for _, b := range list {
		state := "registered"
		switch {
		case b.Locked:
			state = "locked"
		case b.Attested:
			state = "attested until " + stamp(b.Until)
		case b.Enrolled:
			state = "not connected"
		}
		row(t, b.Serial, b.Country, b.Site, state, b.System, b.Address)
	}
}

// why tells each occurrence as a small paragraph: details are names and values of any length.
func why(t io.Writer, list []console.Why) {
	for _, w := range list {
		row(t, fmt.Sprintf("%s  %s  %s", stamp(w.At), w.Code, w.Means))
		row(t, fmt.Sprintf("  %s by %s on %s", w.Action, w.Actor, w.Object))
		row(t, "  can be ended by: "+w.Fix)
		for _, k := range slices.Sorted(maps.Keys(w.Detail)) {
			row(t, "  "+k+": "+w.Detail[k])
		}
	}
}

// session tells what a session's evidence proves, a line for each part.
func session(t io.Writer, s sessionReport) {
	row(t, "box", s.Box+", by its TPM and its certificate")
	row(t, "state", fmt.Sprintf("as in the signed reference %s, in each of %d attestations", s.Reference, s.Attestations))
	row(t, "card", fmt.Sprintf("%s of person %s, %s", s.Card, s.Person, s.Method))
	row(t, "tunnel", "to gateway "+s.Gateway+", the one that card and box signed")
	row(t, "bubble", fmt.Sprintf("%s, within %d grants", strings.Join(s.Bubbles, ", "), s.Grants))
	if s.Resumes > 0 {
		row(t, "returns", fmt.Sprintf("%d without a finger, by the same card in the same box", s.Resumes))
	}
	row(t, "time", fmt.Sprintf("%s to %s", s.LoggedIn, s.Last))
	fmt.Fprintf(t, "Nothing was exchanged in session %s. The audit log is whole: %d rows.\n", s.Session, s.Rows)
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

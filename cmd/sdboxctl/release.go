// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"

	"sdbox/gateway/console"
)

type releaseCmd struct {
	Add    releaseAdd    `cmd:"" help:"Hand the gateway a signed release, and the files that boxes fetch."`
	List   releaseList   `cmd:"" help:"List the releases, and which are offered."`
	Offer  releaseOffer  `cmd:"" help:"Offer a release to the boxes of its model, in place of the one before."`
	Retire releaseRetire `cmd:"" help:"End a release for good, and remove its files."`
}

type releaseAdd struct {
	Note  string   `arg:"" type:"existingfile" help:"File with the signed note."`
	Files []string `arg:"" optional:"" type:"existingfile" help:"The files it names: the full one and its deltas."`
}

// Run stores the note, then each file that is not there yet.
func (a *releaseAdd) Run(ctx context.Context, c *cli, out *printer) error {
	note, err := readFile(a.Note)
	if err != nil {
		return fmt.Errorf("note: %w", err)
	}
	cl, err := newClient(c.Config)
	if err != nil {
		return err
	}
	var r console.Release
	if err := cl.call(ctx, "POST", "releases", console.Release{Note: string(note)}, &r); err != nil {
		return err
	}
	for _, path := range a.Files {
		if err := cl.putFile(ctx, &r, path); err != nil {
			return err
		}
	}
	return out.print(r)
}

// putFile sends a file of a release, unless the gateway has it.
func (c *client) putFile(ctx context.Context, r *console.Release, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	sum := sha256.New()
	size, err := io.Copy(sum, f)
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		return err
	}
	hash := hex.EncodeToString(sum.Sum(nil))
	i := slices.IndexFunc(r.Files, func(x console.ReleaseFile) bool { return x.SHA256 == hash })
	if i < 0 {
		return hint(exitUsage, fmt.Errorf("%s: the release %s %s does not name this file", path, r.Model, r.Version), "the files are those that were made with the signed note")
	}
	if r.Files[i].Present {
		return nil
	}
	resp, err := c.send(ctx, http.MethodPut, "releases/files/"+hash, io.LimitReader(f, size))
	if err != nil {
		return err
	}
	r.Files[i].Present = true
	return errors.Join(resp.Body.Close(), ctx.Err())
}

type releaseList struct{}

// Run lists the releases.
func (*releaseList) Run(ctx context.Context, c *cli, out *printer) error {
	return ask[[]console.Release](ctx, c, out, "GET", "releases", nil)
}

type releaseOffer struct {
	Model   string `arg:"" help:"Hardware model, as release list has it."`
	Version string `arg:"" help:"Version, likewise."`
}

// Run offers the release.
func (o *releaseOffer) Run(ctx context.Context, c *cli, out *printer) error {
	return ask[struct{}](ctx, c, out, "POST", "releases/offer", console.ReleaseName{Model: o.Model, Version: o.Version})
}

type releaseRetire struct {
	Model   string `arg:"" help:"Hardware model, as release list has it."`
	Version string `arg:"" help:"Version, likewise."`
	Reason  string `required:"" help:"Why; kept in the audit log."`
}

// Run retires the release.
func (x *releaseRetire) Run(ctx context.Context, c *cli, out *printer) error {
	return ask[struct{}](ctx, c, out, "POST", "releases/retire", console.ReleaseName{Model: x.Model, Version: x.Version, Reason: x.Reason})
}

// release prints a release: a line for it, one for each of its files.
func release(t io.Writer, list ...console.Release) {
	for _, r := range list {
		state := "kept"
		if r.Offered {
			state = "offered"
		}
		row(t, r.Model, r.Version, state, "may be replaced from "+r.Minimum+" on", "expires "+stamp(r.Expires))
		for _, f := range r.Files {
			what, there := "full", "here"
			if f.From != "" {
				what = "from " + f.From
			}
			if !f.Present {
				there = "MISSING"
			}
			row(t, "", what, there, fmt.Sprintf("%d bytes", f.Size), f.SHA256)
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"sdbox/firmware/reference"
	"sdbox/gateway/audit"
	"sdbox/internal/ident"
)

type auditSession struct {
	ID        string   `arg:"" name:"id" help:"Id of the session."`
	Dir       string   `type:"existingdir" help:"Folder with an export: the gateway is not asked. Default: fetch one now."`
	Key       string   `required:"" type:"existingfile" help:"File with the log's verifier key: audit.pub, which sdbox-gateway init wrote."`
	CA        string   `name:"ca" required:"" type:"existingfile" help:"The house's ca.pem: root and issuing authorities."`
	Release   []string `required:"" type:"existingfile" help:"File with a public release key of the reference values; may be given several times."`
	Threshold int      `default:"1" help:"How many release keys must have signed a reference."`
}

// Run checks the evidence with nothing but the roots it is given.
func (a *auditSession) Run(ctx context.Context, c *cli, out *printer) error {
	id, err := ident.ParseID(strings.ToLower(a.ID))
	if err != nil {
		return hint(exitUsage, err, "sdboxctl sessions lists the ids of those that live; the audit log holds the others")
	}
	roots, key, err := a.roots()
	if err != nil {
		return err
	}
	dir := a.Dir
	if dir == "" {
		fetched, err := os.MkdirTemp("", "sdboxctl-")
		if err != nil {
			return fmt.Errorf("export: %w", err)
		}
		defer os.RemoveAll(fetched)
		dir = filepath.Join(fetched, "audit")
		if _, err := fetch(ctx, c, dir); err != nil {
			return err
		}
	}
	r, err := audit.VerifySession(dir, key, id, roots)
	var exchanged *audit.ExchangedError
	switch {
	case errors.As(err, &exchanged):
		return hint(exitBadAudit, err, fmt.Sprintf("the log itself is whole; what stands in row %d of it is not what card, box and gateway signed", exchanged.Row))
	case errors.Is(err, audit.ErrNoSession), errors.Is(err, audit.ErrNoLogin):
		return hint(exitNotFound, err, "look for session.create and login.proved in rows.jsonl of the export")
	case err != nil:
		return broken(err)
	}
	return out.print(sessionReport{OK: true, Session: r.Session.String(), Person: r.Person, Card: r.Card, Method: r.Method, Box: r.Box, Reference: r.Reference,
		Gateway: r.Gateway, LoggedIn: stamp(r.LoggedIn), Last: stamp(r.Last), Attestations: r.Attestations, Grants: r.Grants, Resumes: r.Resumes, Bubbles: r.Bubbles, Rows: r.Rows})
}

// roots reads what is believed beforehand.
func (a *auditSession) roots() (roots audit.Roots, key string, err error) {
	text, err := readFile(a.Key)
	if err != nil {
		return roots, "", fmt.Errorf("verifier key: %w", err)
	}
	if roots.Trust, err = readTrust(a.CA); err != nil {
		return roots, "", err
	}
	var publics []string
	for _, path := range a.Release {
		public, err := readFile(path)
		if err != nil {
			return roots, "", fmt.Errorf("release key: %w", err)
		}
		publics = append(publics, strings.TrimSpace(string(public)))
	}
	if roots.Notes, err = reference.NewTrust(a.Threshold, publics...); err != nil {
		return roots, "", hint(exitUsage, fmt.Errorf("release keys: %w", err), "they are the references of gateway.toml, one a file")
	}
	return roots, strings.TrimSpace(string(text)), nil
}

type sessionReport struct {
	OK           bool     `json:"ok"`
	Session      string   `json:"session"`
	Person       string   `json:"person"`
	Card         string   `json:"card"`
	Method       string   `json:"method"`
	Box          string   `json:"box"`
	Reference    string   `json:"reference"`
	Gateway      string   `json:"gateway"`
	LoggedIn     string   `json:"logged_in"`
	Last         string   `json:"last"`
	Attestations int      `json:"attestations"`
	Grants       int      `json:"grants"`
	Resumes      int      `json:"resumes"` // returns without a finger
	Bubbles      []string `json:"bubbles"`
	Rows         int64    `json:"rows"`
}

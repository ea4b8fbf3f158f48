// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"sdbox/gateway/audit"
	"sdbox/internal/merkle"
)

type auditCmd struct {
	Export auditExport `cmd:"" help:"Fetch the whole audit log into a new folder."`
	Verify auditVerify `cmd:"" help:"Check an exported audit log; needs no gateway."`

	Session auditSession `cmd:"" help:"Check the evidence of one session from the roots: box, state, card, tunnel, bubble."`
}

type auditExport struct {
	Dir string `arg:"" type:"path" help:"Folder to make."`
}

// Run fetches the log.
func (a *auditExport) Run(ctx context.Context, c *cli, out *printer) error {
	n, err := fetch(ctx, c, a.Dir)
	if err != nil {
		return err
	}
	return out.print(exportReport{Dir: a.Dir, Files: n})
}

// fetch exports the whole log into a new folder and returns how many files it has.
func fetch(ctx context.Context, c *cli, dir string) (int, error) {
	cl, err := newClient(c.Config)
	if err != nil {
		return 0, err
	}
	resp, err := cl.send(ctx, "GET", "audit/export", nil)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if err := os.Mkdir(dir, 0o700); err != nil {
		return 0, hint(exitConflict, fmt.Errorf("export: %w", err), "name a folder that does not exist yet")
	}
	n, err := unpack(resp.Body, dir)
	if err != nil {
		return 0, errors.Join(fmt.Errorf("export: %w", err), os.RemoveAll(dir)) // half an export is worse than none
	}
	return n, nil
}

// broken says what to make of a log that does not verify.
func broken(err error) error {
	var bad *audit.BadRowError
	switch {
	case errors.As(err, &bad):
		return hint(exitBadAudit, err, fmt.Sprintf("row %d is the first that is wrong; those before it are as they were sealed", bad.Row))
	case errors.Is(err, merkle.ErrDamaged):
		return hint(exitBadAudit, err, "is --key the audit.pub of this gateway? If it is, the seals themselves do not hold together: compare with a checkpoint kept elsewhere")
	}
	return err
}

type exportReport struct {
	Dir   string `json:"dir"`
	Files int    `json:"files"`
}

// unpack writes a tar of plain files below dir, and never beside it.
func unpack(r io.Reader, dir string) (int, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return 0, err
	}
	defer root.Close()
	in := tar.NewReader(r)
	for n := 0; ; n++ {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		if h.Typeflag != tar.TypeReg {
			return n, fmt.Errorf("%.80q is not a plain file", h.Name)
		}
		if err := root.MkdirAll(filepath.Dir(h.Name), 0o700); err != nil {
			return n, err
		}
		f, err := root.OpenFile(h.Name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return n, err
		}
		_, err = io.Copy(f, in)
		if err = errors.Join(err, f.Close()); err != nil {
			return n, err
		}
	}
}

type auditVerify struct {
	Dir        string   `arg:"" type:"existingdir" help:"Folder with an export."`
	Key        string   `required:"" type:"existingfile" help:"File with the log's verifier key: audit.pub, which sdbox-gateway init wrote."`
	Checkpoint []string `type:"existingfile" help:"Checkpoints kept from earlier exports: only they show that a whole end was cut off."`
}

// Run checks the log with nothing but its verifier key.
func (a *auditVerify) Run(out *printer) error {
	key, err := readFile(a.Key)
	if err != nil {
		return fmt.Errorf("verifier key: %w", err)
	}
	var kept [][]byte
	for _, path := range a.Checkpoint {
		text, err := readFile(path)
		if err != nil {
			return fmt.Errorf("checkpoint: %w", err)
		}
		kept = append(kept, text)
	}
	report, err := audit.Verify(a.Dir, strings.TrimSpace(string(key)), kept...)
	if err != nil {
		return broken(err)
	}
	return out.print(verifyReport{OK: true, Log: report.Log, Rows: report.Rows, Root: hex.EncodeToString(report.Root[:]),
		First: stamp(report.First), Last: stamp(report.Last), Erased: report.Erased})
}

type verifyReport struct {
	OK     bool   `json:"ok"`
	Log    string `json:"log"`
	Rows   int64  `json:"rows"`
	Root   string `json:"root"`
	First  string `json:"first,omitempty"`
	Last   string `json:"last,omitempty"`
	Erased int64  `json:"erased"`
}

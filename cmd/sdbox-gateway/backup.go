// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"sdbox/gateway"
	"sdbox/gateway/store"
)

type backupCmd struct {
	File   string `arg:"" help:"File to make." type:"path"`
	Config string `help:"Configuration file." default:"/etc/sdbox/gateway.toml" type:"path"`
}

// Run copies the state of a gateway, which may run.
func (b *backupCmd) Run(ctx context.Context, out io.Writer) error {
	conf, err := readFile(b.Config)
	if err != nil {
		return err
	}
	c, err := gateway.Backup(ctx, conf, b.File)
	if err != nil {
		return stateHint(err)
	}
	_, err = fmt.Fprintf(out, "%s holds the state of %s: %d audit rows, checked. Keys are not in it: keep audit.key, tunnel.key and tls apart.\n",
		b.File, c.Domain.Gateway(c.Gateway), c.Rows)
	return err
}

type restoreCmd struct {
	File   string `arg:"" help:"File that backup made." type:"existingfile"`
	Config string `help:"Configuration file." default:"/etc/sdbox/gateway.toml" type:"path"`
	Force  bool   `help:"Also in the place of a newer state, or of another one; it is kept beside."`
}

// Run puts a backup in the place of the state.
func (r *restoreCmd) Run(ctx context.Context, out io.Writer) error {
	conf, err := readFile(r.Config)
	if err != nil {
		return err
	}
	c, err := gateway.Restore(ctx, conf, r.File, r.Force)
	if err != nil {
		return stateHint(err)
	}
	_, err = fmt.Fprintf(out, "%s has the state of %s again: %d audit rows. What was there is in %s/replaced-*.\n",
		c.Domain.Gateway(c.Gateway), c.Made.Format(time.RFC3339), c.Rows, conf.State)
	return err
}

// stateHint says what to do about a copy that could not be made or used.
func stateHint(err error) error {
	switch {
	case errors.Is(err, store.ErrServer):
		return &useError{err, "pg_dump and pg_restore copy it; take the folder audit of the state first, then the dump"}
	case errors.Is(err, gateway.ErrRunning):
		return &useError{err, "stop it first: systemctl stop sdbox-gateway"}
	case errors.Is(err, gateway.ErrNewerState):
		return &useError{err, "nothing was changed. --force replaces it all the same and keeps it beside; checkpoints kept elsewhere will show that rows are gone"}
	case errors.Is(err, fs.ErrExist):
		return &useError{err, "name a file that does not exist yet"}
	case errors.Is(err, store.ErrFull):
		return &useError{err, "make room, or name a file on another disk; nothing was changed"}
	}
	return err
}

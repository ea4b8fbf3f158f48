// SPDX-License-Identifier: Apache-2.0

// Package releases keeps the signed releases of a box's system at the gateway, and the files that boxes fetch. The registry points at
// the notes; the files lie in a folder, each under its SHA-256. Nothing is kept, offered or served that the release keys did not sign.
package releases

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"sdbox/firmware/reference"
	"sdbox/firmware/release"
	"sdbox/gateway/registry"
	"sdbox/gateway/store"
)

// maxLive is how many releases may be kept at once: with 16 deltas each they take 9 GiB at the very most.
const maxLive = 16

// Errors of whoever hands releases in: nothing was changed.
var (
	ErrNote    = errors.New("not a release this gateway can offer")
	ErrFile    = errors.New("not the file that a release names")
	ErrMissing = errors.New("a file of the release is missing")
	ErrMany    = errors.New("too many releases are kept")
	ErrBusy    = errors.New("another file is being stored")
)

// Depot keeps releases. All methods may be called from any goroutine.
type Depot struct {
	dir      string
	registry *registry.Registry
	trust    *reference.Trust
	storing  sync.Mutex // held while a file comes in
}

// File is one file of a release.
type File struct {
	release.Digest
	From    string // the version a delta applies to; empty = the full file
	Present bool
}

// Kept is a release as it stands at this gateway.
type Kept struct {
	release.Release
	Note    []byte
	Offered bool
	Files   []File // the full one first
}

// Open opens the folder of files, which is made with the first of them, and drops what was being stored when the gateway stopped.
func Open(dir string, reg *registry.Registry, trust *reference.Trust) (*Depot, error) {
	halves, err := filepath.Glob(filepath.Join(dir, "coming-*"))
	for _, half := range halves {
		err = errors.Join(err, os.Remove(half))
	}
	if err != nil {
		return nil, fmt.Errorf("releases: %w", err)
	}
	return &Depot{dir: dir, registry: reg, trust: trust}, nil
}

func (d *Depot) path(hash [32]byte) string { return filepath.Join(d.dir, hex.EncodeToString(hash[:])) }

// open reads what the registry has of a release.
func (d *Depot) open(row registry.Release) (Kept, error) {
	r, err := release.Open(d.trust, row.Note)
	if err != nil {
		return Kept{}, fmt.Errorf("%w: %w", ErrNote, err)
	}
	k := Kept{Release: r, Note: row.Note, Offered: row.Offered != 0, Files: []File{{Digest: r.Full}}}
	for _, delta := range r.Deltas {
		k.Files = append(k.Files, File{Digest: delta.File, From: delta.From})
	}
	for i, f := range k.Files {
		info, err := os.Stat(d.path(f.SHA256))
		k.Files[i].Present = err == nil && info.Size() == f.Size
	}
	return k, nil
}

// Add keeps a signed release, whose files come by Put. The same note again changes nothing and says what is missing.
func (d *Depot) Add(ctx context.Context, by string, note []byte) (Kept, error) {
	r, err := release.Open(d.trust, note)
	if err != nil {
		return Kept{}, fmt.Errorf("%w: %w", ErrNote, err)
	}
	if !time.Now().Before(r.Expires) {
		return Kept{}, fmt.Errorf("%w: %w", ErrNote, release.ErrExpired)
	}
	rows, err := d.registry.Releases(ctx)
	if err != nil {
		return Kept{}, err
	}
	known := slices.ContainsFunc(rows, func(row registry.Release) bool { return row.Model == r.Model && row.Version == r.Version })
	if len(rows) >= maxLive && !known {
		return Kept{}, fmt.Errorf("%w: %d", ErrMany, maxLive)
	}
	row, err := d.registry.AddRelease(ctx, by, registry.Release{Model: r.Model, Version: r.Version, Note: note})
	if err != nil {
		return Kept{}, err
	}
	return d.open(row)
}

// List returns every release that is kept, the newest first. One whose note no longer opens, because the release keys changed, is left out.
func (d *Depot) List(ctx context.Context) ([]Kept, error) {
	rows, err := d.registry.Releases(ctx)
	if err != nil {
		return nil, err
	}
	var list []Kept
	for _, row := range rows {
		if k, err := d.open(row); err == nil {
			list = append(list, k)
		}
	}
	return list, nil
}

// find returns the release that names a file.
func (d *Depot) find(ctx context.Context, hash [32]byte) (Kept, File, error) {
	list, err := d.List(ctx)
	if err != nil {
		return Kept{}, File{}, err
	}
	for _, k := range list {
		for _, f := range k.Files {
			if f.SHA256 == hash {
				return k, f, nil
			}
		}
	}
	return Kept{}, File{}, fmt.Errorf("%w: no release names %x", ErrFile, hash)
}

// Put stores a file of a release that was added. It is on the disk, and audited, when Put returns; a file that is there already, or is
// another than its name says, changes nothing.
func (d *Depot) Put(ctx context.Context, by string, hash [32]byte, content io.Reader) error {
	k, f, err := d.find(ctx, hash)
	if err != nil || f.Present {
		return err
	}
	if !d.storing.TryLock() {
		return ErrBusy
	}
	defer d.storing.Unlock()
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		return fmt.Errorf("store release file: %w", err)
	}
	half, err := os.CreateTemp(d.dir, "coming-*")
	if err != nil {
		return fmt.Errorf("store release file: %w", err)
	}
	defer os.Remove(half.Name()) // it has its own name by then, or is nothing
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(half, sum), io.LimitReader(content, f.Size+1))
	if err == nil {
		err = half.Sync()
	}
	if err := errors.Join(err, half.Close()); err != nil {
		return fmt.Errorf("store release file: %w", err)
	}
	if n != f.Size || [32]byte(sum.Sum(nil)) != hash {
		return fmt.Errorf("%w: it differs from its name, or has not %d bytes", ErrFile, f.Size)
	}
	row := registry.Release{Model: k.Model, Version: k.Version}
	return d.registry.StoredFile(ctx, by, row, hash, func() error { return os.Rename(half.Name(), d.path(hash)) })
}

// Offer offers a release to the boxes of its model from now on, in place of the one before. All its files must be there.
func (d *Depot) Offer(ctx context.Context, by, model, version string) error {
	row, err := d.registry.Release(ctx, model, version)
	if err != nil {
		return err
	}
	k, err := d.open(row)
	if err != nil {
		return err
	}
	for _, f := range k.Files {
		if !f.Present {
			return fmt.Errorf("%w: %v", ErrMissing, f.Digest)
		}
	}
	if !time.Now().Before(k.Expires) {
		return fmt.Errorf("%w: %w", ErrNote, release.ErrExpired)
	}
	return d.registry.OfferRelease(ctx, by, model, version)
}

// Retire ends a release for good, and removes the files that no other one names.
func (d *Depot) Retire(ctx context.Context, by, model, version, reason string) error {
	row, err := d.registry.Release(ctx, model, version)
	if err != nil {
		return err
	}
	gone, openErr := d.open(row)
	if err := d.registry.RetireRelease(ctx, by, model, version, reason); err != nil || openErr != nil {
		return err
	}
	for _, f := range gone.Files {
		if _, _, err := d.find(ctx, f.SHA256); !errors.Is(err, ErrFile) {
			continue
		}
		if err := os.Remove(d.path(f.SHA256)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("retire release: %w", err)
		}
	}
	return nil
}

// Offered returns the signed note that boxes of a model are offered now; nil if there is none, or it has expired.
func (d *Depot) Offered(ctx context.Context, model string) ([]byte, error) {
	row, err := d.registry.Offered(ctx, model)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	k, err := d.open(row)
	if err != nil || !time.Now().Before(k.Expires) {
		return nil, err
	}
	return k.Note, nil
}

// File opens a file of an offered release, for reading from an offset, and returns how many bytes follow.
func (d *Depot) File(ctx context.Context, hash [32]byte, offset int64) (*os.File, int64, error) {
	k, f, err := d.find(ctx, hash)
	switch {
	case err != nil:
		return nil, 0, err
	case !k.Offered || !f.Present:
		return nil, 0, ErrMissing
	case offset < 0 || offset > f.Size:
		return nil, 0, fmt.Errorf("%w: it has no byte %d", ErrFile, offset)
	}
	file, err := os.Open(d.path(hash))
	if err != nil {
		return nil, 0, fmt.Errorf("release file: %w", err)
	}
	if _, err := file.Seek(offset, io.SeekStart); err != nil {
		return nil, 0, errors.Join(fmt.Errorf("release file: %w", err), file.Close())
	}
	return file, f.Size - offset, nil
}

// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"

	"sdbox/gateway/store"
)

// Release is a signed release of a box's system. As with a reference, only the note's own signatures make it count.
type Release struct {
	Model   string
	Version string
	Note    []byte // C2SP signed note, as its signers wrote it
	Offered int64  // ms UTC since when boxes of the model are offered it; 0 = they are not
	Added   int64  // ms UTC
}

func releaseName(model, version string) string { return "release:" + model + " " + version }

// AddRelease stores a release whose note the caller has verified. The same again is no change.
func (r *Registry) AddRelease(ctx context.Context, by string, x Release) (Release, error) {
	if len(x.Note) == 0 || len(x.Note) > maxNote {
		return Release{}, &InputError{"note", "a signed release note"}
	}
	before, err := r.Release(ctx, x.Model, x.Version)
	if err == nil && string(before.Note) == string(x.Note) {
		return before, nil
	}
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return Release{}, err
	}
	x.Offered, x.Added = 0, nowMS()
	sum := sha256.Sum256(x.Note)
	e := store.Entry{Actor: by, Action: "release.add", Object: releaseName(x.Model, x.Version), Fields: map[string]string{"note_sha256": hex.EncodeToString(sum[:]), "note": string(x.Note)}}
	err = r.store.Change(ctx, e, func(tx *store.Tx) error {
		_, err := tx.Exec(`INSERT INTO release (model, version, note, offered, retired, added) VALUES ($1, $2, $3, 0, 0, $4)`, x.Model, x.Version, x.Note, x.Added)
		return err
	})
	return x, err
}

// OfferRelease offers a release to the boxes of its model, in place of the one before.
func (r *Registry) OfferRelease(ctx context.Context, by, model, version string) error {
	e := store.Entry{Actor: by, Action: "release.offer", Object: releaseName(model, version)}
	return r.store.Change(ctx, e, func(tx *store.Tx) error {
		if _, err := tx.Exec(`UPDATE release SET offered = 0 WHERE model = $1`, model); err != nil {
			return err
		}
		return tx.ExecOne(`UPDATE release SET offered = $3 WHERE model = $1 AND version = $2 AND retired = 0`, model, version, nowMS())
	})
}

// RetireRelease ends a release for good: it is offered no more, and cannot come back.
func (r *Registry) RetireRelease(ctx context.Context, by, model, version, reason string) error {
	if err := checkText("reason", reason); err != nil {
		return err
	}
	e := store.Entry{Actor: by, Action: "release.retire", Object: releaseName(model, version), Fields: map[string]string{"reason": reason}}
	return r.store.Change(ctx, e, func(tx *store.Tx) error {
		return tx.ExecOne(`UPDATE release SET offered = 0, retired = $3 WHERE model = $1 AND version = $2 AND retired = 0`, model, version, nowMS())
	})
}

// StoredFile audits a file of a release, in the transaction in which place puts it where it is served from.
func (r *Registry) StoredFile(ctx context.Context, by string, x Release, hash [32]byte, place func() error) error {
	e := store.Entry{Actor: by, Action: "release.file", Object: releaseName(x.Model, x.Version), Fields: map[string]string{"sha256": hex.EncodeToString(hash[:])}}
	return r.store.Change(ctx, e, func(*store.Tx) error { return place() })
}

const selectRelease = `SELECT model, version, note, offered, added FROM release WHERE retired = 0`

func scanRelease(row store.Row) (x Release, err error) {
	return x, row.Scan(&x.Model, &x.Version, &x.Note, &x.Offered, &x.Added)
}

// Release returns a release that is not retired.
func (r *Registry) Release(ctx context.Context, model, version string) (Release, error) {
	return queryOne(r, ctx, "release", selectRelease+` AND model = $1 AND version = $2`, []any{model, version}, scanRelease)
}

// Offered returns the release that boxes of a model are offered.
func (r *Registry) Offered(ctx context.Context, model string) (Release, error) {
	return queryOne(r, ctx, "offered release", selectRelease+` AND model = $1 AND offered <> 0`, []any{model}, scanRelease)
}

// Releases lists those that are not retired, the newest first.
func (r *Registry) Releases(ctx context.Context) ([]Release, error) {
	return query(r, ctx, "releases", selectRelease+` ORDER BY added DESC, model, version`, nil, scanRelease)
}

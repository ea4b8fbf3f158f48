// SPDX-License-Identifier: Apache-2.0

package house

import (
	"context"
	"os"
	"path/filepath"

	"sdbox/firmware/release"
)

// Release makes another version of the boxes' system by the shipped programs, signs it, and has the gateway offer it to every box: an
// image, its reference values, and a release with a delta from the version that the house began with. It is for the image form.
func (s *Site) Release(ctx context.Context, version string) error {
	if err := s.buildImage(ctx, version); err != nil {
		return err
	}
	note, err := os.ReadFile(s.noteFile(version))
	if err != nil {
		return err
	}
	name := "release-" + version
	dir := filepath.Join(s.Gateway.dir, name)
	if _, err := s.program(ctx, "sdbox-image", "release", "make", s.imageDir(version), "--from", s.imageDir(imageVersion), "--out", dir); err != nil {
		return err
	}
	if _, err := s.program(ctx, "sdbox-image", "release", "sign", dir, "--key", filepath.Join(s.releaseDir(), "release.key")); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "reference.note"), note, 0o644); err != nil {
		return err
	}
	inside := filepath.Join(insideDir, name)
	for _, args := range [][]string{
		{"reference", "add", filepath.Join(inside, "reference.note")}, // before any box measures it
		{"release", "add", filepath.Join(inside, release.FileNote), filepath.Join(inside, release.FileFull), filepath.Join(inside, release.FileDelta(imageVersion))},
		{"release", "offer", boxModel, version},
	} {
		if _, err := s.Ctl(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}

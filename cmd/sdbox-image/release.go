// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"sdbox/firmware/reference"
	"sdbox/firmware/release"
	"sdbox/image"
)

type releaseCmd struct {
	Make makeReleaseCmd `cmd:"" help:"Make the files of a release, and its note for the holders of release keys to sign."`
	Sign signReleaseCmd `cmd:"" help:"Sign a release, after a look at whether its files make what its note says. Holders of keys need not meet."`
}

type makeReleaseCmd struct {
	Built string   `arg:"" type:"path" help:"Folder that sdbox-image build made."`
	From  []string `placeholder:"DIR" type:"path" help:"Such a folder of a version that boxes run: they fetch a small delta."`
	Days  int      `default:"90" help:"How long boxes take it, from now."`
	Out   string   `required:"" placeholder:"DIR" type:"path" help:"Folder to make; it must not exist."`
}

// Run makes the files of a release.
func (c *makeReleaseCmd) Run(out io.Writer) error {
	r, err := image.MakeRelease(c.Built, c.From, time.Now().AddDate(0, 0, c.Days), c.Out)
	if err != nil {
		return &hintError{err, "BUILT and --from name folders that sdbox-image build made; --out one that does not exist"}
	}
	fmt.Fprintf(out, "%s: release %s for %s, full %d bytes\n", c.Out, r.Version, r.Model, r.Full.Size)
	for _, d := range r.Deltas {
		fmt.Fprintf(out, "delta from %s: %d bytes\n", d.From, d.File.Size)
	}
	fmt.Fprintf(out, "hint: sdbox-image release sign %s --key release.key, by as many holders as the site asks for\n", c.Out)
	return nil
}

type signReleaseCmd struct {
	Dir string   `arg:"" type:"path" help:"Folder that sdbox-image release make made."`
	Key []string `required:"" placeholder:"FILE" type:"path" help:"Secret release key, as sdbox-pki reference key makes it."`
}

// Run signs a release.
func (c *signReleaseCmd) Run(out io.Writer) error {
	path := filepath.Join(c.Dir, release.FileNote)
	note, err := readRelease(path, release.MaxNote)
	if err != nil {
		return err
	}
	r, err := release.Unverified(note)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if err := checkFiles(c.Dir, r); err != nil {
		return &hintError{err, "make the release anew; a file of it has changed"}
	}
	secrets := make([]string, len(c.Key))
	for i, name := range c.Key {
		secret, err := readRelease(name, release.MaxKeys)
		if err != nil {
			return &hintError{err, "sdbox-pki reference key makes a release key"}
		}
		secrets[i] = strings.TrimSpace(string(secret))
	}
	signed, err := reference.AddSignatures(note, secrets...)
	if err != nil {
		return &hintError{err, "--key names the file release.key that sdbox-pki reference key made"}
	}
	if err := os.WriteFile(path+".new", signed, 0o644); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	fmt.Fprintf(out, "%s: signed release %s for %s, which expires on %s\n", path, r.Version, r.Model, r.Expires.Format(time.DateOnly))
	return nil
}

// checkFiles makes the image of the full file, and holds every file to the note. What a delta makes only a box that runs its base can
// tell, and tells before it starts it.
func checkFiles(dir string, r release.Release) error {
	full, err := readRelease(filepath.Join(dir, release.FileFull), release.MaxTransfer)
	if err != nil {
		return err
	}
	if release.DigestOf(full) != r.Full {
		return fmt.Errorf("%s is not the file that the note names", release.FileFull)
	}
	if _, err := release.Decode(full, r.Image, nil); err != nil {
		return err
	}
	for _, d := range r.Deltas {
		delta, err := readRelease(filepath.Join(dir, release.FileDelta(d.From)), release.MaxTransfer)
		if err != nil {
			return err
		}
		if release.DigestOf(delta) != d.File {
			return fmt.Errorf("%s is not the file that the note names", release.FileDelta(d.From))
		}
	}
	return nil
}

// readRelease reads a file of at most so many bytes.
func readRelease(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s: over %d bytes", path, limit)
	}
	return b, err
}

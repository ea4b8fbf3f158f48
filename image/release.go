// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"sdbox/firmware/reference"
	"sdbox/firmware/release"
	"sdbox/image/disk"
	"sdbox/image/initramfs"
	"sdbox/image/uki"

	"github.com/pelletier/go-toml/v2"
)

// part is what of a built image a release is made of.
type part struct {
	esp, uki  []byte
	model     string
	version   string
	minimum   string
	registers []reference.PCR
}

// MakeRelease makes, in a new folder, the files of a release of the image in the folder built: the full file, a delta from each of the
// images in the folders before, and the note, which nobody has signed yet. What the note says is read from the image, and nothing from
// what went into it.
func MakeRelease(built string, before []string, expires time.Time, dir string) (release.Release, error) {
	r, err := makeRelease(built, before, expires, dir)
	if err != nil {
		return r, fmt.Errorf("make release: %w", err)
	}
	return r, nil
}

func makeRelease(built string, before []string, expires time.Time, dir string) (release.Release, error) {
	now, err := readPart(built)
	if err != nil {
		return release.Release{}, err
	}
	r := release.Release{Model: now.model, Version: now.version, Minimum: now.minimum, Expires: expires.UTC().Truncate(time.Second),
		Image: release.DigestOf(now.esp), UKI: release.DigestOf(now.uki), PCRs: now.registers}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return r, err
	}
	if r.Full, err = encode(filepath.Join(dir, release.FileFull), now.esp, nil); err != nil {
		return r, err
	}
	for _, folder := range before {
		old, err := readPart(folder)
		if err != nil {
			return r, err
		}
		if old.model != now.model || old.version == now.version {
			return r, fmt.Errorf("%s: %s %s is nothing that %s %s comes after", folder, old.model, old.version, now.model, now.version)
		}
		d := release.Delta{From: old.version, Base: release.DigestOf(old.esp)}
		if d.File, err = encode(filepath.Join(dir, release.FileDelta(old.version)), now.esp, old.esp); err != nil {
			return r, err
		}
		r.Deltas = append(r.Deltas, d)
	}
	text, err := r.Text()
	if err != nil {
		return r, err
	}
	return r, os.WriteFile(filepath.Join(dir, release.FileNote), text, 0o644)
}

// encode writes the file that makes an image.
func encode(path string, image, base []byte) (release.Digest, error) {
	var b bytes.Buffer
	if err := release.Encode(&b, image, base); err != nil {
		return release.Digest{}, err
	}
	return release.DigestOf(b.Bytes()), os.WriteFile(path, b.Bytes(), 0o644)
}

// readPart reads the folder of a built image: its disk, what the image on it says of itself, and the registers it was predicted to give.
func readPart(folder string) (part, error) {
	p, err := readDisk(filepath.Join(folder, FileDisk))
	if err == nil {
		err = p.readSettings()
	}
	if err == nil {
		err = p.readReference(filepath.Join(folder, FileReference))
	}
	if err != nil {
		return p, fmt.Errorf("%s: %w", folder, err)
	}
	return p, nil
}

func readDisk(path string) (part, error) {
	f, err := os.Open(path)
	if err != nil {
		return part{}, err
	}
	defer f.Close()
	parts, err := disk.Partitions(f)
	if err != nil {
		return part{}, err
	}
	image, err := disk.UKI(parts[0])
	return part{esp: parts[0], uki: image}, err
}

// readSettings reads what PID 1 will be told, from the initramfs in the image.
func (p *part) readSettings() error {
	i, err := uki.Parse(p.uki)
	if err != nil {
		return err
	}
	tree, err := initramfs.Read(i.Section(".initrd"))
	if err != nil {
		return err
	}
	var s struct {
		Model   string `toml:"model"`
		Version string `toml:"version"`
		Release struct {
			Minimum string `toml:"minimum"`
		} `toml:"release"`
	}
	if err := toml.Unmarshal(tree["etc/sdbox/boot.toml"].Data, &s); err != nil {
		return fmt.Errorf("boot.toml: %w", err)
	}
	p.model, p.version, p.minimum = s.Model, s.Version, s.Release.Minimum
	return nil
}

func (p *part) readReference(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var r Reference
	if err := json.Unmarshal(text, &r); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if r.Version != p.version {
		return fmt.Errorf("%s is of version %.40q, the disk of %.40q", path, r.Version, p.version)
	}
	for number, digest := range r.PCRs {
		register, err := reference.ParsePCR("pcr " + number + " " + digest)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		p.registers = append(p.registers, register)
	}
	slices.SortFunc(p.registers, func(a, b reference.PCR) int { return int(a.Index) - int(b.Index) })
	return nil
}

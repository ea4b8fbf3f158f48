// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"sdbox/firmware/slot"
	"sdbox/image/disk"
	"sdbox/image/keys"
	"sdbox/image/predict"
	"sdbox/image/uki"
)

// The files of a built image.
const (
	FileUKI       = "sdbox.efi"      // the signed program: kernel, initramfs and all
	FileDisk      = "sdbox.img"      // a disk with it in both boot partitions
	FileReference = "reference.json" // what the TPM of a machine will say
	FileSBOM      = "sbom.cdx.json"  // what it is made of, in CycloneDX 1.6
	FileSums      = "SHA256SUMS"     // of the others, as sha256sum -c takes it
)

// Reference is the file reference.json: registers of the TPM after a boot, by number, in hexadecimal. It holds those that follow from
// the image and the site's keys; what the firmware measures of itself is recorded on a machine of the model.
type Reference struct {
	Profile string            `json:"profile"`
	Version string            `json:"version"`
	PCRs    map[string]string `json:"pcrs"`
}

// Built is an image that Build made.
type Built struct {
	Parts     *Parts
	UKI       []byte
	Reference Reference
}

// Build makes an image in the folder dir, which is made if it is not there, and says what it made. The files appear whole, each for
// the one before.
func Build(ctx context.Context, s Spec, dir string) (*Built, error) {
	pair, err := s.pair()
	if err != nil {
		return nil, err
	}
	parts, err := collect(ctx, s, pair)
	if err != nil {
		return nil, err
	}
	b := &Built{Parts: parts}
	if b.UKI, err = sign(s, parts, pair); err != nil {
		return nil, err
	}
	if b.Reference, err = refer(s, b.UKI); err != nil {
		return nil, err
	}
	return b, b.write(s, dir)
}

// pair is the key an image is signed with.
func (s *Spec) pair() (keys.Pair, error) {
	name := keys.DB
	if s.Form == Dev {
		name = keys.Dev
	}
	p, err := keys.Load(s.Site.Keys, name)
	if err != nil {
		return p, fmt.Errorf("key that signs the image: %w", err)
	}
	return p, nil
}

func sign(s Spec, p *Parts, pair keys.Pair) ([]byte, error) {
	var initrd bytes.Buffer
	if err := p.Tree.Write(&initrd); err != nil {
		return nil, err
	}
	raw, err := uki.Assemble(uki.Spec{
		Stub: p.Stub, OSRelease: []byte(p.OSRelease), CommandLine: CommandLine(s.Form, p.Profile, p.Config), Uname: p.Uname, Linux: p.Kernel, Initrd: initrd.Bytes(), Built: s.Built,
	})
	if err != nil {
		return nil, err
	}
	return uki.Sign(raw, pair.Key, pair.Certificate)
}

// refer predicts from the finished image alone.
func refer(s Spec, signed []byte) (Reference, error) {
	r := Reference{Profile: s.Profile, Version: s.Version, PCRs: map[string]string{}}
	i, err := uki.Parse(signed)
	if err != nil {
		return r, err
	}
	pk, kek, db, err := keys.Lists(s.Site.Keys, s.Form == Dev)
	if err != nil {
		return r, err
	}
	registers, err := predict.Registers(i, predict.Firmware{PK: pk, KEK: kek, DB: db})
	for _, p := range registers {
		r.PCRs[strconv.Itoa(int(p.Index))] = hex.EncodeToString(p.Digest[:])
	}
	return r, err
}

// write makes the files in a folder of their own first.
func (b *Built) write(s Spec, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	work, err := os.MkdirTemp(dir, ".new-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	esp, err := disk.ESP(b.UKI, s.Built)
	if err != nil {
		return err
	}
	config, err := slot.Encode(1, slot.Default())
	if err != nil {
		return err
	}
	reference, err := json.MarshalIndent(b.Reference, "", "  ")
	if err != nil {
		return err
	}
	bill, err := sbom(s, b.Parts)
	if err != nil {
		return err
	}
	err = errors.Join(
		os.WriteFile(filepath.Join(work, FileUKI), b.UKI, 0o644),
		disk.Build(filepath.Join(work, FileDisk), esp, config),
		os.WriteFile(filepath.Join(work, FileReference), append(reference, '\n'), 0o644),
		os.WriteFile(filepath.Join(work, FileSBOM), bill, 0o644))
	if err != nil {
		return err
	}
	return publish(work, dir)
}

// publish adds the sums and moves the files to where they belong.
func publish(work, dir string) error {
	var sums strings.Builder
	files := []string{FileUKI, FileDisk, FileReference, FileSBOM}
	for _, name := range files {
		data, err := os.ReadFile(filepath.Join(work, name))
		if err != nil {
			return err
		}
		fmt.Fprintf(&sums, "%x  %s\n", sha256.Sum256(data), name)
	}
	if err := os.WriteFile(filepath.Join(work, FileSums), []byte(sums.String()), 0o644); err != nil {
		return err
	}
	for _, name := range append(files, FileSums) {
		if err := os.Rename(filepath.Join(work, name), filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"sdbox/firmware/efivar"
	"sdbox/image/keys"
	"sdbox/image/predict"
	"sdbox/image/uki"
)

type keysCmd struct {
	Dir  string `arg:"" type:"path" help:"Folder to make; it must not exist."`
	Site string `default:"SD-Box" help:"Name in the certificates, which a firmware shows."`
}

// Run makes the Secure Boot keys of a site.
func (c *keysCmd) Run(out io.Writer) error {
	if err := keys.Make(c.Dir, c.Site, time.Now()); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return &hintError{err, "nothing is ever overwritten: name a folder that does not exist"}
		}
		return err
	}
	fmt.Fprintf(out, "%s: keys PK, KEK, db and db-dev of %s\n", c.Dir, c.Site)
	fmt.Fprintln(out, "hint: PK.key and KEK.key belong on a machine without a network; db.key where images are signed")
	return nil
}

// hintKeys is said where a folder of keys cannot be read.
const hintKeys = "--keys names the folder that sdbox-image keys made"

type signCmd struct {
	Image string `arg:"" type:"path" help:"Image to sign: sdbox.efi. Signatures it has are taken off."`
	Keys  string `required:"" placeholder:"DIR" type:"path" help:"Folder of keys."`
	Key   string `default:"db" enum:"db,db-dev" help:"Which key signs: db, or db-dev for a development image."`
	Out   string `required:"" placeholder:"FILE" type:"path" help:"File to write; it must not exist."`
}

// Run signs an image anew.
func (c *signCmd) Run(out io.Writer) error {
	raw, err := readImage(c.Image)
	if err != nil {
		return err
	}
	pair, err := keys.Load(c.Keys, c.Key)
	if err != nil {
		return &hintError{err, hintKeys}
	}
	signed, err := uki.Sign(raw, pair.Key, pair.Certificate)
	if err != nil {
		return err
	}
	if err := writeNew(c.Out, signed); err != nil {
		return err
	}
	fmt.Fprintf(out, "%s: signed by %s\n", c.Out, pair.Certificate.Subject)
	return nil
}

// writeNew writes a file that must not be there yet.
func writeNew(path string, content []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return &hintError{err, "nothing is ever overwritten: name a file that does not exist"}
	}
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Close())
}

type predictCmd struct {
	Image string `arg:"" type:"path" help:"Image: sdbox.efi, or the disk sdbox.img."`
	Keys  string `placeholder:"DIR" type:"path" help:"Folder of the keys that are enrolled in the machine."`
	Dev   bool   `help:"The machine trusts the key of development images."`
	DBX   string `placeholder:"FILE" type:"path" help:"The machine's list of forbidden programs, if it has one: a file .esl."`
	Open  bool   `help:"Instead of --keys: a machine without keys, which starts anything."`
}

// Run prints what the TPM will say.
func (c *predictCmd) Run(out io.Writer) error {
	raw, err := readImage(c.Image)
	if err != nil {
		return err
	}
	i, err := uki.Parse(raw)
	if err != nil {
		return err
	}
	var f predict.Firmware
	switch {
	case c.Open == (c.Keys != ""):
		return &hintError{errors.New("whose keys has the machine enrolled?"), "--keys DIR, or --open for a machine that has none"}
	case c.Keys != "":
		if f.PK, f.KEK, f.DB, err = keys.Lists(c.Keys, c.Dev); err != nil {
			return &hintError{err, hintKeys}
		}
	}
	if c.DBX != "" {
		if f.DBX, err = readAtMost(c.DBX, efivar.MaxLists); err != nil {
			return err
		}
	}
	registers, err := predict.Registers(i, f)
	if errors.Is(err, predict.ErrRefused) {
		return &hintError{err, "sdbox-image inspect says who signed it; an image of form dev starts with --dev keys only"}
	}
	if err != nil {
		return err
	}
	_, err = io.WriteString(out, predict.Text(registers))
	return err
}

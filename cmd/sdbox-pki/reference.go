// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"sdbox/firmware/reference"
)

// maxMeasured is the longest file of measured registers taken, in bytes.
const maxMeasured = 64 << 10

type referenceCmd struct {
	Key  releaseKeyCmd `cmd:"" help:"Make a release key; its secret half belongs on a machine without a network."`
	Sign signCmd       `cmd:"" help:"Sign what an intact box measures, by the holders of release keys."`
}

type releaseKeyCmd struct {
	Name string `arg:"" help:"Who holds it, without spaces: release-1.example.org."`
	Out  string `required:"" placeholder:"DIR" help:"Folder to make: release.key, which is secret, and release.pub, which gateways name."`
}

// Run makes the key. It never writes over a file that is there.
func (c *releaseKeyCmd) Run(out io.Writer) error {
	secret, public, err := reference.GenerateKey(c.Name)
	if err != nil {
		return hint(err, "a name such as release-1.example.org")
	}
	if err := os.Mkdir(c.Out, 0o700); err != nil {
		return hinted(err)
	}
	err = errors.Join(
		os.WriteFile(filepath.Join(c.Out, "release.key"), []byte(secret+"\n"), 0o600),
		os.WriteFile(filepath.Join(c.Out, "release.pub"), []byte(public+"\n"), 0o644))
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%s: release.key and release.pub of %s\n", c.Out, c.Name)
	fmt.Fprintf(out, "hint: sdbox-gateway init --release %s; keep release.key off every machine of the house\n", filepath.Join(c.Out, "release.pub"))
	return nil
}

type signCmd struct {
	Image    string   `arg:"" help:"Name of the image and its firmware: sdbox-1."`
	Version  string   `arg:"" help:"Version: 2026.11.24."`
	Measured string   `required:"" placeholder:"FILE" help:"What an intact box measures, as sdbox-agent machine prints it."`
	Key      []string `required:"" placeholder:"FILE" help:"Secret release key; name as many as gateways ask for."`
	Out      string   `required:"" placeholder:"FILE" help:"The signed note to write, for sdboxctl reference add."`
}

// Run signs the note.
func (c *signCmd) Run(out io.Writer) error {
	text, err := readSmall(c.Measured)
	if err != nil {
		return hint(err, "on the box: sdbox-agent machine > FILE")
	}
	v := reference.Values{Name: c.Image, Version: c.Version}
	if v.PCRs, err = parseMeasured(text); err != nil {
		return hint(fmt.Errorf("%s: %w", c.Measured, err), "want the output of sdbox-agent machine, with its lines pcr NUMBER DIGEST")
	}
	secrets := make([]string, len(c.Key))
	for i, name := range c.Key {
		secret, err := readSmall(name)
		if err != nil {
			return hint(err, "sdbox-pki reference key makes a release key")
		}
		secrets[i] = strings.TrimSpace(string(secret))
	}
	note, err := reference.Sign(v, secrets...)
	if err != nil {
		return hint(err, "--key names the file release.key that sdbox-pki reference key made")
	}
	f, err := os.OpenFile(c.Out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, os.ErrExist) {
		return hint(err, "nothing is ever overwritten: name a file that does not exist")
	}
	if err != nil {
		return err
	}
	_, err = f.Write(note)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	fmt.Fprintf(out, "%s: %d registers of %s, signed by %d of the release keys\n", c.Out, len(v.PCRs), v, len(secrets))
	return nil
}

// parseMeasured reads lines "pcr NUMBER DIGEST" in rising order, then lines "event NUMBER TYPE DIGEST" with words for people behind:
// a register that has some is judged by them, and no more by its value. The line "ek DIGEST", which names the machine, is passed
// over. The signer looks at every other line as an error: what is signed must be what was meant.
func parseMeasured(text []byte) ([]reference.PCR, error) {
	if len(text) > maxMeasured {
		return nil, fmt.Errorf("over %d bytes", maxMeasured)
	}
	var list []reference.PCR
	lines := bufio.NewScanner(bytes.NewReader(text))
	for n := 1; lines.Scan(); n++ {
		fields := strings.Fields(lines.Text())
		switch {
		case len(fields) == 2 && fields[0] == "ek":
			continue
		case len(fields) >= 4 && fields[0] == "event":
			register, e, err := reference.ParseEvent(strings.Join(fields[:4], " "))
			i := slices.IndexFunc(list, func(p reference.PCR) bool { return p.Index == register })
			if err != nil || i < 0 {
				return nil, fmt.Errorf("line %d: %w", n, cmp.Or(err, errors.New("an event of a register that has no line pcr before it")))
			}
			list[i].Digest, list[i].Events = [32]byte{}, append(list[i].Events, e)
			continue
		}
		if len(fields) != 3 || fields[0] != "pcr" {
			return nil, fmt.Errorf("line %d: want pcr, number, digest", n)
		}
		index, err := strconv.ParseUint(fields[1], 10, 8)
		if err != nil || index > 23 {
			return nil, fmt.Errorf("line %d: register %.20q: want 0 to 23", n, fields[1])
		}
		digest, err := hex.DecodeString(fields[2])
		if err != nil || len(digest) != 32 {
			return nil, fmt.Errorf("line %d: want 64 hexadecimal digits", n)
		}
		list = append(list, reference.PCR{Index: uint8(index), Digest: [32]byte(digest)})
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, errors.New("no register in it")
	}
	return list, nil
}

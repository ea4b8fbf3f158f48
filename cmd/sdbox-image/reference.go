// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"sdbox/firmware/reference"
	"sdbox/image"
)

type referenceCmd struct {
	Reference string `arg:"" type:"path" help:"What build predicted: reference.json."`
	Unit      string `required:"" placeholder:"FILE" type:"path" help:"What an intact machine of the model measured, whatever it ran: as sdbox-agent machine prints it."`
	Out       string `required:"" placeholder:"FILE" type:"path" help:"File to write, for sdbox-pki reference sign --measured; it must not exist."`
}

// maxReference is the longest file taken, in bytes.
const maxReference = 64 << 10

// Run writes what a machine of the model measures when it runs this image: the firmware's registers as the unit has them, the image's
// as they were predicted.
func (c *referenceCmd) Run(out io.Writer) error {
	predicted, err := readReference(c.Reference)
	if err != nil {
		return &hintError{err, "name the reference.json that sdbox-image build made"}
	}
	unit, err := readShort(c.Unit)
	if err != nil {
		return err
	}
	text, differ, err := combine(unit, predicted)
	if err != nil {
		return &hintError{fmt.Errorf("%s: %w", c.Unit, err), "want the output of sdbox-agent machine on that unit"}
	}
	if err := writeNew(c.Out, text); err != nil {
		return err
	}
	if slices.Contains(differ, 7) {
		fmt.Fprintln(out, "hint: the unit's register 7 is another: the site's keys are not enrolled in it, Secure Boot is off, or its firmware measures more than the keys")
	}
	fmt.Fprintf(out, "%s: %d registers as predicted, the others as the unit has them\n", c.Out, len(predicted))
	return nil
}

// readReference reads reference.json, in rising order of registers.
func readReference(path string) ([]reference.PCR, error) {
	text, err := readShort(path)
	if err != nil {
		return nil, err
	}
	var r image.Reference
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	var list []reference.PCR
	for index, digest := range r.PCRs {
		p, err := reference.ParsePCR("pcr " + index + " " + digest)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		list = append(list, p)
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("%s: no register in it", path)
	}
	slices.SortFunc(list, func(a, b reference.PCR) int { return int(a.Index) - int(b.Index) })
	return list, nil
}

func readShort(path string) ([]byte, error) { return readAtMost(path, maxReference) }

// readAtMost reads a file of so many bytes at most.
func readAtMost(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(text)) > most {
		err = fmt.Errorf("%s: over %d bytes", path, most)
	}
	return text, err
}

// combine puts the predicted values in the place of the unit's own, and says which of those were others. Lines it does not know are an
// error: what will be signed must be what was meant.
func combine(unit []byte, predicted []reference.PCR) (text []byte, differ []uint8, err error) {
	left := slices.Clone(predicted)
	for n, line := range strings.Split(strings.TrimSuffix(string(unit), "\n"), "\n") {
		kind, rest, _ := strings.Cut(line, " ")
		number, value, _ := strings.Cut(rest, " ")
		if kind == "ek" { // which unit it was is nothing to the model
			continue
		}
		index, err := strconv.ParseUint(number, 10, 8)
		if err != nil || (kind != "pcr" && kind != "event") {
			return nil, nil, fmt.Errorf("line %d: want pcr or event, and a register", n+1)
		}
		ours := func(p reference.PCR) bool { return uint64(p.Index) == index }
		i := slices.IndexFunc(left, ours)
		switch {
		case !slices.ContainsFunc(predicted, ours):
			text = fmt.Appendf(text, "%s\n", line)
			continue
		case kind == "event" || i < 0:
			return nil, nil, fmt.Errorf("line %d: register %d, which is the image's, with events or twice", n+1, index)
		}
		if hex.EncodeToString(left[i].Digest[:]) != value {
			differ = append(differ, left[i].Index)
		}
		text = fmt.Appendf(text, "%s\n", left[i])
		left = slices.Delete(left, i, i+1)
	}
	if len(left) > 0 {
		return nil, nil, fmt.Errorf("it lacks register %d, which is predicted", left[0].Index)
	}
	return text, differ, nil
}

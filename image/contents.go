// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"sdbox/firmware/release"
)

// The lines of a text between which Contents is written.
const (
	contentsBegin = "<!-- contents: made by README=1 make image -->\n"
	contentsEnd   = "<!-- end of contents -->\n"
)

// Contents is a table, in Markdown, of what an image is made of and how large it is: on the disk, and on the line, packed as a release is.
func (b *Built) Contents() (string, error) {
	programs, libraries, modules, rest := new(group), new(group), new(group), new(group)
	for _, p := range slices.Sorted(maps.Keys(b.Parts.Tree)) {
		e := b.Parts.Tree[p]
		switch {
		case p == "bin/sdbox-agent":
			programs.add(e.Data)
		case strings.HasPrefix(p, "lib/modules/"):
			modules.add(e.Data)
		case strings.HasPrefix(p, "lib") || strings.HasPrefix(p, "usr/"):
			libraries.add(e.Data)
		case e.Mode.IsRegular():
			rest.add(e.Data)
		}
	}
	var t strings.Builder
	fmt.Fprintf(&t, "| %s %s | bytes | packed |\n|---|---:|---:|\n", b.Reference.Profile, b.Reference.Version)
	for _, row := range []struct {
		name string
		data []byte
	}{
		{"Linux " + b.Parts.Uname, b.Parts.Kernel},
		{"systemd-stub", b.Parts.Stub},
		{"sdbox-agent, which is PID 1 too", programs.data.Bytes()},
		{"card daemon and driver, their libraries, the loader", libraries.data.Bytes()},
		{fmt.Sprintf("%d kernel modules", modules.files-1), modules.data.Bytes()}, // one of the files is their order
		{"settings and trust anchors", rest.data.Bytes()},
		{"**" + FileUKI + "**", b.UKI},
	} {
		size, err := packed(row.data)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&t, "| %s | %d | %d |\n", row.name, len(row.data), size)
	}
	fmt.Fprintf(&t, "\nExecutables: %s. Shells, setuid files, files others may write: none; an image that has one is not made.\n",
		strings.Join(b.Parts.Tree.Executables(), ", "))
	return t.String(), nil
}

// group is the files of one row.
type group struct {
	data  bytes.Buffer
	files int
}

func (g *group) add(data []byte) {
	g.data.Write(data)
	g.files++
}

func packed(data []byte) (int, error) {
	var b bytes.Buffer
	err := release.Encode(&b, data, nil)
	return b.Len(), err
}

// WriteContents puts the table into a text that has a place for it.
func (b *Built) WriteContents(file string) error {
	table, err := b.Contents()
	if err != nil {
		return err
	}
	return WriteBetween(file, contentsBegin, contentsEnd, table)
}

// WriteBetween puts a text into a file, between the line begin and the line end, which are there.
func WriteBetween(file, begin, end, text string) error {
	old, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	before, behind, begins := strings.Cut(string(old), begin)
	_, after, ends := strings.Cut(behind, end)
	if !begins || !ends {
		return fmt.Errorf("%s: no place for what is made: the lines %q and %q", file, begin, end)
	}
	return os.WriteFile(file, []byte(before+begin+"\n"+text+"\n"+end+after), 0o644)
}

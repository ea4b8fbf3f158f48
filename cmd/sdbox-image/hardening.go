// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"
	"path/filepath"
	"strings"

	"sdbox/agent/boot"
	"sdbox/image"
	"sdbox/image/hardening"
	"sdbox/image/initramfs"
)

// The lines of a text between which the table of hardening is written.
const (
	hardeningBegin = "<!-- hardening: made by README=1 make image -->\n"
	hardeningEnd   = "<!-- end of hardening -->\n"
)

// maxConfig is the longest configuration of a kernel taken, in bytes.
const maxConfig = 1 << 20

type hardeningCmd struct {
	Config  string `arg:"" type:"path" help:"Configuration of a kernel: boot/config-RELEASE of its package."`
	Profile string `default:"qemu" help:"Kind of machine: qemu or generic."`
}

// Run prints how an image with this kernel answers ANSSI-BP-028.
func (c *hardeningCmd) Run(out io.Writer) error {
	config, err := readAtMost(c.Config, maxConfig)
	if err != nil {
		return err
	}
	profile, err := initramfs.ReadProfile(c.Profile)
	if err != nil {
		return err
	}
	text, err := hardeningText(strings.TrimPrefix(filepath.Base(c.Config), "config-"), config, profile)
	if err != nil {
		return err
	}
	_, err = io.WriteString(out, text)
	return err
}

func hardeningText(release string, config []byte, profile initramfs.Profile) (string, error) {
	s := hardening.System{Release: release, Config: config, CommandLine: image.CommandLine(image.Production, profile, config)}
	for _, row := range boot.Sysctls() {
		s.Settings = append(s.Settings, hardening.Setting(row))
	}
	return hardening.Text(s)
}

// writeHardening puts the table into a text that has a place for it.
func writeHardening(file string, p *image.Parts) error {
	text, err := hardeningText(p.Uname, p.Config, p.Profile)
	if err != nil {
		return err
	}
	return image.WriteBetween(file, hardeningBegin, hardeningEnd, text)
}

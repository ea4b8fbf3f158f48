// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sdbox/image/disk"
	"sdbox/image/initramfs"
	"sdbox/image/uki"
	"sdbox/image/uki/ukitest"

	"github.com/stretchr/testify/require"
)

// call runs a command line, and returns what it says on both outputs.
func call(t *testing.T, code int, args ...string) string {
	var out, errs bytes.Buffer
	require.Equal(t, code, run(t.Context(), args, &out, &errs), "%v: %s", args, &errs)
	return out.String() + errs.String()
}

// small is an image whose initramfs has this and no more; it is not signed.
func small(t *testing.T, tree initramfs.Tree) []byte {
	var initrd bytes.Buffer
	require.NoError(t, tree.Write(&initrd))
	raw, err := uki.Assemble(ukitest.Spec("252.39-1~deb12u2", "quiet lockdown=confidentiality", initrd.Bytes()))
	require.NoError(t, err)
	return raw
}

func put(t *testing.T, path string, content []byte) string {
	require.NoError(t, os.WriteFile(path, content, 0o644))
	return path
}

// What an operator does with keys and an image that someone else assembled.
func TestImageIsSignedPredictedAndLookedInto(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	require.Contains(t, call(t, 0, "keys", at("keys"), "--site", "Hospital"), "PK.key and KEK.key belong on a machine without a network")
	require.Contains(t, call(t, 1, "keys", at("keys")), "hint: nothing is ever overwritten")
	anchor, err := os.ReadFile(at("keys/db.pem"))
	require.NoError(t, err)
	put(t, at("bare.efi"), small(t, initramfs.Tree{
		"lib/modules/load":       {Mode: 0o644, Data: []byte("usbcore.ko authorized_default=0\nxhci_pci.ko\n")},
		"lib/modules/usbcore.ko": {Mode: 0o644, Data: make([]byte, 777)},
		"bin/sdbox-agent":        {Mode: 0o755, Data: []byte("agent")},
		"etc/sdbox/root.pem":     {Mode: 0o644, Data: anchor},
		"etc/sdbox/release.pub":  {Mode: 0o644, Data: []byte("threshold 1\nrelease-1+abc+def\n")},
		"etc/sdbox/boot.toml":    {Mode: 0o644, Data: []byte("form = 'production'\n")},
	}))
	require.Contains(t, call(t, 0, "inspect", at("bare.efi")), "signed by    nobody")
	require.Contains(t, call(t, 1, "predict", at("bare.efi"), "--keys", at("keys")), "hint: sdbox-image inspect says who signed it")
	require.Contains(t, call(t, 0, "sign", at("bare.efi"), "--keys", at("keys"), "--out", at("signed.efi")), "signed by CN=Hospital db")
	require.Contains(t, call(t, 1, "sign", at("bare.efi"), "--keys", at("keys"), "--out", at("signed.efi")), "hint: nothing is ever overwritten")
	require.Contains(t, call(t, 1, "sign", at("bare.efi"), "--keys", at("none"), "--out", at("x.efi")), "hint: --keys names the folder")

	signed, err := os.ReadFile(at("signed.efi"))
	require.NoError(t, err)
	esp, err := disk.ESP(signed, time.Unix(1764000000, 0))
	require.NoError(t, err)
	require.NoError(t, disk.Build(at("sdbox.img"), esp, nil))
	text := call(t, 0, "inspect", at("sdbox.img"))
	require.Equal(t, call(t, 0, "inspect", at("signed.efi")), text, "the disk and the file are one image")
	for _, want := range []string{
		"signed by    CN=Hospital db", "\n  lockdown=confidentiality\n", ".initrd", "usbcore.ko                        777 bytes authorized_default=0",
		"bin/sdbox-agent                     5 bytes", "6 files, ", "0 of them setuid", "root.pem         CN=Hospital db", "release.pub      release-1+abc+def",
		"form = 'production'",
	} {
		require.Contains(t, text, want)
	}
	predicted := call(t, 0, "predict", at("sdbox.img"), "--keys", at("keys"))
	require.Len(t, strings.Split(strings.TrimSpace(predicted), "\n"), 6)
	require.NotEqual(t, predicted, call(t, 0, "predict", at("sdbox.img"), "--open"))
	require.Contains(t, call(t, 1, "predict", at("sdbox.img"), "--keys", at("keys"), "--dev"), "this firmware will not start the image")
	require.Contains(t, call(t, 1, "predict", at("sdbox.img")), "hint: --keys DIR, or --open")
	require.Contains(t, call(t, 1, "predict", at("sdbox.img"), "--keys", at("keys"), "--dbx", at("keys/db.esl")), "its dbx forbids it")
}

// An image that nobody vouches for says no more on a terminal than letters, and what must not be in one is named.
func TestHostileImageIsLookedIntoSafely(t *testing.T) {
	evil := "\x1b]0;owned\x07\r\nCN=trusted\u202e"
	raw := small(t, initramfs.Tree{
		"bin/sh":                {Mode: 0o755, Data: []byte("#!/bin/sh\n")},
		"bin/su" + "\x1b[2J":    {Mode: 0o755 | fs.ModeSetuid, Data: []byte("x")},
		"lib/modules/load":      {Mode: 0o644, Data: []byte("../../x " + evil)},
		"etc/sdbox/root.pem":    {Mode: 0o644, Data: []byte(evil)},
		"etc/sdbox/release.pub": {Mode: 0o644, Data: []byte(evil + strings.Repeat("A", 1000))},
		"etc/sdbox/boot.toml":   {Mode: 0o644, Data: []byte(evil + strings.Repeat("\n", 5000))},
	})
	text, err := inspect(raw)
	require.NoError(t, err)
	for _, r := range text {
		require.True(t, r == '\n' || r >= ' ' && r <= '~', "%q", r)
	}
	for line := range strings.Lines(text) {
		require.Less(t, len(line), 210)
	}
	require.Less(t, strings.Count(text, "\n"), 250)
	require.Contains(t, text, "must not be: initramfs: bin/sh: a script")
	require.Contains(t, text, "root.pem         no PEM")

	broken, err := uki.Assemble(ukitest.Spec("252.39", "quiet", []byte("070701 but no archive")))
	require.NoError(t, err)
	text, err = inspect(broken)
	require.NoError(t, err)
	require.Contains(t, text, "cannot be read")

	dir := t.TempDir()
	for name, content := range map[string][]byte{"not.efi": []byte("MZ"), "empty.efi": nil, "zero.img": make([]byte, disk.Size)} {
		require.NotContains(t, call(t, 1, "inspect", put(t, filepath.Join(dir, name), content)), "sections", name)
	}
	require.NoError(t, os.Truncate(filepath.Join(dir, "not.efi"), 1<<30))
	require.Contains(t, call(t, 1, "inspect", filepath.Join(dir, "not.efi")), "neither an image nor a disk")
	require.Contains(t, call(t, 1, "inspect", dir), "neither an image nor a disk")
}

func TestReferenceIsTheUnitsFirmwareUnderTheImagesRegisters(t *testing.T) {
	dir := t.TempDir()
	hash := func(c string) string { return strings.Repeat(c, 64) }
	json := put(t, filepath.Join(dir, "reference.json"), []byte(`{"profile":"qemu","version":"1","pcrs":{"12":"`+hash("0")+`","4":"`+hash("4")+`","7":"`+hash("7")+`"}}`))
	unit := "ek " + hash("e") + "\npcr 0 " + hash("a") + "\npcr 4 " + hash("b") + "\npcr 7 " + hash("7") + "\npcr 8 " + hash("0") + "\npcr 12 " + hash("0") +
		"\nevent 0 0x00000008 " + hash("c") + " words\n"
	good := put(t, filepath.Join(dir, "unit.txt"), []byte(unit))
	out := filepath.Join(dir, "measured.txt")
	require.NotContains(t, call(t, 0, "reference", json, "--unit", good, "--out", out), "hint")
	text, err := os.ReadFile(out)
	require.NoError(t, err)
	require.Equal(t, "pcr 0 "+hash("a")+"\npcr 4 "+hash("4")+"\npcr 7 "+hash("7")+"\npcr 8 "+hash("0")+"\npcr 12 "+hash("0")+"\nevent 0 0x00000008 "+hash("c")+" words\n", string(text))
	other := put(t, filepath.Join(dir, "other.txt"), []byte(strings.Replace(unit, hash("7"), hash("1"), 1)))
	require.Contains(t, call(t, 0, "reference", json, "--unit", other, "--out", out+"2"), "hint: the unit's register 7 is another")
	require.Contains(t, call(t, 1, "reference", json, "--unit", good, "--out", out), "nothing is ever overwritten")

	for name, bad := range map[string]string{
		"lacks register 7":   strings.Replace(unit, "pcr 7", "pcr 6", 1),
		"want pcr or event":  unit + "name evil\n",
		"with events or tw":  unit + "event 4 0x00000004 " + hash("d") + "\n",
		"line 8: register 4": unit + "pcr 4 " + hash("4") + "\n",
		"line 1: want pcr":   "",
		"over 65536 bytes":   strings.Repeat(unit, 200),
	} {
		said := call(t, 1, "reference", json, "--unit", put(t, filepath.Join(dir, "bad.txt"), []byte(bad)), "--out", out+"3")
		require.Contains(t, said, name)
	}
	for _, bad := range []string{"", "{}", `{"pcrs":{"4":"x"}}`, `{"pcrs":{"24":"` + hash("0") + `"}}`, `{"pcrs":{"4 ":"` + hash("0") + `"}}`, `{"more":1}`} {
		require.Contains(t, call(t, 1, "reference", put(t, filepath.Join(dir, "bad.json"), []byte(bad)), "--unit", good, "--out", out+"3"), "hint: name the reference.json")
	}
}

func TestWrongUseIsTold(t *testing.T) {
	require.Contains(t, call(t, 2, "flush"), "hint: sdbox-image --help")
	require.Contains(t, call(t, 1, "hardening", put(t, filepath.Join(t.TempDir(), "config-x"), nil)), "no configuration of a kernel")
	require.Contains(t, call(t, 1, "inspect", filepath.Join(t.TempDir(), "none")), "no such file")
	require.Contains(t, call(t, 2, "sign", "x", "--keys", "y", "--key", "PK", "--out", "z"), "must be one of")
}

// FuzzCombine: what comes out for signing has the predicted values, each once, whatever the unit's text.
func FuzzCombine(f *testing.F) {
	hash := strings.Repeat("0", 64)
	f.Add("ek x\npcr 0 " + hash + "\npcr 4 " + hash + "\nevent 0 0x1 " + hash + " words\n")
	f.Add("pcr 4 " + hash + "\npcr 4 " + hash + "\n")
	f.Add("event 4 0x1 " + hash)
	f.Add("pcr x")
	predicted, err := readReference(func() string {
		path := filepath.Join(f.TempDir(), "reference.json")
		require.NoError(f, os.WriteFile(path, []byte(`{"pcrs":{"4":"`+strings.Repeat("4", 64)+`"}}`), 0o600))
		return path
	}())
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, unit string) {
		text, _, err := combine([]byte(unit), predicted)
		if err == nil {
			require.Contains(t, "\n"+string(text), "\n"+predicted[0].String()+"\n")
			require.Equal(t, 1, strings.Count("\n"+string(text), "\npcr 4 "))
		}
	})
}

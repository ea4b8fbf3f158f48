// SPDX-License-Identifier: Apache-2.0

package packages

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const sum = "803d36a7cda13355ae8152122470288b2636f19f1cb58162dd9d8b408af9b1b4"

func TestALockSaysExactlyWhichPackages(t *testing.T) {
	want := Lock{{"libc6", "2.36-9+deb12u14", sum}, {"libusb-1.0-0", "2:1.0.26-1", sum}}
	got, err := ParseLock(strings.NewReader(want.Text()))
	require.NoError(t, err)
	require.Equal(t, want, got)
	for text, reason := range map[string]string{
		"":                                "no package",
		"libc6 2.36":                      "line 1: not NAME VERSION SHA256",
		"# c\n\nLibc 1 " + sum:            "line 3: \"Libc\" is no package name",
		"-o 1 " + sum:                     "is no package name",
		"../x 1 " + sum:                   "is no package name",
		"libc6 1/../2 " + sum:             "is no version",
		"libc6 1 " + strings.ToUpper(sum): "is no SHA-256",
		"libc6 1 " + sum[2:]:              "is no SHA-256",
		"b1 1 " + sum + "\na1 1 " + sum:   "line 2: a1: the names are not in order",
		"a1 1 " + sum + "\na1 1 " + sum:   "there twice",
	} {
		_, err := ParseLock(strings.NewReader(text))
		require.ErrorContains(t, err, reason, text)
	}
}

func TestAVersionTheMirrorDoesNotHaveIsNamed(t *testing.T) {
	gone := Package{"libc6", "0.0.1-1", sum}
	_, err := Fetch(t.Context(), Lock{gone}, t.TempDir(), func(Package) {})
	require.ErrorAs(t, err, new(*GoneError))
	require.ErrorContains(t, err, "package libc6 0.0.1-1: ")
}

func TestOnlyAFileWithTheLocksHashIsTaken(t *testing.T) {
	cache := t.TempDir()
	p := Package{"tiny", "1:2.0", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}
	file := filepath.Join(cache, "tiny_1%3a2.0_all.deb")
	require.NoError(t, os.WriteFile(file, []byte("abc"), 0o600))
	none := func(p Package) { t.Log("fetching", p) }
	files, err := Fetch(t.Context(), Lock{p}, cache, none)
	require.NoError(t, err)
	require.Equal(t, []string{file}, files)
	require.NoError(t, os.WriteFile(file, []byte("abd"), 0o600))
	_, err = Fetch(t.Context(), Lock{p}, cache, none)
	require.ErrorAs(t, err, new(*GoneError), "a file with other bytes was taken")
}

func TestLinksAndTheMergedUsrLeadToTheFile(t *testing.T) {
	f := Files{
		"lib/x/libc.so.6":       {Data: []byte("c")},
		"usr/lib/x/libz.so.1":   {Link: "libz.so.1.2"},
		"usr/lib/x/libz.so.1.2": {Data: []byte("z")},
		"usr/b/Info":            {Link: "/etc/info"},
		"etc/info":              {Data: []byte("i")},
		"loop":                  {Link: "loop"},
		"out":                   {Link: "../../../../etc/info"},
	}
	for p, want := range map[string]string{"usr/lib/x/libc.so.6": "c", "lib/x/libz.so.1": "z", "usr/b/Info": "i", "out": "i", "loop": "", "none": ""} {
		file, found := f.Open(p)
		require.Equal(t, want != "", found, p)
		require.Equal(t, want, string(file.Data), p)
	}
}

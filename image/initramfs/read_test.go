// SPDX-License-Identifier: Apache-2.0

package initramfs

import (
	"bytes"
	"io/fs"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func small() Tree {
	t := Tree{}
	t.file("etc/os-release", 0o644, []byte("ID=sdbox\n"), "")
	t.file("bin/sdbox-agent", 0o755, []byte("\x7fELF"), "")
	t.link("init", "/bin/sdbox-agent", "")
	t.folders("dev")
	t[console] = Entry{Mode: fs.ModeDevice | fs.ModeCharDevice | 0o600}
	return t
}

func archive(t testing.TB, tree Tree) []byte {
	var b bytes.Buffer
	require.NoError(t, tree.Write(&b))
	return b.Bytes()
}

func TestATreeComesBackFromItsArchive(t *testing.T) {
	want := small()
	got, err := Read(archive(t, want))
	require.NoError(t, err)
	require.Equal(t, want, got)
	require.NoError(t, got.Check())
	require.Equal(t, archive(t, want), archive(t, got), "the same tree, other bytes")
}

func TestWhatMustNotBeInAnImageIsNamed(t *testing.T) {
	for want, change := range map[string]func(Tree){
		"bin/su: runs under another user's rights": func(t Tree) { t["bin/su"] = Entry{Mode: fs.ModeSetuid | 0o755} },
		"bin/sg: runs under another user's rights": func(t Tree) { t["bin/sg"] = Entry{Mode: fs.ModeSetgid | 0o755} },
		"init: leads nowhere":                      func(t Tree) { delete(t, "bin/sdbox-agent") },
		"tmp: may be written by others":            func(t Tree) { t["tmp"] = Entry{Mode: fs.ModeDir | 0o777} },
		"dev/mem: a device":                        func(t Tree) { t["dev/mem"] = Entry{Mode: fs.ModeDevice | fs.ModeCharDevice | 0o600} },
		"etc/rc: a script":                         func(t Tree) { t["etc/rc"] = Entry{Mode: 0o644, Data: []byte("#!/bin/sh\n")} },
		"more than three executables": func(t Tree) {
			for _, p := range []string{"a", "b", "c"} {
				t[p] = Entry{Mode: 0o755}
			}
		},
	} {
		tree := small()
		change(tree)
		require.ErrorContains(t, tree.Check(), want)
	}
}

func FuzzRead(f *testing.F) {
	good := archive(f, small())
	f.Add(good)
	f.Add(good[:len(good)-200])
	for old, changed := range map[string]string{
		"070701": "070702", "000081A4": "00008FFF", "000081ED": "0000C1ED", "000041ED": "000081ED", "0000A1FF": "000041FF", "00000005": "00000001",
		"00000009": "FFFFFFFF", "0000000A": "0000000g", "init\x00": "init!", "etc/": "../e", "TRAILER": "trailer", "bin/": "etc/", "0000000F": "FFFFFFFF",
	} {
		f.Add(bytes.Replace(good, []byte(old), []byte(changed), 1))
		f.Add(bytes.ReplaceAll(good, []byte(old), []byte(changed)))
	}
	f.Add(append(bytes.Clone(good), "more"...))
	twice := bytes.Replace(good, []byte("bin\x00"), []byte("etc\x00"), 1)
	f.Add(twice)
	f.Fuzz(func(t *testing.T, raw []byte) {
		tree, err := Read(raw)
		if err != nil {
			return
		}
		for p, e := range tree {
			require.True(t, fs.ValidPath(p))
			require.False(t, strings.Contains(p, "\x00"))
			require.LessOrEqual(t, len(e.Data)+len(e.Link), len(raw))
		}
		again, err := Read(archive(t, tree))
		require.NoError(t, err)
		require.Equal(t, len(tree), len(again))
	})
}

// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// sysfs makes the folder the kernel shows of a stick of 16 GB, with these files other; "" leaves one out.
func sysfs(t *testing.T, other map[string]string) string {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"size": "31250000\n", "removable": "1\n", "ro": "0\n", "queue/logical_block_size": "512\n", "device/model": "Stick\x1b[2J 16  \n", "partition": "",
	} {
		if o, is := other[name]; is {
			text = o
		}
		if text != "" {
			require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
			require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
		}
	}
	return dir
}

func TestOnlyADiskThatIsMeantIsWritten(t *testing.T) {
	good, err := readTarget(sysfs(t, nil))
	require.NoError(t, err)
	require.NoError(t, good.check(false))
	require.Equal(t, "Stick [2J 16", good.model)
	for want, other := range map[string][2]string{
		"a partition, not a disk":     {"partition", "1\n"},
		"it cannot be written":        {"ro", "1\n"},
		"sectors of 4096 bytes":       {"queue/logical_block_size", "4096\n"},
		"the image has":               {"size", "4096\n"},
		"too large to be meant":       {"size", "3907029168\n"},
		"not a disk that can be take": {"removable", "0\n"},
	} {
		d, err := readTarget(sysfs(t, map[string]string{other[0]: other[1]}))
		require.NoError(t, err)
		require.ErrorContains(t, d.check(false), want)
	}
	built, err := readTarget(sysfs(t, map[string]string{"removable": "0\n"}))
	require.NoError(t, err)
	require.NoError(t, built.check(true))
	for _, name := range []string{"size", "removable", "ro", "queue/logical_block_size"} {
		_, err := readTarget(sysfs(t, map[string]string{name: ""}))
		require.ErrorIs(t, err, os.ErrNotExist)
	}
}

func TestNothingIsWrittenUnlessTheDisksNameIsTyped(t *testing.T) {
	for typed, goes := range map[string]bool{"sdb\n": true, "sdb": true, "y\n": false, "": false, "/dev/sdb\n": false, "sda\nsdb\n": false} {
		var out bytes.Buffer
		err := ask(strings.NewReader(typed), &out, "/dev/sdb", target{model: "Stick", size: 16e9})
		require.Equal(t, goes, err == nil, typed)
		require.Contains(t, out.String(), "/dev/sdb: Stick, 16000 MB")
	}
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	require.ErrorContains(t, (&flashCmd{Image: file, Disk: file}).Run(&bytes.Buffer{}), "is no disk")
}

// SPDX-License-Identifier: Apache-2.0

package settings

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

type example struct {
	Name     string   `toml:"name"`
	Database string   `toml:"database"`
	Ports    []int    `toml:"ports"`
	Inner    struct{} `toml:"inner"`
}

func TestWhatIsWrongIsNamedAndNoSecretIsShown(t *testing.T) {
	const secret = "hunter2"
	for name, c := range map[string]struct {
		text string
		is   error
		says []string
	}{
		"unknown keys":  {"database = \"postgres://u:hunter2@h/d\"\ncolour = \"red\"\nports = [1]\nsize = \"hunter2\"\n", ErrUnknown, []string{"line 2: colour", "line 4: size"}},
		"unknown table": {"database = \"hunter2\"\n[inner]\nx = \"hunter2\"\n", ErrUnknown, []string{"line 3: inner.x"}},
		"no TOML":       {"name = \"a\"\ndatabase = \"hunter2\nports = [1]\n", ErrSyntax, []string{"line 2: "}},
		"another type":  {"name = \"a\"\nports = \"hunter2\"\n", ErrSyntax, []string{"line 2: "}},
		"twice":         {"name = \"hunter2\"\nname = \"hunter2\"\n", ErrSyntax, []string{"name"}},
		"too long":      {"name = \"" + string(make([]byte, Max)) + "\"", ErrLong, []string{"over 262144 bytes"}},
	} {
		path := filepath.Join(t.TempDir(), "it.toml")
		require.NoError(t, os.WriteFile(path, []byte(c.text), 0o600))
		var v example
		err := Read(path, &v)
		require.ErrorIs(t, err, c.is, name)
		require.ErrorContains(t, err, path)
		for _, words := range c.says {
			require.ErrorContains(t, err, words, name)
		}
		require.NotContains(t, err.Error(), secret, name)
	}
	require.ErrorIs(t, Read(filepath.Join(t.TempDir(), "none.toml"), &example{}), os.ErrNotExist)
}

func TestWhatAFileDoesNotSayStaysAsItIs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "it.toml")
	require.NoError(t, os.WriteFile(path, []byte("name = \"a\"\n"), 0o600))
	v := example{Name: "b", Ports: []int{7}}
	require.NoError(t, Read(path, &v))
	require.Equal(t, example{Name: "a", Ports: []int{7}}, v)
}

func FuzzParse(f *testing.F) {
	for _, text := range []string{"", "name = \"a\"\nports = [1, 2]\n", "colour = 1\n", "name = 1\n", "name", "[inner]\nx = 1\n", "\xff", "name = \"a\"\nname = \"b\"\n"} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var v example
		if err := parse(text, &v); err != nil {
			require.NotEmpty(t, err.Error())
		}
	})
}

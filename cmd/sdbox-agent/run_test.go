// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sdbox/cmd/internal/settings"

	"github.com/stretchr/testify/require"
)

const goodConfig = `domain = "lab"
gateway = ["gw1.lab:443"]
gateway_name = "gw1.lab"
root = "root.pem"
language = "fr"
[hardware]
tpm = "unix:tpm"
screen = "file:screen"
keys = "unix:keys"
finger = "unix:finger"
`

func FuzzConfig(f *testing.F) {
	f.Add([]byte(goodConfig))
	for old, changed := range map[string]string{
		`"lab"`: `"sd.example.org"`, `domain = "lab"`: `domain = "A B"`, `"gw1.lab:443"`: `"gw1"`, `["gw1.lab:443"]`: `[]`, `"root.pem"`: `""`, `"fr"`: `"de"`,
		`keys = "unix:keys"`: ``, `root`: `roof`, `]`: ``,
	} {
		f.Add([]byte(strings.Replace(goodConfig, old, changed, 1)))
	}
	f.Add(make([]byte, settings.Max+1))
	f.Fuzz(func(t *testing.T, text []byte) {
		file := filepath.Join(t.TempDir(), "agent.toml")
		require.NoError(t, os.WriteFile(file, text, 0o600))
		c, err := readConfig(file)
		if err != nil {
			return
		}
		require.True(t, filepath.IsAbs(c.Root) && filepath.IsAbs(c.State))
		require.NotEmpty(t, c.Gateway)
		if c.Domain != "lab" {
			require.False(t, strings.HasPrefix(c.Hardware.TPM, "unix:"), "a simulated TPM outside the lab")
		}
	})
}

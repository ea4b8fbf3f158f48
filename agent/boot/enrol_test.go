// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"os"
	"path/filepath"
	"testing"

	"sdbox/firmware/efivar"

	"github.com/stretchr/testify/require"
)

func TestKeysGoToAFirmwareInSetupModeAlone(t *testing.T) {
	keys := t.TempDir()
	for _, name := range []string{"db.auth", "KEK.auth", "PK.auth"} {
		require.NoError(t, os.WriteFile(filepath.Join(keys, name), []byte(name), 0o600))
	}
	for name, c := range map[string]struct {
		mode, keys string
		did        bool
	}{
		"setup mode":         {"\x06\x00\x00\x00\x01", keys, true},
		"keys are there":     {"\x06\x00\x00\x00\x00", keys, false},
		"image without keys": {"\x06\x00\x00\x00\x01", t.TempDir(), false},
		"no UEFI":            {"", keys, false},
	} {
		dir := t.TempDir()
		if c.mode != "" {
			require.NoError(t, os.WriteFile(filepath.Join(dir, efivar.SetupMode), []byte(c.mode), 0o600))
		}
		did, err := enrol(efivar.Open(dir), c.keys)
		require.NoError(t, err, name)
		require.Equal(t, c.did, did, name)
		_, err = os.Stat(filepath.Join(dir, efivar.PK))
		require.Equal(t, c.did, err == nil, name)
	}
	_, err := enrol(efivar.Open(t.TempDir()), filepath.Join(keys, "db.auth"))
	require.Error(t, err, "a folder that is none")
}

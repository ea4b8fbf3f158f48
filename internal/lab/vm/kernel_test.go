// SPDX-License-Identifier: Apache-2.0

package vm_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// kernel unpacks the kernel of the image's packages, which "make image" fetches into build/cache, into dir.
func kernel(t *testing.T, dir string) string {
	packages, err := filepath.Glob("../../../build/cache/linux-image-*_amd64.deb")
	require.NoError(t, err)
	require.NotEmpty(t, packages, "make image fetches the kernel")
	out, err := exec.Command("sh", "-c", `dpkg-deb --fsys-tarfile "$1" | tar -x -C "$2" --strip-components=2 --wildcards './boot/vmlinuz-*'`,
		"unpack", packages[len(packages)-1], dir).CombinedOutput()
	require.NoError(t, err, string(out))
	found, err := filepath.Glob(filepath.Join(dir, "vmlinuz-*"))
	require.NoError(t, err)
	require.Len(t, found, 1)
	require.NoError(t, os.Chmod(found[0], 0o644))
	return found[0]
}

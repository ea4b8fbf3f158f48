// SPDX-License-Identifier: Apache-2.0

package vm_test

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/ulikunitz/xz"
)

// drivers are the modules of a guest that shows something and hears keys, in an order that loads.
func drivers() []string {
	return strings.Fields(`usb-common usbcore xhci-hcd xhci-pci hid usbhid hid-generic evdev drm drm_kms_helper drm_shmem_helper virtio_dma_buf virtio-gpu
		ttm drm_ttm_helper drm_vram_helper bochs`)
}

// kernel unpacks the kernel of the image's packages, which "make image" fetches into build/cache, and the guest's modules, into dir.
func kernel(t *testing.T, dir string) (image string, modules [][]byte) {
	packages, err := filepath.Glob("../../../build/cache/linux-image-*_amd64.deb")
	require.NoError(t, err)
	require.NotEmpty(t, packages, "make image fetches the kernel")
	want := []string{"./boot/vmlinuz-*"}
	for _, name := range drivers() {
		want = append(want, "*/"+name+".ko.xz")
	}
	unpack := exec.Command("sh", append([]string{"-c", `deb=$1 dir=$2; shift 2
		dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$dir" --transform 's,.*/,,' --wildcards "$@"`, "unpack", packages[len(packages)-1], dir}, want...)...)
	out, err := unpack.CombinedOutput()
	require.NoError(t, err, string(out))
	for _, name := range drivers() {
		packed, err := os.Open(filepath.Join(dir, name+".ko.xz"))
		require.NoError(t, err)
		unpacker, err := xz.NewReader(packed)
		require.NoError(t, err)
		plain, err := io.ReadAll(unpacker)
		require.NoError(t, errors.Join(err, packed.Close()))
		modules = append(modules, plain)
	}
	found, err := filepath.Glob(filepath.Join(dir, "vmlinuz-*"))
	require.NoError(t, err)
	require.Len(t, found, 1)
	require.NoError(t, os.Chmod(found[0], 0o644))
	return found[0], modules
}

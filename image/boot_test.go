// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"sdbox/agent/boot"
	"sdbox/image/disk"
	"sdbox/image/hardening"
	"sdbox/image/keys"
	"sdbox/image/predict"
	"sdbox/image/uki"
	"sdbox/internal/lab/vm"
	"sdbox/internal/tpm/tpmsim"

	"github.com/diskfs/go-diskfs"
	"github.com/stretchr/testify/require"
)

// machine is a house's machine: OVMF with the site's keys or none, swtpm, and a disk of its own.
type machine struct {
	dir string
	cfg vm.Config
}

func newMachine(t *testing.T, image []byte, keys string) machine {
	dir, err := os.MkdirTemp("", "vm") // sockets want short paths
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	esp, err := disk.ESP(image, time.Unix(1764000000, 0))
	require.NoError(t, err)
	m := machine{dir, vm.Config{
		Dir: dir, EndOnReboot: true, NoNetwork: true, TPM: &tpmsim.Config{Dir: filepath.Join(dir, "tpm")},
		Firmware: &vm.Firmware{Variables: filepath.Join(dir, "vars.fd"), Disk: filepath.Join(dir, "disk.img")},
	}}
	require.NoError(t, disk.Build(m.cfg.Firmware.Disk, esp, nil))
	require.NoError(t, vm.MakeVariables(m.cfg.Firmware.Variables, keys, "db"))
	return m
}

// said is what the guest says: testdata/registers.
type said struct {
	PCRs          map[string]string
	Root, Unknown []string
	Lock          string
}

// boot runs the machine until right of the log that watch chooses, and ends it.
func (m machine) boot(t *testing.T, watch func(*vm.VM) *vm.Log, right func(string) bool) string {
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	v, err := vm.Start(ctx, m.cfg)
	require.NoError(t, err)
	defer func() { require.NoError(t, v.Close()) }()
	line, _, err := watch(v).Await(ctx, 0, right)
	require.NoError(t, err)
	return line
}

func (m machine) registers(t *testing.T) said {
	line := m.boot(t, func(v *vm.VM) *vm.Log { return v.Events }, func(line string) bool { return line != "" })
	var s said
	require.NoError(t, json.Unmarshal([]byte(line), &s))
	return s
}

// The image is whole but for its agent, which is a program that reads the TPM.
func TestMachineSaysWhatWasPredicted(t *testing.T) {
	folder := site(t)
	s, err := spec(folder)
	require.NoError(t, err)
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", s.Agent, "./testdata/registers")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(t, err, string(out))
	b, err := Build(t.Context(), s, t.TempDir())
	require.NoError(t, err)
	enrolled := filepath.Join(folder, "keys")
	t.Run("a byte flipped in any section breaks the signature", func(t *testing.T) {
		certificate, err := keys.Certificate(filepath.Join(enrolled, "db.pem"))
		require.NoError(t, err)
		i, err := uki.Parse(b.UKI)
		require.NoError(t, err)
		require.NoError(t, i.Verify(certificate))
		for _, s := range i.Sections() {
			s.Data[len(s.Data)/2] ^= 1 // it shares the image's memory
			require.ErrorIs(t, i.Verify(certificate), uki.ErrUnsigned, s.Name)
			s.Data[len(s.Data)/2] ^= 1
		}
		require.NoError(t, i.Verify(certificate))
	})
	t.Run("it is known how this kernel is hardened", func(t *testing.T) {
		h := hardening.System{Release: b.Parts.Uname, Config: b.Parts.Config, CommandLine: CommandLine(Production, b.Parts.Profile, b.Parts.Config)}
		for _, row := range boot.Sysctls() {
			h.Settings = append(h.Settings, hardening.Setting(row))
		}
		want, err := hardening.Text(h)
		require.NoError(t, err)
		readme, err := os.ReadFile("README.md")
		require.NoError(t, err)
		says := strings.Contains(string(readme), want)
		require.True(t, says || s.Kernel != "", "README.md says something else of the locked kernel: README=1 make image writes it anew")
	})
	t.Run("with the site's keys, as reference.json says", func(t *testing.T) {
		got := newMachine(t, b.UKI, enrolled).registers(t)
		require.Len(t, b.Reference.PCRs, 6)
		for n, want := range b.Reference.PCRs {
			require.Equal(t, want, got.PCRs[n], "register %s", n)
		}
		require.NotContains(t, got.Root, ".extra")
		require.Empty(t, got.Unknown, "words of the command line that this kernel does not know")
		require.Equal(t, "none integrity [confidentiality]", got.Lock)
	})
	t.Run("without Secure Boot, as predicted for such a machine", func(t *testing.T) {
		i, err := uki.Parse(b.UKI)
		require.NoError(t, err)
		open, err := predict.Registers(i, predict.Firmware{})
		require.NoError(t, err)
		got := newMachine(t, b.UKI, "").registers(t)
		for _, p := range open {
			require.Equal(t, hex.EncodeToString(p.Digest[:]), got.PCRs[strconv.Itoa(int(p.Index))], "register %d", p.Index)
		}
	})
	t.Run("with files dropped beside the image, registers 9, 12 and 13 alone tell", func(t *testing.T) {
		m := newMachine(t, b.UKI, enrolled)
		dropFiles(t, m.cfg.Firmware.Disk)
		got := m.registers(t)
		require.Contains(t, got.Root, ".extra", "the stub has handed them on")
		for n, want := range b.Reference.PCRs {
			if moved := n == "9" || n == "12" || n == "13"; moved {
				require.NotEqual(t, want, got.PCRs[n], "register %s", n)
			} else {
				require.Equal(t, want, got.PCRs[n], "register %s", n)
			}
		}
	})
	for _, section := range []string{uki.Linux, uki.Initrd} {
		t.Run("a byte flipped in "+section+" is refused by the firmware", func(t *testing.T) {
			i, err := uki.Parse(b.UKI)
			require.NoError(t, err)
			at := bytes.Index(b.UKI, i.Section(section)) + len(i.Section(section))/2
			flipped := bytes.Clone(b.UKI)
			flipped[at] ^= 1
			newMachine(t, flipped, enrolled).boot(t, func(v *vm.VM) *vm.Log { return v.Serial }, func(line string) bool {
				return strings.Contains(line, "Access Denied")
			})
		})
	}
}

// dropFiles puts on a boot partition what systemd-stub hands to the system it starts, signed by nobody (systemd-stub(7)).
func dropFiles(t *testing.T, path string) {
	d, err := diskfs.Open(path)
	require.NoError(t, err)
	defer func() { require.NoError(t, d.Backend.Close()) }()
	system, err := d.GetFilesystem(1)
	require.NoError(t, err)
	for _, name := range []string{"EFI/BOOT/BOOTX64.EFI.extra.d/evil.cred", "EFI/BOOT/BOOTX64.EFI.extra.d/evil.raw", "loader/credentials/evil.cred", "loader/entries/evil.conf"} {
		require.NoError(t, system.Mkdir(filepath.Dir(name)))
		f, err := system.OpenFile(name, os.O_CREATE|os.O_RDWR)
		require.NoError(t, err)
		_, err = f.Write([]byte("options init=/bin/sh\n"))
		require.NoError(t, err)
		require.NoError(t, f.Close())
	}
}

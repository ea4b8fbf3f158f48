// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"sdbox/image/uki"
	"sdbox/internal/lab/usbsim"
	"sdbox/internal/lab/vm"
	"sdbox/internal/refusal"
	"sdbox/internal/tpm/tpmsim"

	"github.com/stretchr/testify/require"
)

// box is a machine that runs the image.
type box struct {
	*vm.VM
	t    *testing.T
	ctx  context.Context
	dir  string
	from int // lines of its log that were looked at
}

// switchOn starts the image's kernel without firmware, which takes 20 s less.
func switchOn(t *testing.T, image []byte, c vm.Config) *box {
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	t.Cleanup(cancel)
	dir, err := os.MkdirTemp("", "vm") // sockets want short paths
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	i, err := uki.Parse(image)
	require.NoError(t, err)
	c.Dir, c.Kernel, c.Initrd, c.EndOnReboot = dir, filepath.Join(dir, "linux"), filepath.Join(dir, "initrd"), true
	for n := range c.Extra {
		c.Extra[n] = strings.ReplaceAll(c.Extra[n], "DIR", dir)
	}
	c.CommandLine = strings.TrimRight(string(i.Section(uki.CommandLine)), "\x00\n")
	require.NoError(t, os.WriteFile(c.Kernel, i.Section(uki.Linux), 0o600))
	require.NoError(t, os.WriteFile(c.Initrd, i.Section(uki.Initrd), 0o600))
	if c.TPM != nil {
		c.TPM.Dir = filepath.Join(dir, "tpm")
	}
	v, err := vm.Start(ctx, c)
	require.NoError(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(strings.Join(v.Events.Lines(), "\n"))
		}
		require.NoError(t, v.Close())
	})
	return &box{VM: v, t: t, ctx: ctx, dir: dir}
}

// says waits for the next line of the box's log that holds all these words.
func (b *box) says(words ...string) string {
	b.t.Helper()
	line, next, err := b.Events.Await(b.ctx, b.from, func(line string) bool {
		for _, w := range words {
			if !strings.Contains(line, w) {
				return false
			}
		}
		return true
	})
	require.NoError(b.t, err, "%q", words)
	b.from = next
	return line
}

// do gives QEMU a command.
func (b *box) do(command string, pairs ...string) {
	b.t.Helper()
	arguments := map[string]string{}
	for i := 0; i+1 < len(pairs); i += 2 {
		arguments[pairs[i]] = pairs[i+1]
	}
	require.NoError(b.t, b.Command(b.ctx, command, arguments, nil))
}

// refuses plugs a device in that is only its descriptors, and pulls it out when the screen has said what it is.
func (b *box) refuses(descriptors []byte, code refusal.Code, why string) {
	b.t.Helper()
	device, err := usbsim.Parse(descriptors)
	require.NoError(b.t, err)
	ctx, out := context.WithCancel(b.ctx)
	defer out()
	pulled := make(chan error, 1)
	go func() { pulled <- device.Plug(ctx, filepath.Join(b.dir, "usb.sock")) }()
	b.says(`"usb refused"`, why)
	b.shows(code)
	out()
	require.NoError(b.t, <-pulled)
	b.says(`"over"`, `"code":"`+string(code))
}

// shows waits until the agent has refused by this code and the screen says it, words and suffix.
func (b *box) shows(code refusal.Code) {
	b.t.Helper()
	line := b.says(`"room":"agent"`, `"msg":"refused"`, `"code":"`+string(code)+`-`)
	b.reads(code, line)
}

// reads waits until the screen says what the refusal in this line of the log means.
func (b *box) reads(code refusal.Code, line string) {
	b.t.Helper()
	suffix := regexp.MustCompile(string(code) + "-(...)").FindStringSubmatch(line)
	require.Len(b.t, suffix, 2, line)
	title := letters(refusal.Refusal{Code: code}.Words(refusal.English).Title)
	for {
		picture, err := b.Picture(b.ctx)
		require.NoError(b.t, err)
		var ppm bytes.Buffer
		r := picture.Bounds()
		fmt.Fprintf(&ppm, "P6\n%d %d\n255\n", r.Dx(), r.Dy())
		for y := range r.Dy() {
			for x := range r.Dx() {
				c := picture.RGBAAt(x, y)
				ppm.Write([]byte{c.R, c.G, c.B})
			}
		}
		c := exec.CommandContext(b.ctx, "tesseract", "stdin", "stdout", "--psm", "11", "-l", "eng")
		c.Env, c.Stdin = append(os.Environ(), "OMP_THREAD_LIMIT=1"), &ppm
		text, err := c.Output()
		require.NoError(b.t, err, "%s was never read; the screen says %q", title, text)
		if strings.Contains(letters(string(text)), title) {
			return
		}
	}
}

// letters keeps what optical character recognition does not confuse.
func letters(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == 'l' || r == '1' || r == '|' || r == 'I' || r == 'i':
			return 'i'
		case r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z':
			return r | 0x20
		}
		return -1
	}, s)
}

// A box of the image whose centre cannot be reached: what goes in and out of it is all there is.
func TestRunningBoxTakesOnlyItsOwnPeripheralsAndSaysWhatIsMissing(t *testing.T) {
	folder := site(t)
	text, err := os.ReadFile(filepath.Join(folder, "site.toml"))
	require.NoError(t, err)
	named := strings.Replace(string(text), "10.0.2.2:443", "gw1.lab:443", 1)
	require.NoError(t, os.WriteFile(filepath.Join(folder, "site.toml"), []byte(named), 0o644))
	s, err := spec(folder)
	require.NoError(t, err)
	b, err := Build(t.Context(), s, t.TempDir())
	require.NoError(t, err)

	t.Run("plugged in and out while it runs", func(t *testing.T) {
		stick := filepath.Join(t.TempDir(), "stick")
		require.NoError(t, os.WriteFile(stick, make([]byte, 1<<20), 0o600))
		m := switchOn(t, b.UKI, vm.Config{NoNetwork: true, TPM: &tpmsim.Config{}, Extra: []string{
			"-global", "qemu-xhci.p2=8", "-drive", "if=none,id=stick,format=raw,file=" + stick, // eight ports: QEMU plugs a hub into the last
			"-netdev", "user,id=spare,restrict=on",
			"-chardev", "socket,id=usb,server=on,wait=off,path=DIR/usb.sock", "-device", "usb-redir,bus=usb.0,chardev=usb",
			"-netdev", "user,id=net,restrict=on,ipv6=off", "-device", "virtio-net-pci,netdev=net,id=card0,romfile=",
		}})
		m.says(`"msg":"usb"`, `"device":"08e6:4433"`, `"reader":true`)
		m.says(`"msg":"network"`, `"state":"up"`, "10.0.2.15/24")
		m.shows(refusal.NoName) // its resolver answers nothing

		m.do("device_add", "driver", "usb-storage", "id", "stick", "bus", "usb.0", "drive", "stick")
		m.says(`"usb refused"`, "a store")
		m.shows(refusal.DeviceRefused)
		m.do("device_del", "id", "stick")
		m.do("device_add", "driver", "usb-net", "id", "usbnet", "bus", "usb.0", "netdev", "spare")
		m.says(`"usb refused"`, "network adapter")
		m.shows(refusal.DeviceRefused)
		m.do("device_del", "id", "usbnet")

		m.refuses(usbsim.UnknownReader(), refusal.ReaderUnknown, "does not know")
		m.refuses(usbsim.Both(usbsim.Keyboard(), usbsim.Stick()), refusal.DeviceRefused, "a store")

		require.NoError(t, m.Events.AwaitText(m.ctx, `"card reader came"`))
		m.do("device_del", "id", "reader")
		m.says(`"card reader went"`)
		m.shows(refusal.ReaderLost)
		m.do("device_add", "driver", "usb-ccid", "id", "reader", "bus", "usb.0")
		m.do("device_add", "driver", "ccid-card-passthru", "bus", "reader.0", "chardev", "card")
		m.says(`"msg":"usb"`, `"reader":true`)
		m.says(`"card reader came"`)
		m.says(`"over"`, `"code":"`+string(refusal.ReaderLost))

		require.NoError(t, m.Plug(m.ctx, false))
		m.shows(refusal.NoCable)
		require.NoError(t, m.Plug(m.ctx, true))
		m.says(`"msg":"network"`, `"state":"up"`)
	})
	t.Run("without a network adapter, then with one that nobody answers to", func(t *testing.T) {
		m := switchOn(t, b.UKI, vm.Config{NoNetwork: true, TPM: &tpmsim.Config{}, Extra: []string{
			"-device", "pcie-root-port,id=socket0", "-netdev", "hubport,hubid=9,id=silent",
		}})
		m.shows(refusal.NoAdapter)
		m.do("device_add", "driver", "virtio-net-pci", "id", "card1", "bus", "socket0", "netdev", "silent")
		m.shows(refusal.NoAddress)
	})
	t.Run("without a TPM", func(t *testing.T) {
		m := switchOn(t, b.UKI, vm.Config{NoNetwork: true})
		m.reads(refusal.NoChip, m.says(`"msg":"no TPM"`))
	})
}

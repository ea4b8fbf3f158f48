// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"sdbox/firmware/efivar"
	"sdbox/firmware/eventlog"
	"sdbox/firmware/reference"
	"sdbox/firmware/release"

	"github.com/stretchr/testify/require"
)

const (
	globalVendor = "-8be4df61-93ca-11d2-aa0d-00e098032b8c"
	slotSize     = 64 << 10
)

// house is a machine's disk and variables as Linux shows them, and an installer at work on it.
type house struct {
	t     *testing.T
	root  string
	files *efivar.Files
	*installer
	told    []Event
	said    chan Event
	secrets []string
}

func newHouse(t *testing.T) *house {
	h := &house{t: t, root: t.TempDir(), said: make(chan Event, 200)}
	table := make([]byte, 4096)
	copy(table[512:], "EFI PART")
	table[512+72], table[512+80], table[512+84] = 2, 2, 128
	for i, label := range []string{"sdbox-a", "sdbox-b"} {
		entry := table[1024+128*i:]
		binary.LittleEndian.PutUint64(entry[32:], 64)
		binary.LittleEndian.PutUint64(entry[40:], 64+slotSize/512-1)
		node := fmt.Sprint("vda", i+1)
		h.write("sys/devices/vda/"+node+"/uevent", []byte("PARTNAME="+label+"\n"))
		h.write("sys/devices/vda/"+node+"/partition", []byte(fmt.Sprintln(i+1)))
		h.write("dev/"+node, bytes.Repeat([]byte{byte(i + 1)}, slotSize))
		h.write("sys/class/block/.keep", nil)
		require.NoError(t, os.Symlink(filepath.Join(h.root, "sys/devices/vda", node), filepath.Join(h.root, "sys/class/block", node)))
	}
	h.write("sys/devices/vda/queue/logical_block_size", []byte("512\n"))
	h.write("dev/vda", table)
	h.write("efivars/.keep", nil)
	h.files = efivar.Open(filepath.Join(h.root, "efivars"))
	keys := "threshold 2\n"
	for i := range 2 {
		secret, public, err := reference.GenerateKey(fmt.Sprint("release-", i, ".lab"))
		require.NoError(t, err)
		h.secrets, keys = append(h.secrets, secret), keys+public+"\n"
	}
	h.write("release.pub", []byte(keys))
	h.boot(0x5D0A, "2026.11.20")
	return h
}

func (h *house) write(path string, b []byte) {
	path = filepath.Join(h.root, path)
	require.NoError(h.t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(h.t, os.WriteFile(path, b, 0o644))
}

// boot is a start from a slot, by a firmware that forgets BootNext.
func (h *house) boot(entry uint16, version string) {
	require.NoError(h.t, h.files.Remove("BootNext"+globalVendor))
	require.NoError(h.t, h.files.Write("BootCurrent"+globalVendor, binary.LittleEndian.AppendUint16(nil, entry)))
	h.told = nil
	h.installer = newInstaller(slog.New(slog.DiscardHandler), Settings{Model: "qemu", Version: version, Release: Release{Minimum: version}},
		filepath.Join(h.root, "release.pub"), h.files, func(e Event) { h.told = append(h.told, e) }, func(e Event) { h.said <- e })
	h.sys, h.dev, h.ready = filepath.Join(h.root, "sys"), filepath.Join(h.root, "dev"), true
	h.measured = filepath.Join(h.root, "log")
	h.look()
}

// release makes a release of an image and its full file.
func (h *house) release(image []byte, change func(*release.Release), secrets ...string) (note, file []byte) {
	var b bytes.Buffer
	require.NoError(h.t, release.Encode(&b, image, nil))
	named := func(b []byte) release.Digest { return release.Digest{SHA256: sha256.Sum256(b), Size: int64(len(b))} }
	r := release.Release{Model: "qemu", Version: "2026.11.24", Minimum: "2026.11.24", Expires: time.Now().Add(time.Hour).Truncate(time.Second),
		Image: named(image), UKI: named(image), Full: named(b.Bytes()), PCRs: []reference.PCR{{Index: 4}}}
	change(&r)
	note, err := release.Sign(r, secrets...)
	require.NoError(h.t, err)
	return note, b.Bytes()
}

// send plays the agent: it asks for an installation and brings the file.
func (h *house) send(note, file []byte) *Update {
	r, w, err := os.Pipe()
	require.NoError(h.t, err)
	h.told = nil
	h.install(install{Note: note}, r)
	_, _ = w.Write(file) // nobody may be reading any more
	require.NoError(h.t, w.Close())
	if h.ending != nil {
		h.ended(<-h.ending)
	}
	require.NotEmpty(h.t, h.told)
	return h.told[len(h.told)-1].Update
}

func (h *house) variable(name string) string {
	value, err := h.files.Read(name + globalVendor)
	if err != nil {
		return ""
	}
	return hex.EncodeToString(value)
}

func TestReleaseIsInstalledTriedAndCommittedByItsHealth(t *testing.T) {
	h := newHouse(t)
	require.Equal(t, &System{Model: "qemu", Version: "2026.11.20"}, h.told[0].System)
	image := bytes.Repeat([]byte("a new system of the box, "), 3000)[:slotSize]
	note, file := h.release(image, func(*release.Release) {}, h.secrets...)
	require.Equal(t, &Update{Installed: true}, h.send(note, file))
	require.NotEmpty(t, h.said, "how far it is")
	require.Equal(t, "0b5d", h.variable("BootNext"))
	got, err := os.ReadFile(filepath.Join(h.root, "dev/vda2"))
	require.NoError(t, err)
	require.Equal(t, image, got)

	h.boot(0x5D0B, "2026.11.24")
	require.True(t, h.told[0].System.Trial)
	for _, p := range gate()[1:] {
		h.healthy(p)
		h.healthy("luck")
	}
	require.Equal(t, "0a5d0b5d", h.variable("BootOrder"), "one part is missing")
	require.NoError(t, h.overdue(gateTime-1))
	require.ErrorIs(t, h.overdue(gateTime), errRestart)
	h.healthy(ReaderSeen)
	require.Equal(t, "0b5d0a5d", h.variable("BootOrder"))
	require.NoError(t, h.overdue(2*gateTime))

	h.boot(0x5D0B, "2026.11.24")
	require.Equal(t, &System{Model: "qemu", Version: "2026.11.24"}, h.told[0].System)
	require.Contains(t, h.send(note, file).Error, release.ErrSame.Error())
}

// firmwareLog is the log of a start in which these actions went into register 4.
func (h *house) firmwareLog(actions ...string) {
	log := &eventlog.Log{}
	for _, a := range actions {
		log.Events = append(log.Events, eventlog.Event{PCR: 4, Type: 0x80000007, Digest: sha256.Sum256([]byte(a)), Data: []byte(a)})
	}
	h.write("log", log.Encode())
}

// A firmware that refuses the new system starts the old one in the same breath, and has measured both.
func TestFirmwareThatRefusedANewSystemIsStartedOnceMore(t *testing.T) {
	h := newHouse(t)
	note, file := h.release(make([]byte, slotSize), func(*release.Release) {}, h.secrets...)
	require.True(t, h.send(note, file).Installed)
	h.firmwareLog(calling)
	h.boot(0x5D0A, "2026.11.20")
	require.NoError(t, h.overdue(0), "it fell back by a start of its own: a panic, a power cut")
	h.firmwareLog(calling, returned, calling)
	h.boot(0x5D0A, "2026.11.20")
	require.ErrorIs(t, h.overdue(0), errRestart)
	h.boot(0x5D0A, "2026.11.20")
	require.NoError(t, h.overdue(0), "a firmware that always tries something else first is not started again and again")

	require.True(t, h.send(note, file).Installed, "a second try")
	h.boot(0x5D0A, "2026.11.20")
	require.ErrorIs(t, h.overdue(0), errRestart)
	require.True(t, h.send(note, file).Installed, "a third, which starts")
	h.boot(0x5D0B, "2026.11.24")
	require.NoError(t, h.overdue(0))
	h.write("log", []byte("no log"))
	h.boot(0x5D0A, "2026.11.20")
	require.NoError(t, h.overdue(0))
}

const calling = "Calling EFI Application from Boot Option"

func TestPID1TakesNoReleaseThatItDoesNotVerifyItself(t *testing.T) {
	h := newHouse(t)
	image := make([]byte, slotSize)
	for name, c := range map[string]struct {
		change  func(*release.Release)
		secrets []string
		cut     int
		want    error
	}{
		"too few keys":  {func(*release.Release) {}, h.secrets[:1], 0, reference.ErrUnsigned},
		"another model": {func(r *release.Release) { r.Model = "generic" }, h.secrets, 0, release.ErrModel},
		"expired":       {func(r *release.Release) { r.Expires = time.Unix(1700000000, 0) }, h.secrets, 0, release.ErrExpired},
		"older":         {func(r *release.Release) { r.Version, r.Minimum = "2026.11.19", "2026.1.1" }, h.secrets, 0, release.ErrOlder},
		"cut off":       {func(*release.Release) {}, h.secrets, 1, release.ErrTransfer},
	} {
		note, file := h.release(image, c.change, c.secrets...)
		require.Contains(t, h.send(note, file[:len(file)-c.cut]).Error, c.want.Error(), name)
		require.Empty(t, h.variable("BootNext"), name)
	}
	got, err := os.ReadFile(filepath.Join(h.root, "dev/vda2"))
	require.NoError(t, err)
	require.Equal(t, bytes.Repeat([]byte{2}, slotSize), got, "the idle slot was touched")

	note, _ := h.release(image, func(*release.Release) {}, h.secrets...)
	plain, err := os.Open(filepath.Join(h.root, "release.pub"))
	require.NoError(t, err)
	h.install(install{Note: note}, plain)
	require.NotEmpty(t, h.told[len(h.told)-1].Update.Error, "what is no pipe cannot be given up")

	require.NoError(t, os.Remove(filepath.Join(h.root, "release.pub")))
	h.boot(0x5D0A, "2026.11.20")
	require.Contains(t, h.send(note, nil).Error, "takes no releases")
}

// SPDX-License-Identifier: Apache-2.0

package predict_test

import (
	"bytes"
	"crypto/sha256"
	"debug/pe"
	"encoding/binary"
	"slices"
	"testing"
	"time"
	"unicode/utf16"

	"sdbox/firmware/efivar"
	"sdbox/image/keys"
	"sdbox/image/predict"
	"sdbox/image/uki"
	"sdbox/image/uki/ukitest"

	"github.com/stretchr/testify/require"
)

// second is the other predictor. It is written from the specifications alone: nothing of the first is in it, nor of the rooms that the
// first builds on. It reads the file with the standard library's PE reader.
type second struct {
	t   *testing.T
	raw []byte
	pe  *pe.File
}

func newSecond(t *testing.T, raw []byte) second {
	f, err := pe.NewFile(bytes.NewReader(raw))
	require.NoError(t, err)
	return second{t, raw, f}
}

// replay is what a register holds after these digests (TCG PFP 1.06, 3.3.4).
func replay(digests ...[32]byte) (r [32]byte) {
	for _, d := range digests {
		h := sha256.New()
		h.Write(r[:])
		h.Write(d[:])
		h.Sum(r[:0])
	}
	return r
}

func text(s string) [32]byte { return sha256.Sum256([]byte(s)) }

// authenticode follows the 15 steps of "Calculating the PE Image Hash" to the letter, sections sorted and sizes summed.
func authenticode(t *testing.T, raw []byte) [32]byte {
	f, err := pe.NewFile(bytes.NewReader(raw))
	require.NoError(t, err)
	optional := f.OptionalHeader.(*pe.OptionalHeader64)
	coff := int(binary.LittleEndian.Uint32(raw[0x3c:])) + 4
	checksum, directory := coff+20+64, coff+20+112+4*8
	h := sha256.New()
	h.Write(raw[:checksum])
	h.Write(raw[checksum+4 : directory])
	h.Write(raw[directory+8 : optional.SizeOfHeaders])
	sum := int(optional.SizeOfHeaders)
	sections := slices.Clone(f.Sections)
	slices.SortFunc(sections, func(a, b *pe.Section) int { return int(a.Offset) - int(b.Offset) })
	for _, s := range sections {
		h.Write(raw[s.Offset : s.Offset+s.Size])
		sum += int(s.Size)
	}
	if rest := len(raw) - int(optional.DataDirectory[4].Size) - sum; rest > 0 {
		h.Write(raw[sum : sum+rest])
	}
	return [32]byte(h.Sum(nil))
}

func (s second) data(name string) []byte {
	section := s.pe.Section(name)
	require.NotNil(s.t, section, name)
	return s.raw[section.Offset : section.Offset+section.VirtualSize]
}

// variable is the digest of UEFI_VARIABLE_DATA; guid as its bytes lie in memory.
func variable(guid, name string, data []byte) [32]byte {
	var b bytes.Buffer
	b.WriteString(guid)
	wide := utf16.Encode([]rune(name))
	for _, part := range []any{uint64(len(wide)), uint64(len(data)), wide, data} {
		_ = binary.Write(&b, binary.LittleEndian, part)
	}
	return sha256.Sum256(b.Bytes())
}

// registers of an image started with Secure Boot on when there are keys. entry is the EFI_SIGNATURE_DATA in db that let it start.
func (s second) registers(pk, kek, db, dbx, entry []byte) map[uint8][32]byte {
	const (
		global   = "\x61\xdf\xe4\x8b\xca\x93\xd2\x11\xaa\x0d\x00\xe0\x98\x03\x2b\x8c"
		security = "\xcb\xb2\x19\xd7\x3a\x3d\x96\x45\xa3\xbc\xda\xd0\x0e\x67\x65\x6f"
	)
	separator := text("\x00\x00\x00\x00")
	on := []byte{0}
	programs := [][32]byte{text("Calling EFI Application from Boot Option"), separator, authenticode(s.t, s.raw)}
	if pk == nil {
		programs = append(programs, authenticode(s.t, s.data(".linux")))
	} else {
		on[0] = 1
	}
	policy := [][32]byte{variable(global, "SecureBoot", on), variable(global, "PK", pk), variable(global, "KEK", kek),
		variable(security, "db", db), variable(security, "dbx", dbx), separator}
	if pk != nil {
		policy = append(policy, variable(security, "db", entry))
	}
	var line bytes.Buffer
	_ = binary.Write(&line, binary.LittleEndian, append(utf16.Encode([]rune(string(s.data(".cmdline")))), 0))
	return map[uint8][32]byte{
		4: replay(programs...), 7: replay(policy...), 9: replay(text(line.String()), text(string(s.data(".initrd")))),
		11: replay(text(".linux\x00"), text(string(s.data(".linux"))), text(".osrel\x00"), text(string(s.data(".osrel"))),
			text(".cmdline\x00"), text(string(s.data(".cmdline"))), text(".initrd\x00"), text(string(s.data(".initrd")))),
		12: {}, 13: {},
	}
}

type site struct {
	pairs map[string]keys.Pair
	lists map[string][]byte
	owner efivar.GUID
}

func newSite(t *testing.T) site {
	s := site{map[string]keys.Pair{}, map[string][]byte{}, efivar.GUID{1, 2, 3}}
	for _, name := range []string{keys.PK, keys.KEK, keys.DB, keys.Dev} {
		p, err := keys.Generate("test", name, time.Now())
		require.NoError(t, err)
		s.pairs[name] = p
		s.lists[name], err = efivar.Lists(efivar.Signature{Kind: efivar.KindX509, Owner: s.owner, Data: p.Certificate.Raw})
		require.NoError(t, err)
	}
	return s
}

func (s site) signed(t *testing.T, spec uki.Spec, name string) *uki.Image {
	raw, err := uki.Assemble(spec)
	require.NoError(t, err)
	raw, err = uki.Sign(raw, s.pairs[name].Key, s.pairs[name].Certificate)
	require.NoError(t, err)
	i, err := uki.Parse(raw)
	require.NoError(t, err)
	return i
}

func spec() uki.Spec {
	return ukitest.Spec("252.39-1~deb12u2", "quiet lockdown=confidentiality", bytes.Repeat([]byte("initramfs"), 1000))
}

func TestTwoPredictorsAgree(t *testing.T) {
	s := newSite(t)
	raw, err := uki.Assemble(spec())
	require.NoError(t, err)
	raw, err = uki.Sign(raw, s.pairs[keys.DB].Key, s.pairs[keys.DB].Certificate)
	require.NoError(t, err)
	i, err := uki.Parse(raw)
	require.NoError(t, err)
	forbidden, err := efivar.Lists(efivar.Signature{Kind: efivar.KindSHA256, Owner: s.owner, Data: make([]byte, 32)})
	require.NoError(t, err)
	both := append(bytes.Clone(s.lists[keys.Dev]), s.lists[keys.DB]...) // the entry that lets the image start is not the first
	entry := append(s.owner[:], s.pairs[keys.DB].Certificate.Raw...)
	for name, f := range map[string]predict.Firmware{
		"without keys": {},
		"keys":         {PK: s.lists[keys.PK], KEK: s.lists[keys.KEK], DB: s.lists[keys.DB]},
		"two in db":    {PK: s.lists[keys.PK], KEK: s.lists[keys.KEK], DB: both},
		"with dbx":     {PK: s.lists[keys.PK], KEK: s.lists[keys.KEK], DB: s.lists[keys.DB], DBX: forbidden},
	} {
		first, err := predict.Registers(i, f)
		require.NoError(t, err, name)
		want := newSecond(t, raw).registers(f.PK, f.KEK, f.DB, f.DBX, entry)
		require.Len(t, first, len(want))
		for _, p := range first {
			require.Equal(t, want[p.Index], p.Digest, "%s: register %d", name, p.Index)
		}
	}
}

// Each register moves with what it stands for, and with nothing else: the initramfs of another image is told apart by 4, 9 and 11.
func TestRegistersMoveWithWhatTheyMeasure(t *testing.T) {
	s := newSite(t)
	f := predict.Firmware{PK: s.lists[keys.PK], KEK: s.lists[keys.KEK], DB: s.lists[keys.DB]}
	base, err := predict.Registers(s.signed(t, spec(), keys.DB), f)
	require.NoError(t, err)
	for name, c := range map[string]struct {
		change func(*uki.Spec)
		moved  []uint8
	}{
		"initramfs":    {func(s *uki.Spec) { s.Initrd = []byte("other") }, []uint8{4, 9, 11}},
		"command line": {func(s *uki.Spec) { s.CommandLine += " debug" }, []uint8{4, 9, 11}},
		"kernel":       {func(s *uki.Spec) { s.Linux = append(s.Linux, make([]byte, 512)...) }, []uint8{4, 11}},
		"os-release":   {func(s *uki.Spec) { s.OSRelease = []byte("ID=other\n") }, []uint8{4, 11}},
		"uname":        {func(s *uki.Spec) { s.Uname = "6.12.118" }, []uint8{4}},
		"build time":   {func(s *uki.Spec) { s.Built = s.Built.Add(time.Second) }, []uint8{4}},
	} {
		spec := spec()
		c.change(&spec)
		now, err := predict.Registers(s.signed(t, spec, keys.DB), f)
		require.NoError(t, err)
		var moved []uint8
		for n := range now {
			if now[n].Digest != base[n].Digest {
				moved = append(moved, now[n].Index)
			}
		}
		require.Equal(t, c.moved, moved, name)
	}
}

func TestWhatCannotBePredictedIsAnError(t *testing.T) {
	s := newSite(t)
	i := s.signed(t, spec(), keys.DB)
	program := i.Digest()
	list := func(kind string, data []byte) []byte {
		l, err := efivar.Lists(efivar.Signature{Kind: kind, Owner: s.owner, Data: data})
		require.NoError(t, err)
		return l
	}
	good := predict.Firmware{PK: s.lists[keys.PK], KEK: s.lists[keys.KEK], DB: s.lists[keys.DB]}
	for name, change := range map[string]func(*predict.Firmware){
		"development keys":       func(f *predict.Firmware) { f.DB = s.lists[keys.Dev] },
		"empty db":               func(f *predict.Firmware) { f.DB = nil },
		"only a hash":            func(f *predict.Firmware) { f.DB = list(efivar.KindSHA256, program[:]) },
		"forbidden hash":         func(f *predict.Firmware) { f.DBX = list(efivar.KindSHA256, program[:]) },
		"forbidden certificate":  func(f *predict.Firmware) { f.DBX = f.DB },
		"certificate of nothing": func(f *predict.Firmware) { f.DB = list(efivar.KindX509, []byte("x")) },
	} {
		f := good
		change(&f)
		_, err := predict.Registers(i, f)
		require.ErrorIs(t, err, predict.ErrRefused, name)
	}
	for _, f := range []predict.Firmware{{PK: good.PK, DB: []byte("x")}, {PK: good.PK, DB: good.DB, DBX: []byte("x")}} {
		_, err := predict.Registers(i, f)
		require.ErrorContains(t, err, "cut off")
	}
	later := spec()
	later.Stub = ukitest.Stub("257.7-1")
	_, err := predict.Registers(s.signed(t, later, keys.DB), good)
	require.ErrorContains(t, err, "what systemd-stub 257.7-1 measures is not known")
	for _, name := range []string{".pcrsig\x00", ".pcrpkey"} {
		sealed := spec()
		sealed.Stub = bytes.Replace(sealed.Stub, []byte(".data\x00\x00\x00"), []byte(name), 1)
		_, err = predict.Registers(s.signed(t, sealed, keys.DB), good)
		require.ErrorContains(t, err, "an initramfs of its own making")
	}
	broken := spec()
	broken.Linux = []byte("no PE at all")
	_, err = predict.Registers(s.signed(t, broken, keys.DB), predict.Firmware{})
	require.ErrorContains(t, err, "kernel in the image")
}

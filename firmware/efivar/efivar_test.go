// SPDX-License-Identifier: Apache-2.0

package efivar

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestGUIDIsReadAndWrittenAsItLiesInMemory(t *testing.T) {
	const text = "d719b2cb-3d3a-4596-a3bc-dad00e67656f"
	g, err := ParseGUID(text)
	require.NoError(t, err)
	require.Equal(t, "cbb219d73a3d9645a3bcdad00e67656f", hex.EncodeToString(g[:])) // UEFI 2.10, appendix A
	require.Equal(t, text, g.String())
	for _, bad := range []string{"", text[1:], text + "0", "d719b2cb3d3a4596a3bcdad00e67656f", "-719b2cb-3d3a-4596-a3bc-dad00e67656f", "x" + text[1:], "d719b2cb3-d3a-4596-a3bc-dad00e67656f"} {
		_, err := ParseGUID(bad)
		require.Error(t, err, bad)
	}
}

func TestMeasuredVariableIsThatOfTheLog(t *testing.T) {
	// What OVMF of Debian 12 measures of a machine with Secure Boot on and without one.
	data, err := Measured(SecureBoot, []byte{1})
	require.NoError(t, err)
	require.Equal(t, "61dfe48bca93d211aa0d00e098032b8c0a00000000000000010000000000000053006500630075007200650042006f006f00740001", hex.EncodeToString(data))
	data, err = Measured(DBX, nil)
	require.NoError(t, err)
	require.Equal(t, "cbb219d73a3d9645a3bcdad00e67656f03000000000000000000000000000000640062007800", hex.EncodeToString(data))
	for _, bad := range []string{"", "PK", "../PK" + global, "PK-" + global, "PK" + global + "/x", "P\x00K" + global} {
		_, err := Measured(bad, nil)
		require.Error(t, err, bad)
	}
}

func TestListsAreReadBack(t *testing.T) {
	owner := GUID{1, 2, 3}
	want := []Signature{
		{KindX509, owner, []byte("certificate")}, {KindSHA256, GUID{9}, bytes.Repeat([]byte{7}, 32)}, {KindX509, owner, []byte("another")},
	}
	value, err := Lists(want...)
	require.NoError(t, err)
	got, err := ParseLists(value)
	require.NoError(t, err)
	require.Equal(t, want, got)

	// One list of three hashes behind a header of five bytes, as firmware makes them.
	kind, err := ParseGUID(KindSHA256)
	require.NoError(t, err)
	list := append([]byte(nil), kind[:]...)
	list = append(list, 28+5+3*48, 0, 0, 0, 5, 0, 0, 0, 48, 0, 0, 0, 'h', 'e', 'a', 'd', 's')
	list = append(list, bytes.Repeat([]byte{1}, 3*48)...)
	got, err = ParseLists(append(value, list...))
	require.NoError(t, err)
	require.Len(t, got, 6)
	require.Equal(t, bytes.Repeat([]byte{1}, 48), got[5].Bytes())

	_, err = Lists(Signature{"x", owner, []byte("y")})
	require.Error(t, err)
	_, err = Lists(Signature{KindX509, owner, nil})
	require.Error(t, err)
}

func TestListsThatLieAboutTheirSizeAreRefused(t *testing.T) {
	value, err := Lists(Signature{KindX509, GUID{}, []byte("certificate")})
	require.NoError(t, err)
	for n := 1; n < len(value); n++ {
		_, err := ParseLists(value[:n])
		require.Error(t, err, "cut off at %d", n)
	}
	for _, c := range []struct {
		at    int
		value uint32
	}{{16, 0}, {16, 27}, {16, 28}, {16, 0xffffffff}, {20, 1}, {20, 0xffffffff}, {24, 0}, {24, 16}, {24, 26}, {24, 0xffffffff}} {
		b := bytes.Clone(value)
		binary.LittleEndian.PutUint32(b[c.at:], c.value)
		got, err := ParseLists(b)
		if c.at == 16 && c.value == 28 {
			require.Error(t, err, "what is behind an empty list is no list")
		}
		require.Error(t, err, "%+v gives %v", c, got)
	}
	_, err = ParseLists(make([]byte, MaxLists+1))
	require.ErrorContains(t, err, "limit")
}

func TestChangeIsWhatTheFirmwareChecks(t *testing.T) {
	c := Change{Name: DB, Value: []byte("lists"), Time: time.Date(2026, 11, 24, 14, 5, 6, 999, time.FixedZone("CET", 3600))}
	const when = "ea070b180d0506000000000000000000" // EFI_TIME, UEFI 2.10, 8.3
	message, err := c.Message()
	require.NoError(t, err)
	require.Equal(t, "64006200"+"cbb219d73a3d9645a3bcdad00e67656f"+"27000000"+when+"6c69737473", hex.EncodeToString(message))
	signed, err := c.Signed([]byte("pkcs7"))
	require.NoError(t, err)
	require.Equal(t, when+"1d0000000002f10e"+"9dd2af4adf68ee498aa9347d375665a7"+"706b637337"+"6c69737473", hex.EncodeToString(signed))
	_, err = Change{Name: "db"}.Message()
	require.Error(t, err)
}

// The folder is an ordinary one: what efivarfs does beyond it was seen on a machine in QEMU.
func TestVariablesAreFilesWithTheirAttributesBeforeThem(t *testing.T) {
	dir := t.TempDir()
	v := Open(dir)
	const name = "BootNext" + global
	_, err := v.Read(name)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.NoError(t, v.Remove(name))
	require.NoError(t, v.Write(name, []byte{0x0b, 0x5d}))
	raw, err := os.ReadFile(filepath.Join(dir, name))
	require.NoError(t, err)
	require.Equal(t, []byte{7, 0, 0, 0, 0x0b, 0x5d}, raw)
	got, err := v.Read(name)
	require.NoError(t, err)
	require.Equal(t, []byte{0x0b, 0x5d}, got)
	require.NoError(t, v.Remove(name))
	require.NoFileExists(t, filepath.Join(dir, name))

	require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte{7, 0}, 0o600))
	_, err = v.Read(name)
	require.ErrorContains(t, err, "attributes")
	for _, bad := range []string{"../x" + global, "BootNext", ""} {
		_, err := v.Read(bad)
		require.ErrorContains(t, err, "want NAME-GUID")
		require.ErrorContains(t, v.Write(bad, nil), "want NAME-GUID")
		require.ErrorContains(t, v.Remove(bad), "want NAME-GUID")
	}
	require.Error(t, Open(filepath.Join(dir, "none")).Write(name, nil))
}

func TestOnlyAMachineInSetupModeIsEnrolled(t *testing.T) {
	keys := Enrolment{DB: []byte("db.auth"), KEK: []byte("KEK.auth"), PK: []byte("PK.auth")}
	for mode, wants := range map[string]error{"\x06\x00\x00\x00\x00": ErrEnrolled, "\x06\x00\x00\x00": ErrEnrolled, "": fs.ErrNotExist, "\x06\x00\x00\x00\x01": nil} {
		dir := t.TempDir()
		if mode != "" {
			require.NoError(t, os.WriteFile(filepath.Join(dir, SetupMode), []byte(mode), 0o600))
		}
		err := Open(dir).Enrol(keys)
		if wants != nil {
			require.ErrorIs(t, err, wants)
			require.NoFileExists(t, filepath.Join(dir, DB))
			continue
		}
		require.NoError(t, err)
		for name, value := range map[string]string{DB: "db.auth", KEK: "KEK.auth", PK: "PK.auth"} {
			raw, err := os.ReadFile(filepath.Join(dir, name))
			require.NoError(t, err)
			require.Equal(t, "\x27\x00\x00\x00"+value, string(raw))
		}
	}
	// A firmware that refuses one of them keeps setup mode: PK is not written.
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, SetupMode), []byte("\x06\x00\x00\x00\x01"), 0o600))
	require.NoError(t, os.Mkdir(filepath.Join(dir, KEK), 0o700))
	require.Error(t, Open(dir).Enrol(keys))
	require.NoFileExists(t, filepath.Join(dir, PK))
}

// FuzzParseLists: whatever is taken for lists is as long as they say, and written anew it says the same.
func FuzzParseLists(f *testing.F) {
	value, err := Lists(Signature{KindX509, GUID{1}, []byte("certificate")}, Signature{KindSHA256, GUID{2}, make([]byte, 32)})
	require.NoError(f, err)
	f.Add(value)
	f.Add(value[:20])
	f.Add(bytes.Replace(value, []byte{28 + 27, 0}, []byte{28 + 28, 0}, 1))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := ParseLists(b)
		if err != nil {
			return
		}
		again, err := Lists(got...)
		require.NoError(t, err)
		same, err := ParseLists(again)
		if len(again) <= MaxLists {
			require.NoError(t, err)
			require.Equal(t, len(got), len(same))
		}
	})
}

// FuzzNames: no name leads out of the folder.
func FuzzNames(f *testing.F) {
	f.Add(PK)
	f.Add("../../etc/passwd" + global)
	f.Add("PK-d719b2cb-3d3a-4596-a3bc-dad00e67656g")
	f.Fuzz(func(t *testing.T, name string) {
		path, err := Open("/vars").path(name)
		if err == nil {
			require.Equal(t, "/vars/"+name, path)
			require.NotContains(t, name, "/")
		}
	})
}

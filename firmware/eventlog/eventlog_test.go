// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Logs of one virtual machine, which internal/tpm/tpmsim tells of: oneBank of a TPM with the bank SHA-256 alone, threeBanks of one with
// SHA-1, SHA-256 and SHA-384. Beside each stand the registers as the kernel read them from the TPM.
const (
	oneBank    = "../../internal/tpm/tpmsim/boot.log"
	threeBanks = "testdata/three-banks.log"
)

func recorded(t testing.TB, name string) ([]byte, map[uint8][32]byte) {
	t.Helper()
	raw, err := os.ReadFile(name)
	require.NoError(t, err)
	text, err := os.ReadFile(map[string]string{oneBank: "../../internal/tpm/tpmsim/testdata/registers.txt", threeBanks: "testdata/three-banks.txt"}[name])
	require.NoError(t, err)
	registers := map[uint8][32]byte{}
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		var index uint8
		var digest string
		_, err := fmt.Sscanf(lines.Text(), "%d %64s", &index, &digest)
		require.NoError(t, err)
		value, err := hex.DecodeString(digest)
		require.NoError(t, err)
		registers[index] = [32]byte(value)
	}
	return raw, registers
}

func TestRecordedLogsReplayToTheRegistersTheirTPMHeld(t *testing.T) {
	for name, size := range map[string]int{oneBank: 6766, threeBanks: 9294} {
		raw, registers := recorded(t, name)
		require.Equal(t, size, len(raw))
		log, err := Read(name)
		require.NoError(t, err)
		require.Equal(t, 35, len(log.Events))
		values := log.Replay()
		require.Len(t, registers, 14)
		for index, value := range registers {
			require.Equal(t, value, values[index], "%s: register %d", name, index)
		}
		again, err := Parse(log.Encode())
		require.NoError(t, err)
		require.Equal(t, log, again)
	}
	raw, _ := recorded(t, oneBank)
	log, err := Parse(raw)
	require.NoError(t, err)
	require.Equal(t, raw, log.Encode(), "of one bank there is nothing to leave out")
	_, err = Read("testdata/none.log")
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestEventsAreNamedForPeople(t *testing.T) {
	raw, _ := recorded(t, oneBank)
	log, err := Parse(raw)
	require.NoError(t, err)
	var names []string
	for _, e := range log.Events {
		names = append(names, fmt.Sprintf("%d %s", e.PCR, e))
	}
	for _, want := range []string{"0 EV_S_CRTM_VERSION", "0 EV_EFI_PLATFORM_FIRMWARE_BLOB", "7 EV_EFI_VARIABLE_DRIVER_CONFIG SecureBoot", "1 EV_EFI_VARIABLE_BOOT BootOrder",
		"1 EV_EFI_VARIABLE_BOOT Boot0001", "4 EV_EFI_ACTION Calling EFI Application from Boot Option", "6 EV_SEPARATOR", "7 EV_EFI_VARIABLE_AUTHORITY db",
		"11 EV_IPL .linux", "9 EV_EVENT_TAG Linux initrd", "5 EV_EFI_ACTION Exit Boot Services Returned with Success"} {
		require.Contains(t, names, want)
	}
	require.Equal(t, "event 0x800000ff", Event{Type: 0x800000ff, Data: []byte("\x1b[2Jred")}.String(), "no letter a terminal obeys")
	require.Equal(t, "EV_EFI_GPT_EVENT2", Type(0x8000000d).String())
}

// put builds events by hand.
func put(parts ...any) []byte {
	var out []byte
	for _, p := range parts {
		switch p := p.(type) {
		case string:
			out = append(out, p...)
		case []byte:
			out = append(out, p...)
		case uint16:
			out = binary.LittleEndian.AppendUint16(out, p)
		case int:
			out = binary.LittleEndian.AppendUint32(out, uint32(p))
		}
	}
	return out
}

func header(banks ...any) []byte {
	spec := put(append([]any{specID, make([]byte, 8)}, banks...)...)
	return put(0, 3, make([]byte, 20), len(spec), spec)
}

func one(pcr int, kind Type, data string) []byte {
	return put(pcr, int(kind), 1, uint16(0xb), make([]byte, 32), len(data), data)
}

// hostile are logs that must be refused, each with a word of why.
func hostile() map[string][]byte {
	good := header(1, uint16(0xb), uint16(32), "\x00")
	many := bytes.Clone(good)
	for range MaxEvents + 1 {
		many = append(many, one(4, 4, "")...)
	}
	return map[string][]byte{
		"it ends early: ":        nil,
		"it ends early:  ":       good[:40],
		"over 65536 bytes":       make([]byte, MaxLog+1),
		"over 1024 events":       many,
		"want a crypto-agile":    put(0, 8, make([]byte, 20), 4, "abcd"),
		"hashes, limit":          header(0x7fffffff),
		"with digests of 0":      header(1, uint16(0xb), uint16(0), "\x00"),
		"with digests of 20":     header(1, uint16(0xb), uint16(20), "\x00"),
		"with digests of 65535":  header(1, uint16(4), uint16(0xffff), "\x00"),
		"with digests of 32":     header(2, uint16(0xb), uint16(32), uint16(0xb), uint16(32), "\x00"),
		"no SHA-256 digests":     header(1, uint16(4), uint16(20), "\x00"),
		"more or less than":      header(1, uint16(0xb), uint16(32), "\x05abc"),
		"header: it ends early":  header(1, uint16(0xb), uint16(32)),
		"header: data of":        put(0, 3, make([]byte, 20), 0x7fffffff),
		"data of 4294967295":     append(bytes.Clone(good), put(4, 4, 1, uint16(0xb), make([]byte, 32), -1)...),
		"data of 16385":          append(bytes.Clone(good), one(4, 4, strings.Repeat("x", maxData+1))...),
		"register 24":            append(bytes.Clone(good), one(24, 4, "")...),
		"register 4294967295":    append(bytes.Clone(good), one(-1, 4, "")...),
		"4294967295 digests":     append(bytes.Clone(good), put(4, 4, -1, uint16(0xb))...),
		"0 digests":              append(bytes.Clone(good), put(4, 4, 0, 0)...),
		"in place of 0xb":        append(bytes.Clone(good), put(4, 4, 1, uint16(4), make([]byte, 32), 0)...),
		"event 1: it ends early": append(bytes.Clone(good), put(4, 4, 1, uint16(0xb), make([]byte, 31))...),
		"event 2: it ends early": append(bytes.Clone(good), append(one(4, 4, ""), 1)...),
	}
}

func TestHostileLogsAreRefused(t *testing.T) {
	for why, raw := range hostile() {
		_, err := Parse(raw)
		require.ErrorIs(t, err, errLog, why)
		require.ErrorContains(t, err, strings.TrimRight(why, ": "))
	}
	raw, _ := recorded(t, threeBanks)
	cuts := 0
	for n := range raw {
		if _, err := Parse(raw[:n]); err == nil {
			cuts++ // between two events it is a shorter log, whose registers nobody quotes
		}
	}
	require.Equal(t, 35, cuts)
}

func TestUnknownTypesAreOpaqueAndWhatWasNotMeasuredIsLeftOut(t *testing.T) {
	raw := slices.Concat(header(1, uint16(0xb), uint16(32), "\x02xy"), one(-1, NoAction, "SP800-155 Event\x00"), one(0, NoAction, startup+"\x03"), one(2, 0xdeadbeef, "?"))
	log, err := Parse(raw)
	require.NoError(t, err)
	require.Equal(t, &Log{Locality: 3, Events: []Event{{PCR: 2, Type: 0xdeadbeef, Data: []byte("?")}}}, log)
	values := log.Replay()
	require.Equal(t, byte(3), values[0][31])
	require.Equal(t, sha256.Sum256(make([]byte, 64)), values[2])
	again, err := Parse(log.Encode())
	require.NoError(t, err)
	require.Equal(t, log, again)
}

// boot makes a measured boot variable.
func boot(kind Type, vendor, name string, value []byte) Event {
	data := put(vendor, len(name), 0, len(value), 0)
	for _, letter := range name {
		data = append(data, byte(letter), 0)
	}
	data = append(data, value...)
	digest := sha256.Sum256(value)
	if kind == variableBoot2 {
		digest = sha256.Sum256(data)
	}
	return Event{PCR: 1, Type: kind, Digest: digest, Data: data}
}

func TestOnlyBootEntriesOfTheirOwnShapeMayVary(t *testing.T) {
	raw, _ := recorded(t, oneBank)
	log, err := Parse(raw)
	require.NoError(t, err)
	varying := 0
	for _, e := range log.Events {
		require.Equal(t, e.Type == variableBoot, e.BootVariable(), "%d %s", e.PCR, e)
		if e.BootVariable() {
			varying++
		}
	}
	require.Equal(t, 4, varying)

	end := put("\x7f\xff", uint16(4))
	path := append(put("\x04\x04", uint16(8), "ab\x00\x00"), end...)
	option := put(1, uint16(len(path)), "a\x00\x00\x00", path, "optional")
	for _, kind := range []Type{variableBoot, variableBoot2} {
		for name, value := range map[string][]byte{"BootOrder": {1, 0, 2, 0}, "BootNext": {1, 0}, "Boot5D0A": option, "Boot0000": nil} {
			require.True(t, boot(kind, globalVariable, name, value).BootVariable(), name)
		}
	}
	good := boot(variableBoot, globalVariable, "BootOrder", []byte{1, 0})
	for why, change := range map[string]func(*Event){
		"another register":   func(e *Event) { e.PCR = 5 },
		"another type":       func(e *Event) { e.Type = 0x80000001 },
		"another digest":     func(e *Event) { e.Digest[0] ^= 1 },
		"another vendor":     func(e *Event) { e.Data[0] ^= 1 },
		"cut":                func(e *Event) { e.Data = e.Data[:31] },
		"more":               func(e *Event) { e.Data = append(e.Data, 0) },
		"a name of 2^63":     func(e *Event) { binary.LittleEndian.PutUint64(e.Data[16:], 1<<63) },
		"a value of 2^64-18": func(e *Event) { binary.LittleEndian.PutUint64(e.Data[24:], 1<<64-18) },
		"a strange letter":   func(e *Event) { e.Data[33] = 1 },
	} {
		e := good
		e.Data = bytes.Clone(good.Data)
		change(&e)
		require.False(t, e.BootVariable(), why)
	}
	for name, value := range map[string][]byte{
		"Setup": {1, 0}, "BootOrder": {1}, "BootNext": {1, 0, 2, 0}, "Boot000a": option, "Boot00000": option, "Boot0001": []byte("anything at all"),
		"Boot0002": put(1, uint16(4), "a\x00"), "Boot0003": put(1, uint16(8), "\x00\x00", path), "Boot0004": put(1, uint16(8), "\x00\x00", end, end[:3], "x"), "Boot0005": put(1, uint16(0), "\x00\x00"),
		"Boot0006": put(1, uint16(99), "\x00\x00", end), "Boot0007": option[:5], "Boot0008": put(1, uint16(4), "\x00\x00", "\x04\x04", uint16(3)),
	} {
		require.False(t, boot(variableBoot, globalVariable, name, value).BootVariable(), name)
	}
}

// The data is that of the image's disk; the digest is what OVMF measured of it.
func TestDiskLayoutMayVaryAndNothingElseOfItsKind(t *testing.T) {
	data, err := os.ReadFile("testdata/gpt-event")
	require.NoError(t, err)
	layout := func(data []byte) Event { return Event{PCR: 5, Type: gptEvent, Digest: sha256.Sum256(data), Data: data} }
	good := layout(data)
	require.Equal(t, "bbf887a8bfee27be29480abe8919b0e21a36e95f6907a18dc34531d6045ae6a2", hex.EncodeToString(good.Digest[:]))
	require.True(t, good.DiskLayout() && good.MayVary() && !good.BootVariable())
	larger := bytes.Clone(data)
	larger[33]++ // where the copy of the header lies
	require.True(t, layout(larger).MayVary())
	require.True(t, layout(append(bytes.Clone(data[:92]), make([]byte, 8)...)).MayVary(), "no partition")
	for why, change := range map[string]func(*Event){
		"another register": func(e *Event) { e.PCR = 1 },
		"another type":     func(e *Event) { e.Type = 0x80000007 },
		"another digest":   func(e *Event) { e.Digest[0] ^= 1 },
		"another header":   func(e *Event) { *e = layout(append([]byte("EFI PARK"), data[8:]...)) },
		"cut":              func(e *Event) { *e = layout(data[:len(data)-1]) },
		"short":            func(e *Event) { *e = layout(data[:99]) },
		"more":             func(e *Event) { *e = layout(append(bytes.Clone(data), 0)) },
		"a count of 2^57":  func(e *Event) { d := bytes.Clone(data); d[99] = 2; *e = layout(d) },
	} {
		e := good
		change(&e)
		require.False(t, e.MayVary(), why)
	}
}

func FuzzParse(f *testing.F) {
	for _, name := range []string{oneBank, threeBanks} {
		raw, _ := recorded(f, name)
		f.Add(raw)
	}
	for _, raw := range hostile() {
		f.Add(raw)
	}
	good := header(1, uint16(0xb), uint16(32), "\x00")
	f.Add(slices.Concat(good, one(0, NoAction, startup+"\x04"), one(1, variableBoot2, "x")))
	end := put("\x7f\xff", uint16(4))
	for name, value := range map[string][]byte{"BootNext": {1, 0}, "Boot0001": put(1, uint16(4), "\x00\x00", end), "Boot0003": put(1, uint16(9), "a"), "Boot0004": put(1, uint16(4), "\x00\x00abcd"), "Boot0005": {1}, "Setup": nil} {
		f.Add((&Log{Events: []Event{boot(variableBoot2, globalVariable, name, value)}}).Encode())
	}
	table, err := os.ReadFile("testdata/gpt-event")
	require.NoError(f, err)
	f.Add((&Log{Events: []Event{{PCR: 5, Type: gptEvent, Digest: sha256.Sum256(table), Data: table}}}).Encode())
	for kind := range Type(0x13) {
		f.Add((&Log{Events: []Event{{Type: kind, Data: []byte("text")}, {Type: 0x80000000 + kind}, {Type: 0x800000e0 + kind}}}).Encode())
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		log, err := Parse(raw)
		if err != nil {
			require.ErrorIs(t, err, errLog)
			return
		}
		require.LessOrEqual(t, len(log.Events), MaxEvents)
		again, err := Parse(log.Encode())
		require.NoError(t, err)
		require.Equal(t, log, again)
		values := log.Replay()
		for _, e := range log.Events {
			require.NotContains(t, e.String(), "\x1b")
			require.NotEqual(t, [32]byte{}, values[e.PCR])
			require.True(t, !e.BootVariable() || e.PCR == 1)
			require.True(t, !e.DiskLayout() || e.PCR == 5)
		}
	})
}

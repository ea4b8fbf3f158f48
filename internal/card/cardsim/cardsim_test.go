// SPDX-License-Identifier: Apache-2.0

package cardsim

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sdbox/internal/card"
	"sdbox/internal/finger/fingersim"
	"sdbox/internal/ident"

	"github.com/stretchr/testify/require"
)

const testSelect = "00A404000BA00000030800001000010000"

func newSim(t testing.TB) *Sim {
	t.Helper()
	s, err := New(NISTOCC, Person{GUID: ident.GUID{0xAA, 15: 1}, Name: "Ada Martin"})
	require.NoError(t, err)
	require.NoError(t, s.Enrol(card.RefFinger, fingersim.NewFinger(1).Reference().Encode()))
	require.NoError(t, s.SetPIN("123456"))
	_, err = s.Generate(card.Slot9A)
	require.NoError(t, err)
	return s
}

// probe is a fresh impression of a finger.
func probe(finger, luck uint64) []byte {
	return fingersim.NewFinger(finger).Impression(rand.New(rand.NewPCG(luck, 3))).Encode()
}

// send gives the card one command in hexadecimal and returns data and status.
func send(t testing.TB, s *Sim, apdu string) (data []byte, sw string) {
	t.Helper()
	raw, err := hex.DecodeString(apdu)
	require.NoError(t, err)
	answer, err := s.Transmit(raw)
	require.NoError(t, err)
	n := len(answer) - 2
	return answer[:n], strings.ToUpper(hex.EncodeToString(answer[n:]))
}

func verifyCommand(ref byte, minutiae []byte) []byte {
	return append([]byte{0, 0x20, 0, ref, byte(len(minutiae))}, minutiae...)
}

func TestStatusWordsFollowTheStandard(t *testing.T) {
	digest := strings.Repeat("5A", 32)
	minutia := "8080408080C18080"
	s := newSim(t)
	for _, c := range []struct{ name, apdu, sw string }{
		{"before SELECT", "00CB3FFF055C035FC10200", "6D00"},
		{"other application", "00A4040006A0000000031800", "6A82"},
		{"select", testSelect, "9000"},
		{"select by its beginning", "00A4040005A00000030800", "9000"},
		{"failed select keeps PIV", "00A4040006A0000000031800", "6A82"},
		{"identity", "00CB3FFF055C035FC10200", "9000"},
		{"no such object", "00CB3FFF055C035FC10600", "6A82"},
		{"bad tag list", "00CB3FFF055C045FC10200", "6A80"},
		{"GET DATA elsewhere", "00CB0000055C035FC10200", "6A86"},
		{"printed information wants a finger", "00CB3FFF055C035FC10900", "6982"},
		{"9A wants a finger", "0087119A267C2482008120" + digest + "00", "6982"},
		{"9E without a key", "0087119E267C2482008120" + digest + "00", "6A86"},
		{"no such algorithm", "0087079A267C2482008120" + digest + "00", "6A86"},
		{"no such slot", "0087119C267C2482008120" + digest + "00", "6A86"},
		{"tries of the finger", "00200096", "63C3"},
		{"tries of a finger not enrolled", "00200097", "6A88"},
		{"global PIN", "00200000", "6A88"},
		{"P1", "00200196", "6A86"},
		{"length not 3N", "0020009608" + minutia, "6A80"},
		{"too few minutiae", "00200096038080C1", "6A80"},
		{"log out with data", "0020FF96038080C1", "6700"},
		{"log out", "0020FF96", "9000"},
		{"counter unchanged by all that", "00200096", "63C3"},
		{"short PIN", "00200080083132333435FFFFFF", "6A80"},
		{"wrong PIN", "0020008008363534333231FFFF", "63C4"},
		{"right PIN", "0020008008313233343536FFFF", "9000"},
		{"PIN verified", "00200080", "9000"},
		{"select again keeps it", testSelect, "9000"},
		{"sign", "0087119A267C2482008120" + digest + "00", "9000"},
		{"sign, other order", "0087119A267C248120" + digest + "820000", "9000"},
		{"sign something else", "0087119A267C2482008121" + digest + "00", "6A80"},
		{"printed information", "00CB3FFF055C035FC10900", "9000"},
		{"nothing waits", "00C0000000", "6985"},
		{"secure messaging", "0C20008000", "6882"},
		{"class", "80200080", "6E00"},
		{"instruction", "00F7000000", "6D00"},
		{"too short", "002000", "6700"},
		{"length", "0020008009313233", "6700"},
	} {
		_, sw := send(t, s, c.apdu)
		require.Equal(t, c.sw, sw, c.name)
	}
}

func TestAnswersComeInParts(t *testing.T) {
	s := newSim(t)
	send(t, s, testSelect)
	whole, sw := send(t, s, "00CB3FFF000005"+"5C035FC102"+"0000")
	require.Equal(t, "9000", sw)
	require.Equal(t, byte(0x53), whole[0])
	first, sw := send(t, s, "00CB3FFF055C035FC10210")
	require.Len(t, first, 0x10)
	rest := len(whole) - 0x10
	require.Equal(t, status(0x6100|rest), status(binary.BigEndian.Uint16(must(hex.DecodeString(sw)))))
	_, sw = send(t, s, "00C00000FE")
	require.Equal(t, status(0x6C00|rest), status(binary.BigEndian.Uint16(must(hex.DecodeString(sw)))), "wrong length loses nothing")
	second, sw := send(t, s, "00C0000000")
	require.Equal(t, "9000", sw)
	require.Equal(t, whole, append(first, second...))

	_, sw = send(t, s, "00CB3FFF055C035FC102") // no Le: all waits
	require.Equal(t, "61", sw[:2])
	send(t, s, "00200096") // another command drops it
	_, sw = send(t, s, "00C0000000")
	require.Equal(t, "6985", sw)
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

func TestChainedVerifyIsOneTry(t *testing.T) {
	s := newSim(t)
	send(t, s, testSelect)
	m := probe(1, 1)
	half := len(m) / 2
	part := append([]byte{0x10, 0x20, 0, 0x96, byte(half)}, m[:half]...)
	_, sw := send(t, s, hex.EncodeToString(part))
	require.Equal(t, "9000", sw)
	_, sw = send(t, s, "00200096")
	require.NotEqual(t, "9000", sw, "a chain ended by nothing is half a finger")
	send(t, s, hex.EncodeToString(part))
	_, sw = send(t, s, hex.EncodeToString(verifyCommand(0x96, m[half:])))
	require.Equal(t, "9000", sw)
	for range 100 { // a chain without end is cut
		_, sw = send(t, s, "10DB3FFFFF"+strings.Repeat("00", 255))
	}
	require.NotEqual(t, "", sw)
	s.mu.Lock()
	defer s.mu.Unlock()
	require.True(t, s.ram.chain == nil || len(s.ram.chain.data) <= maxCommand)
}

func TestTryIsSpentBeforeTheComparison(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "card")
	s := newSim(t)
	require.NoError(t, s.Save(file))
	send(t, s, testSelect)
	_, sw := send(t, s, hex.EncodeToString(verifyCommand(0x96, probe(2, 1))))
	require.Equal(t, "63C2", sw)
	pulled, err := Load(file) // as if the power had gone before the answer
	require.NoError(t, err)
	require.Equal(t, 2, pulled.Tries(card.RefFinger))

	require.NoError(t, os.RemoveAll(dir)) // no NVM to spend a try in
	_, sw = send(t, s, hex.EncodeToString(verifyCommand(0x96, probe(1, 1))))
	require.Equal(t, "6581", sw, "no comparison without a spent try")
	require.Equal(t, 2, s.Tries(card.RefFinger))
}

func TestCardOutlivesItsFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "card")
	s := newSim(t)
	require.NoError(t, s.Save(file))
	info, err := os.Stat(file)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	pub, err := s.Generate(card.Slot9E) // after Save: kept all the same
	require.NoError(t, err)
	back, err := Load(file)
	require.NoError(t, err)
	require.Equal(t, s.Person(), back.Person())
	require.Equal(t, s.nvm, back.nvm)
	key, err := back.nvm.Keys["9E"].private()
	require.NoError(t, err)
	require.True(t, key.PublicKey.Equal(pub))

	good, err := os.ReadFile(file)
	require.NoError(t, err)
	for name, edit := range map[string][2]string{
		"cut off":       {string(good[len(good)/2:]), ""},
		"unknown field": {`"version"`, `"colour": 1, "version"`},
		"version":       {`"version": 2`, `"version": 1`},
		"profile":       {NISTOCC, "nist-pin"},
		"GUID":          {`"guid": "aa`, `"guid": "AA`},
		"tries":         {`"left": 3`, `"left": 4`},
		"no PIN":        {`"80"`, `"81"`},
	} {
		bad := strings.Replace(string(good), edit[0], edit[1], 1)
		require.NotEqual(t, string(good), bad, name)
		_, err := parseNVM([]byte(bad))
		require.Error(t, err, name)
	}
	_, err = parseNVM(make([]byte, maxNVM+1))
	require.Error(t, err)
	_, err = Load(filepath.Join(t.TempDir(), "none"))
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestDeskRefusesBadInput(t *testing.T) {
	_, err := New("gold", Person{GUID: ident.GUID{1}, Name: "A"})
	require.Error(t, err)
	_, err = New(NISTOCC, Person{GUID: ident.GUID{1}})
	require.Error(t, err)
	_, err = New(NISTOCC, Person{Name: "A"})
	require.Error(t, err)
	s := newSim(t)
	require.Error(t, s.SetPIN("12345a"))
	require.Error(t, s.Enrol(card.RefPIN, probe(1, 1)))
	require.Error(t, s.Enrol(card.RefFinger, probe(1, 1)[:30]))
	require.Error(t, s.PutCertificate(card.Slot9A, []byte("no certificate")))
	require.Error(t, s.PutCertificate(card.Slot(0x9C), nil))
	_, err = s.Generate(card.Slot(0x9C))
	require.Error(t, err)
}

// reader is the daemon's end of the virtual reader's protocol.
type reader struct{ net.Conn }

func (r reader) ask(message ...byte) ([]byte, error) {
	frame := append(binary.BigEndian.AppendUint16(nil, uint16(len(message))), message...)
	if _, err := r.Write(frame); err != nil {
		return nil, err
	}
	if len(message) == 1 && message[0] != vpcdATR {
		return nil, nil
	}
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	answer := make([]byte, binary.BigEndian.Uint16(head[:]))
	_, err := io.ReadFull(r, answer)
	return answer, err
}

// plug inserts the card into a reader in memory; done carries ServeVPCD's result.
func plug(t *testing.T, ctx context.Context, s *Sim) (r reader, done chan error) {
	t.Helper()
	here, there := net.Pipe()
	t.Cleanup(func() { here.Close() })
	done = make(chan error, 1)
	go func() { done <- s.ServeVPCD(ctx, there) }()
	return reader{here}, done
}

func TestReaderPowersResetsAndEjects(t *testing.T) {
	s := newSim(t)
	r, done := plug(t, t.Context(), s)
	atr, err := r.ask(vpcdATR)
	require.NoError(t, err)
	require.Equal(t, s.ATR(), atr)
	_, err = r.ask(vpcdOn)
	require.NoError(t, err)
	selectPIV := must(hex.DecodeString(testSelect))
	answer, err := r.ask(selectPIV...)
	require.NoError(t, err)
	require.True(t, bytes.HasSuffix(answer, []byte{0x90, 0x00}))
	answer, err = r.ask(verifyCommand(0x96, probe(1, 1))...)
	require.NoError(t, err)
	require.Equal(t, []byte{0x90, 0x00}, answer)
	_, err = r.ask(vpcdReset)
	require.NoError(t, err)
	answer, err = r.ask(0, 0x20, 0, 0x96)
	require.NoError(t, err)
	require.Equal(t, []byte{0x6D, 0x00}, answer, "nothing is selected after a reset")

	_, second := plug(t, t.Context(), s)
	require.ErrorIs(t, <-second, errInserted)
	s.Eject()
	require.NoError(t, <-done)
	s.Eject() // twice is once
	ctx, cancel := context.WithCancelCause(t.Context())
	_, done = plug(t, ctx, s)
	stop := errors.New("the lab ends")
	cancel(stop)
	require.ErrorIs(t, <-done, stop)
}

func TestUnpoweredCardAnswersNothing(t *testing.T) {
	s := newSim(t)
	r, done := plug(t, t.Context(), s)
	for range asksAtMost {
		atr, err := r.ask(vpcdATR)
		require.NoError(t, err)
		require.NotEmpty(t, atr)
	}
	atr, err := r.ask(vpcdATR)
	require.NoError(t, err)
	require.Empty(t, atr, "the reader takes it for the card before")
	require.ErrorIs(t, <-done, ErrUnseen)
	r, done = plug(t, t.Context(), s)
	answer, err := r.ask(0, 0xA4, 4, 0)
	require.NoError(t, err)
	require.Empty(t, answer)
	require.ErrorIs(t, <-done, ErrUnseen)
}

func TestHostileReaderEndsTheStayOnly(t *testing.T) {
	for name, bytes := range map[string][]byte{
		"unknown control": {0, 1, 0x77}, "cut off": {0xFF, 0xFF, 1, 2, 3}, "half a length": {0}, "nothing": {},
	} {
		s := newSim(t)
		r, done := plug(t, t.Context(), s)
		_, err := r.Write(bytes)
		require.NoError(t, err, name)
		require.NoError(t, r.Close())
		require.Error(t, <-done, name)
		require.Equal(t, 3, s.Tries(card.RefFinger), name)
	}
}

// FuzzCommands plays a hostile reader: whatever it sends, the card answers with a status, never opens key 9A by a finger
// without a match, never gains a try, and changes no key or object before its management key was proved. Bit 0 of kind takes
// the YubiKey, bit 1 proves the management key, bit 2 tears writes.
func FuzzCommands(f *testing.F) {
	add := func(kind byte, apdus ...string) {
		var all []byte
		for _, a := range apdus {
			raw := must(hex.DecodeString(a))
			all = append(append(all, byte(len(raw))), raw...)
		}
		f.Add(all, kind)
	}
	sign := "267C2482008120" + testDigest + "00"
	pin := pin123456
	add(0, testSelect, "00200096", "00CB3FFF055C035FC10200", "00C0000000")
	add(0, testSelect, "10200096038080C1", "00200096038080C1", "0020FF96", "0087119A"+sign, "0020008008"+pin, "0087119A"+sign, "00CB3FFF055C035FC10900")
	add(0, testSelect, "00CB3FFF0000055C035FC1020000", "00CB3FFF055C035FC10210", "00C00000FE", "00C0000000", "00CB3FFF045C027F6100", "00CB3FFF035C017E00")
	add(0, "00", "0020", "00A40400", "80CA000000", "00CB3FFF00FFFF", "00CB3FFF000000", "0CCB3FFF", "00A40000", "00C0000000")
	add(0, testSelect, "0024008010"+pin654321+pin654321, "0024008010"+pin+pin654321, "0024018010", "0024009710", "00CB3FFF055C035FC10300")
	add(0, testSelect, hex.EncodeToString(verifyCommand(0x96, probe(3, 1))), "00200296", "0020FF9600", "002000970100", "00200080")
	add(1, testSelect, "00FD000000", "00F8000000", "00F7009A00", "00F7009B00", "00F7008000", "00F99A0000", "00FB0000", "00870A9B047C02800000",
		"00870A9B267C248010"+strings.Repeat("00", 16)+"8110"+strings.Repeat("00", 16)+"00", "00DB3FFF095C035FC10D53020A0B")
	// No SELECT where the management key counts as proved: it would forget that.
	add(3, "00DB3FFF095C035FC10D53020A0B", "00DB3FFF0A5C035FC10D5381020A0B", "00DB3FFF0B5C035FC10D538200020A0B", "00DB3FFF075C035FC10D5300",
		"00DB0000", "00DB3FFF0153", "0047009A05AC0380011100", "0047008208AC06800111AA010300", "0047009A05AC0380010700", "0020008008"+pin, "0087119A"+sign,
		"0087119C"+sign, "00F6829A", "00F6FF82", "00F6FF8200", "00F98300000000", "00F99A00000000")
	add(3, "00FE1182220620"+testDigest, "00FE1182280620"+testDigest+"AA0101AB0101", "00F7008200", "00FFFFFF230C9B20"+strings.Repeat("AB", 32),
		"00FFFFFF03FF9B00", "0020008008"+pin, "00FA0503", "00FA0003")
	add(7, "10DB3FFF0E5C035FC10D53820010010203040506", "00DB3FFF0A0102030405060708090A", "10DB3FFF0A5C035FC10D538105010203", "00DB3FFF020405")
	add(3, "00FE118522042021"+testDigest, "00FE1185220620"+testDigest, "00F7008500", "00F9850000", "0047008505AC0380011100", "00F6838500", "00F7008300", "00F9830000", "00F6838300", "00F6FF8300", "00F6FF9900",
		"0020008008"+pin, "00FA0503", "0020008008"+pin, "00FA0003", "00FFFFFF130A9B10"+strings.Repeat("AB", 16), "00FFFFFF230C9B20"+strings.Repeat("AB", 32), "00FFFFFF1B0A9B18"+strings.Repeat("AB", 24),
		"00FF000000", "00870A9B047C02800000", "00870A9B147C12820081"+"10"+strings.Repeat("00", 16), "0047008408AC0680011EAA0103", "004700840BAC09800111AA0101AB0101", "0047008408AC06800111AC0101",
		"00DB3FFF095C035FC10A53020A0B", "00DB3FFF0A5C035FC10A5381020A0B", "00DB3FFF075C035FC10A5300", "00DB3FFF095C017E53020A0B", "00DB3FFF0153", "00DB3FFF065C035FC10A53",
		"10DB3FFF095C035FC10A53020A0B", "0020008000", "00DB000000", "0022000000")
	add(0, "0022000000", "00CB000000", "0020FF9601"+"00", "0020008007"+"31323334353637", "0087119E"+sign, "00870003"+"00", "00C0000001")
	reset := []string{testSelect, "00F7008100"}
	for range 3 {
		reset = append(reset, "0020008008"+pin654321, "002C008010"+pin654321+pin654321)
	}
	add(1, append(reset, "002C008010"+puk12345+pin, "00FB0000", "0020008008"+pin)...)
	cards := []*Sim{newSim(f), newYubiKey(f)}
	f.Fuzz(func(t *testing.T, stream []byte, kind byte) {
		blank := cards[kind&1]
		s := &Sim{profile: blank.profile, nvm: blank.nvm, tears: kind&4 != 0} // a change replaces the NVM, never writes into it
		s.ram = ram{selected: true, verified: map[byte]bool{}, managed: kind&3 == 3}
		for len(stream) > 0 {
			n := min(int(stream[0]), len(stream)-1)
			before := s.nvm
			answer, err := s.Transmit(stream[1 : 1+n])
			if err != nil || len(answer) < 2 || len(answer) > maxObject+16 {
				t.Fatalf("answer of %d bytes, %v", len(answer), err)
			}
			stream = stream[1+n:]
			s.checkHostile(t, before)
		}
	})
}

// checkHostile compares the card before and after one command of somebody who has no finger and no management key.
func (s *Sim) checkHostile(t *testing.T, before nvm) {
	if old, now := before.References["96"], s.nvm.References["96"]; old != nil && now.Left > old.Left {
		t.Fatal("a try was won")
	}
	if s.ram.verified[card.RefFinger] || s.ram.verified[card.RefFinger2] {
		t.Fatal("open without a match")
	}
	blocked := before.References["80"].Left == 0 && (before.References["81"] == nil || before.References["81"].Left == 0)
	if s.ram.managed || blocked {
		return
	}
	if !maps.EqualFunc(before.Objects, s.nvm.Objects, bytes.Equal) || !maps.Equal(before.Keys, s.nvm.Keys) || before.Management != s.nvm.Management {
		t.Fatal("written without the management key")
	}
}

// FuzzNVM reads any file as a card.
func FuzzNVM(f *testing.F) {
	f.Add([]byte(`{"version":2,"profile":"nist-occ","guid":"aa000000-0000-0000-0000-000000000001","name":"A","objects":{},"keys":{},"references":{"80":{"value":"MTIzNDU2//8=","left":5,"max":5}}}`))
	f.Add([]byte(`{"version":2}`))
	whole, err := json.Marshal(newYubiKey(f).nvm)
	require.NoError(f, err)
	f.Add(whole)
	f.Add(bytes.Replace(whole, []byte(`"F9":`), []byte(`"9A":`), 1))
	for field, values := range map[string][]string{
		"version": {`1`}, "profile": {`"x"`, `"nist-occ"`}, "guid": {`"x"`}, "name": {`""`}, "objects": {`null`, `{"x":"AA=="}`}, "keys": {`null`, `{"9A":null}`, `{"9A":{"private":"AA==","pin":1}}`},
		"references": {`{}`, `{"80":null}`, `{"99":{"value":"","left":1,"max":1}}`, `{"96":{"value":"AAAA","left":3,"max":3}}`, `{"80":{"value":"AAAA","left":3,"max":3}}`},
		"management": {`null`, `{"algorithm":9,"value":""}`}, "what": {`1`},
	} {
		var fields map[string]json.RawMessage
		require.NoError(f, json.Unmarshal(whole, &fields))
		for _, value := range values {
			fields[field] = json.RawMessage(value)
			changed, err := json.Marshal(fields)
			require.NoError(f, err)
			f.Add(changed)
		}
	}
	occ, err := json.Marshal(newSim(f).nvm)
	require.NoError(f, err)
	f.Add(occ)
	f.Add(make([]byte, maxNVM+1))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseNVM(b)
		if err != nil {
			return
		}
		_ = s.Person()
		for _, a := range []string{testSelect, "00CB3FFF055C035FC10200", "00200096", "00CB3FFF045C027F6100", "00F7009A00", "00F7008100", "00F99A0000", "00FB0000",
			"00870A9B047C02800000", "0087119A267C2482008120" + testDigest + "00"} {
			send(t, s, a)
		}
	})
}

// FuzzMatch compares any two lists of minutiae: never a panic, never no number, and oneself always matches best.
func FuzzMatch(f *testing.F) {
	f.Add(probe(1, 1), probe(1, 2))
	f.Add(bytes.Repeat([]byte{128, 128, 64}, 60), bytes.Repeat([]byte{128, 128, 64}, 12))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		a, b = a[:min(len(a), 180)], b[:min(len(b), 180)]
		if score := match(a, b); score < 0 || score > 200 || score != score {
			t.Fatalf("score %v", score)
		}
	})
}

func TestSignatureIsTheKeys(t *testing.T) {
	s := newSim(t)
	key, err := s.nvm.Keys["9A"].private()
	require.NoError(t, err)
	send(t, s, testSelect)
	send(t, s, "0020008008313233343536FFFF")
	digest := bytes.Repeat([]byte{0x5A}, 32)
	data, sw := send(t, s, "0087119A267C2482008120"+hex.EncodeToString(digest)+"00")
	require.Equal(t, "9000", sw)
	require.True(t, ecdsa.VerifyASN1(&key.PublicKey, digest, data[4:]))
}

// FuzzReader is a hostile reader: frames of vpcd's protocol, with controls and commands in them.
func FuzzReader(f *testing.F) {
	apdu := must(hex.DecodeString(testSelect))
	command := append([]byte{0, byte(len(apdu))}, apdu...)
	f.Add(slices.Concat([]byte{0, 1, vpcdATR, 0, 1, vpcdOn}, command, []byte{0, 1, vpcdReset}, command, []byte{0, 1, vpcdOff}))
	f.Add(slices.Concat([]byte{0, 1, vpcdATR, 0, 1, vpcdATR, 0, 1, vpcdATR}, command)) // seen, and never powered
	f.Add(command)
	f.Add([]byte{0, 1, 0x77})
	f.Add([]byte{0, 1, vpcdOn, 0, 0, 0xff, 0xff, 1})
	f.Add([]byte{0})
	blank := newSim(f)
	f.Fuzz(func(t *testing.T, said []byte) {
		s := &Sim{profile: blank.profile, nvm: blank.nvm}
		s.ram.verified = map[byte]bool{}
		if s.serve(tape{said: bytes.NewReader(said)}) == nil {
			t.Fatal("a stay without an end")
		}
	})
}

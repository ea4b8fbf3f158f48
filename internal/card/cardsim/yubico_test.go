// SPDX-License-Identifier: Apache-2.0

package cardsim

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/hex"
	"path/filepath"
	"strings"
	"testing"

	"sdbox/internal/card"
	"sdbox/internal/ident"

	"github.com/stretchr/testify/require"
)

// step is one command in hexadecimal and the status it must get.
type step struct{ name, apdu, sw string }

func play(t *testing.T, s *Sim, steps ...step) {
	t.Helper()
	for _, c := range steps {
		_, sw := send(t, s, c.apdu)
		require.Equal(t, c.sw, sw, c.name)
	}
}

func newYubiKey(t testing.TB) *Sim {
	t.Helper()
	s, err := New(YubiKey57, Person{GUID: ident.GUID{0xAA, 15: 2}, Name: "Ada Martin"})
	require.NoError(t, err)
	return s
}

// manage proves the management key of the card.
func manage(t *testing.T, s *Sim) {
	t.Helper()
	m := s.nvm.Management
	block, err := m.cipher()
	require.NoError(t, err)
	n := block.BlockSize()
	data, sw := send(t, s, "0087"+hex.EncodeToString([]byte{m.Alg})+"9B047C02800000")
	require.Equal(t, "9000", sw)
	witness := make([]byte, n)
	block.Decrypt(witness, data[4:])
	inner := join(tlv("\x80", witness), tlv("\x81", make([]byte, n)))
	body := tlv("\x7C", inner)
	answer, sw := send(t, s, hex.EncodeToString(join([]byte{0, 0x87, m.Alg, 0x9B, byte(len(body))}, body, []byte{0})))
	require.Equal(t, "9000", sw)
	want := make([]byte, n)
	block.Encrypt(want, make([]byte, n))
	require.Equal(t, want, answer[4:])
}

const (
	testDigest = "5A5A5A5A5A5A5A5A5A5A5A5A5A5A5A5A5A5A5A5A5A5A5A5A5A5A5A5A5A5A5A5A"
	pin123456  = "313233343536FFFF"
	pin654321  = "363534333231FFFF"
	puk12345   = "3132333435363738"
)

func TestYubiKeyStatusWords(t *testing.T) {
	s := newYubiKey(t)
	generate9A := "0047009A05AC0380011100"
	play(t, s,
		step{"before SELECT", "00FD000000", "6D00"},
		step{"select", testSelect, "9000"},
		step{"version", "00FD000000", "9000"},
		step{"serial", "00F8000000", "9000"},
		step{"no finger", "00200096", "6A88"},
		step{"no BIT group", "00CB3FFF045C027F6100", "6A82"},
		step{"PUK is not verified", "0020008108" + puk12345, "6A88"},
		step{"metadata of nothing", "00F7009A00", "6A88"},
		step{"attestation of nothing", "00F99A0000", "6A80"},
		step{"write without management key", "00DB3FFF085C035FC10553010A", "6982"},
		step{"generate without", generate9A, "6982"},
		step{"move without", "00F6829A", "6982"},
		step{"import without", "00FE119A220620" + testDigest, "6982"},
		step{"new management key without", "00FFFFFF1B0A9B18" + strings.Repeat("AB", 24), "6982"},
		step{"triple DES where the key is AES", "0087039B047C02800000", "6A86"},
		step{"answer without a witness", "00870A9B267C248010" + strings.Repeat("00", 16) + "8110" + strings.Repeat("00", 16) + "00", "6A80"},
		step{"witness", "00870A9B047C02800000", "9000"},
		step{"wrong answer", "00870A9B267C248010" + strings.Repeat("00", 16) + "8110" + strings.Repeat("00", 16) + "00", "6982"},
		step{"a witness is good for one answer", "00870A9B267C248010" + strings.Repeat("00", 16) + "8110" + strings.Repeat("00", 16) + "00", "6A80"},
		step{"still not managed", generate9A, "6982"},
	)
	manage(t, s)
	play(t, s,
		step{"no slot 96", "0047009605AC03800111", "6A86"},
		step{"RSA-2048", "0047009A05AC03800107", "6A80"},
		step{"touch", "0047009A08AC06800111AB0102", "6A80"},
		step{"generate", generate9A, "9000"},
		step{"generate 9C", "0047009C05AC0380011100", "9000"},
		step{"9A wants the PIN", "0087119A267C2482008120" + testDigest + "00", "6982"},
		step{"wrong PIN", "0020008008" + pin654321, "63C2"},
		step{"PIN", "0020008008" + pin123456, "9000"},
		step{"9A signs", "0087119A267C2482008120" + testDigest + "00", "9000"},
		step{"and again", "0087119A267C2482008120" + testDigest + "00", "9000"},
		step{"9C signs", "0087119C267C2482008120" + testDigest + "00", "9000"},
		step{"9C wants the PIN each time", "0087119C267C2482008120" + testDigest + "00", "6982"},
		step{"PIN for 9C", "0020008008" + pin123456, "9000"},
		step{"9C signs again", "0087119C267C2482008120" + testDigest + "00", "9000"},
		step{"onto an occupied slot", "00F69C9A", "6985"},
		step{"move", "00F6829A", "9000"},
		step{"9A is empty", "0087119A267C2482008120" + testDigest + "00", "6A86"},
		step{"82 signs", "00871182267C2482008120" + testDigest + "00", "9000"},
		step{"move nothing", "00F6839A", "6A88"},
		step{"F9 never moves", "00F683F9", "6A86"},
		step{"delete", "00F6FF82", "9000"},
		step{"deleted", "00F7008200", "6A88"},
		step{"import", "00FE1182220620" + testDigest, "9000"},
		step{"import of zero", "00FE1183220620" + strings.Repeat("00", 32), "6A80"},
		step{"imported key has no attestation", "00F9820000", "6A80"},
		step{"made key has", "00F99C00000000", "9000"},
		step{"write", "00DB3FFF095C035FC10D53020A0B", "9000"},
		step{"write elsewhere", "00DB3FFF095C037F610053020A0B", "6A80"},
		step{"discovery cannot be written", "00DB3FFF037E01FF", "6A80"},
		step{"read", "00CB3FFF055C035FC10D00", "9000"},
		step{"delete object", "00DB3FFF075C035FC10D5300", "9000"},
		step{"deleted object", "00CB3FFF055C035FC10D00", "6A82"},
		step{"short management key", "00FFFFFF130A9B10" + strings.Repeat("AB", 16), "6A80"},
		step{"management key that wants touch", "00FFFFFE1B0A9B18" + strings.Repeat("AB", 24), "6A86"},
		step{"AES-256", "00FFFFFF230C9B20" + strings.Repeat("AB", 32), "9000"},
	)
	play(t, s, step{"PIN", "0020008008" + pin123456, "9000"}, step{"PIN verified", "00200080", "9000"},
		step{"select again", testSelect, "9000"}, step{"closes the PIN", "00200080", "63C3"}, step{"and the desk", generate9A, "6982"})
	manage(t, s)
	s.Reset()
	play(t, s, step{"select", testSelect, "9000"}, step{"rights end with a reset", generate9A, "6982"})
	manage(t, s)
}

func TestPINIsChangedAndUnblocked(t *testing.T) {
	s := newYubiKey(t)
	play(t, s, step{"select", testSelect, "9000"},
		step{"wrong old PIN", "0024008010" + pin654321 + pin654321, "63C2"},
		step{"short new PIN spends nothing", "0024008010" + pin123456 + "31323334FFFFFFFF", "6A80"},
		step{"half a command", "0024008008" + pin123456, "6A80"},
		step{"change", "0024008010" + pin123456 + pin654321, "9000"},
		step{"all tries are back", "00200080", "63C3"},
		step{"change of a finger", "0024009610" + pin123456 + pin654321, "6A88"},
		step{"wrong", "0020008008" + pin123456, "63C2"},
		step{"wrong", "0020008008" + pin123456, "63C1"},
		step{"reset too early", "00FB0000", "6985"},
		step{"last", "0020008008" + pin123456, "63C0"},
		step{"blocked", "0020008008" + pin654321, "6983"},
		step{"change while blocked", "0024008010" + pin654321 + pin123456, "6983"},
		step{"wrong PUK", "002C008010" + pin123456 + pin123456, "63C2"},
		step{"unblock", "002C008010" + puk12345 + pin123456, "9000"},
		step{"new PIN", "0020008008" + pin123456, "9000"},
		step{"tries without management key", "00FA0503", "6982"})
	manage(t, s)
	play(t, s, step{"no try at all", "00FA0003", "6A80"}, step{"tries", "00FA0804", "9000"}, step{"eight", "00200080", "63C8"})
	for range 8 {
		send(t, s, "0020008008"+pin654321)
	}
	for range 4 {
		send(t, s, "0024008110"+pin654321+puk12345)
	}
	attested := s.nvm.Objects[tagAttestation]
	play(t, s, step{"PUK blocked", "002C008010" + puk12345 + pin123456, "6983"}, step{"as new", "00FB0000", "9000"},
		step{"PIN of the factory", "0020008008" + pin123456, "9000"}, step{"no identity", "00CB3FFF055C035FC10200", "6A82"})
	require.Equal(t, attested, s.nvm.Objects[tagAttestation])

	occ := newSim(t) // 24 is of the standard, 2C needs a PUK and FB is Yubico's
	play(t, occ, step{"select", testSelect, "9000"}, step{"change", "0024008010" + pin123456 + pin654321, "9000"},
		step{"PIN of letters", "0024008010" + pin654321 + "414243444546FFFF", "6A80"},
		step{"no PUK", "002C008010" + puk12345 + pin123456, "6A88"}, step{"no reset", "00FB0000", "6D00"},
		step{"no management key", "00870A9B047C02800000", "6A86"}, step{"issuer alone writes", "00DB3FFF085C035FC10553010A", "6982"},
		step{"and makes keys", "0047009A05AC03800111", "6982"})
}

func TestMetadataSaysWhatItIs(t *testing.T) {
	s := newYubiKey(t)
	pub, err := s.Generate(slot9C)
	require.NoError(t, err)
	point, err := pub.Bytes()
	require.NoError(t, err)
	play(t, s, step{"select", testSelect, "9000"})
	for _, c := range []struct{ of, want string }{
		{"80", "0101FF" + "050101" + "06020303"},
		{"81", "0101FF" + "050101" + "06020303"},
		{"9B", "01010A" + "02020001" + "050101"},
		{"9C", "010111" + "02020301" + "030101" + "0443" + "8641" + hex.EncodeToString(point)},
	} {
		data, sw := send(t, s, "00F700"+c.of+"00")
		require.Equal(t, "9000", sw, c.of)
		require.Equal(t, strings.ToLower(c.want), hex.EncodeToString(data), c.of)
	}
	require.NoError(t, s.SetPIN("246810"))
	data, _ := send(t, s, "00F7008000")
	require.Equal(t, "0101ff05010006020303", hex.EncodeToString(data), "no longer the factory's")
}

func TestAttestationNamesCardAndKey(t *testing.T) {
	s := newYubiKey(t)
	pub, err := s.Generate(card.Slot82)
	require.NoError(t, err)
	play(t, s, step{"select", testSelect, "9000"})
	der, sw := send(t, s, "00F98200000000")
	require.Equal(t, "9000", sw)
	got, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	require.True(t, pub.Equal(got.PublicKey.(*ecdsa.PublicKey)))
	object, ok := fields(s.nvm.Objects[tagAttestation])
	require.True(t, ok)
	root, err := x509.ParseCertificate(object[0].value)
	require.NoError(t, err)
	require.NoError(t, got.CheckSignatureFrom(root))

	manage(t, s) // a key F9 that the certificate does not know attests nothing
	play(t, s, step{"new F9", "004700F905AC0380011100", "9000"}, step{"no attestation", "00F98200000000", "6A80"},
		step{"no certificate", "00DB3FFF075C035FFF015300", "9000"}, step{"no attestation", "00F98200000000", "6A80"})
}

func TestYubiKeyOutlivesItsFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "card")
	s := newYubiKey(t)
	require.NoError(t, s.Save(file))
	play(t, s, step{"select", testSelect, "9000"})
	manage(t, s)
	play(t, s, step{"generate", "0047009505AC0380011100", "9000"}, step{"AES-256", "00FFFFFF230C9B20" + strings.Repeat("AB", 32), "9000"})
	back, err := Load(file)
	require.NoError(t, err)
	require.Equal(t, s.nvm, back.nvm)
	require.Error(t, s.Enrol(card.RefFinger, probe(1, 1)), "it compares no finger")

	n := s.nvm
	n.Management = nil
	require.NoError(t, n.write(file))
	_, err = Load(file)
	require.Error(t, err, "no management key")
}

func TestMemoryOfACardEnds(t *testing.T) {
	s := newYubiKey(t)
	c, err := card.Select(s, card.Limits{})
	require.NoError(t, err)
	require.NoError(t, c.Authenticate([]byte(FactoryManagementKey)))
	var status *card.StatusError
	require.ErrorAs(t, c.PutObject(0x5FC110, make([]byte, 3053)), &status)
	require.Equal(t, uint16(0x6A84), status.SW)
	tag := uint32(0x5FFF10)
	for ; err == nil; tag++ {
		err = c.PutObject(tag, make([]byte, 3052))
	}
	require.ErrorAs(t, err, &status)
	require.Equal(t, uint16(0x6A84), status.SW)
	require.InDelta(t, 51200/3052, tag-0x5FFF10, 2)
}

func TestBiometricTemplatesAndDiscovery(t *testing.T) {
	s := newSim(t)
	play(t, s, step{"select", testSelect, "9000"})
	read := func(apdu string) string {
		data, sw := send(t, s, apdu)
		require.Equal(t, "9000", sw)
		return strings.ToUpper(hex.EncodeToString(data))
	}
	bit := func(ref, finger string) string {
		return "7F601C" + "8301" + ref + "A10E" + "810108" + "8201" + finger + "87020101" + "88020005" + "B107" + "81020C3C" + "820100"
	}
	require.Equal(t, "7E124F0BA000000308000010000100"+"5F2F025000", read("00CB3FFF035C017E00"))
	require.Equal(t, "7F6122"+"020101"+bit("96", "05"), read("00CB3FFF045C027F6100"))
	require.NoError(t, s.Enrol(card.RefFinger2, probe(2, 1)))
	require.Equal(t, "7F6141"+"020102"+bit("96", "05")+bit("97", "09"), read("00CB3FFF045C027F6100"))
	bare, err := New(NISTOCC, Person{GUID: ident.GUID{1}, Name: "A"})
	require.NoError(t, err)
	s = bare
	play(t, s, step{"select", testSelect, "9000"})
	require.Equal(t, "7E124F0BA000000308000010000100"+"5F2F024000", read("00CB3FFF035C017E00"))
	require.Equal(t, "7F6103020100", read("00CB3FFF045C027F6100"))
}

// TestWhatOpensWhat: a finger or the PIN opens the printed information, the PIN alone what was measured of the body.
func TestWhatOpensWhat(t *testing.T) {
	s := newSim(t)
	s.nvm.Objects[tagFace] = []byte{1}
	printed, face, iris := "00CB3FFF055C035FC10900", "00CB3FFF055C035FC10800", "00CB3FFF055C035FC12100"
	finger := hex.EncodeToString(verifyCommand(0x96, probe(1, 1)))
	wrong := hex.EncodeToString(verifyCommand(0x96, probe(2, 1)))
	play(t, s, step{"select", testSelect, "9000"},
		step{"printed, closed", printed, "6982"}, step{"face, closed", face, "6982"},
		step{"finger", finger, "9000"}, step{"printed by finger", printed, "9000"}, step{"face by finger", face, "6982"},
		step{"wrong finger", wrong, "63C2"}, step{"printed after a wrong finger", printed, "6982"},
		step{"PIN", "0020008008" + pin123456, "9000"}, step{"printed by PIN", printed, "9000"}, step{"face by PIN", face, "9000"},
		step{"no iris", iris, "6A82"}, step{"PIN logged out", "0020FF80", "9000"}, step{"face", face, "6982"})
}

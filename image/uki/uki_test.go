// SPDX-License-Identifier: Apache-2.0

package uki_test

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"math/big"
	"testing"
	"time"

	"sdbox/image/uki"
	"sdbox/image/uki/ukitest"

	"github.com/foxboron/go-uefi/authenticode"
	"github.com/foxboron/go-uefi/pkcs7"
	"github.com/stretchr/testify/require"
)

const version = "252.39-1~deb12u2"

type pair struct {
	key         *rsa.PrivateKey
	certificate *x509.Certificate
}

func newPair(t testing.TB, serial int64) pair {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	c, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return pair{key, c}
}

func assemble(t testing.TB) []byte {
	raw, err := uki.Assemble(ukitest.Spec(version, "quiet panic=-1", bytes.Repeat([]byte("initrd "), 300)))
	require.NoError(t, err)
	return raw
}

func sign(t testing.TB, raw []byte, p pair) []byte {
	signed, err := uki.Sign(raw, p.key, p.certificate)
	require.NoError(t, err)
	return signed
}

func verify(raw []byte, c *x509.Certificate) error {
	i, err := uki.Parse(raw)
	if err != nil {
		return err
	}
	return i.Verify(c)
}

func TestWhatWasAssembledIsReadBack(t *testing.T) {
	spec := ukitest.Spec(version, "quiet panic=-1", []byte("initrd"))
	p := newPair(t, 1)
	signed := sign(t, assemble(t), p)
	raw, err := uki.Assemble(spec)
	require.NoError(t, err)
	i, err := uki.Parse(sign(t, raw, p))
	require.NoError(t, err)
	for name, want := range map[string][]byte{
		uki.OSRelease: spec.OSRelease, uki.CommandLine: []byte(spec.CommandLine), uki.Uname: []byte(spec.Uname), uki.Linux: spec.Linux,
		uki.Initrd: spec.Initrd, ".text": []byte("code"), ".nothing": nil,
	} {
		require.Equal(t, want, i.Section(name), name)
	}
	major, whole, err := i.Stub()
	require.NoError(t, err)
	require.Equal(t, []string{"252", version}, []string{major, whole})
	require.Equal(t, spec.Built, i.Built())
	c, err := i.Signer()
	require.NoError(t, err)
	require.Equal(t, p.certificate, c)
	require.NotContains(t, string(signed), "symbols", "the stub's debugging symbols are left out")

	// A PE reader that is not ours, and Authenticode's hash and signature as another library sees them.
	theirs, err := authenticode.Parse(bytes.NewReader(signed))
	require.NoError(t, err)
	j, err := uki.Parse(signed)
	require.NoError(t, err)
	sum := j.Digest()
	require.Equal(t, theirs.Hash(crypto.SHA256), sum[:])
	ok, err := theirs.Verify(p.certificate)
	require.NoError(t, err)
	require.True(t, ok)
	kernel, err := authenticode.Parse(bytes.NewReader(spec.Linux))
	require.NoError(t, err)
	linux, err := i.LinuxDigest()
	require.NoError(t, err)
	require.Equal(t, kernel.Hash(crypto.SHA256), linux[:])
}

func TestSameInputSameBytesAndASignatureIsReplaced(t *testing.T) {
	one, other := newPair(t, 1), newPair(t, 2)
	raw := assemble(t)
	require.Equal(t, raw, assemble(t))
	signed := sign(t, raw, one)
	require.Equal(t, signed, sign(t, raw, one))
	again := sign(t, signed, other)
	require.Equal(t, sign(t, raw, other), again)
	require.NoError(t, verify(again, other.certificate))
	require.ErrorIs(t, verify(again, one.certificate), uki.ErrUnsigned)
	require.ErrorIs(t, verify(raw, one.certificate), uki.ErrUnsigned)
	i, err := uki.Parse(raw)
	require.NoError(t, err)
	_, err = i.Signer()
	require.ErrorIs(t, err, uki.ErrUnsigned)
	_, err = uki.Sign(raw, one.key, other.certificate)
	require.ErrorContains(t, err, "the key is not that of certificate")
	_, err = uki.Sign(raw[1:], one.key, one.certificate)
	require.ErrorContains(t, err, "MZ")
}

// Every byte of the image, whatever section or header it is in, is flipped in turn: none leaves an image that still verifies. Of the
// signature itself only what it says and who made it count, so there the file is read as the firmware reads it.
func TestFlippedByteBreaksTheSignature(t *testing.T) {
	p := newPair(t, 1)
	signed := sign(t, assemble(t), p)
	require.NoError(t, verify(signed, p.certificate))
	i, err := uki.Parse(signed)
	require.NoError(t, err)
	begin := int(binary.LittleEndian.Uint32(signed[0x80+24+144:]))
	broken := map[string]int{}
	for at := range signed[:begin] {
		if !interesting(at, begin) {
			continue
		}
		signed[at] ^= 0x10
		require.Error(t, verify(signed, p.certificate), "byte %d", at)
		signed[at] ^= 0x10
		broken[sectionAt(i, signed, at)]++
	}
	for _, s := range i.Sections() {
		require.Positive(t, broken[s.Name], s.Name)
	}
	require.Equal(t, 0x400, broken["headers"], "every byte of the headers")
	for at := begin; at < begin+8; at++ { // length, revision and kind of the signature
		signed[at] ^= 0x10
		require.Error(t, verify(signed, p.certificate), "byte %d", at)
		signed[at] ^= 0x10
	}
	require.NoError(t, verify(signed, p.certificate))
}

// interesting are all bytes of the headers, and of the sections enough that none is left out.
func interesting(at, end int) bool { return at < 0x400 || at%13 == 0 || at == end-1 }

// sectionAt says in which section a byte of the file lies.
func sectionAt(i *uki.Image, raw []byte, at int) string {
	table, name := 0x80+24+240, "headers"
	for n := range i.Sections() {
		if at >= int(binary.LittleEndian.Uint32(raw[table+40*n+20:])) {
			name = i.Sections()[n].Name
		}
	}
	return name
}

// A signature whose parts do not belong together holds for no one: the digest of another image under attributes that were signed.
func TestSignatureOfOtherContentIsRefused(t *testing.T) {
	p := newPair(t, 1)
	raw := assemble(t)
	signed := sign(t, raw, p)
	i, err := uki.Parse(signed)
	require.NoError(t, err)
	old := i.Digest()
	changed := bytes.Replace(signed, []byte("panic=-1"), []byte("panic=-0"), 1)
	j, err := uki.Parse(changed)
	require.NoError(t, err)
	sum := j.Digest()
	forged := bytes.Replace(changed, old[:], sum[:], 1) // what the signed attributes are about, not they
	require.ErrorContains(t, verify(forged, p.certificate), "its attributes are of other content")

	bare, err := authenticode.SignAuthenticode(p.key, p.certificate, bytes.NewReader(hashed(raw)), crypto.SHA256, pkcs7.NoAttr())
	require.NoError(t, err)
	require.NoError(t, verify(attach(raw, bare), p.certificate), "a signature without attributes is one too")
	bare[len(bare)-1] ^= 1
	require.ErrorIs(t, verify(attach(raw, bare), p.certificate), uki.ErrUnsigned)
}

// hashed are the bytes that Authenticode hashes of an image without a signature.
func hashed(raw []byte) []byte {
	return bytes.Join([][]byte{raw[:0x80+24+64], raw[0x80+24+68 : 0x80+24+144], raw[0x80+24+152:]}, nil)
}

func attach(raw, signature []byte) []byte {
	out := bytes.Clone(raw)
	table := binary.LittleEndian.AppendUint32(nil, uint32(8+len(signature)))
	table = append(append(table, 0, 2, 2, 0), signature...)
	table = append(table, make([]byte, (8-len(table)%8)%8)...)
	binary.LittleEndian.PutUint32(out[0x80+24+144:], uint32(len(raw)))
	binary.LittleEndian.PutUint32(out[0x80+24+148:], uint32(len(table)))
	return append(out, table...)
}

func TestImagesThatAreNotOneAreRefused(t *testing.T) {
	p := newPair(t, 1)
	signed := sign(t, assemble(t), p)
	const coff, optional, table = 0x80 + 4, 0x80 + 24, 0x80 + 24 + 240
	put := func(at int, value uint32) func([]byte) []byte {
		return func(b []byte) []byte { binary.LittleEndian.PutUint32(b[at:], value); return b }
	}
	for name, c := range map[string]struct {
		spoil func([]byte) []byte
		says  string
	}{
		"empty":                          {func([]byte) []byte { return nil }, "no MZ"},
		"header beyond the file":         {put(0x3c, 0xfffffff8), "no PE header"},
		"header in itself":               {put(0x3c, 0), "no PE header"},
		"32 bits":                        {put(coff, 0x0008014c), "machine"},
		"65535 sections":                 {put(coff, 0xffff8664), "sections"},
		"no section":                     {put(coff, 0x8664), "sections"},
		"symbols":                        {put(coff+8, 0x400), "symbols"},
		"checksum":                       {put(optional+64, 1), "checksum"},
		"4294967295 directories":         {put(optional+108, 0xffffffff), "data directories"},
		"headers of 4 GiB":               {put(optional+60, 0xfffffe00), "headers"},
		"headers over the first section": {put(optional+60, 0x600), "neither gap nor overlap"},
		"small in memory":                {put(optional+56, 0x1000), "in memory"},
		"huge in memory":                 {put(optional+56, 0xffffffff), "in memory"},
		"section of 4 GiB":               {put(table+8, 0xffffffff), "beyond any image"},
		"section of nothing":             {put(table+8, 0), "0 bytes"},
		"section over the end":           {put(table+16, 0x7ffffe00), "in a file of"},
		"sections overlap in the file":   {put(table+40+20, 0x400), "neither gap nor overlap"},
		"sections overlap in memory":     {put(table+40+12, 0x4001), "overlaps another in memory"},
		"section before the headers":     {put(table+12, 0), "overlaps another in memory"},
		"section at 4 GiB":               {put(table+12, 0xfffff000), "beyond any image"},
		"relocations":                    {put(table+24, 0x400), "relocations"},
		"zeros appended once loaded":     {put(table+8, 0x800), "once loaded"},
		"nameless section":               {func(b []byte) []byte { clear(b[table : table+8]); return b }, "name"},
		"section twice":                  {func(b []byte) []byte { copy(b[table+40:table+48], b[table:table+8]); return b }, "two sections"},
		"no initramfs":                   {func(b []byte) []byte { return bytes.Replace(b, []byte(uki.Initrd), []byte(".inatrd"), 1) }, "no section .initrd"},
		"signatures elsewhere":           {put(optional+144, 0x400), "signatures are said"},
		"signatures of nothing":          {put(optional+148, 0), "signatures are said"},
		"no signatures said":             {func(b []byte) []byte { clear(b[optional+144 : optional+152]); return b }, "behind the last section"},
		"something behind":               {func(b []byte) []byte { return append(b, 0) }, "signatures are said"},
		"too long":                       {func([]byte) []byte { return make([]byte, uki.MaxSize+1) }, "limit"},
	} {
		_, err := uki.Parse(c.spoil(bytes.Clone(signed)))
		require.ErrorContains(t, err, c.says, name)
	}
	for n := range signed {
		if n%11 == 0 || n < 0x400 {
			_, err := uki.Parse(signed[:n])
			require.Error(t, err, "cut off at %d", n)
		}
	}
	for size, says := range map[uint32]string{0: "signature of 0 bytes", 8: "signature of 8 bytes", 0xffffffff: "limit"} {
		begin := binary.LittleEndian.Uint32(signed[optional+144:])
		_, err := uki.Parse(put(int(begin), size)(bytes.Clone(signed)))
		require.ErrorContains(t, err, says)
	}
}

func TestSpecsOfWhichNoImageCanBeMadeAreRefused(t *testing.T) {
	for says, change := range map[string]func(*uki.Spec){
		"stub: no MZ":                  func(s *uki.Spec) { s.Stub = []byte("shell") },
		"nothing for section .cmdline": func(s *uki.Spec) { s.CommandLine = "" },
		"nothing for section .initrd":  func(s *uki.Spec) { s.Initrd = nil },
		"NUL":                          func(s *uki.Spec) { s.CommandLine = "quiet\x00init=/bin/sh" },
		"can say that it was built":    func(s *uki.Spec) { s.Built = time.Time{} },
		"limit":                        func(s *uki.Spec) { s.Initrd = make([]byte, uki.MaxSize) },
		"does not name a version":      func(s *uki.Spec) { s.Stub = ukitest.Stub("grub") },
		"two sections .linux":          func(s *uki.Spec) { s.Stub = bytes.Replace(s.Stub, []byte(".data\x00\x00"), []byte(".linux\x00"), 1) },
	} {
		spec := ukitest.Spec(version, "quiet", []byte("initrd"))
		change(&spec)
		_, err := uki.Assemble(spec)
		require.ErrorContains(t, err, says)
	}
}

// FuzzParse: what is read has every byte in one place, and no signature by a key that is not there.
func FuzzParse(f *testing.F) {
	p := newPair(f, 1)
	raw := assemble(f)
	signed := sign(f, raw, p)
	f.Add(raw)
	f.Add(signed)
	f.Add(signed[:len(signed)-8])
	f.Add(ukitest.Stub(version))
	f.Add(ukitest.Kernel())
	for at := range 32 {
		b := bytes.Clone(signed)
		b[0x80+12*at] ^= 0xff
		f.Add(b)
	}
	f.Add(bytes.Replace(signed, []byte("LoaderInfo"), []byte("loaderinfo"), 1))
	f.Add(bytes.Replace(signed, []byte{0x06, 0x09, 0x2a}, []byte{0x06, 0x89, 0x2a}, 1))
	good := sha256.Sum256(signed[:len(raw)])
	f.Fuzz(func(t *testing.T, b []byte) {
		i, err := uki.Parse(b)
		if err != nil {
			return
		}
		total := 0
		for _, s := range i.Sections() {
			total += len(s.Data)
		}
		require.LessOrEqual(t, total, len(b))
		_, _, _ = i.Stub()
		_, _ = i.LinuxDigest()
		if i.Verify(p.certificate) == nil {
			require.Equal(t, good, sha256.Sum256(b[:len(raw)]), "signed by our key, and not what we signed")
		}
		if c, err := i.Signer(); err == nil {
			require.NoError(t, i.Verify(c))
		}
	})
}

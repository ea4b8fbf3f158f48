// SPDX-License-Identifier: Apache-2.0

package reference

import (
	"bytes"
	"crypto/rand"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/mod/sumdb/note"
)

func sample() Values {
	return Values{Name: "lab-qemu", Version: "2026.11.24", PCRs: []PCR{
		{Index: 0, Digest: [32]byte{1}}, {Index: 2, Events: []Event{{4, [32]byte{5}}, {0x80000004, [32]byte{6}}}}, {Index: 4, Digest: [32]byte{2}}, {Index: 23, Digest: [32]byte{3}}}}
}

type pair struct{ secret, public string }

func keys(t testing.TB, n int) []pair {
	t.Helper()
	out := make([]pair, n)
	for i := range out {
		var err error
		out[i].secret, out[i].public, err = GenerateKey("release-" + string(rune('1'+i)) + ".lab")
		require.NoError(t, err)
	}
	return out
}

func TestValuesOpenWithEnoughReleaseKeysOnly(t *testing.T) {
	k := keys(t, 4)
	two, err := NewTrust(2, k[0].public, k[1].public, k[2].public)
	require.NoError(t, err)

	signed, err := Sign(sample(), k[0].secret, k[2].secret)
	require.NoError(t, err)
	got, err := two.Open(signed)
	require.NoError(t, err)
	require.Equal(t, sample(), got)
	require.Equal(t, "lab-qemu 2026.11.24", got.String())
	digest, found := got.Lookup(4)
	require.True(t, found)
	require.Equal(t, [32]byte{2}, digest.Digest)
	_, found = got.Lookup(5)
	require.False(t, found)

	// Key holders who never meet sign one after the other.
	first, err := Sign(sample(), k[0].secret)
	require.NoError(t, err)
	second, err := AddSignatures(first, k[1].secret)
	require.NoError(t, err)
	got, err = two.Open(second)
	require.NoError(t, err)
	require.Equal(t, sample(), got)

	for name, secrets := range map[string][]string{
		"one":                {k[0].secret},
		"one and a stranger": {k[0].secret, k[3].secret},
		"a stranger":         {k[3].secret},
	} {
		short, err := Sign(sample(), secrets...)
		require.NoError(t, err)
		_, err = two.Open(short)
		require.ErrorIs(t, err, ErrUnsigned, name)
	}
	// One key's two signatures are one.
	one, err := Sign(sample(), k[0].secret)
	require.NoError(t, err)
	line := one[bytes.LastIndex(one, []byte("\n\n"))+2:]
	_, err = two.Open(append(bytes.Clone(one), line...))
	require.ErrorIs(t, err, ErrUnsigned)
}

func TestOneReleaseKeyCannotCountTwice(t *testing.T) {
	k := keys(t, 2)
	fields := strings.SplitN(k[0].public, "+", 3)
	_, err := NewTrust(2, k[0].public, k[0].public)
	require.Error(t, err)
	_, err = NewTrust(2, k[0].public, "other+"+fields[1]+"+"+fields[2])
	require.Error(t, err, "the hash covers the name")
	for _, bad := range []struct {
		threshold int
		publics   []string
	}{{0, []string{k[0].public}}, {2, []string{k[0].public}}, {1, nil}, {1, []string{"x"}}, {1, make([]string, maxKeys+1)}} {
		_, err := NewTrust(bad.threshold, bad.publics...)
		require.Error(t, err)
	}
}

func TestChangedOrUnreadableValuesAreRefused(t *testing.T) {
	k := keys(t, 1)
	trust, err := NewTrust(1, k[0].public)
	require.NoError(t, err)
	signed, err := Sign(sample(), k[0].secret)
	require.NoError(t, err)
	for at := range bytes.LastIndex(signed, []byte("\n\n")) {
		bad := bytes.Clone(signed)
		bad[at] ^= 1
		_, err := trust.Open(bad)
		require.Error(t, err, "byte %d", at)
	}
	for n := range signed {
		_, err := trust.Open(signed[:n])
		require.Error(t, err)
	}
	_, err = trust.Open(make([]byte, MaxNote+1))
	require.ErrorContains(t, err, "limit")

	// What a release key signed may still be no reference values.
	signer, err := note.NewSigner(k[0].secret)
	require.NoError(t, err)
	zero := strings.Repeat("0", 64)
	head := firstLine + "\nname n\nversion v\n"
	for _, text := range []string{
		"hello\n",
		head,
		firstLine + "\nname n\npcr 0 " + zero + "\n",
		firstLine + "\nname N\nversion v\npcr 0 " + zero + "\n",
		firstLine + "\nname \nversion v\npcr 0 " + zero + "\n",
		"sdbox reference values 2\nname n\nversion v\npcr 0 " + zero + "\n",
		head + "pcr 24 " + zero + "\n",
		head + "pcr 00 " + zero + "\n",
		head + "pcr -1 " + zero + "\n",
		head + "pcr 0 " + zero[1:] + "\n",
		head + "pcr 0 " + strings.ToUpper(strings.Repeat("ab", 32)) + "\n",
		head + "pcr 0  " + zero + "\n",
		head + "pcr 0 " + zero + " \n",
		head + "pcr 1 " + zero + "\npcr 0 " + zero + "\n",
		head + "pcr 1 " + zero + "\npcr 1 " + zero + "\n",
		head + "pcr 1 " + zero + "\n\n",
		head + strings.Repeat("pcr 1 "+zero+"\n", 25),
		head + "event 4 0x00000004 " + zero + "\n",
		head + "event 2 0x4 " + zero + "\n",
		head + "event 2 0x100000004 " + zero + "\n",
		head + "event 2 0x0000000A " + zero + "\n",
		head + "event 2 0x00000004 " + zero[1:] + "\n",
		head + "event 2 0x00000004\n",
		head + "event 2 0x00000004 " + zero + "\nevent 1 0x00000004 " + zero + "\n",
		head + "event 2 0x00000004 " + zero + "\npcr 2 " + zero + "\n",
		head + "pcr 2 " + zero + "\nevent 2 0x00000004 " + zero + "\n",
	} {
		signed, err := note.Sign(&note.Note{Text: text}, signer)
		require.NoError(t, err)
		_, err = trust.Open(signed)
		require.Error(t, err, text)
	}
	for _, bad := range []Values{{}, {Name: "n", Version: "v"}, {Name: "a b", Version: "v", PCRs: []PCR{{}}},
		{Name: "n", Version: "v\nx", PCRs: []PCR{{}}}, {Name: "n", Version: "v", PCRs: []PCR{{Index: 24}}}, {Name: "n", Version: "v", PCRs: []PCR{{Index: 1}, {Index: 0}}}} {
		_, err := Sign(bad, k[0].secret)
		require.Error(t, err)
	}
	_, err = Sign(sample(), "PRIVATE+KEY+x")
	require.Error(t, err)
	_, _, err = GenerateKey("with space")
	require.Error(t, err)
}

func FuzzOpen(f *testing.F) {
	secret, public, err := note.GenerateKey(rand.Reader, "release-1.lab")
	require.NoError(f, err)
	trust, err := NewTrust(1, public)
	require.NoError(f, err)
	signed, err := Sign(sample(), secret)
	require.NoError(f, err)
	f.Add(signed)
	f.Add([]byte("\n\n\u2014 x y\n"))
	f.Add(make([]byte, MaxNote+1))
	stranger, _, err := note.GenerateKey(rand.Reader, "release-2.lab")
	require.NoError(f, err)
	foreign, err := Sign(sample(), stranger)
	require.NoError(f, err)
	f.Add(foreign)
	signer, err := note.NewSigner(secret)
	require.NoError(f, err)
	other, err := note.Sign(&note.Note{Text: "hello\n"}, signer)
	require.NoError(f, err)
	f.Add(other)
	f.Fuzz(func(t *testing.T, b []byte) {
		if v, err := trust.Open(b); err == nil {
			require.Equal(t, sample(), v)
		}
	})
}

// FuzzParse holds the parser behind the signatures, and that a text has one meaning and a meaning one text.
func FuzzParse(f *testing.F) {
	text, err := sample().Text()
	require.NoError(f, err)
	f.Add(string(text))
	f.Add(firstLine + "\nname n\nversion v\npcr 0 00\n")
	f.Add(firstLine + "\nname n\npcr 0 00\n")
	f.Add(firstLine + "\nname n\nversion v\n" + strings.Repeat("pcr 1 "+strings.Repeat("0", 64)+"\n", 2))
	f.Add("hello\n")
	f.Add(firstLine + "\nname n\nversion v\nevent 2 0x00000004 " + strings.Repeat("0", 64) + "\npcr 2 " + strings.Repeat("0", 64) + "\n")
	f.Add(firstLine + "\nname n\nversion v\nevent 2 0x4 " + strings.Repeat("0", 64) + "\n")
	f.Add(firstLine + "\nname n\nversion v\nevent 9 0x00000004 00\n")
	f.Fuzz(func(t *testing.T, text string) {
		v, err := parse(text)
		if err != nil {
			return
		}
		again, err := v.Text()
		require.NoError(t, err)
		require.Equal(t, text, string(again))
	})
}

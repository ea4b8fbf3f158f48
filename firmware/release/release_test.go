// SPDX-License-Identifier: Apache-2.0

package release

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"sdbox/firmware/reference"

	"github.com/stretchr/testify/require"
)

func sample() Release {
	return Release{Model: "qemu", Version: "2026.11.24", Minimum: "2026.11.20", Expires: time.Date(2027, 2, 24, 0, 0, 0, 0, time.UTC),
		Image: Digest{[32]byte{1}, 62 << 20}, UKI: Digest{[32]byte{2}, 30 << 20}, Full: Digest{[32]byte{3}, 12 << 20},
		Deltas: []Delta{{"2026.11.20", Digest{[32]byte{4}, 62 << 20}, Digest{[32]byte{5}, 196608}}, {"2026.11.21", Digest{[32]byte{6}, 1}, Digest{[32]byte{7}, 1}}},
		PCRs:   []reference.PCR{{Index: 4, Digest: [32]byte{8}}, {Index: 11, Digest: [32]byte{9}}}}
}

type holder struct{ secret, public string }

func holders(t testing.TB, n int) []holder {
	t.Helper()
	out := make([]holder, n)
	for i := range out {
		var err error
		out[i].secret, out[i].public, err = reference.GenerateKey("release-" + string(rune('1'+i)) + ".lab")
		require.NoError(t, err)
	}
	return out
}

func trustOf(t testing.TB, threshold string, holders ...holder) *reference.Trust {
	t.Helper()
	text := "threshold " + threshold + "\n"
	for _, h := range holders {
		text += h.public + "\n"
	}
	trust, err := ParseKeys([]byte(text))
	require.NoError(t, err)
	return trust
}

func TestReleaseOpensWithEnoughReleaseKeysOnly(t *testing.T) {
	k := holders(t, 3)
	trust := trustOf(t, "2", k...)
	signed, err := Sign(sample(), k[0].secret, k[2].secret)
	require.NoError(t, err)
	got, err := Open(trust, signed)
	require.NoError(t, err)
	require.Equal(t, sample(), got)

	short, err := Sign(sample(), k[1].secret)
	require.NoError(t, err)
	_, err = Open(trust, short)
	require.ErrorIs(t, err, reference.ErrUnsigned)
	for n := range signed {
		_, err := Open(trust, signed[:n])
		require.Error(t, err, "cut to %d bytes", n)
	}
	for at := range bytes.LastIndex(signed, []byte("\n\n")) {
		bad := bytes.Clone(signed)
		bad[at] ^= 1
		_, err := Open(trust, bad)
		require.Error(t, err, "byte %d", at)
	}
	// Reference values under the same keys are no release.
	other, err := reference.Sign(reference.Values{Name: "n", Version: "v", PCRs: sample().PCRs}, k[0].secret, k[1].secret)
	require.NoError(t, err)
	_, err = Open(trust, other)
	require.ErrorContains(t, err, firstLine)
}

// spoil is one replacement that makes a good text a bad one.
func spoil() map[string]string {
	return map[string]string{
		"sdbox release 1": "sdbox release 2", "model qemu": "model Qemu", "version 2026.11.24\n": "version 2026.11.24 \n", "version 2026.11": "version 2026.011",
		"minimum 2026.11.20": "minimum 2026.11.24.1", "minimum 2026.11.20\n": "minimum 2026.11\n", "minimum 2026": "minimum 12026", "2027-02-24T00:00:00Z": "2027-02-24T01:00:00+01:00", "expires 2027": "expires 27",
		"image 01": "image 0", "image 010": "image A10", " 65011712\nuki": " 65011713\nuki", " 65011712\nuki ": " 134217729\nuki ", " 31457280": " 65011713", " 12582912": "",
		"full 03": "fill 03", "delta 2026.11.20 ": "delta 2026.11.21 ", "delta 2026.11.20": "delta", " 1 07": " 0 07", " 196608": " -1", "pcr 4 ": "pcr 11 ",
		"pcr 4": "pcr 24", "pcr 11 09": "pcr 11 9", "pcr 11": "\npcr 11",
	}
}

func TestOnlyTheOneTextOfAReleaseIsRead(t *testing.T) {
	text, err := sample().Text()
	require.NoError(t, err)
	good := string(text)
	for from, to := range spoil() {
		bad := strings.Replace(good, from, to, 1)
		require.NotEqual(t, good, bad, from)
		_, err := parse(bad)
		require.Error(t, err, "%q instead of %q", to, from)
	}
	for _, bad := range []string{"", good + "\n", good + "pcr 12\n", good[:len(good)-1], good[:strings.Index(good, "pcr")], strings.ReplaceAll(good, "\n", "\r\n")} {
		_, err := parse(bad)
		require.Error(t, err, bad)
	}
	many := sample()
	for i := range MaxDeltas + 1 {
		many.Deltas = append(many.Deltas, Delta{fmt.Sprintf("2025.1.%d", i), Digest{Size: 1}, Digest{Size: 1}})
	}
	_, err = many.Text()
	require.ErrorContains(t, err, "deltas")
	_, err = Sign(many)
	require.Error(t, err)
	_, err = Sign(sample(), "PRIVATE+KEY+x")
	require.Error(t, err)
}

func TestEachReasonNotToTakeAReleaseHasItsError(t *testing.T) {
	runs := Running{Model: "qemu", Version: "2026.11.20", Minimum: "2026.9.9"}
	now := time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC)
	older := func(version, minimum string) func(*Release, *Running) {
		return func(r *Release, _ *Running) { r.Version, r.Minimum = version, minimum }
	}
	for name, c := range map[string]struct {
		change func(*Release, *Running)
		want   error
	}{
		"newer":                         {func(*Release, *Running) {}, nil},
		"a second one of the day":       {older("2026.11.20.1", "2026.11.20"), nil},
		"back to what is still allowed": {older("2026.9.9", "2026.9.9"), nil},
		"older than the minimum":        {older("2026.9.8", "2026.9.8"), ErrOlder},
		"would let older ones in later": {older("2026.11.24", "2026.8.30"), ErrOlder},
		"another model":                 {func(r *Release, _ *Running) { r.Model = "generic" }, ErrModel},
		"expired this second":           {func(r *Release, _ *Running) { r.Expires = now }, ErrExpired},
		"the same":                      {older("2026.11.20", "2026.11.20"), ErrSame},
	} {
		r, u := sample(), runs
		c.change(&r, &u)
		require.ErrorIs(t, r.Check(u, now), c.want, name)
	}
}

func TestReleaseKeysAreReadStrictly(t *testing.T) {
	k := holders(t, 2)
	for _, bad := range []string{"", "threshold 1", k[0].public + "\n", "threshold 3\n" + k[0].public + "\n" + k[1].public + "\n", "threshold 0\n" + k[0].public + "\n",
		"threshold 1\n" + k[0].public, "threshold 1\n\n" + k[0].public + "\n", "threshold 1\n" + k[0].public + "\n" + k[0].public + "\n", strings.Repeat("x", MaxKeys+1)} {
		_, err := ParseKeys([]byte(bad))
		require.Error(t, err, bad)
	}
}

func FuzzOpen(f *testing.F) {
	k := holders(f, 1)
	trust := trustOf(f, "1", k...)
	signed, err := Sign(sample(), k[0].secret)
	require.NoError(f, err)
	f.Add(signed)
	f.Add([]byte("\n\n\u2014 x y\n"))
	f.Add(make([]byte, MaxNote+1))
	other, err := reference.AddSignatures([]byte("hello\n"), k[0].secret)
	require.NoError(f, err)
	f.Add(other)
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := Open(trust, b); err == nil {
			require.Equal(t, sample(), r)
		}
	})
}

// FuzzParse holds the parser behind the signatures, and that a text has one meaning and a meaning one text.
func FuzzParse(f *testing.F) {
	text, err := sample().Text()
	require.NoError(f, err)
	f.Add(string(text))
	for from, to := range spoil() {
		f.Add(strings.Replace(string(text), from, to, 1))
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := parse(text)
		if err != nil {
			return
		}
		again, err := r.Text()
		require.NoError(t, err)
		require.Equal(t, text, string(again))
	})
}

func FuzzParseKeys(f *testing.F) {
	k := holders(f, 2)
	f.Add([]byte("threshold 2\n" + k[0].public + "\n" + k[1].public + "\n"))
	f.Add([]byte("threshold 1\n"))
	f.Add([]byte("hold 1"))
	f.Add(make([]byte, MaxKeys+1))
	f.Fuzz(func(t *testing.T, b []byte) {
		trust, err := ParseKeys(b)
		require.Equal(t, err == nil, trust != nil)
	})
}

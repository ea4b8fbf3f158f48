// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"sdbox/internal/ident"
	"sdbox/internal/refusal"

	"github.com/stretchr/testify/require"
)

func codec(t testing.TB) *Codec {
	t.Helper()
	c, err := NewCodec()
	require.NoError(t, err)
	return c
}

// samples holds one message of every type, with every field set.
func samples() []Message {
	id := ident.ID{1, 2, 3}
	r := refusal.Refusal{Code: "C03", Suffix: "7K2", Params: map[string]string{"left": "2"}}
	key := Key{9, 9}
	h := bytes.Repeat([]byte{0xab}, 32)
	return []Message{
		&Hello{Version: Version, Language: refusal.French, Support: "+33 1 00 00 00 00", Now: 1_790_000_000_000, Box: "PARIS-0042"},
		&Beat{Seq: 7, Echo: true},
		&Refused{Refusal: r, Re: 17, Bubble: "epi", Release: h},
		&Ended{Session: id, Refusal: r, Reason: "exercise"},
		&EnrolRequest{EKPublic: h, EKCertificate: h, AKPublic: h, DevicePublic: h, Certify: h, CertifySig: h},
		&EnrolChallenge{Credential: h, Secret: h},
		&EnrolAnswer{Secret: h},
		&EnrolResult{Chain: [][]byte{h, h}},
		&NonceRequest{},
		&Nonce{Nonce: h},
		&Evidence{Quote: h, Signature: h, PCRs: []PCR{{Index: 4, Digest: h}}, AKPublic: h, TunnelKey: key, Previous: h, Log: h},
		&Lease{Result: h, GatewayKey: key, PSK: key, Address: "fd00::2", GatewayAddress: "fd00::1", Endpoints: []string{"192.0.2.1:443"}, Expires: 1, LifetimeMS: 900_000, Release: h},
		&CardIn{Certificate: h, Nonce: h, Presence: h},
		&Person{Session: id, Name: "Camille Durand", Language: refusal.French, Nonce: h},
		&Offer{SDP: "v=0", Fingerprint: h},
		&Answer{SDP: "v=0", Fingerprint: h},
		&Login{Nonce: h, Signature: h},
		&Bubbles{List: []Bubble{{Name: "epi", Title: "Epidemiology", Colour: 0x00aa88, State: Refuses, Until: 1, Countries: []string{"FR"}, Refusal: &r}}, Grant: Grant{Statement: h, LifeMS: 1, Nonce: h, Epoch: 1}},
		&Attach{Session: id, Bubble: "epi", Stream: 3, Width: 1912, Height: 1036, Layout: "fr"},
		&Attached{Bubble: "epi", Stream: 3},
		&Detach{Session: id, Why: CardOut},
		&Presence{Session: id, Nonce: h, Signature: h},
		&Grant{Statement: h, LifeMS: 600_000, Nonce: h, Epoch: 2},
		&Event{Session: id, Refusal: r},
		&Notice{Text: "The centre closes at 20:00.", At: 1, Refusal: &r},
		&Resume{Session: id, Epoch: 2, Transcript: h, Certificate: h, Nonce: h, Presence: h},
		&EndDesktop{Session: id, Bubble: "epi"},
		&Watched{Session: id, On: true},
	}
}

func TestEveryMessageComesBackAsItWasSent(t *testing.T) {
	c := codec(t)
	for i, m := range samples() {
		r := Table()[i]
		require.Equal(t, r.Type, m.wireType(), "samples and table are in the same order")
		b, err := c.Encode(m)
		require.NoError(t, err)
		from := r.From
		if from == Both {
			from = FromBox
		}
		back, err := c.Decode(b, from)
		require.NoError(t, err, r.Name)
		require.Equal(t, m, back)
		if r.From != Both {
			other := FromBox
			if r.From == FromBox {
				other = FromGateway
			}
			_, err = c.Decode(b, other)
			require.ErrorIs(t, err, ErrGrammar, "%s from the wrong end", r.Name)
		}
	}
}

func TestFetchSaysFileAndOffset(t *testing.T) {
	f := NewFetch([32]byte{1, 2}, 1<<33+7)
	require.Equal(t, [32]byte{1, 2}, f.SHA256())
	require.Equal(t, int64(1<<33+7), f.Offset())
	require.Equal(t, []byte{0, 0, 0, 2, 0, 0, 0, 7}, f[32:])
}

func TestListWithoutAGrantCarriesNone(t *testing.T) {
	c := codec(t)
	list := &Bubbles{List: []Bubble{{Name: "epi", Title: "Epidemiology", State: Open}}}
	b, err := c.Encode(list)
	require.NoError(t, err)
	require.Equal(t, []byte{0x82, 0x12, 0xa1, 1}, b[:4], "one field, the list")
	back, err := c.Decode(b, FromGateway)
	require.NoError(t, err)
	require.Equal(t, list, back)
	_, err = c.Decode(append(append([]byte{0x82, 0x12, 0xa2}, b[3:]...), 2, 0xa4, 1, 0xf6, 2, 0, 3, 0xf6, 4, 0), FromGateway)
	require.ErrorIs(t, err, ErrGrammar, "a grant of nothing")
}

func TestGrammarHasFewerThanThirtyTypesNumberedWithoutGap(t *testing.T) {
	rows := Table()
	require.Less(t, len(rows), 30)
	require.Len(t, samples(), len(rows))
	for i, r := range rows {
		require.Equal(t, Type(i+1), r.Type)
		require.LessOrEqual(t, r.Limit, MaxMessage)
	}
}

func TestPackageCommentShowsTheTable(t *testing.T) {
	f, err := parser.ParseFile(token.NewFileSet(), "wire.go", nil, parser.ParseComments|parser.PackageClauseOnly)
	require.NoError(t, err)
	doc := f.Doc.Text()
	for _, r := range Table() {
		line := fmt.Sprintf("%6d  %-15s %-8s %6d", r.Type, r.Name, r.From, r.Limit)
		require.Contains(t, strings.Join(strings.Fields(doc), " "), strings.Join(strings.Fields(line), " "))
	}
	require.Len(t, regexp.MustCompile(`(?m)^\s+\d+\s+[A-Z]`).FindAllString(doc, -1), len(Table()), "and nothing else")
}

func TestBadBytesAreRefused(t *testing.T) {
	c := codec(t)
	for name, in := range vectors(t, "../../test/vectors/wire-bad.txt") {
		_, err := c.Decode(in, FromBox)
		require.ErrorIs(t, err, ErrGrammar, name)
	}
	_, err := c.Decode(make([]byte, MaxMessage+1), FromBox)
	require.ErrorIs(t, err, ErrGrammar)
	_, err = c.Encode(&EnrolAnswer{Secret: make([]byte, 1000)})
	require.ErrorContains(t, err, "limit 256")
}

func TestGoodVectorsDecode(t *testing.T) {
	c := codec(t)
	good := vectors(t, "../../test/vectors/wire-good.txt")
	for i, m := range samples() {
		r := Table()[i]
		b, err := c.Encode(m)
		require.NoError(t, err)
		require.Equal(t, good[r.Name], b, "%s: want\n%s = %x", r.Name, r.Name, b)
	}
}

func TestLimitOfEveryTypeIsExact(t *testing.T) {
	c := codec(t)
	limits := vectors(t, "../../test/vectors/wire-limits.txt")
	short := []string{"Beat", "NonceRequest", "Watched"} // whose fields are shorter than their limit
	for _, r := range Table() {
		longest, exists := limits[fmt.Sprint(r.Name, " ", r.Limit)]
		require.Equal(t, !slices.Contains(short, r.Name), exists, r.Name)
		if exists {
			require.Len(t, longest, r.Limit)
			_, err := c.Decode(longest, r.From)
			require.NoError(t, err, r.Name)
		}
		longer := limits[fmt.Sprint(r.Name, " ", r.Limit+1)]
		require.Len(t, longer, r.Limit+1)
		_, err := c.Decode(longer, r.From)
		require.ErrorIs(t, err, ErrGrammar, r.Name)
		require.ErrorContains(t, err, fmt.Sprint("limit ", r.Limit), r.Name)
	}
}

// vectors reads lines "name = hex", in which XX*N is the byte XX, N times; text after # is a comment.
func vectors(t testing.TB, path string) map[string][]byte {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	out := map[string][]byte{}
	for line := range strings.Lines(string(text)) {
		line, _, _ = strings.Cut(line, "#")
		name, digits, found := strings.Cut(line, "=")
		if !found {
			continue
		}
		var raw []byte
		for word := range strings.FieldsSeq(digits) {
			pattern, count, repeated := strings.Cut(word, "*")
			b, err := hex.DecodeString(pattern)
			require.NoError(t, err, line)
			n := 1
			if repeated {
				n, err = strconv.Atoi(count)
				require.NoError(t, err, line)
			}
			raw = append(raw, bytes.Repeat(b, n)...)
		}
		out[strings.TrimSpace(name)] = raw
	}
	require.NotEmpty(t, out)
	return out
}

func FuzzDecode(f *testing.F) {
	c := codec(f)
	for _, m := range samples() {
		b, err := c.Encode(m)
		require.NoError(f, err)
		f.Add(b)
	}
	for _, file := range []string{"wire-bad.txt", "wire-limits.txt"} {
		for _, in := range vectors(f, "../../test/vectors/"+file) {
			f.Add(in)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, from := range []Origin{FromBox, FromGateway} {
			m, err := c.Decode(b, from)
			if err != nil {
				continue
			}
			again, err := c.Encode(m)
			require.NoError(t, err)
			require.Equal(t, b, again)
		}
	})
}

func FuzzReadCanonical(f *testing.F) {
	h := bytes.Repeat([]byte{0xab}, 32)
	for _, v := range []any{
		&Evidence{Quote: h, Signature: h, PCRs: []PCR{{Index: 4, Digest: h}}, AKPublic: h, TunnelKey: Key{9}, Previous: h},
		&GrantClaims{Session: ident.ID{1}, Epoch: 2, Person: ident.ID{3}, Card: "c", Box: "PARIS-1", TunnelKey: Key{9}, Transcript: h, Method: "finger", Bubbles: []GrantLine{{"epi", 7}}},
	} {
		b, err := Canonical(v)
		require.NoError(f, err)
		f.Add(b)
		f.Add(append(b, 0))
	}
	f.Add([]byte{0xa1, 0x02, 0x18, 0x01}) // 1 in two bytes
	f.Add(make([]byte, maxCanonical+1))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, v := range []any{&Evidence{}, &GrantClaims{}} {
			if ReadCanonical(b, v) != nil {
				continue
			}
			again, err := Canonical(v)
			require.NoError(t, err)
			require.Equal(t, b, again)
		}
	})
}

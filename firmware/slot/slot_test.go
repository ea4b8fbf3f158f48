// SPDX-License-Identifier: Apache-2.0

package slot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

func full() Settings {
	return Settings{
		Network: Static, Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.10/24"), netip.MustParsePrefix("2001:db8::10/64")},
		Routers:   []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("fe80::1")},
		Resolvers: []netip.Addr{netip.MustParseAddr("192.0.2.53")}, Gateways: []string{"gw1.lab:443", "[2001:db8::1]:443"}, Layout: "fr", Language: "fr",
	}
}

// sealed makes a slot around any text, with a right hash.
func sealed(counter uint32, text string) []byte {
	raw := make([]byte, Size)
	copy(raw, magic)
	binary.LittleEndian.PutUint32(raw[8:], counter)
	binary.LittleEndian.PutUint32(raw[12:], uint32(len(text)))
	copy(raw[header:], text)
	copy(raw[16:], digest(raw, len(text)))
	return raw
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	for _, s := range []Settings{Default(), full()} {
		raw, err := Encode(7, s)
		require.NoError(t, err)
		require.Len(t, raw, Size)
		counter, got, err := Parse(raw)
		require.NoError(t, err)
		require.Equal(t, s, got)
		require.Equal(t, uint32(7), counter)
	}
	_, err := Encode(1, Settings{})
	require.ErrorContains(t, err, "want dhcp or static")
}

func TestNewestGoodSlotWins(t *testing.T) {
	french, english := Default(), Default()
	french.Language, english.Language = "fr", "en"
	write := func(counter uint32, s Settings) []byte {
		raw, err := Encode(counter, s)
		require.NoError(t, err)
		return raw
	}
	torn := write(3, english)
	torn[header+3] ^= 1
	empty := make([]byte, Size)
	for name, c := range map[string]struct {
		partition [][]byte
		want      Settings
	}{
		"the higher counter":                {[][]byte{write(1, english), write(2, french)}, french},
		"in either place":                   {[][]byte{write(2, french), write(1, english)}, french},
		"the other when the newest is torn": {[][]byte{write(2, french), torn}, french},
		"the one that was written":          {[][]byte{empty, write(1, french)}, french},
		"a partition cut short":             {[][]byte{write(1, french), write(2, english)[:Size-1]}, french},
	} {
		got, err := Read(bytes.NewReader(bytes.Join(c.partition, nil)))
		require.NoError(t, err, name)
		require.Equal(t, c.want, got, name)
	}
	_, err := Read(bytes.NewReader(append(empty, torn...)))
	require.ErrorIs(t, err, ErrNone)
	require.ErrorContains(t, err, "slot 0: configuration slot: not written")
	require.ErrorContains(t, err, "slot 1: configuration slot: its hash is another")
	_, err = Read(bytes.NewReader(nil))
	require.ErrorIs(t, err, ErrNone)
}

// hostile are texts under a right hash that a box must not take: whoever has the disk can write one.
func hostile() map[string]string {
	return map[string]string{
		"no mode":                ``,
		"a key that is not one":  "network = \"dhcp\"\nroot = \"/etc/other.pem\"\n",
		"no TOML":                "network",
		"static without address": "network = \"static\"\n",
		"dhcp with address":      "network = \"dhcp\"\naddresses = [\"192.0.2.1/24\"]\n",
		"network's own address":  "network = \"static\"\naddresses = [\"0.0.0.0/0\"]\n",
		"loopback":               "network = \"static\"\naddresses = [\"127.0.0.2/8\"]\n",
		"zone":                   "network = \"dhcp\"\nresolvers = [\"fe80::1%lo\"]\n",
		"loopback resolver":      "network = \"dhcp\"\nresolvers = [\"::1\"]\n",
		"multicast router":       "network = \"static\"\naddresses = [\"192.0.2.1/24\"]\nrouters = [\"224.0.0.1\"]\n",
		"gateway without port":   "network = \"dhcp\"\ngateways = [\"gw1.lab\"]\n",
		"gateway with a path":    "network = \"dhcp\"\ngateways = [\"gw1.lab/x:443\"]\n",
		"nine gateways":          "network = \"dhcp\"\ngateways = [\"a:1\",\"a:1\",\"a:1\",\"a:1\",\"a:1\",\"a:1\",\"a:1\",\"a:1\",\"a:1\"]\n",
		"language":               "network = \"dhcp\"\nlanguage = \"de\"\n",
		"layout":                 "network = \"dhcp\"\nlayout = \"../fr\"\n",
	}
}

func TestHostileTextIsRefused(t *testing.T) {
	for name, text := range hostile() {
		_, _, err := Parse(sealed(1, text))
		require.Error(t, err, name)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []Settings{Default(), full()} {
		raw, err := Encode(1, s)
		require.NoError(f, err)
		f.Add(raw)
		f.Add(raw[:header])
		raw = bytes.Clone(raw)
		raw[15] = 0xff
		f.Add(raw)
	}
	for _, text := range hostile() {
		f.Add(sealed(1, text))
	}
	f.Add([]byte("SDBXCFG1"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		counter, s, err := Parse(raw)
		if err != nil {
			_, err := Read(bytes.NewReader(raw))
			require.True(t, err == nil || errors.Is(err, ErrNone))
			return
		}
		again, err := Encode(counter, s)
		require.NoError(t, err)
		_, same, err := Parse(again)
		require.NoError(t, err)
		require.Equal(t, s, same)
	})
}

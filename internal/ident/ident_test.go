// SPDX-License-Identifier: Apache-2.0

package ident

import (
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestIDRoundTrip(t *testing.T) {
	id := NewID()
	require.Len(t, id.String(), 26)
	back, err := ParseID(id.String())
	require.NoError(t, err)
	require.Equal(t, id, back)
	for _, bad := range []string{"", "a", "AAAAAAAAAAAAAAAAAAAAAAAAAA", "aaaaaaaaaaaaaaaaaaaaaaaaab", "aaaaaaaaaaaaaaaaaaaaaaaaaaa"} {
		_, err := ParseID(bad)
		require.Error(t, err, bad)
	}
}

func TestPersonURIRoundTrip(t *testing.T) {
	g := GUID{1, 2, 3, 0xff}
	u, err := url.Parse(g.URI().String())
	require.NoError(t, err)
	back, err := ParsePersonURI(u)
	require.NoError(t, err)
	require.Equal(t, g, back)
}

func TestBoxURIIsHeldToItsDomain(t *testing.T) {
	d, err := ParseDomain("lab")
	require.NoError(t, err)
	serial, err := d.ParseBox(d.Box("PARIS-0042"))
	require.NoError(t, err)
	require.Equal(t, "PARIS-0042", serial)
	for _, bad := range []string{
		"spiffe://boxes.other/box/PARIS-0042", "https://boxes.lab/box/PARIS-0042", "spiffe://boxes.lab/box/../X",
		"spiffe://boxes.lab/box/", "spiffe://boxes.lab/box/paris", "spiffe://boxes.lab/box/AB?x=1", "spiffe://u@boxes.lab/box/AB",
	} {
		u, err := url.Parse(bad)
		require.NoError(t, err)
		_, err = d.ParseBox(u)
		require.Error(t, err, bad)
	}
}

func TestNamesAreBounded(t *testing.T) {
	require.NoError(t, CheckBubble("epi"))
	require.Error(t, CheckBubble("../epi"))
	require.Error(t, CheckBubble("E"))
	_, err := ParseDomain("a b")
	require.Error(t, err)
}

func FuzzNames(f *testing.F) {
	for _, seed := range []string{
		NewID().String(), GUID{1, 2}.String(), "urn:uuid:" + GUID{7}.String(), "spiffe://boxes.lab/box/PARIS-0042", "lab", "epi", "PARIS-0042",
		"spiffe://boxes.lab/box/PARIS-0042?q#f", "urn:oid:1", "URN:UUID:x", strings.Repeat("a", 300), "%", "A0000000-0000-0000-0000-000000000000",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if id, err := ParseID(s); err == nil {
			require.Equal(t, s, id.String())
		}
		if g, err := ParseGUID(s); err == nil {
			require.Equal(t, s, g.String())
		}
		if d, err := ParseDomain(s); err == nil {
			require.NotEmpty(t, d.Gateway("gw1"))
		}
		_ = CheckBubble(s)
		u, err := url.Parse(s)
		if err != nil {
			return
		}
		if g, err := ParsePersonURI(u); err == nil {
			require.Equal(t, "urn:uuid:"+g.String(), strings.ToLower(u.Scheme)+":"+u.Opaque)
		}
		if serial, err := Domain("lab").ParseBox(u); err == nil {
			require.Equal(t, "/box/"+serial, u.Path)
			require.NoError(t, CheckSerial(serial))
		}
	})
}

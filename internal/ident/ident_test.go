// SPDX-License-Identifier: Apache-2.0

package ident

import (
	"net/url"
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

// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sdbox/pki/profile"

	"github.com/stretchr/testify/require"
)

const guid = "01020304-0506-0708-090a-0b0c0d0e0f10"

// desk is a folder with a house of authorities, in which commands run.
type desk struct {
	t   *testing.T
	dir string
}

func newDesk(t *testing.T) desk {
	d := desk{t, t.TempDir()}
	d.ok("init", d.path("pki"), "--domain", "lab")
	return d
}

func (d desk) path(name string) string { return filepath.Join(d.dir, name) }

func (d desk) run(args ...string) (code int, out, errs string) {
	d.t.Helper()
	var o, e bytes.Buffer
	code = run(args, &o, &e)
	return code, o.String(), e.String()
}

func (d desk) ok(args ...string) string {
	d.t.Helper()
	code, out, errs := d.run(args...)
	require.Zero(d.t, code, errs)
	require.Empty(d.t, errs)
	return out
}

func (d desk) public(name string, key any) string {
	d.t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	require.NoError(d.t, err)
	require.NoError(d.t, os.WriteFile(d.path(name), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600))
	return d.path(name)
}

func (d desk) newPublic(name string) string {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(d.t, err)
	return d.public(name, key.Public())
}

func TestDeskEquipsAWholeHouse(t *testing.T) {
	d := newDesk(t)
	pki := d.path("pki")
	d.ok("issue", "gateway", "gw1", "--pki", pki, "--out", d.path("gw1/tls"))
	d.ok("issue", "bubble", "epi", "--pki", pki, "--out", d.path("epi"))
	d.ok("issue", "operator", "olga", "--pki", pki, "--out", d.path("olga"))
	d.ok("issue", "device", "PARIS-0042", "--ak-name", "000b"+strings.Repeat("ab", 32), "--public", d.newPublic("tpm.pem"), "--pki", pki, "--out", d.path("box"))
	d.ok("issue", "card", guid, "--name", "Ada Lovelace", "--auth", d.newPublic("9a.pub"), "--presence", d.newPublic("9e.pub"), "--pki", pki, "--out", d.path("ada"))
	d.ok("lend", "devices", "--pki", pki, "--out", d.path("lent"))

	for file, want := range map[string]string{
		"gw1/tls/cert.pem": "gateway gw1\n",
		"epi/cert.pem":     "bubble epi\n",
		"olga/cert.pem":    "operator olga\n",
		"box/cert.pem":     "box PARIS-0042, attestation key 000babab",
		"ada/9a.pem":       "person Ada Lovelace, card " + guid + ", by finger-on-card, until",
		"ada/9e.pem":       "presence of card " + guid,
	} {
		require.Contains(t, d.ok("show", pki, "--certificate", d.path(file)), want, file)
	}
	require.NoFileExists(t, d.path("box/key.pem"), "a key that was given stays where it is")
	_, err := profile.LoadIdentity(d.path("gw1/tls"), "lab")
	require.NoError(t, err)
	require.Contains(t, d.ok("show", pki), "cards")
	require.NotContains(t, d.ok("show", d.path("lent")), "cards")
}

func TestMistakesAreNamedAndNothingIsOverwritten(t *testing.T) {
	d := newDesk(t)
	pki := d.path("pki")
	d.ok("issue", "bubble", "epi", "--pki", pki, "--out", d.path("epi"))
	before, err := os.ReadFile(d.path("epi/key.pem"))
	require.NoError(t, err)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	one := d.newPublic("one.pub")

	for name, c := range map[string]struct {
		code int
		want string
		args []string
	}{
		"no command":      {2, "hint: sdbox-pki --help", nil},
		"unknown flag":    {2, "unknown flag", []string{"init", d.path("x"), "--domian", "lab"}},
		"no domain":       {2, "--domain", []string{"init", d.path("x")}},
		"bad domain":      {1, "want a lower-case DNS name", []string{"init", d.path("x"), "--domain", "Lab!"}},
		"house is there":  {1, "already there", []string{"init", pki, "--domain", "lab"}},
		"folder is there": {1, "hint: nothing is ever overwritten", []string{"issue", "bubble", "epi", "--pki", pki, "--out", d.path("epi")}},
		"no house":        {1, "hint: --pki names the folder", []string{"issue", "bubble", "epi", "--pki", d.path("nowhere"), "--out", d.path("y")}},
		"bubble name":     {1, "bubble name", []string{"issue", "bubble", "../epi", "--pki", pki, "--out", d.path("y")}},
		"serial":          {1, "box serial", []string{"issue", "device", "paris", "--ak-name", "000b" + strings.Repeat("ab", 32), "--pki", pki, "--out", d.path("y")}},
		"AK name":         {1, "hint: want 000b", []string{"issue", "device", "PARIS-0042", "--ak-name", "xyz", "--pki", pki, "--out", d.path("y")}},
		"method":          {2, "--method must be one of", []string{"issue", "card", guid, "--name", "Ada", "--method", "smile", "--auth", one, "--presence", one, "--pki", pki, "--out", d.path("y")}},
		"ended already":   {1, "want a time in the coming 3 years", []string{"issue", "card", guid, "--name", "Ada", "--until", "2026-01-01T00:00:00Z", "--auth", one, "--presence", d.newPublic("two.pub"), "--pki", pki, "--out", d.path("y")}},
		"one key twice":   {1, "hint: make a key in each slot", []string{"issue", "card", guid, "--name", "Ada", "--auth", one, "--presence", one, "--pki", pki, "--out", d.path("y")}},
		"RSA key":         {1, "hint: want an ECDSA key", []string{"issue", "bubble", "epi", "--public", d.public("rsa.pub", rsaKey.Public()), "--pki", pki, "--out", d.path("y")}},
		"a private key":   {1, "hint: want a PEM file that begins with BEGIN PUBLIC KEY", []string{"issue", "bubble", "epi", "--public", d.path("epi/key.pem"), "--pki", pki, "--out", d.path("y")}},
		"root lent":       {2, "must be one of", []string{"lend", "root", "--pki", pki, "--out", d.path("y")}},
		"wrong identity":  {1, "identity", []string{"issue", "bubble", "epi", "--identity", d.path("epi/key.pem"), "--pki", pki, "--out", d.path("y")}},
		"not ours":        {1, "not signed by this house", []string{"show", pki, "--certificate", foreign(t)}},
	} {
		code, out, errs := d.run(c.args...)
		require.Equal(t, c.code, code, "%s: %s", name, errs)
		require.Contains(t, errs, c.want, name)
		require.Empty(t, out, name)
		require.NoDirExists(t, d.path("y"), name)
	}
	after, err := os.ReadFile(d.path("epi/key.pem"))
	require.NoError(t, err)
	require.Equal(t, before, after)
}

func foreign(t *testing.T) string {
	other := newDesk(t)
	other.ok("issue", "operator", "olga", "--pki", other.path("pki"), "--out", other.path("olga"))
	return other.path("olga/cert.pem")
}

func FuzzMeasured(f *testing.F) {
	digest := strings.Repeat("ab", 32)
	for _, seed := range []string{
		"ek " + digest + "\npcr 0 " + digest + "\npcr 23 " + digest + "\n", "pcr 24 " + digest, "pcr x " + digest, "pcr 1 ab", "pcr 1 " + digest + " more", "", "ek x",
		"pcr 2 " + digest + "\nevent 2 0x00000004 " + digest + " EV_SEPARATOR\n", "event 2 0x00000004 " + digest, "pcr 2 " + digest + "\nevent 2 4 " + digest,
		strings.Repeat("p", maxMeasured+1), strings.Repeat("p", maxMeasured),
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		list, err := parseMeasured(text)
		require.True(t, err != nil || len(list) > 0)
		for _, p := range list {
			require.LessOrEqual(t, p.Index, uint8(23))
		}
	})
}

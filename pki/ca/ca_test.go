// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"os"
	"path/filepath"
	"testing"
	"time"

	"sdbox/internal/ident"
	"sdbox/pki/profile"

	"github.com/stretchr/testify/require"
)

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	return key
}

func house(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "pki")
	require.NoError(t, Init(dir, "lab", "", time.Now()))
	return dir
}

func TestEveryProfileIsIssuedByItsAuthorityAndByNoOther(t *testing.T) {
	dir := house(t)
	key := newKey(t).Public()
	ak := append([]byte{0x00, 0x0b}, make([]byte, 32)...)
	profiles := []profile.Profile{
		profile.Device{Serial: "PARIS-0042", AKName: ak, Key: key},
		profile.CardAuth{GUID: ident.GUID{1}, Name: "Ada Lovelace", UPN: "ada@lab", Method: profile.FingerOnCard, Key: key},
		profile.CardPresence{GUID: ident.GUID{1}, Key: key},
		profile.Operator{Name: "olga", Key: key},
		profile.Gateway{Name: "gw1", Key: key},
		profile.Bubble{Name: "epi", Key: key},
	}
	for _, name := range append(profile.Issuers(), profile.Root) {
		a, err := Open(dir, name, "")
		require.NoError(t, err)
		for _, p := range profiles {
			issued, err := a.Issue(p)
			if p.Issuer() != name {
				require.ErrorContains(t, err, "does not sign", "%s %T", name, p)
				continue
			}
			require.NoError(t, err, "%s %T", name, p)
			require.Len(t, issued.Chain, 2)
			require.NoError(t, profile.Check(a.Trust(), p, issued.Certificate.Raw, time.Now()))
		}
	}
}

func TestKeyOpensOnlyWithItsIdentity(t *testing.T) {
	dir, other := house(t), house(t)
	_, err := Open(dir, profile.Cards, filepath.Join(other, IdentityFile))
	require.ErrorContains(t, err, "open key.age")

	require.NoError(t, os.Chmod(filepath.Join(dir, IdentityFile), 0o644))
	_, err = Open(dir, profile.Cards, "")
	require.ErrorContains(t, err, "others may read it")

	sealed, err := os.ReadFile(filepath.Join(other, "cards", "key.age"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(other, "devices", "key.age"), sealed, 0o600))
	_, err = Open(other, profile.Devices, "")
	require.ErrorContains(t, err, "do not belong together")
	_, err = Open(other, "../cards", "")
	require.Error(t, err)
}

func TestLentAuthorityOpensNoOtherKey(t *testing.T) {
	dir := house(t)
	out := filepath.Join(t.TempDir(), "gw1")
	require.NoError(t, Lend(dir, profile.Devices, "", out))
	a, err := Open(out, profile.Devices, "")
	require.NoError(t, err)
	_, err = a.Issue(profile.Device{Serial: "PARIS-0042", AKName: append([]byte{0, 11}, make([]byte, 32)...), Key: newKey(t).Public()})
	require.NoError(t, err)
	_, err = Open(dir, profile.Cards, filepath.Join(out, IdentityFile))
	require.Error(t, err)
	require.ErrorContains(t, Lend(dir, profile.Root, "", out+"2"), "not lent")
	_, list, err := Show(out)
	require.NoError(t, err)
	require.Len(t, list, 1)
}

func TestInitNeverTouchesWhatIsThere(t *testing.T) {
	dir := house(t)
	before, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	require.NoError(t, err)
	require.ErrorContains(t, Init(dir, "lab", "", time.Now()), "already there")
	after, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	require.NoError(t, err)
	require.Equal(t, before, after)
	left, err := filepath.Glob(filepath.Join(filepath.Dir(dir), ".pki-*"))
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestWrittenIdentityServesTLS(t *testing.T) {
	dir := house(t)
	a, err := Open(dir, profile.Gateways, "")
	require.NoError(t, err)
	key := newKey(t)
	issued, err := a.Issue(profile.Gateway{Name: "gw1", Key: key.Public()})
	require.NoError(t, err)
	out := filepath.Join(t.TempDir(), "tls")
	require.NoError(t, a.WriteIdentity(out, issued, key))
	require.Error(t, a.WriteIdentity(out, issued, key), "an identity is never overwritten")
	for _, name := range []string{"cert.pem", "key.pem", "ca.pem"} {
		info, err := os.Stat(filepath.Join(out, name))
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode().Perm(), name)
	}
	id, err := profile.LoadIdentity(out, "lab")
	require.NoError(t, err)
	_, err = profile.LoadIdentity(out, "example.org")
	require.ErrorContains(t, err, "no authority of domain")
	require.NoError(t, os.Chmod(filepath.Join(out, "key.pem"), 0o640))
	_, err = profile.LoadIdentity(out, "lab")
	require.ErrorContains(t, err, "others may read it")

	// A client that holds the root alone, as a box does, completes the chain from what the server sends.
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{id.TLS}, MinVersion: tls.VersionTLS13})
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() {
		conn, err := listener.Accept()
		if err == nil {
			_, err = conn.Write([]byte("x"))
			conn.Close()
		}
		done <- err
	}()
	conn, err := tls.Dial("tcp", listener.Addr().String(), &tls.Config{RootCAs: id.Trust.Roots(), ServerName: "gw1.lab", MinVersion: tls.VersionTLS13})
	require.NoError(t, err)
	require.NoError(t, <-done)
	require.NoError(t, conn.Close())
	require.NoError(t, listener.Close())
}

func TestAuthorityNearItsEndSignsNothingLonger(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	require.NoError(t, Init(dir, "lab", "", time.Now().Add(-9*365*24*time.Hour)))
	a, err := Open(dir, profile.Cards, "")
	require.NoError(t, err)
	_, err = a.Issue(profile.CardPresence{GUID: ident.GUID{1}, Key: newKey(t).Public()})
	require.ErrorContains(t, err, "renew it first")
}

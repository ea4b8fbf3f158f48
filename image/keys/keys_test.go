// SPDX-License-Identifier: Apache-2.0

package keys

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"
	"time"

	"sdbox/firmware/efivar"

	"github.com/stretchr/testify/require"
)

func TestFolderHoldsWhatAFirmwareEnrols(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	require.NoError(t, Make(dir, "Hospital", now))
	require.ErrorIs(t, Make(dir, "Hospital", now), os.ErrExist)

	owner, err := os.ReadFile(filepath.Join(dir, "owner"))
	require.NoError(t, err)
	guid, err := efivar.ParseGUID(string(bytes.TrimSpace(owner)))
	require.NoError(t, err)
	for name, v := range map[string]struct{ variable, by string }{
		PK: {efivar.PK, PK}, KEK: {efivar.KEK, PK}, DB: {efivar.DB, KEK}, Dev: {efivar.DB, KEK},
	} {
		p, err := Load(dir, name)
		require.NoError(t, err)
		require.Equal(t, "Hospital "+name, p.Certificate.Subject.CommonName)
		info, err := os.Stat(filepath.Join(dir, name+".key"))
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode())
		list, err := os.ReadFile(filepath.Join(dir, name+".esl"))
		require.NoError(t, err)
		entries, err := efivar.ParseLists(list)
		require.NoError(t, err)
		require.Equal(t, []efivar.Signature{{Kind: efivar.KindX509, Owner: guid, Data: p.Certificate.Raw}}, entries)
		auth, err := os.ReadFile(filepath.Join(dir, name+".auth"))
		require.NoError(t, err)
		by, err := Load(dir, v.by)
		require.NoError(t, err)
		again, err := Authenticate(efivar.Change{Name: v.variable, Value: list, Time: now}, by)
		require.NoError(t, err)
		require.Equal(t, auth, again, "the same change, signed anew, has the same bytes")
		requireSigned(t, efivar.Change{Name: v.variable, Value: list, Time: now}, auth, by.Certificate)
	}
	pk, kek, db, err := Lists(dir, false)
	require.NoError(t, err)
	_, _, dev, err := Lists(dir, true)
	require.NoError(t, err)
	require.NotEqual(t, db, dev)
	require.NotEqual(t, pk, kek)
	for dev, name := range map[bool]string{false: DB, true: Dev} {
		e, err := Enrolment(dir, dev)
		require.NoError(t, err)
		for file, got := range map[string][]byte{name: e.DB, KEK: e.KEK, PK: e.PK} {
			want, err := os.ReadFile(filepath.Join(dir, file+".auth"))
			require.NoError(t, err)
			require.Equal(t, want, got)
		}
	}
}

// requireSigned checks the signature in an .auth file by the offsets of UEFI 2.10, 8.2.2.
func requireSigned(t *testing.T, c efivar.Change, auth []byte, signer *x509.Certificate) {
	require.True(t, bytes.HasSuffix(auth, c.Value))
	der := auth[40 : len(auth)-len(c.Value)]
	message, err := c.Message()
	require.NoError(t, err)
	// The signature is the last thing in the SignedData: an RSA signature over the message itself.
	public := signer.PublicKey.(*rsa.PublicKey)
	sum := sha256.Sum256(message)
	require.NoError(t, rsa.VerifyPKCS1v15(public, crypto.SHA256, sum[:], der[len(der)-public.Size():]))
	require.Contains(t, string(der), string(signer.Raw))
}

func TestFoldersThatAreNoneAreRefused(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	require.NoError(t, Make(dir, "Hospital", time.Now()))
	db, err := Load(dir, DB)
	require.NoError(t, err)
	kek, err := Load(dir, KEK)
	require.NoError(t, err)
	_, err = Authenticate(efivar.Change{Name: efivar.DB}, Pair{db.Key, kek.Certificate})
	require.ErrorContains(t, err, "its certificate")
	_, err = Authenticate(efivar.Change{Name: "db"}, kek)
	require.ErrorContains(t, err, "want NAME-GUID")

	pem, err := os.ReadFile(filepath.Join(dir, "KEK.pem"))
	require.NoError(t, err)
	for name, c := range map[string]struct {
		file    string
		content []byte
		says    string
	}{
		"another's certificate": {"db.pem", pem, "not the RSA key of"},
		"two certificates":      {"db.pem", append(pem, pem...), "one PEM block"},
		"a certificate as key":  {"db.key", pem, "one PEM block PRIVATE KEY"},
		"nothing":               {"db.pem", nil, "one PEM block"},
		"no end":                {"db.pem", make([]byte, maxFile+1), "too long"},
		"no certificate in it":  {"db.pem", []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), "db.pem: x509"},
	} {
		bad := t.TempDir()
		require.NoError(t, os.CopyFS(bad, os.DirFS(dir)))
		require.NoError(t, os.WriteFile(filepath.Join(bad, c.file), c.content, 0o600))
		_, err = Load(bad, DB)
		require.ErrorContains(t, err, c.says, name)
	}
	_, err = Load(t.TempDir(), DB)
	require.ErrorIs(t, err, os.ErrNotExist)
	_, _, _, err = Lists(t.TempDir(), false)
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = Enrolment(t.TempDir(), false)
	require.ErrorIs(t, err, os.ErrNotExist)
}

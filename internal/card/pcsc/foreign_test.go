// SPDX-License-Identifier: Apache-2.0

package pcsc_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"

	"sdbox/internal/card"
	"sdbox/internal/card/cardsim"

	"github.com/go-piv/piv-go/v2/piv"
	"github.com/stretchr/testify/require"
)

// TestOpenSCUsesBothCards: opensc, which knows nothing of this house, reads and signs with a card of each profile.
func TestOpenSCUsesBothCards(t *testing.T) {
	if !inPlace(t) {
		return
	}
	startDaemon(t)
	w := watch(t)
	for seed, profile := range []string{cardsim.NISTOCC, cardsim.YubiKey57} {
		p := newOfProfile(t, profile, "Ada Martin", uint64(seed+1))
		insert(t, p.Sim, slot0)
		require.True(t, next(t, w).Present)
		require.Contains(t, run(t, "piv-tool", "--send-apdu", "00:A4:04:00:05:A0:00:00:03:08:00"), "SW1=0x90, SW2=0x00")
		require.Contains(t, run(t, "piv-tool", "--name"), "Personal Identity Verification Card")
		require.Contains(t, run(t, "pkcs11-tool", "--list-objects"), "Ada Martin")
		signByPKCS11(t, p)
		p.Eject()
		require.False(t, next(t, w).Present)
	}
}

// signByPKCS11 reads the certificate and signs with its key, by PIN.
func signByPKCS11(t *testing.T, p personal) {
	t.Helper()
	dir := t.TempDir()
	der, in, out := filepath.Join(dir, "cert.der"), filepath.Join(dir, "digest"), filepath.Join(dir, "signature")
	run(t, "pkcs11-tool", "--read-object", "--type", "cert", "--id", "01", "--output-file", der)
	got, err := os.ReadFile(der)
	require.NoError(t, err)
	require.Equal(t, p.der, got)

	digest := sha256.Sum256([]byte("signed by a foreign program"))
	require.NoError(t, os.WriteFile(in, digest[:], 0o600))
	run(t, "pkcs11-tool", "--login", "--pin", "246810", "--sign", "--mechanism", "ECDSA", "--signature-format", "openssl",
		"--id", "01", "--input-file", in, "--output-file", out)
	signature, err := os.ReadFile(out)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(got)
	require.NoError(t, err)
	require.True(t, ecdsa.VerifyASN1(cert.PublicKey.(*ecdsa.PublicKey), digest[:], signature))
}

// TestYubicoToolsWriteAndSign: Yubico's own program and piv-go take the card for a YubiKey: they make and import keys and
// certificates, sign, attest, change PIN, PUK and management key, and make it new.
func TestYubicoToolsWriteAndSign(t *testing.T) {
	if !inPlace(t) {
		return
	}
	startDaemon(t)
	w := watch(t)
	p := newOfProfile(t, cardsim.YubiKey57, "Ada Martin", 1)
	insert(t, p.Sim, slot0)
	came := next(t, w)
	require.True(t, came.Present)

	key := []byte(cardsim.FactoryManagementKey)
	pivGoReads(t, came.Reader, p)
	pivGoWrites(t, came.Reader, key)
	useTripleDES(t, w.Connect, came.Reader) // all that the program of Debian 12 speaks
	yubicoTool(t, came.Reader)
	pivGoAdministers(t, came.Reader, key)
}

func openYubiKey(t *testing.T, reader string) *piv.YubiKey {
	t.Helper()
	yk, err := piv.Open(reader)
	require.NoError(t, err)
	return yk
}

func pivGoReads(t *testing.T, reader string, p personal) {
	t.Helper()
	yk := openYubiKey(t, reader)
	defer yk.Close()
	require.Equal(t, piv.Version{Major: 5, Minor: 7, Patch: 4}, yk.Version())
	serial, err := yk.Serial()
	require.NoError(t, err)
	require.NotZero(t, serial)
	cert, err := yk.Certificate(piv.SlotAuthentication)
	require.NoError(t, err)
	require.Equal(t, p.der, cert.Raw)
	tries, err := yk.Retries()
	require.NoError(t, err)
	require.Equal(t, 3, tries)
	var wrong piv.AuthErr
	require.ErrorAs(t, yk.VerifyPIN("000000"), &wrong)
	require.Equal(t, 2, wrong.Retries)
	pivGoSigns(t, yk, piv.SlotAuthentication, cert.PublicKey, "246810")
}

func pivGoSigns(t *testing.T, yk *piv.YubiKey, slot piv.Slot, pub crypto.PublicKey, pin string) {
	t.Helper()
	key, err := yk.PrivateKey(slot, pub, piv.KeyAuth{PIN: pin})
	require.NoError(t, err)
	digest := sha256.Sum256([]byte("signed by piv-go"))
	signature, err := key.(crypto.Signer).Sign(rand.Reader, digest[:], crypto.SHA256)
	require.NoError(t, err)
	require.True(t, ecdsa.VerifyASN1(pub.(*ecdsa.PublicKey), digest[:], signature))
}

func pivGoWrites(t *testing.T, reader string, management []byte) {
	t.Helper()
	yk := openYubiKey(t, reader)
	defer yk.Close()
	retired, ok := piv.RetiredKeyManagementSlot(0x82)
	require.True(t, ok)
	policy := piv.Key{Algorithm: piv.AlgorithmEC256, PINPolicy: piv.PINPolicyAlways, TouchPolicy: piv.TouchPolicyNever}
	pub, err := yk.GenerateKey(management, retired, policy)
	require.NoError(t, err)
	der := certifyKey(t, pub, "Ada Martin, renewed", 2)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	require.NoError(t, yk.SetCertificate(management, retired, cert))
	back, err := yk.Certificate(retired)
	require.NoError(t, err)
	require.Equal(t, der, back.Raw)
	for range 2 {
		pivGoSigns(t, yk, retired, pub, "246810")
	}

	attestation, err := yk.Attest(retired)
	require.NoError(t, err)
	by, err := yk.AttestationCertificate()
	require.NoError(t, err)
	roots := x509.NewCertPool()
	roots.AddCert(by)
	says, err := (&piv.Verifier{Roots: roots}).Verify(by, attestation)
	require.NoError(t, err)
	serial, err := yk.Serial()
	require.NoError(t, err)
	require.Equal(t, &piv.Attestation{Version: yk.Version(), Serial: serial, Formfactor: piv.FormfactorUSBAKeychain,
		PINPolicy: piv.PINPolicyAlways, TouchPolicy: piv.TouchPolicyNever, Slot: retired}, says)
	_, err = piv.Verify(by, attestation)
	require.Error(t, err, "Yubico's own roots do not know it")

	outside, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	policy.PINPolicy = piv.PINPolicyNever
	require.NoError(t, yk.SetPrivateKeyInsecure(management, piv.SlotSignature, outside, policy))
	info, err := yk.KeyInfo(piv.SlotSignature)
	require.NoError(t, err)
	require.Equal(t, piv.KeyInfo{Algorithm: piv.AlgorithmEC256, PINPolicy: piv.PINPolicyNever, TouchPolicy: piv.TouchPolicyNever,
		Origin: piv.OriginImported, PublicKey: info.PublicKey}, info)
	require.True(t, outside.PublicKey.Equal(info.PublicKey))
	pivGoSigns(t, yk, piv.SlotSignature, &outside.PublicKey, "")
}

// useTripleDES sets the management key to the same bytes as a triple DES key, through the reader, with our own client.
func useTripleDES(t *testing.T, connect connectFunc, reader string) {
	t.Helper()
	conn, err := connect(reader)
	require.NoError(t, err)
	defer conn.Close()
	c, err := card.Select(conn, conn.Limits())
	require.NoError(t, err)
	require.NoError(t, c.Authenticate([]byte(cardsim.FactoryManagementKey)))
	answer, err := conn.Transmit(append([]byte{0, 0xFF, 0xFF, 0xFF, 27, 0x03, 0x9B, 24}, cardsim.FactoryManagementKey...))
	require.NoError(t, err)
	require.Equal(t, []byte{0x90, 0}, answer)
}

func yubicoTool(t *testing.T, reader string) {
	t.Helper()
	dir := t.TempDir()
	public, cert := filepath.Join(dir, "public.pem"), filepath.Join(dir, "cert.pem")
	tool := func(args ...string) string {
		return run(t, "yubico-piv-tool", append([]string{"--reader", reader}, args...)...)
	}
	require.Contains(t, tool("-a", "version"), "5.7.4")
	status := tool("-a", "status")
	require.Contains(t, status, "Ada Martin")
	require.Regexp(t, `PIN tries left:\s*3`, status, "the PIN given to piv-go is not open here")
	tool("-a", "generate", "-s", "83", "-A", "ECCP256", "-o", public)
	text, err := os.ReadFile(public)
	require.NoError(t, err)
	block, _ := pem.Decode(text)
	require.NotNil(t, block)
	pub, err := x509.ParsePKIXPublicKey(block.Bytes)
	require.NoError(t, err)
	written := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certifyKey(t, pub, "Ada Martin, by Yubico", 3)})
	require.NoError(t, os.WriteFile(cert, written, 0o600))
	tool("-a", "import-certificate", "-s", "83", "-i", cert)
	require.Equal(t, string(written), tool("-a", "read-certificate", "-s", "83"))
	_, signed := runBoth(t, "yubico-piv-tool", "--reader", reader, "-a", "verify-pin", "-P", "246810", "-a", "test-signature", "-s", "83", "-i", cert)
	require.Contains(t, signed, "Successful ECDSA verification")
	require.Contains(t, tool("-a", "attest", "-s", "83"), "BEGIN CERTIFICATE")
	tool("-a", "delete-certificate", "-s", "83")
	tool("-a", "change-pin", "-P", "246810", "-N", "135791")
	tool("-a", "unblock-pin", "-P", "12345678", "-N", "123456")
}

func pivGoAdministers(t *testing.T, reader string, management []byte) {
	t.Helper()
	yk := openYubiKey(t, reader)
	defer yk.Close()
	longer := bytes.Repeat([]byte{9}, 32)
	require.NoError(t, yk.SetManagementKey(management, longer), "from triple DES to AES-256")
	require.NoError(t, yk.SetPIN("123456", "654321"))
	require.NoError(t, yk.SetPUK("12345678", "87654321"))
	require.NoError(t, yk.Unblock("87654321", "246810"))
	require.NoError(t, yk.SetRetries(longer, "246810", 5, 4))
	tries, err := yk.Retries()
	require.NoError(t, err)
	require.Equal(t, 5, tries)
	require.NoError(t, yk.Reset())
	_, err = yk.Certificate(piv.SlotAuthentication)
	require.ErrorIs(t, err, piv.ErrNotFound)
	require.NoError(t, yk.VerifyPIN(piv.DefaultPIN))
}

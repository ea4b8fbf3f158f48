// SPDX-License-Identifier: Apache-2.0

package card_test

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"testing"

	"sdbox/internal/card"
	"sdbox/internal/card/cardsim"
	"sdbox/internal/ident"

	"github.com/stretchr/testify/require"
)

func newYubiKey(t testing.TB) *cardsim.Sim {
	t.Helper()
	sim, err := cardsim.New(cardsim.YubiKey57, cardsim.Person{GUID: ident.GUID{4, 5, 6}, Name: "Ada Martin"})
	require.NoError(t, err)
	return sim
}

// TestDeskWritesACard makes a key, writes its certificate and signs, however much one command carries.
func TestDeskWritesACard(t *testing.T) {
	der := issue(t, 1200).der
	for name, c := range map[string]struct {
		limits card.Limits
		writes int // commands of PutCertificate
	}{
		"extended": {card.Limits{Extended: true}, 1},
		"short":    {card.Limits{}, (len(der) + 18 + 254) / 255},
		"T=0":      {card.Limits{T0: true}, (len(der) + 18 + 254) / 255},
	} {
		t.Run(name, func(t *testing.T) {
			line := &tap{Transport: newYubiKey(t)}
			got, err := card.Select(line, c.limits)
			require.NoError(t, err)
			_, err = got.Generate(card.Slot82)
			require.ErrorIs(t, err, card.ErrNotVerified)
			require.ErrorIs(t, got.PutCertificate(card.Slot82, der), card.ErrNotVerified)
			require.NoError(t, got.Authenticate([]byte(cardsim.FactoryManagementKey)))
			pub, err := got.Generate(card.Slot82)
			require.NoError(t, err)

			before := len(line.sent)
			require.NoError(t, got.PutCertificate(card.Slot82, der))
			require.Equal(t, c.writes, len(line.sent)-before)
			back, err := got.Certificate(card.Slot82)
			require.NoError(t, err)
			require.Equal(t, der, back)

			require.NoError(t, got.VerifyPIN(cardsim.FactoryPIN))
			digest := sha256.Sum256([]byte("nonce"))
			_, err = got.Signer(card.Slot82, pub).Sign(nil, digest[:], crypto.SHA256)
			require.NoError(t, err)

			require.NoError(t, got.PutObject(0x5FC10D, nil))
			_, err = got.Object(0x5FC10D)
			require.ErrorIs(t, err, card.ErrNoObject)
		})
	}
}

func TestManagementKeyIsProvedBothWays(t *testing.T) {
	sim := newYubiKey(t)
	c, err := card.Select(sim, card.Limits{})
	require.NoError(t, err)
	wrong := bytes.Repeat([]byte{7}, 24)
	require.ErrorIs(t, c.Authenticate(wrong), card.ErrManagementKey)
	require.Error(t, c.Authenticate(wrong[:16]), "neither AES-192 nor AES-256")
	require.Error(t, c.Authenticate(bytes.Repeat([]byte{7}, 32)), "the card's is AES-192")
	require.NoError(t, c.Authenticate([]byte(cardsim.FactoryManagementKey)))
	require.ErrorIs(t, c.Authenticate(wrong), card.ErrManagementKey)
	_, err = c.Generate(card.Slot9A)
	require.ErrorIs(t, err, card.ErrNotVerified, "a wrong key takes the right away")

	set := append([]byte{0, 0xFF, 0xFF, 0xFF, 35, 0x0C, 0x9B, 32}, bytes.Repeat([]byte{9}, 32)...)
	require.NoError(t, c.Authenticate([]byte(cardsim.FactoryManagementKey)))
	answer, err := sim.Transmit(set)
	require.NoError(t, err)
	require.Equal(t, []byte{0x90, 0}, answer)
	require.NoError(t, c.Authenticate(bytes.Repeat([]byte{9}, 32)), "AES-256")

	// A card that agrees to any key cannot prove that it knows it.
	block := bytes.Repeat([]byte{1}, 16)
	yes := &script{{0x90, 0}, append([]byte{0x7C, 18, 0x80, 16}, append(block, 0x90, 0)...), append([]byte{0x7C, 18, 0x82, 16}, append(block, 0x90, 0)...)}
	c, err = card.Select(yes, card.Limits{})
	require.NoError(t, err)
	require.ErrorIs(t, c.Authenticate(wrong), card.ErrBadCard)
	for _, witness := range []string{"\x90\x00", "\x7C\x02\x80\x00\x90\x00", "\x7C\x04\x82\x02ab\x90\x00", "\x7C\x0A\x80\x0812345678\x90\x00"} {
		c, err = card.Select(&script{{0x90, 0}, []byte(witness)}, card.Limits{})
		require.NoError(t, err)
		require.ErrorIs(t, c.Authenticate(wrong), card.ErrBadCard)
	}
}

func TestWritesRefuseBadInput(t *testing.T) {
	c, err := card.Select(newYubiKey(t), card.Limits{})
	require.NoError(t, err)
	require.NoError(t, c.Authenticate([]byte(cardsim.FactoryManagementKey)))
	require.Error(t, c.PutCertificate(card.Slot9A, []byte("no certificate")))
	require.Error(t, c.PutCertificate(card.Slot(0x9C), issue(t, 0).der))
	require.Error(t, c.PutCertificate(card.Slot82+20, issue(t, 0).der))
	require.Error(t, c.PutObject(0x5FC105, make([]byte, 1<<15)))
	_, err = c.Generate(card.Slot(0x96))
	require.Error(t, err)

	for _, answer := range []string{
		"\x90\x00", "\x7F\x49\x02\x86\x00\x90\x00", "\x7F\x49\x04\x81\x02ab\x90\x00",
		"\x7F\x49\x43\x86\x41\x04" + string(bytes.Repeat([]byte{1}, 64)) + "\x90\x00", // not on the curve
	} {
		c, err = card.Select(&script{{0x90, 0}, []byte(answer)}, card.Limits{})
		require.NoError(t, err)
		_, err = c.Generate(card.Slot9A)
		require.ErrorIs(t, err, card.ErrBadCard, "% X", answer)
	}
}

// TestRetiredSlotsHaveTheirObjects: certificates of 82 to 95 lie in 5FC10D to 5FC120.
func TestRetiredSlotsHaveTheirObjects(t *testing.T) {
	sim := newYubiKey(t)
	for i := range card.Slot(20) {
		pub, err := sim.Generate(card.Slot82 + i)
		require.NoError(t, err)
		require.NotNil(t, pub)
		require.NoError(t, sim.PutCertificate(card.Slot82+i, issue(t, int(i)).der))
	}
	c, err := card.Select(sim, card.Limits{Extended: true})
	require.NoError(t, err)
	for i := range card.Slot(20) {
		der, err := c.Certificate(card.Slot82 + i)
		require.NoError(t, err)
		_, err = x509.ParseCertificate(der)
		require.NoError(t, err)
		content, err := c.Object(0x5FC10D + uint32(i))
		require.NoError(t, err)
		require.Contains(t, string(content), string(der))
	}
}

// SPDX-License-Identifier: Apache-2.0

package pcsc_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"log/slog"
	"math/big"
	mathrand "math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"sdbox/internal/card"
	"sdbox/internal/card/cardsim"
	"sdbox/internal/card/pcsc"
	"sdbox/internal/finger/fingersim"

	"github.com/stretchr/testify/require"
)

func testLog(t *testing.T) *slog.Logger { return slog.New(slog.NewTextHandler(t.Output(), nil)) }

// certify makes a slot's key and writes a certificate of an authority made for it.
func certify(t *testing.T, sim *cardsim.Sim, slot card.Slot, name string) []byte {
	t.Helper()
	pub, err := sim.Generate(slot)
	require.NoError(t, err)
	der := certifyKey(t, pub, name, int64(slot))
	require.NoError(t, sim.PutCertificate(slot, der))
	return der
}

func certifyKey(t *testing.T, pub crypto.PublicKey, name string, serial int64) []byte {
	t.Helper()
	authority, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
	}
	issuer := &x509.Certificate{Subject: pkix.Name{CommonName: "test authority"}}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, pub, authority)
	require.NoError(t, err)
	return der
}

func TestLoginThroughReader(t *testing.T) {
	if !inPlace(t) {
		return
	}
	startDaemon(t)
	w := watch(t)
	p := newPersonal(t, "Ada Martin", 1)
	insert(t, p.Sim, slot0)

	came := next(t, w)
	require.True(t, came.Present)
	require.Equal(t, p.ATR(), came.ATR)
	start := time.Now()
	conn, err := w.Connect(came.Reader)
	require.NoError(t, err)
	require.True(t, conn.Limits().Extended)
	counted := &counter{Transport: conn}
	c, err := card.Select(counted, conn.Limits())
	require.NoError(t, err)
	der, err := c.Certificate(card.Slot9A)
	require.NoError(t, err)
	require.Equal(t, p.der, der)
	digest := sha256.Sum256([]byte("presence"))
	_, err = c.Signer(card.Slot9E, nil).Sign(nil, digest[:], crypto.SHA256)
	require.NoError(t, err)
	require.Equal(t, 3, counted.n, "commands before the finger")

	_, err = w.Connect(came.Reader)
	require.Error(t, err, "the card is held alone")

	r := mathrand.New(mathrand.NewPCG(1, 1))
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	require.NoError(t, c.VerifyFinger(card.RefFinger, p.finger.Impression(r).Encode()))
	signature, err := c.Signer(card.Slot9A, cert.PublicKey.(*ecdsa.PublicKey)).Sign(nil, digest[:], crypto.SHA256)
	require.NoError(t, err)
	require.True(t, ecdsa.VerifyASN1(cert.PublicKey.(*ecdsa.PublicKey), digest[:], signature))
	require.Equal(t, 5, counted.n, "commands of a login in all")
	t.Logf("card in reader to signature: %v", time.Since(start))

	require.NoError(t, conn.Close())
	require.NoError(t, conn.Close())
	again, err := w.Connect(came.Reader)
	require.NoError(t, err)
	c, err = card.Select(again, again.Limits())
	require.NoError(t, err)
	_, err = c.Signer(card.Slot9A, nil).Sign(nil, digest[:], crypto.SHA256)
	require.ErrorIs(t, err, card.ErrNotVerified, "a verified finger outlives the connection")

	p.Eject()
	_, err = c.Signer(card.Slot9E, nil).Sign(nil, digest[:], crypto.SHA256)
	require.ErrorIs(t, err, card.ErrRemoved)
	require.False(t, next(t, w).Present)
	require.NoError(t, again.Close(), "a card that is gone closes in peace")
	_, err = w.Connect(came.Reader)
	require.ErrorIs(t, err, card.ErrRemoved)
}

// counter counts commands.
type counter struct {
	card.Transport
	n int
}

func (c *counter) Transmit(apdu []byte) ([]byte, error) {
	c.n++
	return c.Transport.Transmit(apdu)
}

func TestWatcherOutlivesDaemon(t *testing.T) {
	if !inPlace(t) {
		return
	}
	w := watch(t) // before there is a daemon
	p := newPersonal(t, "Ada Martin", 1)
	for range 2 {
		kill := startDaemon(t)
		insert(t, p.Sim, slot0)
		came := next(t, w)
		require.True(t, came.Present)
		conn, err := w.Connect(came.Reader)
		require.NoError(t, err)
		kill()
		left := next(t, w)
		require.False(t, left.Present)
		require.Equal(t, came.Reader, left.Reader)
		_, err = card.Select(conn, conn.Limits())
		require.ErrorIs(t, err, card.ErrRemoved)
		require.NoError(t, conn.Close())
		p.Eject()
	}
}

func TestQuickSwapIsTwoCards(t *testing.T) {
	if !inPlace(t) {
		return
	}
	startDaemon(t)
	w := watch(t)
	ada, ben := newPersonal(t, "Ada Martin", 1), newPersonal(t, "Ben Smit", 2)
	insert(t, ada.Sim, slot0)
	first := next(t, w)
	require.True(t, first.Present)
	ada.Eject()
	insert(t, ben.Sim, slot0)
	left, second := next(t, w), next(t, w)
	require.False(t, left.Present)
	require.True(t, second.Present)
	require.NotEqual(t, first.Count, second.Count)

	conn, err := w.Connect(second.Reader)
	require.NoError(t, err)
	c, err := card.Select(conn, conn.Limits())
	require.NoError(t, err)
	guid, err := c.GUID()
	require.NoError(t, err)
	require.Equal(t, ben.Person().GUID, guid)
	require.NoError(t, conn.Close())
}

func TestCardMovesWithItsCounters(t *testing.T) {
	if !inPlace(t) {
		return
	}
	startDaemon(t)
	w := watch(t)
	p := newPersonal(t, "Ada Martin", 1)
	file := filepath.Join(t.TempDir(), "ada.card")
	require.NoError(t, p.Save(file))
	insert(t, p.Sim, slot0)
	first := next(t, w)
	wrong := cardOther(t)
	tryFinger(t, w.Connect, first.Reader, wrong, &card.PINError{Left: 2})
	p.Eject()
	require.False(t, next(t, w).Present)

	moved, err := cardsim.Load(file)
	require.NoError(t, err)
	insert(t, moved, slot1)
	second := next(t, w)
	require.True(t, second.Present)
	require.NotEqual(t, first.Reader, second.Reader)
	tryFinger(t, w.Connect, second.Reader, wrong, &card.PINError{Left: 1})
	r := mathrand.New(mathrand.NewPCG(1, 1))
	tryFinger(t, w.Connect, second.Reader, p.finger.Impression(r).Encode(), nil)
}

// cardOther is somebody else's finger.
func cardOther(t *testing.T) []byte {
	t.Helper()
	return fingersim.NewFinger(99).Impression(mathrand.New(mathrand.NewPCG(9, 9))).Encode()
}

// connectFunc is Watcher.Connect.
type connectFunc func(reader string) (*pcsc.Conn, error)

// tryFinger connects, places one finger and lets go.
func tryFinger(t *testing.T, connect connectFunc, reader string, minutiae []byte, want error) {
	t.Helper()
	conn, err := connect(reader)
	require.NoError(t, err)
	c, err := card.Select(conn, conn.Limits())
	require.NoError(t, err)
	err = c.VerifyFinger(card.RefFinger, minutiae)
	require.NoError(t, conn.Close())
	if want == nil {
		require.NoError(t, err)
		return
	}
	var pin *card.PINError
	require.ErrorAs(t, err, &pin)
	require.Equal(t, want, pin)
}

// TestCardPulledInTheMiddleOfVerify: the box hears that the card is gone, the try is spent, and the next insertion counts on.
func TestCardPulledInTheMiddleOfVerify(t *testing.T) {
	if !inPlace(t) {
		return
	}
	startDaemon(t)
	w := watch(t)
	p := newPersonal(t, "Ada Martin", 1)
	right := p.finger.Impression(mathrand.New(mathrand.NewPCG(1, 1))).Encode()
	for i, moment := range []cardsim.Moment{cardsim.BeforeCommand, cardsim.InsideCommand, cardsim.BeforeAnswer} {
		insert(t, p.Sim, slot0)
		came := next(t, w)
		require.True(t, came.Present)
		conn, err := w.Connect(came.Reader)
		require.NoError(t, err)
		c, err := card.Select(conn, conn.Limits())
		require.NoError(t, err)
		p.CutPower(1, moment)
		require.ErrorIs(t, c.VerifyFinger(card.RefFinger, right), card.ErrRemoved, moment)
		require.Equal(t, []int{3, 2, 3}[i], p.Tries(card.RefFinger), moment)
		require.False(t, next(t, w).Present, moment)
		require.NoError(t, conn.Close(), moment)
	}
	insert(t, p.Sim, slot0)
	tryFinger(t, w.Connect, next(t, w).Reader, cardOther(t), &card.PINError{Left: 2})
}

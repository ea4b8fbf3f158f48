// SPDX-License-Identifier: Apache-2.0

package card_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	mathrand "math/rand/v2"
	"testing"
	"time"

	"sdbox/internal/card"
	"sdbox/internal/card/cardsim"
	"sdbox/internal/finger/fingersim"
	"sdbox/internal/ident"

	"github.com/stretchr/testify/require"
)

// issued is a card in software with both keys and one finger, and what the desk knows of it.
type issued struct {
	*cardsim.Sim
	finger     *fingersim.Finger
	der        []byte
	pub, pub9E *ecdsa.PublicKey
}

func issue(t testing.TB, extra int) issued {
	t.Helper()
	sim, err := cardsim.New(cardsim.NISTOCC, cardsim.Person{GUID: ident.GUID{1, 2, 3}, Name: "Ada Martin"})
	require.NoError(t, err)
	p := issued{Sim: sim, finger: fingersim.NewFinger(7)}
	require.NoError(t, sim.Enrol(card.RefFinger, p.finger.Reference().Encode()))
	p.pub, err = sim.Generate(card.Slot9A)
	require.NoError(t, err)
	p.pub9E, err = sim.Generate(card.Slot9E)
	require.NoError(t, err)
	authority, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Ada Martin"}, NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour),
		ExtraExtensions: []pkix.Extension{{Id: []int{2, 999, 9}, Value: make([]byte, extra)}},
	}
	p.der, err = x509.CreateCertificate(rand.Reader, template, &x509.Certificate{Subject: pkix.Name{CommonName: "authority"}}, p.pub, authority)
	require.NoError(t, err)
	require.NoError(t, sim.PutCertificate(card.Slot9A, p.der))
	return p
}

func (p issued) impression(seed uint64) []byte {
	return p.finger.Impression(mathrand.New(mathrand.NewPCG(seed, seed))).Encode()
}

func stranger() []byte {
	return fingersim.NewFinger(8).Impression(mathrand.New(mathrand.NewPCG(1, 1))).Encode()
}

// tap sees and may change each exchange.
type tap struct {
	card.Transport
	sent   [][]byte
	change func(n int, response []byte) ([]byte, error)
}

func (t *tap) Transmit(apdu []byte) ([]byte, error) {
	t.sent = append(t.sent, bytes.Clone(apdu))
	response, err := t.Transport.Transmit(apdu)
	if err == nil && t.change != nil {
		return t.change(len(t.sent), response)
	}
	return response, err
}

func TestLoginCostsFewCommands(t *testing.T) {
	digest := sha256.Sum256([]byte("transcript"))
	for name, c := range map[string]struct {
		limits        card.Limits
		extra         int
		before, after int
	}{
		"extended":                {card.Limits{Extended: true}, 600, 3, 2},
		"short, T=1":              {card.Limits{}, 600, 3 + 4, 2}, // 1 + ceil((len-256)/256) for a certificate of 1,000 bytes
		"short, T=0, all by 61xx": {card.Limits{T0: true}, 600, 3 + 2 + 4, 3},
	} {
		t.Run(name, func(t *testing.T) {
			p := issue(t, c.extra)
			line := &tap{Transport: p}
			got, err := card.Select(line, c.limits)
			require.NoError(t, err)
			require.Equal(t, "sdbox nist-occ", got.Label())
			der, err := got.Certificate(card.Slot9A)
			require.NoError(t, err)
			require.Equal(t, p.der, der)
			presence, err := got.Signer(card.Slot9E, p.pub9E).Sign(nil, digest[:], crypto.SHA256)
			require.NoError(t, err)
			require.True(t, ecdsa.VerifyASN1(p.pub9E, digest[:], presence))
			require.LessOrEqual(t, len(line.sent), c.before)

			before := len(line.sent)
			require.NoError(t, got.VerifyFinger(card.RefFinger, p.impression(1)))
			signer := got.Signer(card.Slot9A, p.pub)
			require.Equal(t, p.pub, signer.Public())
			signature, err := signer.Sign(nil, digest[:], crypto.SHA256)
			require.NoError(t, err)
			require.True(t, ecdsa.VerifyASN1(p.pub, digest[:], signature))
			require.Equal(t, c.after, len(line.sent)-before)
			if c.limits.Extended {
				require.LessOrEqual(t, len(line.sent), 6)
			}
		})
	}
}

func TestThreeWrongFingersBlock(t *testing.T) {
	p := issue(t, 0)
	c, err := card.Select(p, card.Limits{Extended: true})
	require.NoError(t, err)
	for _, left := range []int{2, 1, 0} {
		err := c.VerifyFinger(card.RefFinger, stranger())
		var pin *card.PINError
		require.ErrorAs(t, err, &pin)
		require.Equal(t, left, pin.Left)
		require.Equal(t, left == 0, errors.Is(err, card.ErrBlocked))
		got, verified, err := c.Tries(card.RefFinger)
		require.NoError(t, err)
		require.Equal(t, left, got)
		require.False(t, verified)
	}
	err = c.VerifyFinger(card.RefFinger, p.impression(1))
	require.ErrorIs(t, err, card.ErrBlocked, "the right finger, too late")
	require.NoError(t, p.Enrol(card.RefFinger, p.finger.Reference().Encode()))
	require.NoError(t, c.VerifyFinger(card.RefFinger, p.impression(1)), "the desk helps")
}

func TestSecondFingerCountsAlone(t *testing.T) {
	p := issue(t, 0)
	c, err := card.Select(p, card.Limits{})
	require.NoError(t, err)
	var status *card.StatusError
	require.ErrorAs(t, c.VerifyFinger(card.RefFinger2, p.impression(1)), &status)
	require.Equal(t, uint16(0x6A88), status.SW, "not enrolled")
	second := fingersim.NewFinger(9)
	require.NoError(t, p.Enrol(card.RefFinger2, second.Reference().Encode()))
	require.Error(t, c.VerifyFinger(card.RefFinger2, p.impression(1)), "the first finger is not the second")
	require.Equal(t, 3, p.Tries(card.RefFinger))
	require.Equal(t, 2, p.Tries(card.RefFinger2))
	require.NoError(t, c.VerifyFinger(card.RefFinger2, second.Reference().Encode()))
	digest := sha256.Sum256(nil)
	_, err = c.Signer(card.Slot9A, p.pub).Sign(nil, digest[:], crypto.SHA256)
	require.NoError(t, err)
}

func TestWrongFingerTakesRightsAway(t *testing.T) {
	p := issue(t, 0)
	c, err := card.Select(p, card.Limits{})
	require.NoError(t, err)
	digest := sha256.Sum256(nil)
	sign := func() error {
		_, err := c.Signer(card.Slot9A, p.pub).Sign(nil, digest[:], crypto.SHA256)
		return err
	}
	require.ErrorIs(t, sign(), card.ErrNotVerified)
	require.NoError(t, c.VerifyFinger(card.RefFinger, p.impression(1)))
	require.NoError(t, sign())
	_, verified, err := c.Tries(card.RefFinger)
	require.NoError(t, err)
	require.True(t, verified)
	require.NoError(t, c.LogOut(card.RefFinger))
	require.ErrorIs(t, sign(), card.ErrNotVerified)
	require.NoError(t, c.VerifyFinger(card.RefFinger, p.impression(2)))
	require.Error(t, c.VerifyFinger(card.RefFinger, stranger()))
	require.ErrorIs(t, sign(), card.ErrNotVerified)
}

func TestLongTemplateIsCutToWhatTheCardTakes(t *testing.T) {
	p := issue(t, 0)
	c, err := card.Select(p, card.Limits{})
	require.NoError(t, err)
	long := append(p.impression(1), bytes.Repeat([]byte{250, 250, 0x40}, card.MaxMinutiae)...)[:3*card.MaxMinutiae]
	require.NoError(t, c.VerifyFinger(card.RefFinger, long))
	require.Equal(t, 3, p.Tries(card.RefFinger), "a refused length spends no try")
	require.Error(t, c.VerifyFinger(card.RefFinger, long[:9]), "too few minutiae")
	require.Error(t, c.VerifyFinger(card.RefFinger, long[:10]))
	require.Error(t, c.VerifyFinger(card.RefFinger, append(long, 1, 2, 3)))
	require.Error(t, c.VerifyFinger(card.RefPIN, long))
	require.Equal(t, 3, p.Tries(card.RefFinger))
}

func TestFakeCardIsFoundOut(t *testing.T) {
	p, other := issue(t, 0), issue(t, 0)
	require.NoError(t, other.PutCertificate(card.Slot9A, p.der)) // the certificate is public, the key is not
	c, err := card.Select(other, card.Limits{})
	require.NoError(t, err)
	require.NoError(t, c.VerifyFinger(card.RefFinger, other.impression(1)))
	digest := sha256.Sum256(nil)
	_, err = c.Signer(card.Slot9A, p.pub).Sign(nil, digest[:], crypto.SHA256)
	require.ErrorIs(t, err, card.ErrBadCard)
}

func TestSignerRefusesForeignHashes(t *testing.T) {
	p := issue(t, 0)
	c, err := card.Select(p, card.Limits{})
	require.NoError(t, err)
	_, err = c.Signer(card.Slot9E, nil).Sign(nil, make([]byte, 48), crypto.SHA384)
	require.Error(t, err)
	_, err = c.Signer(card.Slot9E, nil).Sign(nil, make([]byte, 20), crypto.SHA256)
	require.Error(t, err)
	require.Nil(t, c.Signer(card.Slot9E, nil).Public())
}

func TestIdentityIsReadable(t *testing.T) {
	p := issue(t, 0)
	c, err := card.Select(p, card.Limits{})
	require.NoError(t, err)
	guid, err := c.GUID()
	require.NoError(t, err)
	require.Equal(t, p.Person().GUID, guid)
	_, err = c.Certificate(card.Slot9E)
	require.ErrorIs(t, err, card.ErrNoObject)
	_, err = c.Certificate(card.Slot(0x9C))
	require.Error(t, err)
}

func TestPINOpensToo(t *testing.T) {
	p := issue(t, 0)
	require.NoError(t, p.SetPIN("246810"))
	c, err := card.Select(p, card.Limits{})
	require.NoError(t, err)
	require.Error(t, c.VerifyPIN("12345"))
	var pin *card.PINError
	require.ErrorAs(t, c.VerifyPIN("123456"), &pin)
	require.Equal(t, 4, pin.Left)
	require.NoError(t, c.VerifyPIN("246810"))
}

// script is a card that answers from a list.
type script [][]byte

func (s *script) Transmit([]byte) ([]byte, error) {
	if len(*s) == 0 {
		return nil, fmt.Errorf("read: %w", card.ErrRemoved)
	}
	next := (*s)[0]
	*s = (*s)[1:]
	return next, nil
}

func TestOtherCardsAreNamed(t *testing.T) {
	for _, answer := range []string{"\x6A\x82", "\x6D\x00", "\x6E\x00"} {
		_, err := card.Select(&script{[]byte(answer)}, card.Limits{})
		require.ErrorIs(t, err, card.ErrNoApplet)
	}
	_, err := card.Select(&script{}, card.Limits{})
	require.ErrorIs(t, err, card.ErrRemoved)
	_, err = card.Select(&script{{0x90}}, card.Limits{})
	require.ErrorIs(t, err, card.ErrBadCard)
}

// endless promises more for ever.
type endless struct{ part []byte }

func (e endless) Transmit([]byte) ([]byte, error) {
	return append(bytes.Clone(e.part), 0x61, 0x00), nil
}

func TestHostileCardIsBounded(t *testing.T) {
	_, err := card.Select(endless{}, card.Limits{})
	require.ErrorIs(t, err, card.ErrBadCard)
	_, err = card.Select(endless{make([]byte, 256)}, card.Limits{})
	require.ErrorIs(t, err, card.ErrBadCard)
	_, err = card.Select(&script{append(make([]byte, 65536), 0x90, 0x00)}, card.Limits{})
	require.ErrorIs(t, err, card.ErrBadCard)

	gzip := []byte("\x53\x08\x70\x01\x00\x71\x01\x01\xFE\x00\x90\x00")
	c, err := card.Select(&script{{0x90, 0x00}, gzip}, card.Limits{})
	require.NoError(t, err)
	_, err = c.Certificate(card.Slot9A)
	require.ErrorIs(t, err, card.ErrBadCard, "a compressed certificate")
}

func TestExtendedLengthIsTakenBackWhenRefused(t *testing.T) {
	p := issue(t, 600)
	line := &tap{Transport: p, change: nil}
	refused := 0
	line.change = func(n int, response []byte) ([]byte, error) {
		if sent := line.sent[n-1]; sent[1] == 0xCB && sent[4] == 0 {
			refused++
			return []byte{0x67, 0x00}, nil
		}
		return response, nil
	}
	c, err := card.Select(line, card.Limits{Extended: true})
	require.NoError(t, err)
	for range 2 {
		der, err := c.Certificate(card.Slot9A)
		require.NoError(t, err)
		require.Equal(t, p.der, der)
	}
	require.Equal(t, 1, refused)
}

func TestRemovalAtEachCommandIsRemoval(t *testing.T) {
	for cut := 1; cut <= 5; cut++ {
		p := issue(t, 0)
		line := &tap{Transport: p, change: func(n int, response []byte) ([]byte, error) {
			if n == cut {
				return nil, card.ErrRemoved
			}
			return response, nil
		}}
		require.ErrorIs(t, login(line, p), card.ErrRemoved, "cut at command %d", cut)
	}
}

// login does all commands of a login.
func login(t card.Transport, p issued) error {
	c, err := card.Select(t, card.Limits{Extended: true})
	if err != nil {
		return err
	}
	if _, err := c.Certificate(card.Slot9A); err != nil {
		return err
	}
	digest := sha256.Sum256(nil)
	if _, err := c.Signer(card.Slot9E, nil).Sign(nil, digest[:], crypto.SHA256); err != nil {
		return err
	}
	if err := c.VerifyFinger(card.RefFinger, p.impression(1)); err != nil {
		return err
	}
	_, err = c.Signer(card.Slot9A, p.pub).Sign(nil, digest[:], crypto.SHA256)
	return err
}

func TestLimitsFollowCardAndReader(t *testing.T) {
	atr := issue(t, 0).ATR()
	require.Equal(t, card.Limits{Extended: true}, card.LimitsOf(atr, false, 0))
	require.Equal(t, card.Limits{Extended: true}, card.LimitsOf(atr, false, 1<<16))
	require.Equal(t, card.Limits{}, card.LimitsOf(atr, false, 256))
	require.Equal(t, card.Limits{T0: true}, card.LimitsOf(atr, true, 1<<16))
	require.Equal(t, card.Limits{}, card.LimitsOf([]byte{0x3B, 0x80}, false, 0), "cut off")
	// ID-One PIV (OpenSC): T=1 twice and T=15, historical bytes without card capabilities.
	idOne := []byte("\x3B\xD6\x96\x00\x81\xB1\xFE\x45\x1F\x87\x80\x31\xC1\x52\x41\x1A\x2A")
	a, err := card.ParseATR(idOne)
	require.NoError(t, err)
	require.True(t, a.T1)
	require.Equal(t, []byte("\x80\x31\xC1\x52\x41\x1A"), a.Historical)
	require.False(t, a.ExtendedLength())
	a, err = card.ParseATR([]byte("\x3B\x65\x00\x00\x01\x02\x03\x04\x05"))
	require.NoError(t, err)
	require.True(t, a.T0)
}

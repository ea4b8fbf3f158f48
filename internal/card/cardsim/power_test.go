// SPDX-License-Identifier: Apache-2.0

package cardsim

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"sdbox/internal/card"
	"sdbox/internal/finger/fingersim"
	"sdbox/internal/ident"

	"github.com/stretchr/testify/require"
)

// counted counts commands.
type counted struct {
	*Sim
	n int
}

func (c *counted) Transmit(apdu []byte) ([]byte, error) {
	c.n++
	return c.Sim.Transmit(apdu)
}

// certificate is one of size more than extra bytes for a key, of an authority made for it.
func certificate(t testing.TB, pub *ecdsa.PublicKey, extra int) []byte {
	t.Helper()
	authority, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Ada Martin"}, NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour),
		ExtraExtensions: []pkix.Extension{{Id: []int{2, 999, 9}, Value: make([]byte, extra)}},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, &x509.Certificate{Subject: pkix.Name{CommonName: "authority"}}, pub, authority)
	require.NoError(t, err)
	return der
}

func prove(c *card.Card, slot card.Slot, pub *ecdsa.PublicKey) error {
	digest := sha256.Sum256([]byte("nonce"))
	_, err := c.Signer(slot, pub).Sign(nil, digest[:], crypto.SHA256)
	return err
}

// login does every command of a login.
func login(t card.Transport, l card.Limits, minutiae []byte) error {
	c, err := card.Select(t, l)
	if err != nil {
		return err
	}
	if _, err := c.Certificate(card.Slot9A); err != nil {
		return err
	}
	if err := prove(c, card.Slot9E, nil); err != nil {
		return err
	}
	if err := c.VerifyFinger(card.RefFinger, minutiae); err != nil {
		return err
	}
	return prove(c, card.Slot9A, nil)
}

// everyWay is what a reader can carry.
func everyWay() map[string]card.Limits {
	return map[string]card.Limits{"extended": {Extended: true}, "short": {}, "T=0": {T0: true}}
}

// TestPowerCutInLoginCostsAtMostOneTry pulls the card at every command of a login, at each moment of the command.
func TestPowerCutInLoginCostsAtMostOneTry(t *testing.T) {
	s := newSim(t)
	_, err := s.Generate(card.Slot9E)
	require.NoError(t, err)
	key, err := s.nvm.Keys["9A"].private()
	require.NoError(t, err)
	require.NoError(t, s.PutCertificate(card.Slot9A, certificate(t, &key.PublicKey, 600)))
	minutiae := probe(1, 1)
	for way, limits := range everyWay() {
		whole := &counted{Sim: s}
		require.NoError(t, login(whole, limits, minutiae), way)
		s.Reset()
		before, spent := s.nvm, 0
		for n := 1; n <= whole.n; n++ {
			for _, when := range []Moment{BeforeCommand, InsideCommand, BeforeAnswer} {
				at := fmt.Sprintf("%s, command %d, %s", way, n, when)
				s.CutPower(n, when)
				require.ErrorIs(t, login(s, limits, minutiae), card.ErrRemoved, at)
				require.ErrorIs(t, login(s, limits, minutiae), card.ErrRemoved, "%s: a card in the hand answers", at)
				s.Reset()
				require.Empty(t, s.ram, at)
				if left := s.Tries(card.RefFinger); left != 3 {
					require.Equal(t, 2, left, at)
					require.Equal(t, InsideCommand, when, at)
					spent++
				}
				require.NoError(t, login(s, limits, minutiae), "%s: not usable afterwards", at)
				require.Equal(t, before, s.nvm, "%s: something else changed", at)
				s.Reset()
			}
		}
		require.Equal(t, 1, spent, "%s: times a try was lost: inside VERIFY, and nowhere else", way)
	}
}

// renew is what a renewal writes: management key, a new key in slot 82, its certificate, read back and proved.
func renew(t testing.TB, line card.Transport, l card.Limits) error {
	c, err := card.Select(line, l)
	if err != nil {
		return err
	}
	if err := c.Authenticate([]byte(FactoryManagementKey)); err != nil {
		return err
	}
	pub, err := c.Generate(card.Slot82)
	if err != nil {
		return err
	}
	der := certificate(t, pub, 600)
	if err := c.PutCertificate(card.Slot82, der); err != nil {
		return err
	}
	back, err := c.Certificate(card.Slot82)
	if err != nil {
		return err
	}
	if !bytes.Equal(der, back) {
		return errors.New("not what was written")
	}
	if err := c.VerifyPIN(FactoryPIN); err != nil {
		return err
	}
	return prove(c, card.Slot82, pub)
}

// TestPowerCutInWriteLeavesOldOrNew pulls the card at every command of a renewal: slot 82 holds the old key or a new one,
// its object the old certificate, a new one or, where the card tears writes, a truncated one; all else is as before, and the
// renewal done again succeeds.
func TestPowerCutInWriteLeavesOldOrNew(t *testing.T) {
	for way, limits := range everyWay() {
		for _, tears := range []bool{false, true} {
			s, err := New(YubiKey57, Person{GUID: ident.GUID{1}, Name: "Ada Martin"})
			require.NoError(t, err)
			if tears {
				s.TearWrites()
			}
			whole := &counted{Sim: s}
			require.NoError(t, renew(t, whole, limits), way)
			truncated := map[int]bool{}
			for n := 1; n <= whole.n; n++ {
				for _, when := range []Moment{BeforeCommand, InsideCommand, BeforeAnswer} {
					at := fmt.Sprintf("%s, tears %t, command %d, %s", way, tears, n, when)
					before := s.nvm
					s.Reset()
					s.CutPower(n, when)
					require.ErrorIs(t, renew(t, s, limits), card.ErrRemoved, at)
					s.Reset()
					if size := checkWrite(t, before, s.nvm, at); size > 0 {
						truncated[size] = true
					}
					require.NoError(t, renew(t, s, limits), "%s: done again", at)
				}
			}
			require.Equal(t, tears, len(truncated) > 0, "%s: truncated objects of %v bytes", way, slices.Collect(maps.Keys(truncated)))
		}
	}
}

// checkWrite compares the lasting memory before and after a cut, and returns the size of a truncated certificate object.
func checkWrite(t *testing.T, before, after nvm, at string) (truncated int) {
	t.Helper()
	for slot, key := range before.Keys {
		if slot != "82" {
			require.Equal(t, key, after.Keys[slot], at)
		}
	}
	_, err := after.Keys["82"].private()
	require.NoError(t, err, at)
	object := certificateTag(card.Slot82)
	for tag, content := range before.Objects {
		if tag != object {
			require.Equal(t, content, after.Objects[tag], at)
		}
	}
	f, ok := fields(after.Objects[object])
	if !ok || len(f) != 3 {
		truncated = len(after.Objects[object])
		require.Less(t, truncated, len(before.Objects[object])-1, at)
	} else if _, err := x509.ParseCertificate(f[0].value); err != nil {
		require.NoError(t, err, at)
	}
	require.Equal(t, before.Management, after.Management, at)
	pin := after.References["80"]
	require.Equal(t, before.References["80"].Value, pin.Value, at)
	require.GreaterOrEqual(t, pin.Left, 2, at)
	return truncated
}

// TestPowerCutInsideChangeOfPINSpendsATry: the old PIN was compared, the new one is not there yet.
func TestPowerCutInsideChangeOfPINSpendsATry(t *testing.T) {
	s, err := New(YubiKey57, Person{GUID: ident.GUID{1}, Name: "Ada Martin"})
	require.NoError(t, err)
	change := must(hex.DecodeString("0024008010" + hex.EncodeToString([]byte("123456\xFF\xFF654321\xFF\xFF"))))
	send(t, s, testSelect)
	s.CutPower(1, InsideCommand)
	_, err = s.Transmit(change)
	require.ErrorIs(t, err, card.ErrRemoved)
	s.Reset()
	require.Equal(t, 2, s.Tries(card.RefPIN))
	c, err := card.Select(s, card.Limits{})
	require.NoError(t, err)
	require.NoError(t, c.VerifyPIN("123456"), "the old PIN holds")
	s.CutPower(1, BeforeAnswer)
	_, err = s.Transmit(change)
	require.ErrorIs(t, err, card.ErrRemoved)
	s.Reset()
	c, err = card.Select(s, card.Limits{})
	require.NoError(t, err)
	require.NoError(t, c.VerifyPIN("654321"), "done, though nobody was told")
}

// TestReaderSeesPowerCutAsRemoval: the virtual reader's end of a card pulled in the middle of VERIFY.
func TestReaderSeesPowerCutAsRemoval(t *testing.T) {
	s := newSim(t)
	r, done := plug(t, t.Context(), s)
	_, err := r.ask(vpcdOn)
	require.NoError(t, err)
	_, err = r.ask(must(hex.DecodeString(testSelect))...)
	require.NoError(t, err)
	s.CutPower(1, InsideCommand)
	_, err = r.ask(verifyCommand(0x96, fingersim.NewFinger(1).Reference().Encode())...)
	require.Error(t, err, "no answer")
	require.ErrorIs(t, <-done, card.ErrRemoved)
	require.Equal(t, 2, s.Tries(card.RefFinger))
}

// TestTornFileIsNoCard: a file that ends anywhere before its end, or goes on after it, is refused, with no try given back by it.
func TestTornFileIsNoCard(t *testing.T) {
	for _, sim := range []*Sim{newSim(t), newYubiKey(t)} {
		file := filepath.Join(t.TempDir(), "card")
		require.NoError(t, sim.Save(file))
		whole, err := os.ReadFile(file)
		require.NoError(t, err)
		whole = bytes.TrimSpace(whole)
		for n := range whole {
			_, err := parseNVM(whole[:n])
			require.Error(t, err, "%d of %d bytes", n, len(whole))
		}
		_, err = parseNVM(append(whole, whole[len(whole)/2:]...))
		require.Error(t, err, "the end of an older, longer one behind it")
	}
}

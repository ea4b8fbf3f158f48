// SPDX-License-Identifier: Apache-2.0

package bubble

import (
	"crypto/subtle"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"sdbox/internal/ident"
	"sdbox/internal/seal"

	"github.com/fxamacker/cbor/v2"
)

const (
	ledgerFile  = "tokens.cbor"
	maxLedger   = 1 << 20
	maxSessions = 8192                      // sessions whose owner epoch is remembered
	maxOfOne    = maxSessions / MaxAccounts // of them, of one account
	epochTime   = 7 * 24 * time.Hour        // no session lives longer
	maxUsed     = 4096                      // tokens used within their 60 s
)

// ledger remembers, across restarts, which tokens were used and the highest owner epoch of each session. A token
// counts only once the ledger is on disk.
type ledger struct {
	path string
	mu   sync.Mutex
	seen record // guarded by mu
}

// record is the ledger's file.
type record struct {
	Epochs map[ident.ID]epoch `cbor:"1,keyasint"`
	Used   map[ident.ID]int64 `cbor:"2,keyasint"` // token to its expiry, ms UTC
}

type epoch struct {
	Number  uint64 `cbor:"1,keyasint"`
	Seen    int64  `cbor:"2,keyasint"` // ms UTC
	Account string `cbor:"3,keyasint"`
}

func openLedger(dir string) (*ledger, error) {
	l := &ledger{path: filepath.Join(dir, ledgerFile), seen: record{map[ident.ID]epoch{}, map[ident.ID]int64{}}}
	b, err := os.ReadFile(l.path)
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read token ledger: %w", err)
	}
	if len(b) > maxLedger {
		return nil, fmt.Errorf("token ledger %s of %d bytes: more than %d", l.path, len(b), maxLedger)
	}
	if err := cbor.Unmarshal(b, &l.seen); err != nil { // our own file; without it a used token would count again
		return nil, fmt.Errorf("token ledger %s cannot be read, and without it used tokens would count again; remove it 60 s after the last use: %w", l.path, err)
	}
	if l.seen.Epochs == nil || l.seen.Used == nil {
		return nil, fmt.Errorf("token ledger %s is not complete", l.path)
	}
	return l, nil
}

// spend uses up a token that is good otherwise. On return without error its use and its epoch are on disk.
func (l *ledger) spend(h seal.Header, c Claims, now time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.forgetLocked(now)
	if _, used := l.seen.Used[h.ID]; used {
		return fmt.Errorf("%w: it was used before", ErrToken)
	}
	known, found := l.seen.Epochs[c.Session]
	if c.Epoch < known.Number {
		return fmt.Errorf("%w: its epoch is %d, the token's %d", ErrEpoch, known.Number, c.Epoch)
	}
	if !found {
		l.makeRoomLocked(c.Account)
	}
	if len(l.seen.Used) >= maxUsed || !found && len(l.seen.Epochs) >= maxSessions {
		return fmt.Errorf("%w: too many sessions", ErrBusy)
	}
	l.seen.Used[h.ID] = h.Expires.UnixMilli()
	l.seen.Epochs[c.Session] = epoch{c.Epoch, now.UnixMilli(), c.Account}
	return l.saveLocked()
}

// forgetLocked drops what can no longer matter.
func (l *ledger) forgetLocked(now time.Time) {
	for id, expires := range l.seen.Used {
		if now.UnixMilli() > expires {
			delete(l.seen.Used, id)
		}
	}
	for id, e := range l.seen.Epochs {
		if now.Sub(time.UnixMilli(e.Seen)) > epochTime {
			delete(l.seen.Epochs, id)
		}
	}
}

// makeRoomLocked forgets the oldest session of an account that has had many since: whoever begins one after the other takes no room
// from the others of the bubble. Each person has one at a time.
func (l *ledger) makeRoomLocked(account string) {
	of, oldest := 0, ident.ID{}
	for id, e := range l.seen.Epochs {
		if e.Account != account {
			continue
		}
		if of++; oldest.IsZero() || e.Seen < l.seen.Epochs[oldest].Seen {
			oldest = id
		}
	}
	if of >= maxOfOne {
		delete(l.seen.Epochs, oldest)
	}
}

func (l *ledger) saveLocked() error {
	b, err := cbor.Marshal(l.seen)
	if err == nil {
		err = writeDurably(l.path, b)
	}
	if err != nil {
		return fmt.Errorf("%w: remember token: %w", ErrBusy, err)
	}
	return nil
}

// writeDurably replaces a file so that either the old or the new content survives a power cut.
func writeDurably(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone already after the rename
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// admit checks a token for one purpose from the gateway with this certificate and uses it up.
func (s *Server) admit(token []byte, gateway *x509.Certificate, purpose string, now time.Time) (Claims, error) {
	v, err := seal.NewVerifier(s.dns, gateway.PublicKey)
	if err != nil {
		return Claims{}, fmt.Errorf("%w: %w", ErrToken, err)
	}
	var c Claims
	h, err := v.Open(token, TokenType, &c)
	if err != nil {
		return Claims{}, fmt.Errorf("%w: %w", ErrToken, err)
	}
	switch {
	case h.Expires.Sub(h.Issued) > TokenLife:
		return Claims{}, fmt.Errorf("%w: it lives longer than %v", ErrToken, TokenLife)
	case subtle.ConstantTimeCompare(c.GatewayCertificate, CertificateHash(gateway)) != 1:
		return Claims{}, fmt.Errorf("%w: it is for another gateway's certificate", ErrToken)
	case c.Purpose != purpose:
		return Claims{}, fmt.Errorf("%w: its purpose is %.20q", ErrToken, c.Purpose)
	case c.Session.IsZero():
		return Claims{}, fmt.Errorf("%w: it names no session", ErrToken)
	case s.desktops[c.Account] == nil:
		return Claims{}, fmt.Errorf("%w: %.40q", ErrAccount, c.Account)
	}
	if err := s.ledger.spend(h, c, now); err != nil {
		return Claims{}, err
	}
	return c, nil
}

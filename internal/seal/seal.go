// SPDX-License-Identifier: Apache-2.0

// Package seal makes and opens sdbox's signed statements: attestation results, grants and bubble tokens. A statement is a
// COSE_Sign1 (RFC 9052, 4.2) with ES256 over deterministic CBOR; its type, key, issuer, audience, expiry and identifier stand in
// the protected header (RFC 9596, RFC 9597).
package seal

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"

	"sdbox/internal/ident"

	"github.com/fxamacker/cbor/v2"
	"github.com/veraison/go-cose"
)

// MaxStatement is the longest statement that Open looks at, in bytes.
const MaxStatement = 8192

// MaxLife is the longest life of a statement: the longest lease (15 min) with a margin for clocks.
const MaxLife = 30 * time.Minute

// mediaType goes before a statement's type in the header: RFC 9596 wants a media type.
const mediaType = "application/"

// leeway is how far the signer's clock may be ahead of the reader's.
const leeway = 30 * time.Second

// Labels of the protected header and of the CWT claims in it (RFC 9596: 16 typ; RFC 9597: 15 CWT Claims; RFC 8392, 4).
const (
	labelClaims = int64(15)
	labelType   = int64(16)
	claimIssuer = int64(1)
	claimAud    = int64(3)
	claimExpiry = int64(4)
	claimIssued = int64(6)
	claimID     = int64(7)
)

// The reasons a statement is refused. A caller that must tell them apart branches on these.
var (
	ErrSignature = errors.New("signature does not verify")
	ErrKey       = errors.New("signed by an unknown key")
	ErrType      = errors.New("statement of another type")
	ErrAudience  = errors.New("statement for another audience")
	ErrExpired   = errors.New("statement has expired")
	ErrMalformed = errors.New("not a statement")
)

// Header is the protected header of an opened statement.
type Header struct {
	Type     string
	Issuer   string
	Audience string
	KeyID    []byte // SHA-256 of the signer's SubjectPublicKeyInfo
	ID       ident.ID
	Issued   time.Time
	Expires  time.Time
}

// KeyID is the name of a key in a statement: SHA-256 of its SubjectPublicKeyInfo.
func KeyID(pub crypto.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, fmt.Errorf("name of the key: %w", err)
	}
	sum := sha256.Sum256(der)
	return sum[:], nil
}

// Signer seals statements with one P-256 key. It is safe for use by several goroutines if its key is.
type Signer struct {
	cose   cose.Signer
	keyID  []byte
	issuer string
	enc    cbor.EncMode
}

// NewSigner takes a P-256 key and the name that its statements carry as issuer.
func NewSigner(key crypto.Signer, issuer string) (*Signer, error) {
	if err := checkKey(key.Public()); err != nil {
		return nil, err
	}
	s, err := cose.NewSigner(cose.AlgorithmES256, key)
	if err != nil {
		return nil, fmt.Errorf("statement signer: %w", err)
	}
	id, err := KeyID(key.Public())
	if err != nil {
		return nil, err
	}
	enc, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		return nil, fmt.Errorf("statement signer: %w", err)
	}
	return &Signer{cose: s, keyID: id, issuer: issuer, enc: enc}, nil
}

func checkKey(pub crypto.PublicKey) error {
	p, ok := pub.(*ecdsa.PublicKey)
	if !ok || p.Curve != elliptic.P256() {
		return fmt.Errorf("statement key: want P-256, have %T", pub)
	}
	return nil
}

// Seal signs claims, any structure that CBOR can hold, as a statement of this type for this audience, valid from now for life.
func (s *Signer) Seal(typ, audience string, life time.Duration, claims any) ([]byte, error) {
	if life <= 0 || life > MaxLife {
		return nil, fmt.Errorf("seal %s: life of %v, want at most %v", typ, life, MaxLife)
	}
	payload, err := s.enc.Marshal(claims)
	if err != nil {
		return nil, fmt.Errorf("seal %s: %w", typ, err)
	}
	now := time.Now()
	id := ident.NewID()
	msg := cose.NewSign1Message()
	msg.Payload = payload
	msg.Headers.Protected = cose.ProtectedHeader{
		cose.HeaderLabelAlgorithm: cose.AlgorithmES256,
		cose.HeaderLabelKeyID:     s.keyID,
		labelType:                 mediaType + typ,
		labelClaims: map[any]any{
			claimIssuer: s.issuer,
			claimAud:    audience,
			claimExpiry: now.Add(life).Unix(),
			claimIssued: now.Unix(),
			claimID:     id[:],
		},
	}
	if err := msg.Sign(rand.Reader, nil, s.cose); err != nil {
		return nil, fmt.Errorf("seal %s: %w", typ, err)
	}
	out, err := msg.MarshalCBOR()
	if err != nil {
		return nil, fmt.Errorf("seal %s: %w", typ, err)
	}
	if len(out) > MaxStatement {
		return nil, fmt.Errorf("seal %s: %d bytes, limit %d", typ, len(out), MaxStatement)
	}
	return out, nil
}

// Verifier opens statements for one audience. It is immutable.
type Verifier struct {
	audience string
	keys     map[string]cose.Verifier
	dec      cbor.DecMode
}

// NewVerifier trusts the given P-256 keys and takes statements for this audience only.
func NewVerifier(audience string, keys ...crypto.PublicKey) (*Verifier, error) {
	v := &Verifier{audience: audience, keys: map[string]cose.Verifier{}}
	for _, k := range keys {
		if err := checkKey(k); err != nil {
			return nil, err
		}
		id, err := KeyID(k)
		if err != nil {
			return nil, err
		}
		if v.keys[string(id)], err = cose.NewVerifier(cose.AlgorithmES256, k); err != nil {
			return nil, fmt.Errorf("statement verifier: %w", err)
		}
	}
	var err error
	v.dec, err = cbor.DecOptions{
		DupMapKey: cbor.DupMapKeyEnforcedAPF, IndefLength: cbor.IndefLengthForbidden, MaxNestedLevels: 8,
		MaxArrayElements: 1024, MaxMapPairs: 64, ExtraReturnErrors: cbor.ExtraDecErrorUnknownField, UTF8: cbor.UTF8RejectInvalid,
	}.DecMode()
	if err != nil {
		return nil, fmt.Errorf("statement verifier: %w", err)
	}
	return v, nil
}

// Open checks a statement's signature, type, audience and times, and decodes its claims into the structure claims points at; a
// claim the structure does not know is an error. Single use is the caller's business: Header.ID never repeats.
func (v *Verifier) Open(statement []byte, typ string, claims any) (Header, error) {
	return v.OpenAt(statement, typ, claims, time.Now())
}

// OpenAt opens a statement as Open would have at another time: for an auditor, who reads what was valid then.
func (v *Verifier) OpenAt(statement []byte, typ string, claims any, at time.Time) (Header, error) {
	if len(statement) > MaxStatement {
		return Header{}, fmt.Errorf("open %s: %w: %d bytes, limit %d", typ, ErrMalformed, len(statement), MaxStatement)
	}
	msg := cose.NewSign1Message()
	if err := msg.UnmarshalCBOR(statement); err != nil {
		return Header{}, fmt.Errorf("open %s: %w: %w", typ, ErrMalformed, err)
	}
	h, err := parseHeader(msg.Headers.Protected)
	if err != nil {
		return Header{}, fmt.Errorf("open %s: %w", typ, err)
	}
	key, known := v.keys[string(h.KeyID)]
	if !known {
		return Header{}, fmt.Errorf("open %s: %w", typ, ErrKey)
	}
	if err := msg.Verify(nil, key); err != nil {
		return Header{}, fmt.Errorf("open %s: %w", typ, ErrSignature)
	}
	if err := v.accept(h, typ, at); err != nil {
		return Header{}, fmt.Errorf("open %s: %w", typ, err)
	}
	if err := v.dec.Unmarshal(msg.Payload, claims); err != nil {
		return Header{}, fmt.Errorf("open %s: %w: %w", typ, ErrMalformed, err)
	}
	return h, nil
}

func (v *Verifier) accept(h Header, typ string, now time.Time) error {
	switch {
	case h.Type != typ:
		return fmt.Errorf("%w: %.40q", ErrType, h.Type)
	case h.Audience != v.audience:
		return fmt.Errorf("%w: %.80q", ErrAudience, h.Audience)
	case !now.Before(h.Expires):
		return fmt.Errorf("%w at %s", ErrExpired, h.Expires.UTC().Format(time.RFC3339))
	case h.Issued.After(now.Add(leeway)), h.Expires.Sub(h.Issued) > MaxLife:
		return fmt.Errorf("%w: issued in the future or for too long", ErrExpired)
	}
	return nil
}

func parseHeader(p cose.ProtectedHeader) (Header, error) {
	var h Header
	alg, err := p.Algorithm()
	if err != nil || alg != cose.AlgorithmES256 {
		return h, fmt.Errorf("%w: algorithm is not ES256", ErrMalformed)
	}
	var okKey, okType bool
	h.KeyID, okKey = p[cose.HeaderLabelKeyID].([]byte)
	typ, _ := p[labelType].(string)
	h.Type, okType = strings.CutPrefix(typ, mediaType)
	cwt, okClaims := p[labelClaims].(map[any]any)
	if !okKey || !okType || !okClaims || len(p) != 4 {
		return h, fmt.Errorf("%w: header is not alg, kid, typ, claims", ErrMalformed)
	}
	var okIss, okAud, okExp, okIat, okID bool
	var expiry, issued int64
	var id []byte
	h.Issuer, okIss = cwt[claimIssuer].(string)
	h.Audience, okAud = cwt[claimAud].(string)
	expiry, okExp = cwt[claimExpiry].(int64)
	issued, okIat = cwt[claimIssued].(int64)
	id, okID = cwt[claimID].([]byte)
	if !okIss || !okAud || !okExp || !okIat || !okID || len(cwt) != 5 || len(id) != len(h.ID) || bytes.Equal(id, make([]byte, len(h.ID))) {
		return h, fmt.Errorf("%w: claims are not iss, aud, exp, iat, cti", ErrMalformed)
	}
	copy(h.ID[:], id)
	h.Expires, h.Issued = time.Unix(expiry, 0), time.Unix(issued, 0)
	return h, nil
}

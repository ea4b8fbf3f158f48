// SPDX-License-Identifier: Apache-2.0

// Package bubble is both ends of the connection between a gateway and a bubble: the gateway's Dial and the Server that
// sdbox-bubble runs inside the bubble, where it finds or starts each person's own desktop.
//
// The connection is TLS 1.3 with certificates on both sides (ALPN "sdbox-bubble/1"). On it, one request and one reply
// at a time, each `u32 length | CBOR`: Running and End may be asked again and again, Open once; after its good reply the bytes
// are RFB between the gateway and the desktop, and nothing looks at them here.
//
//	gateway                                 bubble
//	  | -- TLS 1.3, both certificates --------> |
//	  | -- running -------------------------> | -> accounts whose desktop is up (no token, no start, no pixel)
//	  | -- end{token} ----------------------> | ends the account's desktop, then answers
//	  | -- open{token, size, layout} -------> | checks the token, finds or starts Xvnc under the account
//	  | <------------------------- reply ---- |
//	  | <============== RFB =================> |
package bubble

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"sdbox/internal/ident"
	"sdbox/internal/seal"

	"github.com/fxamacker/cbor/v2"
)

// The names of the protocol and of its token.
const (
	ALPN           = "sdbox-bubble/1"
	TokenType      = "sdbox-bubble-token"
	PurposeDesktop = "desktop"
	PurposeEnd     = "end" // the desktop and its programs end: the person said so
	TokenLife      = 60 * time.Second
)

// Limits of what either end reads.
const (
	MaxAccounts = 512
	maxRequest  = 12 << 10 // a token is at most seal.MaxStatement
	maxReply    = 32 << 10
	maxName     = 32
)

// Claims are what a bubble token grants: to see this account's desktop, or to end it, for this session, to the gateway with this
// certificate. The token's audience is the bubble's DNS name; it lives TokenLife and is used once.
type Claims struct {
	Account            string   `cbor:"1,keyasint"`
	Session            ident.ID `cbor:"2,keyasint"`
	Epoch              uint64   `cbor:"3,keyasint"` // the session's owner epoch: a bubble refuses one lower than it has seen
	Purpose            string   `cbor:"4,keyasint"` // PurposeDesktop, PurposeEnd
	GatewayCertificate []byte   `cbor:"5,keyasint"` // SHA-256 of the DER
}

// NewToken seals a token for the bubble with this DNS name. The signer's key is the one of the gateway's certificate.
func NewToken(signer *seal.Signer, bubble string, c Claims) ([]byte, error) {
	token, err := signer.Seal(TokenType, bubble, TokenLife, c)
	if err != nil {
		return nil, fmt.Errorf("make bubble token: %w", err)
	}
	return token, nil
}

// CertificateHash is the form in which Claims name a gateway's certificate.
func CertificateHash(c *x509.Certificate) []byte {
	sum := sha256.Sum256(c.Raw)
	return sum[:]
}

// The reasons a bubble refuses to open a desktop, as its reply carries them.
var (
	ErrRequest = errors.New("bubble does not understand the request")
	ErrToken   = errors.New("bubble refuses the token")
	ErrEpoch   = errors.New("another gateway owns the session")
	ErrAccount = errors.New("no such account in the bubble")
	ErrBusy    = errors.New("bubble is busy")
	ErrDesktop = errors.New("desktop does not start")
)

// code is an error's number on the wire.
type code uint

func codeOf(err error) code {
	for i, e := range refusals() {
		if errors.Is(err, e) {
			return code(i + 1)
		}
	}
	return code(len(refusals()))
}

func (c code) err() error {
	if c == 0 {
		return nil
	}
	if list := refusals(); int(c) <= len(list) {
		return list[c-1]
	}
	return fmt.Errorf("bubble answers with the unknown code %d", c)
}

// refusals lists the errors in the order of their numbers, which is the protocol's: append only.
func refusals() []error {
	return []error{ErrRequest, ErrToken, ErrEpoch, ErrAccount, ErrBusy, ErrDesktop}
}

// kind says what a request wants.
type kind uint

const (
	kindRunning kind = 1
	kindOpen    kind = 2
	kindEnd     kind = 3
)

type request struct {
	Kind   kind   `cbor:"1,keyasint"`
	Token  []byte `cbor:"2,keyasint,omitempty"`
	Width  uint16 `cbor:"3,keyasint,omitempty"`
	Height uint16 `cbor:"4,keyasint,omitempty"`
	Layout string `cbor:"5,keyasint,omitempty"`
}

type reply struct {
	Code     code     `cbor:"1,keyasint"`
	Accounts []string `cbor:"2,keyasint,omitempty"`
}

// writeFrame sends v as `u32 length | CBOR`.
func writeFrame(w io.Writer, v any) error {
	enc, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		return fmt.Errorf("write frame: %w", err)
	}
	body, err := enc.Marshal(v)
	if err != nil {
		return fmt.Errorf("write frame: %w", err)
	}
	frame := binary.BigEndian.AppendUint32(nil, uint32(len(body)))
	if _, err := w.Write(append(frame, body...)); err != nil {
		return fmt.Errorf("write frame: %w", err)
	}
	return nil
}

// readFrame reads one frame of at most limit bytes into v, and not a byte more: what follows may be RFB.
func readFrame(r io.Reader, limit uint32, v any) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return fmt.Errorf("read frame: %w", err)
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > limit {
		return fmt.Errorf("read frame: %d bytes, at most %d: %w", n, limit, ErrRequest)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return fmt.Errorf("read frame: %w", err)
	}
	return parseFrame(body, v)
}

// parseFrame decodes strictly: no unknown or doubled field, nothing after the end.
func parseFrame(body []byte, v any) error {
	dec, err := cbor.DecOptions{
		DupMapKey: cbor.DupMapKeyEnforcedAPF, IndefLength: cbor.IndefLengthForbidden, MaxNestedLevels: 4,
		MaxArrayElements: MaxAccounts, MaxMapPairs: 16, ExtraReturnErrors: cbor.ExtraDecErrorUnknownField, UTF8: cbor.UTF8RejectInvalid,
	}.DecMode()
	if err != nil {
		return fmt.Errorf("read frame: %w", err)
	}
	if err := dec.Unmarshal(body, v); err != nil {
		return fmt.Errorf("read frame: %w: %w", ErrRequest, err)
	}
	return nil
}

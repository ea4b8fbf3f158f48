// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	"fmt"

	"sdbox/internal/ident"
)

// GrantType is the type of the statement in Grant.
const GrantType = "sdbox-grant"

// GrantClaims is what the statement in Grant says: for a short time this person may open these bubbles from this box, by this
// login. The gateway makes it and an auditor reads it; to a box it is opaque.
type GrantClaims struct {
	Session    ident.ID    `cbor:"1,keyasint"`
	Epoch      int64       `cbor:"2,keyasint"` // the session's owner epoch
	Person     ident.ID    `cbor:"3,keyasint"`
	Card       string      `cbor:"4,keyasint"` // GUID
	Box        string      `cbor:"5,keyasint"` // serial
	TunnelKey  Key         `cbor:"6,keyasint"`
	Transcript []byte      `cbor:"7,keyasint"` // SHA-256 of the login transcript
	Method     string      `cbor:"8,keyasint"`
	Bubbles    []GrantLine `cbor:"9,keyasint"`
}

// GrantLine is one bubble of a grant.
type GrantLine struct {
	Bubble string `cbor:"1,keyasint"`
	Until  int64  `cbor:"2,keyasint"` // ms UTC
}

// maxCanonical bounds what ReadCanonical looks at, in bytes.
const maxCanonical = 16384

// ReadCanonical reads what Canonical wrote into the structure v points at. Bytes that are not its one encoding are an error.
func ReadCanonical(b []byte, v any) error {
	c, err := NewCodec()
	if err != nil {
		return err
	}
	if len(b) > maxCanonical {
		return fmt.Errorf("%w: %d bytes, limit %d", ErrGrammar, len(b), maxCanonical)
	}
	if err := c.dec.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%w: %w", ErrGrammar, err)
	}
	again, err := Canonical(v)
	if err != nil {
		return err
	}
	if !bytes.Equal(again, b) {
		return fmt.Errorf("%w: %T is not in its deterministic encoding", ErrGrammar, v)
	}
	return nil
}

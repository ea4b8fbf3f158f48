// SPDX-License-Identifier: Apache-2.0

// Package wire is what an SD-Box and a gateway say to one another: message types, their codec and its limits. It does no I/O.
//
// A message is deterministic CBOR (RFC 8949, 4.2.1): an array of its type number and its body, a map with small integer
// keys. An unknown type, key or version, a repeated key, an indefinite length or a message over its limit is an error; the
// line that carried it is closed.
//
// The whole grammar, generated from the table in this package and kept equal to it by a test:
//
//	number  message         from     limit B
//	     1  Hello           both        1024
//	     2  Beat            both          64
//	     3  Refused         gateway    32768
//	     4  Ended           gateway     4096
//	     5  EnrolRequest    box         8192
//	     6  EnrolChallenge  gateway     2048
//	     7  EnrolAnswer     box          256
//	     8  EnrolResult     gateway    16384
//	     9  NonceRequest    box           16
//	    10  Nonce           gateway       64
//	    11  Evidence        box        65536
//	    12  Lease           gateway    32768
//	    13  CardIn          box         4096
//	    14  Person          gateway     1024
//	    15  Offer           box        16384
//	    16  Answer          gateway    16384
//	    17  Login           box          256
//	    18  Bubbles         gateway    65536
//	    19  Attach          box          256
//	    20  Attached        gateway      128
//	    21  Detach          box           64
//	    22  Presence        box          256
//	    23  Grant           gateway     4096
//	    24  Event           box         1024
//	    25  Notice          gateway     2048
//	    26  Resume          box         4096
//	    27  EndDesktop      box          128
//	    28  Watched         gateway       64
package wire

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"reflect"

	"github.com/fxamacker/cbor/v2"
)

// MaxMessage is the longest encoded message of any type, in bytes.
const MaxMessage = 65536

// Type is the number of a message type.
type Type uint8

// Message is one of the structs of this package that cross the line, as a pointer.
type Message interface{ wireType() Type }

// Origin says which end may send a message.
type Origin string

// The ends of a line.
const (
	Both        Origin = "both"
	FromBox     Origin = "box"
	FromGateway Origin = "gateway"
)

// Row is one line of the grammar's table.
type Row struct {
	Type  Type
	Name  string
	From  Origin
	Limit int // bytes of the whole encoded message
	make  func() Message
}

func row[M any, P interface {
	*M
	Message
}](from Origin, limit int) Row {
	m := P(new(M))
	return Row{Type: m.wireType(), Name: reflect.TypeFor[M]().Name(), From: from, Limit: limit, make: func() Message { return P(new(M)) }}
}

// Table returns the grammar, in order of type number from 1 without a gap.
func Table() []Row {
	return []Row{
		row[Hello](Both, 1024),
		row[Beat](Both, 64),
		row[Refused](FromGateway, 32768),
		row[Ended](FromGateway, 4096),
		row[EnrolRequest](FromBox, 8192),
		row[EnrolChallenge](FromGateway, 2048),
		row[EnrolAnswer](FromBox, 256),
		row[EnrolResult](FromGateway, 16384),
		row[NonceRequest](FromBox, 16),
		row[Nonce](FromGateway, 64),
		row[Evidence](FromBox, MaxMessage),
		row[Lease](FromGateway, 32768),
		row[CardIn](FromBox, 4096),
		row[Person](FromGateway, 1024),
		row[Offer](FromBox, 16384),
		row[Answer](FromGateway, 16384),
		row[Login](FromBox, 256),
		row[Bubbles](FromGateway, 65536),
		row[Attach](FromBox, 256),
		row[Attached](FromGateway, 128),
		row[Detach](FromBox, 64),
		row[Presence](FromBox, 256),
		row[Grant](FromGateway, 4096),
		row[Event](FromBox, 1024),
		row[Notice](FromGateway, 2048),
		row[Resume](FromBox, 4096),
		row[EndDesktop](FromBox, 128),
		row[Watched](FromGateway, 64),
	}
}

func (*Hello) wireType() Type          { return 1 }
func (*Beat) wireType() Type           { return 2 }
func (*Refused) wireType() Type        { return 3 }
func (*Ended) wireType() Type          { return 4 }
func (*EnrolRequest) wireType() Type   { return 5 }
func (*EnrolChallenge) wireType() Type { return 6 }
func (*EnrolAnswer) wireType() Type    { return 7 }
func (*EnrolResult) wireType() Type    { return 8 }
func (*NonceRequest) wireType() Type   { return 9 }
func (*Nonce) wireType() Type          { return 10 }
func (*Evidence) wireType() Type       { return 11 }
func (*Lease) wireType() Type          { return 12 }
func (*CardIn) wireType() Type         { return 13 }
func (*Person) wireType() Type         { return 14 }
func (*Offer) wireType() Type          { return 15 }
func (*Answer) wireType() Type         { return 16 }
func (*Login) wireType() Type          { return 17 }
func (*Bubbles) wireType() Type        { return 18 }
func (*Attach) wireType() Type         { return 19 }
func (*Attached) wireType() Type       { return 20 }
func (*Detach) wireType() Type         { return 21 }
func (*Presence) wireType() Type       { return 22 }
func (*Grant) wireType() Type          { return 23 }
func (*Event) wireType() Type          { return 24 }
func (*Notice) wireType() Type         { return 25 }
func (*Resume) wireType() Type         { return 26 }
func (*EndDesktop) wireType() Type     { return 27 }
func (*Watched) wireType() Type        { return 28 }

// TypeOf returns the type number of a message, for Refused.Re.
func TypeOf(m Message) Type { return m.wireType() }

// ErrGrammar is wrapped by every error about bytes that are not a message of this grammar.
var ErrGrammar = errors.New("not a message of this grammar")

// Codec encodes and decodes messages. It is immutable and safe for use by several goroutines.
type Codec struct {
	enc  cbor.EncMode
	dec  cbor.DecMode
	rows []Row
}

// NewCodec makes a codec.
func NewCodec() (*Codec, error) {
	enc, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		return nil, fmt.Errorf("cbor encoder: %w", err)
	}
	dec, err := cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		IndefLength:       cbor.IndefLengthForbidden,
		TagsMd:            cbor.TagsForbidden,
		MaxNestedLevels:   8,
		MaxArrayElements:  1024,
		MaxMapPairs:       64,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
		UTF8:              cbor.UTF8RejectInvalid,
	}.DecMode()
	if err != nil {
		return nil, fmt.Errorf("cbor decoder: %w", err)
	}
	return &Codec{enc: enc, dec: dec, rows: Table()}, nil
}

type envelope struct {
	_    struct{} `cbor:",toarray"`
	Type uint64
	Body cbor.RawMessage
}

// Encode returns the bytes of a message, or an error if it is over its limit.
func (c *Codec) Encode(m Message) ([]byte, error) {
	r := c.rows[m.wireType()-1]
	body, err := c.enc.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", r.Name, err)
	}
	out, err := c.enc.Marshal(envelope{Type: uint64(r.Type), Body: body})
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", r.Name, err)
	}
	if len(out) > r.Limit {
		return nil, fmt.Errorf("encode %s: %d bytes, limit %d", r.Name, len(out), r.Limit)
	}
	return out, nil
}

// Decode reads one message sent by the given end. Bytes that are not the one deterministic encoding of a message of this
// grammar, or that the other end alone may send, give an error that wraps ErrGrammar.
func (c *Codec) Decode(b []byte, from Origin) (Message, error) {
	if len(b) > MaxMessage {
		return nil, fmt.Errorf("%w: %d bytes, limit %d", ErrGrammar, len(b), MaxMessage)
	}
	var e envelope
	if err := c.dec.Unmarshal(b, &e); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrGrammar, err)
	}
	if e.Type < 1 || e.Type > uint64(len(c.rows)) {
		return nil, fmt.Errorf("%w: unknown type %d", ErrGrammar, e.Type)
	}
	r := c.rows[e.Type-1]
	if len(b) > r.Limit {
		return nil, fmt.Errorf("%w: %s of %d bytes, limit %d", ErrGrammar, r.Name, len(b), r.Limit)
	}
	if r.From != Both && r.From != from {
		return nil, fmt.Errorf("%w: %s comes from the %s only", ErrGrammar, r.Name, r.From)
	}
	m := r.make()
	if err := c.dec.Unmarshal(e.Body, m); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrGrammar, r.Name, err)
	}
	again, err := c.Encode(m)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrGrammar, err)
	}
	if !bytes.Equal(again, b) {
		return nil, fmt.Errorf("%w: %s is not in its deterministic encoding", ErrGrammar, r.Name)
	}
	return m, nil
}

// Canonical returns the deterministic CBOR of a structure that is signed or hashed (Transcript, PresenceStatement,
// AttestationBinding).
func Canonical(v any) ([]byte, error) {
	enc, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		return nil, fmt.Errorf("cbor encoder: %w", err)
	}
	b, err := enc.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode %T: %w", v, err)
	}
	return b, nil
}

// Digest is SHA-256 of the canonical encoding: what a card or a TPM signs.
func Digest(v any) ([32]byte, error) {
	b, err := Canonical(v)
	return sha256.Sum256(b), err
}

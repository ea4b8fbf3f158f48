// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/hex"

	"sdbox/internal/wire"
)

// presenceKey is key 9E as the card was registered with it.
func (f *file) presenceKey() (*ecdsa.PublicKey, error) {
	row := f.registered()
	parsed, err := x509.ParsePKIXPublicKey(row.bytes("presence_key"))
	if err != nil {
		return nil, broken(Card, row, "presence key: %v", err)
	}
	key, ok := parsed.(*ecdsa.PublicKey)
	if !ok {
		return nil, broken(Card, row, "presence key of type %T", parsed)
	}
	return key, nil
}

// checkPresence verifies that the card said, with key 9E, that it was in this box for this session.
func (f *file) checkPresence(row *event, nonce, signature []byte) error {
	key, err := f.presenceKey()
	if err != nil {
		return err
	}
	fits := func(tunnel wire.Key) bool {
		id := f.report.Session
		digest, err := wire.Digest(wire.PresenceStatement{Context: wire.PresenceContext, Nonce: nonce, Session: id[:], TunnelKey: tunnel})
		return err == nil && ecdsa.VerifyASN1(key, digest[:], signature)
	}
	if fits(f.state.result.Box().TunnelKey) {
		return nil
	}
	for _, other := range f.tunnels {
		if fits(other) {
			return broken(Tunnel, row, "the card was present behind another tunnel key, %x", other)
		}
	}
	return broken(Card, row, "this card did not say that it was there")
}

// checkResumes checks each time at which the session came back without a finger: what is written of it, the card's word, the login it
// was for, and that the grant which followed was given on that word. A grant that says it brought the session back needs one.
func (f *file) checkResumes() error {
	var waits *event // came back, and no grant yet
	for i := range f.session {
		row := &f.session[i]
		switch {
		case row.Action == "login.resumed":
			if err := f.checkResume(row); err != nil {
				return err
			}
			waits = row
			f.report.Resumes++
		case row.Fields["grant"] == "":
		case row.Fields["from"] == "suspended" && waits == nil:
			return broken(Card, row, "the session came back without a card that was there")
		case waits != nil:
			if row.Fields["presence_nonce"] != waits.Fields["nonce"] || row.Fields["presence_signature"] != waits.Fields["presence"] {
				return broken(Card, row, "the grant was not given on the presence of row %d", waits.Seq)
			}
			waits = nil
		}
	}
	return nil
}

func (f *file) checkResume(row *event) error {
	transcript, err := wire.Digest(f.signed)
	if err != nil {
		return err
	}
	switch {
	case row.Seq < f.login.Seq:
		return broken(Card, row, "the session came back before anybody had logged in")
	case row.Actor != "box:"+f.create.Fields["box"]:
		return broken(Box, row, "the session came back at %s", row.Actor)
	case row.Object != "person:"+f.create.Fields["person"]:
		return broken(Card, row, "the session came back for %s", row.Object)
	case row.Fields["card"] != f.create.Fields["card"]:
		return broken(Card, row, "the session came back with card %s", row.Fields["card"])
	case row.Fields["certificate_sha256"] != f.login.Fields["certificate_sha256"]:
		return broken(Card, row, "the session came back with another certificate than that of the login")
	case !bytes.Equal(row.bytes("transcript_sha256"), transcript[:]):
		return broken(Tunnel, row, "the session came back on another login than %s", hex.EncodeToString(transcript[:8]))
	}
	return f.checkPresence(row, row.bytes("nonce"), row.bytes("presence"))
}

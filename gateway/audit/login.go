// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"

	"sdbox/internal/seal"
	"sdbox/internal/wire"
)

// checkCard checks whose card it is: the certificate of key 9A, and the registry's row of it.
func (f *file) checkCard() error {
	text, kept := f.login.personal["certificate"]
	if !kept {
		return ErrErased
	}
	der, err := hex.DecodeString(text)
	if err != nil {
		return broken(Card, f.login, "%v", err)
	}
	sum := sha256.Sum256(der)
	if hex.EncodeToString(sum[:]) != f.login.Fields["certificate_sha256"] {
		return broken(Card, f.login, "the certificate is not the one it is named by")
	}
	if f.person, err = f.roots.Trust.VerifyPerson(der, f.login.at()); err != nil {
		return broken(Card, f.login, "%v", err)
	}
	if guid := f.person.GUID.String(); guid != f.create.Fields["card"] || guid != f.login.Fields["card"] {
		return broken(Card, f.login, "the certificate is that of card %s", guid)
	}
	row := f.registered()
	if row == nil {
		return broken(Card, f.login, "the card is not registered with this certificate")
	}
	if row.Fields["person"] != f.create.Fields["person"] {
		return broken(Card, row, "the card is registered for another person")
	}
	return nil
}

// registered is the newest registration of the card before the login with the certificate it logged in with.
func (f *file) registered() *event {
	var row *event
	for i, c := range f.cards {
		if c.Seq < f.login.Seq && c.Fields["certificate_sha256"] == f.login.Fields["certificate_sha256"] {
			row = &f.cards[i]
		}
	}
	return row
}

// granted is one grant, opened.
type granted struct {
	row    *event
	header seal.Header
	claims wire.GrantClaims
}

// openGrant opens the grant of a row and checks whom, where and by which login it was given.
func (f *file) openGrant(row *event) (granted, error) {
	g := granted{row: row}
	refused := error(nil)
	for i := range f.gateways {
		gateway, err := f.end(&f.gateways[i], row)
		if err != nil {
			continue // a gateway of another time
		}
		verifier, err := seal.NewVerifier("box:"+f.create.Fields["box"], gateway.key)
		if err != nil {
			return g, err
		}
		if g.header, refused = verifier.OpenAt(row.bytes("grant"), wire.GrantType, &g.claims, row.at()); refused == nil {
			return g, f.checkGrant(&g)
		}
		g.claims = wire.GrantClaims{}
		if errors.Is(refused, seal.ErrAudience) {
			return g, broken(Box, row, "the grant is for another box: %v", refused)
		}
	}
	return g, broken(Bubble, row, "no gateway of this house gave this grant: %v", refused)
}

func (f *file) checkGrant(g *granted) error {
	c := &g.claims
	switch {
	case c.Session.String() != f.create.Session:
		return broken(Bubble, g.row, "the grant is for session %s", c.Session)
	case c.Box != f.create.Fields["box"]:
		return broken(Box, g.row, "the grant is for box %s", c.Box)
	case c.Card != f.create.Fields["card"]:
		return broken(Card, g.row, "the grant is for card %s", c.Card)
	case c.Person.String() != f.create.Fields["person"]:
		return broken(Card, g.row, "the grant is for person %s", c.Person)
	case strconv.FormatInt(c.Epoch, 10) != g.row.Fields["epoch"]:
		return broken(Bubble, g.row, "the grant is for owner epoch %d, the session had %s", c.Epoch, g.row.Fields["epoch"])
	case c.TunnelKey != f.state.result.Box().TunnelKey:
		return broken(Tunnel, g.row, "the grant is for the tunnel key %x", c.TunnelKey)
	}
	return nil
}

// checkGrants checks every grant of the session, and that the card was in the box at each renewal.
func (f *file) checkGrants() error {
	for i := range f.session {
		row := &f.session[i]
		if row.Fields["grant"] == "" {
			continue
		}
		if _, err := f.openGrant(row); err != nil {
			return err
		}
		if f.report.Grants++; f.report.Grants == 1 {
			continue
		}
		if err := f.checkPresence(row, row.bytes("presence_nonce"), row.bytes("presence_signature")); err != nil {
			return err
		}
	}
	if f.report.Grants == 0 {
		return broken(Bubble, f.login, "no grant followed the login")
	}
	return nil
}

// checkLogin rebuilds the transcript from what the other rows prove and verifies the card's signature over it. Where it does not
// verify, the one part is looked for with which it does.
func (f *file) checkLogin() error {
	proved := wire.Transcript{
		Context: wire.LoginContext, Nonce: f.login.bytes("nonce"), GatewayCertificate: f.gateway.hash[:], GatewayTunnelKey: wire.Key(f.gateway.tunnelKey),
		GatewayStream: f.login.bytes("gateway_stream"), Result: f.state.hash[:], DeviceCertificate: f.state.row.bytes("certificate_sha256"),
		BoxTunnelKey: f.state.result.Box().TunnelKey, BoxStream: f.login.bytes("box_stream"), PersonCertificate: f.login.bytes("certificate_sha256"),
	}
	said := proved
	said.GatewayTunnelKey, said.BoxTunnelKey = key(f.login.bytes("gateway_tunnel_key")), key(f.login.bytes("tunnel_key"))
	said.Result, said.DeviceCertificate = f.login.bytes("result_sha256"), f.login.bytes("device_sha256")
	switch {
	case !bytes.Equal(said.DeviceCertificate, proved.DeviceCertificate):
		return broken(Box, f.login, "the login names another device certificate than the attestation %s", f.which(said, proved))
	case !bytes.Equal(said.Result, proved.Result):
		return broken(State, f.login, "the login names another attestation result %s", f.which(said, proved))
	case said.BoxTunnelKey != proved.BoxTunnelKey, said.GatewayTunnelKey != proved.GatewayTunnelKey:
		return broken(Tunnel, f.login, "the login names other tunnel keys than attestation and gateway %s", f.which(said, proved))
	}
	if f.signed = proved; f.fits(proved) {
		return f.sameLogin(proved)
	}
	return f.explain(proved)
}

func key(b []byte) (k wire.Key) {
	if len(b) == len(k) {
		k = wire.Key(b)
	}
	return k
}

// fits says whether the card signed this transcript.
func (f *file) fits(t wire.Transcript) bool {
	digest, err := wire.Digest(t)
	return err == nil && ecdsa.VerifyASN1(f.person.Key, digest[:], f.login.bytes("signature"))
}

func (f *file) which(said, proved wire.Transcript) string {
	switch {
	case f.fits(said):
		return "(the card signed the login's)"
	case f.fits(proved):
		return "(the card signed the attested one)"
	}
	return "(the card signed neither)"
}

// sameLogin wants every grant to carry this transcript: a grant of another login of the same card is not of this one.
func (f *file) sameLogin(t wire.Transcript) error {
	digest, err := wire.Digest(t)
	if err != nil {
		return err
	}
	for i := range f.session {
		row := &f.session[i]
		if row.Fields["grant"] == "" {
			continue
		}
		g, err := f.openGrant(row)
		if err != nil {
			return err
		}
		if !bytes.Equal(g.claims.Transcript, digest[:]) {
			return broken(Bubble, row, "the grant was given on another login")
		}
	}
	return nil
}

// explain looks for what was exchanged when the card's signature does not fit: first with the box's other results and certificates,
// then with the transcript that the gateway sealed into the grant.
func (f *file) explain(t wire.Transcript) error {
	for hash, row := range f.results {
		other := t
		if other.Result, _ = hex.DecodeString(hash); f.fits(other) {
			return broken(State, f.login, "the card signed another attestation result, that of row %d", row)
		}
	}
	for hash, boot := range f.boots {
		other := t
		if other.DeviceCertificate, _ = hex.DecodeString(hash); f.fits(other) {
			return broken(Box, f.login, "the card signed another device certificate, that of row %d", boot.Seq)
		}
	}
	digest, err := wire.Digest(t)
	if err != nil {
		return err
	}
	for i := range f.session {
		row := &f.session[i]
		if row.Fields["grant"] == "" {
			continue
		}
		g, err := f.openGrant(row)
		if err != nil {
			return err
		}
		if bytes.Equal(g.claims.Transcript, digest[:]) {
			return broken(Card, f.login, "the gateway granted this login, and the card of the certificate did not sign it")
		}
		return broken(Tunnel, f.login, "nonce or stream certificates are not those of the login that was granted")
	}
	return fmt.Errorf("audit row %d: %w", f.login.Seq, ErrNoLogin)
}

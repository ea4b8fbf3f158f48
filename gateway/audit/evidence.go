// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"

	"sdbox/gateway/appraise"
	"sdbox/internal/attest"
	"sdbox/internal/seal"
	"sdbox/internal/wire"
	"sdbox/pki/profile"
)

// gatewayEnd is the gateway as it was when the session was on it.
type gatewayEnd struct {
	row       *event
	der       []byte
	hash      [32]byte // of the certificate
	spki      []byte
	key       *ecdsa.PublicKey
	tunnelKey []byte
}

// end reads a gateway.up row; its certificate must lead to the root and have been valid when it was used.
func (f *file) end(row, used *event) (gatewayEnd, error) {
	g := gatewayEnd{row: row, der: row.bytes("certificate"), tunnelKey: row.bytes("tunnel_key")}
	name, err := f.roots.Trust.VerifyGateway(g.der, used.at())
	if err != nil {
		return g, broken(Tunnel, row, "%v", err)
	}
	c, err := x509.ParseCertificate(g.der)
	if err != nil {
		return g, broken(Tunnel, row, "%v", err)
	}
	key, ok := c.PublicKey.(*ecdsa.PublicKey)
	if !ok || len(g.tunnelKey) != 32 || row.Object != "gateway:"+name {
		return g, broken(Tunnel, row, "the certificate is that of gateway %s, the row that of %s", name, row.Object)
	}
	g.hash, g.spki, g.key = sha256.Sum256(g.der), c.RawSubjectPublicKeyInfo, key
	return g, nil
}

// checkGateway finds the gateway that the login says it was made to.
func (f *file) checkGateway() error {
	for i := range f.gateways {
		row := &f.gateways[i]
		der := row.bytes("certificate")
		hash := sha256.Sum256(der)
		if len(der) == 0 || row.Seq > f.login.Seq || hex.EncodeToString(hash[:]) != f.login.Fields["gateway_sha256"] {
			continue
		}
		g, err := f.end(row, f.login)
		if err != nil {
			return err
		}
		f.gateway = g // the newest before the login
	}
	if f.gateway.row == nil {
		return broken(Tunnel, f.login, "no gateway with the certificate %.16s... was up", f.login.Fields["gateway_sha256"])
	}
	f.report.Gateway = f.gateway.row.Object[len("gateway:"):]
	return nil
}

// attested is one attestation of the box, read and checked.
type attested struct {
	row       *event
	statement []byte
	hash      [32]byte
	result    *appraise.Result
}

// checkBox checks the result that the login names, and every later one while the session lasted.
func (f *file) checkBox() error {
	for i := range f.attested {
		a, err := f.checkAttestation(&f.attested[i])
		if err != nil {
			return err
		}
		if i == 0 {
			f.state = a
		}
		f.tunnels = append(f.tunnels, a.result.Box().TunnelKey)
		f.report.Attestations++
	}
	if f.elsewhere != "" {
		return broken(Box, f.login, "the attestation result is that of %s", f.elsewhere)
	}
	if f.state.row == nil || f.state.row.Fields["result_sha256"] != f.login.Fields["result_sha256"] {
		return broken(State, f.login, "the box was not attested with the result %.16s...", f.login.Fields["result_sha256"])
	}
	return nil
}

func (f *file) checkAttestation(row *event) (attested, error) {
	a := attested{row: row, statement: row.bytes("result"), result: &appraise.Result{}}
	a.hash = sha256.Sum256(a.statement)
	var evidence wire.Evidence
	if err := wire.ReadCanonical(row.bytes("evidence"), &evidence); err != nil {
		return a, broken(State, row, "evidence: %v", err)
	}
	if name := row.Fields["log_sha256"]; name != "" {
		shown, found := f.logs[name]
		if !found {
			return a, broken(State, row, "the event log %.16s... is not in the log", name)
		}
		evidence.Log = shown.bytes("log")
	}
	gateway, err := f.openResult(&a)
	if err != nil {
		return a, err
	}
	box, device, err := f.device(row)
	if err != nil {
		return a, err
	}
	claims := a.result.Box()
	key := sha256.Sum256(device.RawSubjectPublicKeyInfo)
	switch {
	case !bytes.Equal(claims.DeviceKey, key[:]):
		return a, broken(Box, row, "the result is for another device key than that of %s's certificate", box.Serial)
	case !bytes.Equal(claims.AKName, box.AKName):
		return a, broken(Box, row, "the result is for another attestation key than that of %s's certificate", box.Serial)
	case claims.TunnelKey != evidence.TunnelKey:
		return a, broken(Tunnel, row, "the result is for another tunnel key than the evidence")
	}
	want := attest.Expectations{Nonce: row.bytes("nonce"), DeviceSPKI: device.RawSubjectPublicKeyInfo, GatewaySPKI: gateway.spki,
		Exporter: row.bytes("exporter"), AKName: box.AKName}
	if err := f.checkQuote(&a, &evidence, want); err != nil {
		return a, err
	}
	digest, err := wire.Digest(evidence)
	if err != nil {
		return a, err
	}
	if !bytes.Equal(claims.Evidence, digest[:]) {
		return a, broken(State, row, "the result was given on other evidence")
	}
	return a, nil
}

// openResult opens the attestation result with the key of the gateway that sealed it.
func (f *file) openResult(a *attested) (gatewayEnd, error) {
	refused := error(nil)
	for i := range f.gateways {
		g, err := f.end(&f.gateways[i], a.row)
		if err != nil {
			continue // a gateway of another time
		}
		verifier, err := seal.NewVerifier(string(f.roots.Trust.Domain()), g.key)
		if err != nil {
			return g, err
		}
		var result appraise.Result
		if _, err := verifier.OpenAt(a.statement, appraise.Type, &result, a.row.at()); err != nil {
			refused = err
			continue
		}
		spki := sha256.Sum256(g.spki)
		if !result.Affirmed() || !bytes.Equal(result.Box().GatewayKey, spki[:]) {
			return g, broken(Tunnel, a.row, "the result is for a connection to another gateway")
		}
		a.result = &result
		return g, nil
	}
	return gatewayEnd{}, broken(State, a.row, "no gateway of this house gave this attestation result: %v", refused)
}

// device finds the certificate that the box showed, and what it says.
func (f *file) device(row *event) (profile.Box, *x509.Certificate, error) {
	boot, found := f.boots[row.Fields["certificate_sha256"]]
	if !found {
		return profile.Box{}, nil, broken(Box, row, "the device certificate %.16s... is not in the log", row.Fields["certificate_sha256"])
	}
	der := boot.bytes("certificate")
	if sum := sha256.Sum256(der); hex.EncodeToString(sum[:]) != row.Fields["certificate_sha256"] {
		return profile.Box{}, nil, broken(Box, &boot, "the device certificate is not the one it is named by")
	}
	box, err := f.roots.Trust.VerifyBox(der, row.at())
	if err != nil {
		return box, nil, broken(Box, row, "%v", err)
	}
	if row.Object != "box:"+box.Serial {
		return box, nil, broken(Box, row, "the device certificate is that of %s", box.Serial)
	}
	c, err := x509.ParseCertificate(der)
	return box, c, err
}

// checkQuote checks the TPM's quote, and its registers against the reference values that the result names.
func (f *file) checkQuote(a *attested, ev *wire.Evidence, want attest.Expectations) error {
	facts, err := attest.Check(ev, want)
	if err != nil {
		reason, _ := attest.ReasonOf(err)
		switch reason {
		case attest.OtherAK, attest.BadSignature, attest.OtherDevice:
			return broken(Box, a.row, "%v", err)
		case attest.NotBound: // signed by the right machine, for something else
			bound, digestErr := attest.Binding{Nonce: want.Nonce, DeviceSPKI: want.DeviceSPKI, GatewaySPKI: want.GatewaySPKI, TunnelKey: ev.TunnelKey, Exporter: want.Exporter}.Digest()
			if digestErr == nil && bytes.Equal(bound[:], a.result.Box().Binding) {
				return broken(State, a.row, "the quote is not the one that the result was given on: %v", err)
			}
			return broken(Tunnel, a.row, "nonce or channel are not those of the quote: %v", err)
		}
		return broken(State, a.row, "%v", err)
	}
	note, found := f.notes[hex.EncodeToString(a.result.Box().Reference)]
	if !found {
		return broken(State, a.row, "the reference values of the result are not in the log")
	}
	text := []byte(note.Fields["note"])
	if sum := sha256.Sum256(text); !bytes.Equal(sum[:], a.result.Box().Reference) {
		return broken(State, &note, "the reference note is not the one it is named by")
	}
	values, err := f.roots.Notes.Open(text)
	if err != nil {
		return broken(State, &note, "%v", err)
	}
	if changed := appraise.Differences(values, facts); len(changed) > 0 {
		return broken(State, a.row, "%s, says the reference %s", changed[0], values)
	}
	f.report.Reference = values.String()
	return nil
}

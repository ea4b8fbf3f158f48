// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sdbox/gateway/console"
	"sdbox/internal/ident"
	"sdbox/pki/ca"
	"sdbox/pki/profile"

	"github.com/stretchr/testify/require"
)

// office is a house's authorities, and a folder as an operator has it.
type office struct {
	t     *testing.T
	dir   string
	cards *ca.Authority
	own   tls.Certificate // a gateway's
	key   *ecdsa.PrivateKey
}

func newOffice(t *testing.T) *office {
	o := &office{t: t, dir: t.TempDir()}
	pki := filepath.Join(o.dir, "pki")
	require.NoError(t, ca.Init(pki, "lab", "", time.Now()))
	var err error
	o.cards, err = ca.Open(pki, profile.Cards, "")
	require.NoError(t, err)
	gateways, err := ca.Open(pki, profile.Gateways, "")
	require.NoError(t, err)
	o.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	issued, err := gateways.Issue(profile.Gateway{Name: "gw1", Key: o.key.Public()})
	require.NoError(t, err)
	o.own = tls.Certificate{Certificate: issued.Chain, PrivateKey: o.key}
	require.NoError(t, os.WriteFile(filepath.Join(o.dir, "ca.pem"), o.cards.Trust().PEM(), 0o600))
	return o
}

// with writes ctl.toml for a certificate of the office's key and a gateway.
func (o *office) with(chain [][]byte, gateway string) (config string) {
	var text []byte
	for _, der := range chain {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	require.NoError(o.t, os.WriteFile(filepath.Join(o.dir, "cert.pem"), text, 0o600))
	raw, err := x509.MarshalPKCS8PrivateKey(o.key)
	require.NoError(o.t, err)
	require.NoError(o.t, os.WriteFile(filepath.Join(o.dir, "key.pem"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}), 0o600))
	config = filepath.Join(o.dir, "ctl.toml")
	require.NoError(o.t, os.WriteFile(config, fmt.Appendf(nil, "gateway = %q\nname = \"gw1.lab\"\ncertificate = \"cert.pem\"\nkey = \"key.pem\"\nca = \"ca.pem\"\n", gateway), 0o600))
	return config
}

func (o *office) operator() [][]byte {
	issued, err := o.cards.Issue(profile.Operator{Name: "olga", Key: o.key.Public()})
	require.NoError(o.t, err)
	return issued.Chain
}

// aged is a certificate of the same key that was, or will be, good; who signed it is not looked at then.
func (o *office) aged(from, to time.Duration) [][]byte {
	plan := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "olga"}, NotBefore: time.Now().Add(from), NotAfter: time.Now().Add(to)}
	der, err := x509.CreateCertificate(rand.Reader, plan, plan, o.key.Public(), crypto.Signer(o.key))
	require.NoError(o.t, err)
	return [][]byte{der}
}

// gateway answers every request with a status and a body.
func (o *office) gateway(status int, body string) string {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{o.own}, MinVersion: tls.VersionTLS13, ClientAuth: tls.RequireAnyClientCert}
	server.StartTLS()
	o.t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

// Each is wrong in one way: the words say which, the hint what to do, the exit code is the documented one, in words and as JSON.
func TestWrongUseSaysWhatAndWhatToDo(t *testing.T) {
	o, foreign := newOffice(t), newOffice(t)
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, gone.Close())
	plain := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(plain.Close)
	card, err := o.cards.Issue(profile.CardAuth{GUID: ident.GUID{1}, Name: "Marie", Method: profile.FingerOnCard, Key: o.key.Public()})
	require.NoError(t, err)
	stranger, err := foreign.cards.Issue(profile.Operator{Name: "eve", Key: o.key.Public()})
	require.NoError(t, err)
	good, fine := o.operator(), o.gateway(200, "[]")
	for name, c := range map[string]struct {
		chain      [][]byte
		gateway    string
		code       int
		word, hint string
	}{
		"nobody there":         {good, gone.Addr().String(), exitUnreachable, "does not answer", "is sdbox-gateway running"},
		"no such host":         {good, "gw.invalid:8443", exitUnreachable, "does not answer", "its console's address"},
		"no TLS":               {good, strings.TrimPrefix(plain.URL, "http://"), exitUnreachable, "speaks no TLS", "8443"},
		"another house":        {good, foreign.gateway(200, "[]"), exitUnreachable, "not a gateway of this house", "ca the ca.pem"},
		"expired":              {o.aged(-48*time.Hour, -time.Hour), fine, exitNotAllowed, "of olga ended on", "sdbox-pki issue operator"},
		"not yet":              {o.aged(time.Hour, 48*time.Hour), fine, exitNotAllowed, "of olga begins on", "clock"},
		"a card":               {card.Chain, fine, exitNotAllowed, "not one of this house's operators", "sdbox-pki issue operator"},
		"another's operator":   {stranger.Chain, fine, exitNotAllowed, "not one of this house's operators", "sdbox-pki issue operator"},
		"a name nobody has":    {good, o.gateway(404, `{"error":"box NONE-1: not found","hint":"sdboxctl box list shows what there is"}`), exitNotFound, "NONE-1: not found", "box list"},
		"a session that ended": {good, o.gateway(410, `{"error":"this session has already ended","hint":"sdboxctl sessions lists those that live"}`), exitNotFound, "already ended", "sdboxctl sessions"},
		"something in between": {good, o.gateway(502, "<html>"), exitFailed, "502", ""},
	} {
		config := o.with(c.chain, c.gateway)
		code, out, errs := command(t, "--config", config, "sessions")
		require.Equal(t, c.code, code, "%s: %s", name, errs)
		require.Empty(t, out, name)
		require.Contains(t, errs, "sdboxctl: ", name)
		require.Contains(t, errs, c.word, name)
		if c.hint != "" {
			require.Regexp(t, `(?m)^hint: .*`+c.hint, errs, name)
		}
		code, out, errs = command(t, "sessions", "--config", config, "--json")
		require.Equal(t, c.code, code, name)
		require.Empty(t, out, name)
		var f failure
		require.NoError(t, json.Unmarshal([]byte(errs), &f), "%s: %s", name, errs)
		require.Equal(t, code, f.Exit, name)
		require.Contains(t, f.Error, c.word, name)
		require.Contains(t, f.Hint, c.hint, name)
	}
	code, out, errs := command(t, "--config", o.with(good, fine), "sessions", "--json")
	require.Zero(t, code, errs)
	require.JSONEq(t, "[]", out)
	code, _, errs = command(t, "--json", "frobnicate")
	require.Equal(t, exitUsage, code)
	require.Contains(t, errs, `"exit":2`)
}

// A gateway that turns a certificate away does so in the handshake; whether its word arrives before the connection is gone is the
// network's.
func TestCertificateThatIsTurnedAwayIsNotAllowed(t *testing.T) {
	var p *problem
	require.ErrorAs(t, unanswered("https://gw1:8443", &net.OpError{Op: "remote error", Err: tls.AlertError(42)}), &p)
	require.Equal(t, exitNotAllowed, p.code)
	require.Contains(t, p.Error(), "the gateway at gw1:8443 does not take this operator certificate")
	require.ErrorAs(t, unanswered("https://gw1:443", &net.OpError{Op: "remote error", Err: tls.AlertError(120)}), &p)
	require.Equal(t, exitUnreachable, p.code)
	require.Contains(t, p.Error(), "gw1:443 is the front door for boxes")
	require.ErrorAs(t, unanswered("https://gw1:8443", errors.New("connection reset by peer")), &p)
	require.Equal(t, exitUnreachable, p.code)
	require.Contains(t, p.hint, "operator certificate")
}

// What a box, a bubble or a false gateway says is text in a table: it moves no cursor, hides nothing and makes no line of its own.
func TestNothingSteersTheTerminal(t *testing.T) {
	const evil = "invalid value \x1b]0;gone\a\x1b[2J\u009b1A\r\n2026-11-24  forged\u202e"
	var out strings.Builder
	p := &printer{w: &out}
	require.NoError(t, p.print([]console.Why{{Code: "C05-7K2", Actor: evil, Detail: map[string]string{"cause": evil}}}))
	require.NoError(t, p.print([]console.Session{{Person: evil, State: evil}}))
	report(&out, hint(exitFailed, errors.New(evil), evil), false)
	require.NotRegexp(t, `[\x00-\x09\x0b-\x1f\x7f-\x9f\x{200b}-\x{200f}\x{202a}-\x{202e}]`, out.String())
	require.NotContains(t, out.String(), "\n2026")
}

// What an operator types is a name, never a way to another address of the API.
func TestNamesStayInTheirPlace(t *testing.T) {
	o := newOffice(t)
	asked := make(chan string, 1)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { asked <- r.URL.EscapedPath() }))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{o.own}, ClientAuth: tls.RequireAnyClientCert}
	server.StartTLS()
	defer server.Close()
	config := o.with(o.operator(), server.Listener.Addr().String())
	for _, args := range [][]string{{"box", "retire", "../people", "--reason", "gone"}, {"card", "revoke", "../people", "--reason", "gone"}, {"lock", "lift", "../people", "--reason", "gone"},
		{"cut", "../people", "--reason", "gone"}, {"message", "../people", "--text", "gone"}, {"why", "../people"}} {
		command(t, append([]string{"--config", config}, args...)...)
		require.Contains(t, <-asked, "/..%2Fpeople", args)
	}
}

// SPDX-License-Identifier: Apache-2.0

package console

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"html/template"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sdbox/firmware/reference"
	"sdbox/gateway/admission"
	"sdbox/gateway/appraise"
	"sdbox/gateway/audit"
	"sdbox/gateway/frontdoor"
	"sdbox/gateway/registry"
	"sdbox/gateway/releases"
	"sdbox/gateway/session"
	"sdbox/gateway/store"
	"sdbox/internal/attest"
	"sdbox/internal/ident"
	"sdbox/internal/line"
	"sdbox/internal/merkle"
	"sdbox/internal/seal"
	"sdbox/internal/tunnel"
	"sdbox/internal/wire"
	"sdbox/pki/ca"
	"sdbox/pki/profile"

	"github.com/stretchr/testify/require"
)

// desk is a console with its gateway's rooms behind it, and the certificates of the people around it.
type desk struct {
	t        testing.TB
	console  *Console
	base     string
	lines    string // where a box's line is taken
	pki      map[profile.Issuer]*ca.Authority
	registry *registry.Registry
	release  string // secret release key
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	return key
}

func (d *desk) issue(p profile.Profile, key *ecdsa.PrivateKey) tls.Certificate {
	issued, err := d.pki[p.Issuer()].Issue(p)
	require.NoError(d.t, err)
	return tls.Certificate{Certificate: issued.Chain, PrivateKey: key, Leaf: issued.Certificate}
}

func newDesk(t testing.TB) *desk {
	ctx, dir := t.Context(), t.TempDir()
	d := &desk{t: t, pki: map[profile.Issuer]*ca.Authority{}}
	require.NoError(t, ca.Init(filepath.Join(dir, "pki"), "lab", "", time.Now()))
	for _, name := range []profile.Issuer{profile.Devices, profile.Cards, profile.Gateways} {
		a, err := ca.Open(filepath.Join(dir, "pki"), name, "")
		require.NoError(t, err)
		d.pki[name] = a
	}
	trust := d.pki[profile.Cards].Trust()
	key := newKey(t)
	own := d.issue(profile.Gateway{Name: "gw1", Key: key.Public()}, key)
	signer, err := seal.NewSigner(key, "gw1.lab")
	require.NoError(t, err)
	db, err := store.Open(ctx, filepath.Join(dir, "gateway.db"))
	require.NoError(t, err)
	d.registry = registry.New(db)
	network, err := d.registry.Network(ctx, "gateway:gw1")
	require.NoError(t, err)
	private, err := tunnel.NewKey()
	require.NoError(t, err)
	tun, err := tunnel.NewGateway(tunnel.GatewayConfig{Key: private, Address: network.Gateway, Prefix: network.Prefix, UDP: &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}})
	require.NoError(t, err)
	secret, public, err := reference.GenerateKey("release-1.lab")
	require.NoError(t, err)
	d.release = secret
	notes, err := reference.NewTrust(1, public)
	require.NoError(t, err)
	references := appraise.New(notes, "sdbox", "test")
	door, err := frontdoor.New(frontdoor.Config{Name: "gw1", Store: db, Registry: d.registry, Trust: trust, Identity: own, Devices: d.pki[profile.Devices],
		Verifier: references, Signer: signer, Tunnel: tun, Lease: time.Minute, MaxWaiting: 4})
	require.NoError(t, err)
	policies, err := admission.Shipped()
	require.NoError(t, err)
	sessions, err := session.New(session.Config{Name: "gw1", Store: db, Registry: d.registry, Policies: policies, Trust: trust, Domain: "lab", Identity: own, Signer: signer,
		Box: func(netip.Addr) (session.Box, bool) {
			return session.Box{Serial: "PARIS-1", Expires: time.Now().Add(time.Minute)}, true
		},
		Dial: func(context.Context, registry.Bubble) (session.Bubble, error) { return nil, net.ErrClosed }})
	require.NoError(t, err)
	logKey, verifier, err := merkle.GenerateKey("gw1.lab/audit")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "audit.pub"), []byte(verifier), 0o600))
	sealed, err := audit.Open(ctx, audit.Config{Store: db, Dir: filepath.Join(dir, "audit"), Key: logKey})
	require.NoError(t, err)
	depot, err := releases.Open(filepath.Join(dir, "releases"), d.registry, notes)
	require.NoError(t, err)
	c, err := New(Config{Gateway: "gw1.lab", Certificate: own, Trust: trust, Store: db, Registry: d.registry, Sessions: sessions, Door: door, Audit: sealed, References: references, Releases: depot, Scratch: dir})
	require.NoError(t, err)
	// Before what serves, so that it is closed after it.
	t.Cleanup(func() {
		require.NoError(t, tun.Close())
		require.NoError(t, db.Close())
	})
	d.console = c
	d.base = "https://" + d.serve(c.Serve)
	d.lines = d.serve(sessions.Serve)
	return d
}

func (d *desk) serve(serve func(context.Context, net.Listener) error) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(d.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- serve(ctx, ln) }()
	d.t.Cleanup(func() {
		cancel()
		require.NoError(d.t, <-done)
	})
	return ln.Addr().String()
}

// client is a browser with this certificate; it follows no redirect.
func (d *desk) client(certificates ...tls.Certificate) *http.Client {
	conf := &tls.Config{RootCAs: d.pki[profile.Cards].Trust().Roots(), ServerName: "gw1.lab", Certificates: certificates}
	transport := &http.Transport{TLSClientConfig: conf}
	d.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 10 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func (d *desk) operator() *http.Client {
	key := newKey(d.t)
	return d.client(d.issue(profile.Operator{Name: "anna", Key: key.Public()}, key))
}

func (d *desk) do(c *http.Client, method, path, body string, headers ...string) (int, string) {
	req, err := http.NewRequestWithContext(d.t.Context(), method, d.base+path, strings.NewReader(body))
	require.NoError(d.t, err)
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := c.Do(req)
	require.NoError(d.t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(d.t, err)
	return resp.StatusCode, string(text)
}

func (d *desk) post(c *http.Client, path string, in, out any) int {
	raw, err := json.Marshal(in)
	require.NoError(d.t, err)
	status, text := d.do(c, "POST", "/api/v1/"+path, string(raw), "Content-Type", "application/json")
	if out != nil && status == 200 {
		require.NoError(d.t, json.Unmarshal([]byte(text), out))
	}
	return status
}

// set registers a box, a person and her card by the API, as sdboxctl does, and returns the card's keys.
func (d *desk) set(c *http.Client) (certificate []byte, here *ecdsa.PrivateKey) {
	require.Equal(d.t, 200, d.post(c, "boxes", Box{Serial: "PARIS-1", EK: strings.Repeat("ab", 32), Country: "FR", Model: "lab", Site: "Paris"}, nil))
	require.NoError(d.t, d.registry.EnrolBox(d.t.Context(), "gateway:gw1", "PARIS-1", append([]byte{0, 11}, make([]byte, 32)...), [32]byte{1}))
	var p Person
	require.Equal(d.t, 200, d.post(c, "people", Person{Name: "Marie <b>Martin</b>", Language: "fr"}, &p))
	auth, here := newKey(d.t), newKey(d.t)
	guid := ident.GUID{1}
	nine := d.issue(profile.CardAuth{GUID: guid, Name: "Marie", Method: profile.FingerOnCard, Key: auth.Public()}, auth)
	ninth := d.issue(profile.CardPresence{GUID: guid, Key: here.Public()}, here)
	card := Card{Person: p.ID, Certificate: asPEM(nine), Presence: asPEM(ninth)}
	require.Equal(d.t, 200, d.post(c, "cards", card, nil))
	require.Equal(d.t, 409, d.post(c, "cards", card, nil))
	card.Presence = asPEM(d.issue(profile.CardPresence{GUID: ident.GUID{2}, Key: here.Public()}, here))
	require.Equal(d.t, 422, d.post(c, "cards", card, nil), "two cards are not joined")
	return nine.Certificate[0], here
}

func asPEM(c tls.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}))
}

// sit makes a live session: a box's line with a known card in.
func (d *desk) sit(certificate []byte, here *ecdsa.PrivateKey) (*line.Conn, *wire.Person) {
	conn, err := net.Dial("tcp", d.lines)
	require.NoError(d.t, err)
	l, err := line.New(conn, wire.FromGateway, line.Silence)
	require.NoError(d.t, err)
	d.t.Cleanup(func() { l.Close() })
	_, err = l.Greet(&wire.Hello{})
	require.NoError(d.t, err)
	require.NoError(d.t, l.Write(&wire.NonceRequest{}))
	m, err := l.Read()
	require.NoError(d.t, err)
	nonce := m.(*wire.Nonce).Nonce
	digest, err := wire.Digest(wire.PresenceStatement{Context: wire.PresenceContext, Nonce: nonce})
	require.NoError(d.t, err)
	sig, err := ecdsa.SignASN1(rand.Reader, here, digest[:])
	require.NoError(d.t, err)
	require.NoError(d.t, l.Write(&wire.CardIn{Certificate: certificate, Nonce: nonce, Presence: sig}))
	m, err = l.Read()
	require.NoError(d.t, err)
	person, ok := m.(*wire.Person)
	require.True(d.t, ok, "%#v", m)
	return l, person
}

func TestOnlyOperatorsGetAsFarAsARequest(t *testing.T) {
	d := newDesk(t)
	key := newKey(t)
	foreign := newDesk(t)
	for name, certificates := range map[string][]tls.Certificate{
		"nobody":              nil,
		"a researcher's card": {d.issue(profile.CardAuth{GUID: ident.GUID{9}, Name: "Marie", Method: profile.FingerOnCard, Key: key.Public()}, key)},
		"a box":               {d.issue(profile.Device{Serial: "PARIS-1", AKName: append([]byte{0, 11}, make([]byte, 32)...), Key: key.Public()}, key)},
		"a gateway":           {d.issue(profile.Gateway{Name: "gw2", Key: key.Public()}, key)},
		"a foreign operator":  {foreign.issue(profile.Operator{Name: "anna", Key: key.Public()}, key)},
	} {
		_, err := d.client(certificates...).Get(d.base + "/")
		require.Error(t, err, name)
	}
	var first net.Conn
	for i := range maxStrangers + 1 { // who says nothing holds so many places and no more
		conn, err := net.Dial("tcp", strings.TrimPrefix(d.base, "https://"))
		require.NoError(t, err)
		defer conn.Close()
		if i == 0 {
			first = conn
		}
	}
	status, page := d.do(d.operator(), "GET", "/", "")
	require.Equal(t, 200, status)
	require.Contains(t, page, "anna")
	require.NoError(t, first.SetReadDeadline(time.Now().Add(4*time.Second)))
	_, err := first.Read(make([]byte, 1))
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded, "the newest takes the place of the oldest")
}

func TestCutNeedsAReasonAndTheScreenShowsIt(t *testing.T) {
	d := newDesk(t)
	c := d.operator()
	box, person := d.sit(d.set(c))
	status, page := d.do(c, "GET", "/", "", "Accept-Language", "fr-FR,fr;q=0.9,en;q=0.5")
	require.Equal(t, 200, status)
	require.Contains(t, page, "Marie &lt;b&gt;Martin&lt;/b&gt;", "names are text, never markup")
	require.Contains(t, page, "carte insérée, doigt attendu")

	path := "/sessions/" + person.Session.String() + "/cut"
	status, page = d.do(c, "GET", path, "")
	require.Equal(t, 200, status)
	require.Contains(t, page, "End the session of Marie")
	form := []string{"Content-Type", "application/x-www-form-urlencoded"}
	for _, reason := range []string{"", "  ", "ab", strings.Repeat("x", 201)} {
		status, page = d.do(c, "POST", path, url.Values{"reason": {reason}}.Encode(), form...)
		require.Equal(t, 422, status)
		require.Contains(t, page, `role="alert"`)
	}
	require.Equal(t, 422, d.post(c, path[1:], Cut{Reason: ""}, nil))
	tell := "sessions/" + person.Session.String() + "/message"
	require.Equal(t, 422, d.post(c, tell, Message{Text: "a"}, nil))
	require.Equal(t, 409, d.post(c, tell, Message{Text: "Please save"}, nil), "nobody has placed a finger: nobody would read it")
	status, _ = d.do(c, "POST", "/"+tell, url.Values{"text": {"Please save"}}.Encode(), form...)
	require.Equal(t, 404, status)

	for _, from := range [][]string{{"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}, {"Origin", "https://evil.example"}} {
		status, _ = d.do(c, "POST", path, url.Values{"reason": {"not from here"}}.Encode(), append(form, from...)...)
		require.Equal(t, 403, status, from)
	}
	status, _ = d.do(c, "POST", path, url.Values{"reason": {"  End \u202eof\r\n the\tday \x00\x1b "}}.Encode(), form...)
	require.Equal(t, 303, status)
	m, err := box.Read()
	require.NoError(t, err)
	ended, ok := m.(*wire.Ended)
	require.True(t, ok, "%#v", m)
	require.Equal(t, "End of the day", ended.Reason)
	status, _ = d.do(c, "POST", path, url.Values{"reason": {"once more"}}.Encode(), form...)
	require.Equal(t, 404, status)
	require.Equal(t, 410, d.post(c, "sessions/"+person.Session.String()+"/cut", Cut{Reason: "once more"}, nil))

	status, text := d.do(c, "GET", "/api/v1/refusals/"+ended.Refusal.Error(), "")
	require.Equal(t, 200, status)
	var why []Why
	require.NoError(t, json.Unmarshal([]byte(text), &why))
	require.Equal(t, "operator:anna", why[0].Actor)
}

func TestFeedSendsRowsWhenASessionComes(t *testing.T) {
	d := newDesk(t)
	c := d.operator()
	certificate, here := d.set(c)
	req, err := http.NewRequestWithContext(t.Context(), "GET", d.base+"/events", nil)
	require.NoError(t, err)
	resp, err := c.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, "text/event-stream", resp.Header.Get("Content-Type"))
	var seen bytes.Buffer
	read := func(until string) {
		for !strings.Contains(seen.String(), until) {
			_, err := io.CopyN(&seen, resp.Body, 1)
			require.NoError(t, err)
		}
	}
	read("Nobody is working")
	d.sit(certificate, here)
	read("PARIS-1")
}

// A line that was lost is no card that was taken out: the page says which, and since when.
func TestLostLineIsNoCardOut(t *testing.T) {
	pages, err := template.ParseFS(files, "page/*.html")
	require.NoError(t, err)
	out := Session{ID: "a", Person: "Marie", Box: "PARIS-1", State: "suspended"}
	lost := out
	lost.LostSince = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, c := range []struct {
		words         words
		session       Session
		want, wantNot string
	}{
		{english(), out, "card out, work goes on", "connection"}, {english(), lost, "connection lost, waiting for the box", "card out"},
		{french(), out, "carte retirée, le travail continue", "connexion"}, {french(), lost, "connexion perdue, boîtier attendu", "carte retirée"},
	} {
		for _, part := range []string{"rows", "watched"} {
			var page strings.Builder
			require.NoError(t, pages.ExecuteTemplate(&page, part, view{Words: c.words, Session: c.session, Sessions: []Session{c.session}}))
			require.Contains(t, page.String(), c.want)
			require.NotContains(t, page.String(), c.wantNot)
			require.Equal(t, !c.session.LostSince.IsZero(), strings.Contains(page.String(), "2026-01-02 03:04:05 UTC"))
			require.NotContains(t, page.String(), "/message", "nobody would read it")
		}
	}
}

// Every page forbids what it does not need, and every answer of the API to nonsense is a sentence with a status.
func TestPagesAndAPIAreStrict(t *testing.T) {
	d := newDesk(t)
	c := d.operator()
	for _, path := range []string{"/", "/boxes", "/sessions/x", "/sessions/x/events", "/sessions/x/cut", "/nowhere", "/style.css", "/console.js", "/api/v1/boxes"} {
		resp, err := c.Get(d.base + path)
		require.NoError(t, err)
		resp.Body.Close()
		require.Contains(t, resp.Header.Get("Content-Security-Policy"), "default-src 'none'; script-src 'self'", path)
		require.Contains(t, resp.Header.Get("Content-Security-Policy"), "frame-ancestors 'none'")
		require.Equal(t, "nosniff", resp.Header.Get("X-Content-Type-Options"))
	}
	for _, bad := range []struct {
		path, body string
		status     int
	}{
		{"boxes", `{`, 422}, {"boxes", `{"serial":"PARIS-1"}`, 422}, {"boxes", `{"nosuch":1}`, 422}, {"boxes", `{} {}`, 422}, {"boxes", `null`, 422},
		{"boxes", `{"serial":"../x","ek":"` + strings.Repeat("00", 32) + `"}`, 422}, {"people", `{"name":"","language":"fr"}`, 422}, {"people", `{"name":"a","language":"de"}`, 422},
		{"cards", `{"person":"x"}`, 422}, {"bubbles", `{"name":"epi","colour":"red"}`, 422}, {"memberships", `{"person":"` + ident.NewID().String() + `","bubble":"none"}`, 404},
		{"references", `{"note":"unsigned"}`, 422}, {"locks", `{"target":"everything","message":"x"}`, 422}, {"sessions/x/cut", `{"reason":"good reason"}`, 422},
		{"boxes/NONE-1/retire", `{"reason":"gone"}`, 404}, {"memberships/remove", `{"person":"x","bubble":"epi","reason":"left"}`, 422},
		{"memberships/remove", `{"person":"` + ident.NewID().String() + `","bubble":"none","reason":"left"}`, 404}, {"references/retire", `{"name":"none","reason":"old"}`, 404},
		{"references/retire", `{"name":"none"}`, 422}, {"nowhere", `{}`, 404}, {"boxes", strings.Repeat(" ", maxBody+1), 422},
	} {
		status, text := d.do(c, "POST", "/api/v1/"+bad.path, bad.body, "Content-Type", "application/json")
		require.Equal(t, bad.status, status, "%s %.60s: %s", bad.path, bad.body, text)
		var p Problem
		require.NoError(t, json.Unmarshal([]byte(text), &p), text)
		require.NotEmpty(t, p.Error)
	}
	for path, command := range map[string]string{"boxes/NONE-1/retire": "sdboxctl box list", "locks/" + ident.NewID().String() + "/lift": "sdboxctl lock list",
		"cards/" + ident.GUID{7}.String() + "/revoke": "sdboxctl card list"} {
		status, text := d.do(c, "POST", "/api/v1/"+path, `{"reason":"gone"}`, "Content-Type", "application/json")
		require.Equal(t, 404, status, text)
		require.Contains(t, text, command)
	}
	status, _ := d.do(c, "POST", "/api/v1/boxes", `{}`, "Content-Type", "text/plain")
	require.Equal(t, 422, status, "a form of another page cannot send JSON")
	for _, code := range []string{"C05", "X99-7K2", "C05-7K", "..%2f"} {
		status, _ := d.do(c, "GET", "/api/v1/refusals/"+code, "")
		require.Equal(t, 422, status, code)
	}
	status, _ = d.do(c, "GET", "/api/v1/refusals/C05-7K2", "")
	require.Equal(t, 404, status)
	status, _ = d.do(c, "GET", "/api/v1/boxes/NONE-1/ping", "")
	require.Equal(t, 404, status)
	require.Equal(t, 200, d.post(c, "boxes", Box{Serial: "PARIS-1", EK: strings.Repeat("ab", 32), Country: "FR", Model: "lab", Site: "Paris"}, nil))
	status, text := d.do(c, "GET", "/api/v1/boxes/PARIS-1/ping", "")
	require.Equal(t, 504, status)
	require.Contains(t, text, "power and its network")
	for path, expected := range map[string]int{"/api/v1/audit/export": 403, "/events": 403, "/": 403, "/boxes": 200} {
		headers := []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "no-cors", "Sec-Fetch-Dest", "image"}
		if expected == 200 {
			headers = []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document"}
		}
		status, _ := d.do(c, "GET", path, "", headers...)
		require.Equal(t, expected, status, "%s, by a page of another origin", path)
	}
}

// A note that no box can be held to would make the gateway refuse every box, or not start: it is turned away here.
func TestOnlyReleaseKeysMakeReferences(t *testing.T) {
	d := newDesk(t)
	c := d.operator()
	var quoted []reference.PCR
	for _, register := range attest.Registers() {
		quoted = append(quoted, reference.PCR{Index: register})
	}
	stranger, _, err := reference.GenerateKey("release-1.lab")
	require.NoError(t, err)
	add := func(registers []reference.PCR, key string) int {
		note, err := reference.Sign(reference.Values{Name: "image", Version: "7", PCRs: registers}, key)
		require.NoError(t, err)
		return d.post(c, "references", Reference{Model: "lab", Note: string(note)}, nil)
	}
	for name, registers := range map[string][]reference.PCR{
		"one register":        quoted[:1],
		"a register less":     quoted[1:],
		"a register too many": append(slices.Clone(quoted), reference.PCR{Index: 15}),
		"others":              {{Index: 16}, {Index: 23}},
	} {
		require.Equal(t, 422, add(registers, d.release), name)
	}
	require.Equal(t, 422, add(quoted, stranger))
	require.Equal(t, 200, add(quoted, d.release))
	rows, err := d.registry.References(t.Context(), "")
	require.NoError(t, err)
	require.Len(t, rows, 1)
	require.Equal(t, "image 7", rows[0].Name)
	require.Equal(t, 200, d.post(c, "references/retire", Retirement{Name: "image 7", Reason: "a newer one is out"}, nil))
	rows, err = d.registry.References(t.Context(), "")
	require.NoError(t, err)
	require.Empty(t, rows)
}

func TestLanguageFollowsTheBrowser(t *testing.T) {
	for header, want := range map[string]string{
		"": "en", "fr": "fr", "fr-CA": "fr", "de, fr;q=0.2": "fr", "en;q=0.4, fr;q=0.6": "fr", "fr;q=0.1, en": "en", "fr;q=x": "fr", strings.Repeat("de,", 100) + "fr": "en",
	} {
		require.Equal(t, want, string(language(header)), header)
	}
	require.Len(t, french().states, len(english().states))
	require.Len(t, french().actions, len(english().actions))
}

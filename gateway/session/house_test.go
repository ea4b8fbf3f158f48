// SPDX-License-Identifier: Apache-2.0

package session

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"sdbox/gateway/admission"
	"sdbox/gateway/desktop"
	"sdbox/gateway/desktop/desktoptest"
	"sdbox/gateway/registry"
	"sdbox/gateway/store"
	"sdbox/internal/ident"
	"sdbox/internal/line"
	"sdbox/internal/refusal"
	"sdbox/internal/seal"
	"sdbox/internal/stream"
	"sdbox/internal/tile"
	"sdbox/internal/wire"
	"sdbox/pki/ca"
	"sdbox/pki/profile"

	"github.com/stretchr/testify/require"
)

const wide, high = 640, 400

// house is a gateway's sessions with a real store, registry, policies and authorities; boxes come over loopback, and each bubble's
// desktops are desktoptest's.
type house struct {
	t        testing.TB
	server   *Server
	conf     Config
	registry *registry.Registry
	store    *store.Store
	cards    *ca.Authority
	address  string
	dsn      string
	stop     func() error // ends Serve; nil when it has
	person   registry.Person
	card     *card

	mu       sync.Mutex
	boxes    map[netip.Addr]Box              // guarded by mu
	desktops map[string]*desktoptest.Desktop // guarded by mu; by bubble: the newest opened
	down     map[string]error                // guarded by mu; bubbles that do not answer
	tokens   int                             // guarded by mu; tokens spent
	asked    int                             // guarded by mu; desktops asked for
	left     int                             // guarded by mu; connections let go of
	slow     chan struct{}                   // guarded by mu; if set, desktops open only when it is closed
	quiet    chan struct{}                   // guarded by mu; if set, bubbles say what runs only when it is closed
}

// card is a PIV card's two keys, with the certificates of the desk.
type card struct {
	guid        ident.GUID
	auth, here  *ecdsa.PrivateKey
	certificate []byte
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	return key
}

func (h *house) newCard(name string) *card {
	c := &card{auth: newKey(h.t), here: newKey(h.t)}
	rand.Read(c.guid[:])
	issued, err := h.cards.Issue(profile.CardAuth{GUID: c.guid, Name: name, Method: profile.FingerOnCard, Key: c.auth.Public()})
	require.NoError(h.t, err)
	c.certificate = issued.Chain[0]
	return c
}

func (h *house) register(c *card, person ident.ID) {
	spki, err := x509.MarshalPKIXPublicKey(c.here.Public())
	require.NoError(h.t, err)
	_, err = h.registry.AddCard(h.t.Context(), "operator:test", registry.Card{GUID: c.guid, Person: person, Certificate: sha256.Sum256(c.certificate), Presence: spki})
	require.NoError(h.t, err)
}

func newHouse(t testing.TB) *house {
	h := build(t, newMux(t))
	h.serve()
	return h
}

// build makes a house that serves nobody yet.
func build(t testing.TB, mux *stream.Mux) *house {
	ctx := t.Context()
	dir := t.TempDir()
	h := &house{t: t, boxes: map[netip.Addr]Box{}, desktops: map[string]*desktoptest.Desktop{}, down: map[string]error{}}
	pki := filepath.Join(dir, "pki")
	require.NoError(t, ca.Init(pki, "lab", "", time.Now()))
	var err error
	h.cards, err = ca.Open(pki, profile.Cards, "")
	require.NoError(t, err)
	gateways, err := ca.Open(pki, profile.Gateways, "")
	require.NoError(t, err)
	key := newKey(t)
	own, err := gateways.Issue(profile.Gateway{Name: "gw1", Key: key.Public()})
	require.NoError(t, err)
	signer, err := seal.NewSigner(key, "gw1.lab")
	require.NoError(t, err)
	h.dsn = filepath.Join(dir, "gateway.db")
	h.store, err = store.Open(ctx, h.dsn)
	require.NoError(t, err)
	h.registry = registry.New(h.store)
	policies, err := admission.Shipped()
	require.NoError(t, err)
	h.conf = Config{
		Name: "gw1", Store: h.store, Registry: h.registry, Policies: policies, Trust: gateways.Trust(), Domain: "lab",
		Identity: tls.Certificate{Certificate: own.Chain, PrivateKey: key, Leaf: own.Certificate}, Signer: signer, TunnelKey: wire.Key{9},
		Mux: mux, Language: refusal.French, Support: "0800", Box: h.box, Dial: h.dial, Log: slog.New(slog.DiscardHandler),
	}
	h.server, err = New(h.conf)
	require.NoError(t, err)
	h.fill()
	return h
}

func newMux(t testing.TB) *stream.Mux {
	conn, err := net.ListenUDP("udp6", &net.UDPAddr{IP: net.IPv6loopback})
	require.NoError(t, err)
	mux, err := stream.NewMux(conn)
	require.NoError(t, err)
	t.Cleanup(func() { mux.Close() })
	return mux
}

// fill registers a person with a card, two boxes and four bubbles: two to work in, one that has ended, one for France only.
func (h *house) fill() {
	ctx, by := h.t.Context(), "operator:test"
	var err error
	h.person, err = h.registry.AddPerson(ctx, by, registry.Person{Name: "Marie Martin", Language: "fr"})
	require.NoError(h.t, err)
	h.card = h.newCard("Marie Martin")
	h.register(h.card, h.person.ID)
	for i, serial := range []string{"PARIS-1", "AMS-2"} {
		ek := [32]byte{byte(i + 1)}
		_, err := h.registry.AddBox(ctx, by, registry.Box{Serial: serial, EK: ek, Model: "lab", Country: "NL", Site: "site"})
		require.NoError(h.t, err)
		require.NoError(h.t, h.registry.EnrolBox(ctx, by, serial, append([]byte{0, 11}, make([]byte, 32)...)[:33+i], [32]byte{byte(i)}))
		addr := netip.AddrFrom4([4]byte{127, 0, 0, byte(i + 1)})
		h.boxes[addr] = Box{Serial: serial, TunnelKey: wire.Key{byte(i + 1)}, Certificate: [32]byte{byte(i + 1)}, Result: [32]byte{7}, Expires: time.Now().Add(15 * time.Minute)}
	}
	for i, b := range []registry.Bubble{
		{Name: "epi", Title: "Epidemiology", Colour: 0x1b6fb8}, {Name: "econ", Title: "Economics"},
		{Name: "old", Title: "Old project", Closes: time.Now().Add(-time.Hour).UnixMilli()}, {Name: "customs", Title: "Customs", Countries: []string{"FR"}},
	} {
		b.Address, b.Place = "bubble.invalid:7443", int64(i)
		_, err := h.registry.AddBubble(ctx, by, b)
		require.NoError(h.t, err)
		_, err = h.registry.AddMembership(ctx, by, registry.Membership{Person: h.person.ID, Bubble: b.Name, Account: "mmartin"})
		require.NoError(h.t, err)
	}
}

func (h *house) serve() {
	ln, err := net.Listen("tcp", "0.0.0.0:0")
	require.NoError(h.t, err)
	_, port, err := net.SplitHostPort(ln.Addr().String())
	require.NoError(h.t, err)
	h.address = "127.0.0.1:" + port
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	server := h.server
	go func() { done <- server.Serve(ctx, ln) }()
	h.stop = func() error { cancel(); return <-done }
	h.t.Cleanup(func() {
		if h.stop != nil {
			require.NoError(h.t, h.stop())
			h.stop = nil
			require.NoError(h.t, h.store.Close())
		}
	})
}

// kill ends the gateway as kill -9 does: nothing of what it would still write reaches the store. Then another run of it serves.
func (h *house) kill() {
	require.NoError(h.t, h.store.Close())
	_ = h.stop() // it has lost its store, and says so
	h.stop = nil
	var err error
	h.store, err = store.Open(h.t.Context(), h.dsn)
	require.NoError(h.t, err)
	h.registry = registry.New(h.store)
	h.conf.Store, h.conf.Registry, h.conf.Mux = h.store, h.registry, newMux(h.t)
	h.server, err = New(h.conf)
	require.NoError(h.t, err)
	h.serve()
}

func (h *house) box(addr netip.Addr) (Box, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	b, ok := h.boxes[addr]
	return b, ok
}

func (h *house) dial(_ context.Context, b registry.Bubble) (Bubble, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return &testBubble{house: h, name: b.Name}, h.down[b.Name]
}

// testBubble is a bubble whose desktops are drawn by the test.
type testBubble struct {
	house *house
	name  string
}

func (b *testBubble) Running(ctx context.Context) ([]string, error) {
	b.house.mu.Lock()
	quiet := b.house.quiet
	b.house.mu.Unlock()
	if quiet != nil {
		select {
		case <-quiet:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	b.house.mu.Lock()
	defer b.house.mu.Unlock()
	if b.house.desktops[b.name] != nil {
		return []string{"mmartin"}, nil
	}
	return nil, nil
}

func (b *testBubble) Open(ctx context.Context, token []byte, w, h int, _ string) (desktop.Desktop, error) {
	b.house.mu.Lock()
	b.house.asked++
	slow := b.house.slow
	b.house.mu.Unlock()
	if slow != nil {
		select {
		case <-slow:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	d := desktoptest.New(w, h)
	d.Draw(uint64(len(b.name)))
	b.house.mu.Lock()
	defer b.house.mu.Unlock()
	b.house.tokens++
	b.house.desktops[b.name] = d
	return d, nil
}

// End forgets the desktop.
func (b *testBubble) End(context.Context, []byte) error {
	b.house.mu.Lock()
	defer b.house.mu.Unlock()
	if d := b.house.desktops[b.name]; d != nil {
		d.Break(errors.New("ended"))
	}
	delete(b.house.desktops, b.name)
	return b.house.down[b.name]
}

func (b *testBubble) Close() error {
	b.house.mu.Lock()
	defer b.house.mu.Unlock()
	b.house.left++
	return nil
}

// leaves counts the connections that the gateway has let go of: having heard what their bubbles said, if it only looked.
func (h *house) leaves() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.left
}

func (h *house) desktop(name string) *desktoptest.Desktop {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.desktops[name]
}

// testBox is the box's end: what an honest agent does, step by step, so that a test can do otherwise.
type testBox struct {
	house   *house
	addr    netip.Addr
	line    *line.Conn
	in      chan wire.Message
	stash   []wire.Message
	mux     *stream.Mux // made by the first offer
	media   *stream.Box
	decoder *tile.Decoder
	own     [32]byte
	person  *wire.Person
	grant   wire.Grant
	centre  []byte
	nonce   []byte
}

func (h *house) boot(n int) *testBox {
	b := &testBox{house: h, addr: netip.AddrFrom4([4]byte{127, 0, 0, byte(n)}), in: make(chan wire.Message, 64)}
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: b.addr.AsSlice()}}
	conn, err := dialer.Dial("tcp", h.address)
	require.NoError(h.t, err)
	b.line, err = line.New(conn, wire.FromGateway, line.Silence)
	require.NoError(h.t, err)
	_, err = b.line.Greet(&wire.Hello{})
	require.NoError(h.t, err)
	go func() {
		defer close(b.in)
		for {
			m, err := b.line.Read()
			if err != nil {
				return
			}
			b.in <- m
		}
	}()
	h.t.Cleanup(func() {
		b.line.Close()
		if b.media != nil {
			b.media.Close()
		}
	})
	return b
}

func (b *testBox) send(m wire.Message) { require.NoError(b.house.t, b.line.Write(m)) }

// expect is the next message of type M; others are kept for later.
func expect[M wire.Message](b *testBox) M {
	b.house.t.Helper()
	for i, m := range b.stash {
		if typed, ok := m.(M); ok {
			b.stash = slices.Delete(b.stash, i, i+1)
			return typed
		}
	}
	timeout := time.After(10 * time.Second)
	for {
		select {
		case m, open := <-b.in:
			var none M
			require.True(b.house.t, open, "the line closed while waiting for %T, after %v", none, b.stash)
			if typed, ok := m.(M); ok {
				return typed
			}
			b.stash = append(b.stash, m)
		case <-timeout:
			var none M
			require.Fail(b.house.t, "no answer", "waited for %T, have %v", none, b.stash)
		}
	}
}

func sign(t testing.TB, key *ecdsa.PrivateKey, v any) []byte {
	digest, err := wire.Digest(v)
	require.NoError(t, err)
	sig, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
	require.NoError(t, err)
	return sig
}

func (b *testBox) presence(c *card, nonce, session []byte) []byte {
	box, _ := b.house.box(b.addr)
	return sign(b.house.t, c.here, wire.PresenceStatement{Context: wire.PresenceContext, Nonce: nonce, Session: session, TunnelKey: box.TunnelKey})
}

func (b *testBox) insert(c *card) {
	b.send(&wire.NonceRequest{})
	n := expect[*wire.Nonce](b)
	b.send(&wire.CardIn{Certificate: c.certificate, Nonce: n.Nonce, Presence: b.presence(c, n.Nonce, nil)})
}

func (b *testBox) offer() {
	t := b.house.t
	cert, err := stream.NewCertificate()
	require.NoError(t, err)
	if b.mux == nil {
		b.mux = newMux(t)
	}
	media, sdp, err := b.mux.Offer(t.Context(), cert)
	require.NoError(t, err)
	b.media, b.own = media, cert.Fingerprint
	b.send(&wire.Offer{SDP: sdp, Fingerprint: cert.Fingerprint[:]})
	answer := expect[*wire.Answer](b)
	b.centre = answer.Fingerprint
	require.NoError(t, media.Accept(answer.SDP, answer.Fingerprint))
	b.decoder, err = tile.NewDecoder(4096, 2400)
	require.NoError(t, err)
}

func (b *testBox) transcript(c *card) wire.Transcript {
	box, _ := b.house.box(b.addr)
	own := b.house.conf.certificate()
	person := sha256.Sum256(c.certificate)
	return wire.Transcript{Context: wire.LoginContext, Nonce: b.nonce, GatewayCertificate: own[:], GatewayTunnelKey: wire.Key{9}, GatewayStream: b.centre,
		Result: box.Result[:], DeviceCertificate: box.Certificate[:], BoxTunnelKey: box.TunnelKey, BoxStream: b.own[:], PersonCertificate: person[:]}
}

// again is a box that comes back with the card still in: what it presents for the session it had.
func (b *testBox) again(old *testBox, c *card) *wire.Resume {
	b.send(&wire.NonceRequest{})
	n := expect[*wire.Nonce](b)
	x, err := wire.Digest(old.transcript(c))
	require.NoError(b.house.t, err)
	b.person = old.person
	return &wire.Resume{Session: old.person.Session, Epoch: old.grant.Epoch, Transcript: x[:], Certificate: c.certificate, Nonce: n.Nonce,
		Presence: b.presence(c, n.Nonce, old.person.Session[:])}
}

// finger is card-in, media and login: to the list.
func (b *testBox) finger(c *card) *wire.Bubbles {
	b.identify(c)
	b.send(&wire.Login{Nonce: b.nonce, Signature: sign(b.house.t, c.auth, b.transcript(c))})
	list := expect[*wire.Bubbles](b)
	b.grant = list.Grant
	return list
}

func (b *testBox) identify(c *card) {
	b.insert(c)
	b.person = expect[*wire.Person](b)
	b.nonce = b.person.Nonce
	b.offer()
}

func (b *testBox) attach(name string, number uint16) {
	b.send(&wire.Attach{Session: b.person.Session, Bubble: name, Stream: number, Width: wide, Height: high, Layout: "fr"})
}

// sees waits until the box's screen holds exactly the desktop's pixels, and its keyboard the same lights, under the given stream number.
func (b *testBox) sees(name string, number uint16) {
	t := b.house.t
	t.Helper()
	timeout := time.After(10 * time.Second)
	for {
		select {
		case f := <-b.media.Frames():
			if f.Gap {
				b.media.WantRefresh()
				continue
			}
			u, err := b.decoder.Decode(f.Data)
			if errors.Is(err, tile.ErrNeedKey) {
				b.media.WantRefresh()
				continue
			}
			require.NoError(t, err)
			b.media.Ack(u.N)
			pix, _, _ := b.decoder.Pixels()
			if d := b.house.desktop(name); u.Stream == number && d != nil && bytes.Equal(pix, d.Pixels()) && desktop.Lights(u.Lights) == d.Lights() {
				return
			}
		case <-timeout:
			require.Fail(t, "the picture of "+name+" did not come")
		}
	}
}

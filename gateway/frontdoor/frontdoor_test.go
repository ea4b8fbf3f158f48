// SPDX-License-Identifier: Apache-2.0

package frontdoor

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"sdbox/firmware/eventlog"
	"sdbox/firmware/reference"
	"sdbox/gateway/appraise"
	"sdbox/gateway/registry"
	"sdbox/gateway/releases"
	"sdbox/gateway/store"
	"sdbox/internal/attest"
	"sdbox/internal/line"
	"sdbox/internal/refusal"
	"sdbox/internal/seal"
	"sdbox/internal/tpm"
	"sdbox/internal/tpm/tpmsim"
	"sdbox/internal/tunnel"
	"sdbox/internal/wire"
	"sdbox/pki/ca"
	"sdbox/pki/profile"

	"github.com/stretchr/testify/require"
)

// gate is a front door with everything behind it: store, authorities, references, a tunnel on loopback.
type gate struct {
	t        *testing.T
	door     *Door
	store    *store.Store
	registry *registry.Registry
	trust    *profile.Trust
	devices  *ca.Authority
	signer   *seal.Signer
	own      *x509.Certificate
	network  registry.Network
	address  string
	depot    *releases.Depot
	secret   string // of the release key
}

func newGate(t *testing.T, waiting int) *gate {
	ctx, dir := t.Context(), t.TempDir()
	g := &gate{t: t}
	pki := filepath.Join(dir, "pki")
	require.NoError(t, ca.Init(pki, "lab", "", time.Now()))
	gateways, err := ca.Open(pki, profile.Gateways, "")
	require.NoError(t, err)
	g.devices, err = ca.Open(pki, profile.Devices, "")
	require.NoError(t, err)
	g.trust = g.devices.Trust()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	own, err := gateways.Issue(profile.Gateway{Name: "gw1", Key: key.Public()})
	require.NoError(t, err)
	g.own = own.Certificate
	g.signer, err = seal.NewSigner(key, "gw1.lab")
	require.NoError(t, err)
	g.store, err = store.Open(ctx, filepath.Join(dir, "gateway.db"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, g.store.Close()) })
	g.registry = registry.New(g.store)
	g.network, err = g.registry.Network(ctx, "gateway:gw1")
	require.NoError(t, err)
	private, err := tunnel.NewKey()
	require.NoError(t, err)
	public, err := tunnel.PublicKey(private)
	require.NoError(t, err)
	tun, err := tunnel.NewGateway(tunnel.GatewayConfig{Key: private, Address: g.network.Gateway, Prefix: g.network.Prefix, UDP: &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, tun.Close()) })
	g.secret, g.depot = newDepot(t, dir, g.registry)
	g.door, err = New(Config{
		Name: "gw1", Store: g.store, Registry: g.registry, Trust: g.trust, Identity: tls.Certificate{Certificate: own.Chain, PrivateKey: key, Leaf: own.Certificate},
		Devices: g.devices, Verifier: verifier(t), Signer: g.signer, Tunnel: tun, Releases: g.depot, TunnelKey: public, GatewayAddress: g.network.Gateway,
		Endpoints: []string{fmt.Sprintf("127.0.0.1:%d", tun.Port())}, Lease: time.Minute, MaxWaiting: waiting, Language: refusal.French,
	})
	require.NoError(t, err)
	g.serve()
	return g
}

// verifier knows the recorded boot of the simulated machines.
func verifier(t *testing.T) *appraise.Verifier {
	boot, err := tpmsim.RecordedBoot()
	require.NoError(t, err)
	predicted := boot.Replay()
	values := reference.Values{Name: "lab", Version: "1"}
	for _, r := range attest.Registers() {
		values.PCRs = append(values.PCRs, reference.PCR{Index: r, Digest: predicted[r]})
	}
	secret, release, err := reference.GenerateKey("release-1.lab")
	require.NoError(t, err)
	note, err := reference.Sign(values, secret)
	require.NoError(t, err)
	trust, err := reference.NewTrust(1, release)
	require.NoError(t, err)
	v := appraise.New(trust, "sdbox", "test")
	require.NoError(t, v.Use(note))
	return v
}

func (g *gate) serve() {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(g.t, err)
	g.address = ln.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.door.Serve(ctx, ln) }()
	g.t.Cleanup(func() {
		cancel()
		require.NoError(g.t, <-done)
	})
}

// machine is a box's TPM with the recorded boot in its registers.
type machine struct {
	tpm    *tpm.TPM
	sim    *tpmsim.Sim
	tunnel wire.Key
	log    *eventlog.Log
}

func newMachine(t *testing.T) *machine {
	dir := t.TempDir()
	sim, err := tpmsim.Start(context.Background(), tpmsim.Config{Dir: dir, Socket: filepath.Join(dir, "s")})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, sim.Stop()) })
	boot, err := tpmsim.RecordedBoot()
	require.NoError(t, err)
	require.NoError(t, tpmsim.Boot(filepath.Join(dir, "s"), boot))
	m := &machine{sim: sim, log: boot}
	m.tpm, err = tpm.Open(sim.Spec())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.tpm.Close()) })
	rand.Read(m.tunnel[:])
	return m
}

func (g *gate) register(m *machine, serial string) registry.Box {
	box, err := g.registry.AddBox(g.t.Context(), "operator:test", registry.Box{Serial: serial, EK: m.sim.EKHash(), Model: "lab", Country: "NL", Site: "lab"})
	require.NoError(g.t, err)
	return box
}

// call is one connection of a box.
type call struct {
	t        *testing.T
	line     *line.Conn
	gateway  *x509.Certificate
	exporter []byte
}

func (g *gate) call(identity *tls.Certificate) *call {
	conf := &tls.Config{RootCAs: g.trust.Roots(), ServerName: "gw1.lab", NextProtos: []string{wire.DoorProtocol}, MinVersion: tls.VersionTLS13}
	if identity != nil {
		conf.Certificates = []tls.Certificate{*identity}
	}
	conn, err := tls.Dial("tcp", g.address, conf)
	require.NoError(g.t, err)
	g.t.Cleanup(func() { conn.Close() })
	cs := conn.ConnectionState()
	require.Equal(g.t, tls.X25519MLKEM768, cs.CurveID)
	c := &call{t: g.t, gateway: cs.PeerCertificates[0]}
	c.exporter, err = cs.ExportKeyingMaterial(wire.ExporterLabel, nil, 32)
	require.NoError(g.t, err)
	c.line, err = line.New(conn, wire.FromGateway, 10*time.Second)
	require.NoError(g.t, err)
	hello, err := c.line.Greet(&wire.Hello{})
	require.NoError(g.t, err)
	require.Equal(g.t, refusal.French, hello.Language)
	return c
}

func (c *call) ask(m wire.Message) wire.Message {
	require.NoError(c.t, c.line.Write(m))
	answer, err := c.line.Read()
	require.NoError(c.t, err)
	return answer
}

// enrol gets the machine its certificate.
func (g *gate) enrol(m *machine) *tls.Certificate {
	request, err := attest.NewEnrolment(m.tpm)
	require.NoError(g.t, err)
	c := g.call(nil)
	challenge, ok := c.ask(request).(*wire.EnrolChallenge)
	require.True(g.t, ok)
	answer, err := attest.Answer(m.tpm, challenge)
	require.NoError(g.t, err)
	result, ok := c.ask(answer).(*wire.EnrolResult)
	require.True(g.t, ok)
	key, err := m.tpm.DeviceKey()
	require.NoError(g.t, err)
	return &tls.Certificate{Certificate: result.Chain, PrivateKey: key}
}

func (c *call) evidence(m *machine, nonce, previous []byte) *wire.Evidence {
	ev, err := attest.Make(m.tpm, attest.Binding{Nonce: nonce, GatewaySPKI: c.gateway.RawSubjectPublicKeyInfo, TunnelKey: m.tunnel, Exporter: c.exporter}, previous, m.log)
	require.NoError(c.t, err)
	return ev
}

func (c *call) nonce() []byte {
	n, ok := c.ask(&wire.NonceRequest{}).(*wire.Nonce)
	require.True(c.t, ok)
	return n.Nonce
}

// reason is what the audit log says of a refusal, found by what the screen shows.
func (g *gate) reason(m wire.Message) string {
	r, ok := m.(*wire.Refused)
	require.True(g.t, ok, "%T", m)
	require.Equal(g.t, refusal.NotIntact, r.Refusal.Code)
	require.Empty(g.t, r.Refusal.Params, "the box is not told why")
	rows, err := g.store.Audit(g.t.Context(), store.AuditFilter{Code: r.Refusal.Error()})
	require.NoError(g.t, err)
	require.Len(g.t, rows, 1)
	var leaf store.Leaf
	require.NoError(g.t, json.Unmarshal(rows[0].Leaf, &leaf))
	return leaf.Fields["reason"] + leaf.Fields["cause"]
}

func TestBoxEnrolsProvesItsStateAndGetsATunnel(t *testing.T) {
	g := newGate(t, 16)
	m := newMachine(t)
	box := g.register(m, "PARIS-1")
	var err error
	private, err := tunnel.NewKey()
	require.NoError(t, err)
	m.tunnel, err = tunnel.PublicKey(private)
	require.NoError(t, err)
	identity := g.enrol(m)
	c := g.call(identity)
	lease, ok := c.ask(c.evidence(m, c.nonce(), nil)).(*wire.Lease)
	require.True(t, ok)
	require.Equal(t, box.Address.String(), lease.Address)

	verify, err := seal.NewVerifier("lab", g.own.PublicKey)
	require.NoError(t, err)
	var result appraise.Result
	_, err = verify.Open(lease.Result, appraise.Type, &result)
	require.NoError(t, err)
	require.True(t, result.Affirmed())
	require.Equal(t, m.tunnel, result.Box().TunnelKey)

	end, err := tunnel.NewBox(tunnel.BoxConfig{Key: private, Address: netip.MustParseAddr(lease.Address), GatewayKey: lease.GatewayKey,
		GatewayAddress: netip.MustParseAddr(lease.GatewayAddress), PSK: lease.PSK, Endpoints: []netip.AddrPort{netip.MustParseAddrPort(lease.Endpoints[0])}})
	require.NoError(t, err)
	defer end.Close()
	_, err = end.Ping(t.Context())
	require.NoError(t, err)
	_, err = g.door.Ping(t.Context(), box.Address)
	require.NoError(t, err, "the box's end answers by itself")
	held, ok := g.door.Lease(box.Address)
	require.True(t, ok)
	require.Equal(t, sha256.Sum256(lease.Result), held.Result)
	require.Equal(t, "lab 1", held.Reference)

	again := g.call(identity)
	hash := sha256.Sum256(lease.Result)
	renewed, ok := again.ask(again.evidence(m, again.nonce(), hash[:])).(*wire.Lease)
	require.True(t, ok, "a re-attestation that follows the result before")
	require.NotEqual(t, lease.PSK, renewed.PSK)
	_, err = end.Ping(t.Context())
	require.NoError(t, err, "the tunnel goes on")
	var certificates, logs []string
	rows, err := g.store.Audit(t.Context(), store.AuditFilter{Object: "box:PARIS-1"})
	require.NoError(t, err)
	for _, row := range rows {
		var leaf store.Leaf
		require.NoError(t, json.Unmarshal(row.Leaf, &leaf))
		if leaf.Action == "box.attested" {
			certificates, logs = append(certificates, leaf.Fields["certificate"]), append(logs, leaf.Fields["log"])
			require.Equal(t, fmt.Sprintf("%x", sha256.Sum256(m.log.Encode())), leaf.Fields["log_sha256"])
			require.Equal(t, fmt.Sprintf("%x", held.Certificate), leaf.Fields["certificate_sha256"])
		}
	}
	require.Equal(t, []string{fmt.Sprintf("%x", identity.Certificate[0]), ""}, certificates, "the certificate is in the log once")
	require.Equal(t, []string{fmt.Sprintf("%x", m.log.Encode()), ""}, logs, "and so is what the boot measured")

	require.True(t, g.door.Drop("PARIS-1"))
	_, ok = g.door.Lease(box.Address)
	require.False(t, ok)
	_, err = g.door.Ping(t.Context(), box.Address)
	require.ErrorIs(t, err, ErrSilent)
}

func TestEvidenceIsRefusedWithItsReasonInTheLogOnly(t *testing.T) {
	g := newGate(t, 16)
	m := newMachine(t)
	box := g.register(m, "PARIS-1")
	identity := g.enrol(m)

	c := g.call(identity)
	used := c.nonce()
	replay := c.evidence(m, used, nil)
	_, ok := c.ask(replay).(*wire.Lease)
	require.True(t, ok)
	c = g.call(identity)
	c.nonce()
	require.Contains(t, g.reason(c.ask(replay)), string(attest.OtherNonce))
	c = g.call(identity)
	require.Contains(t, g.reason(c.ask(c.evidence(m, make([]byte, 32), nil))), "nonce is not open")
	c = g.call(identity)
	other := *c
	other.exporter = make([]byte, 32)
	require.Contains(t, g.reason(c.ask(other.evidence(m, c.nonce(), nil))), string(attest.NotBound))

	thief := newMachine(t) // a quote of another machine, good in itself
	require.NoError(t, thief.tpm.EnsureDeviceKey())
	c = g.call(identity)
	require.Contains(t, g.reason(c.ask(c.evidence(thief, c.nonce(), nil))), string(attest.OtherAK))

	require.NoError(t, tpmsim.Boot(m.sim.Spec()[len("unix:"):], &eventlog.Log{Events: []eventlog.Event{{PCR: 9, Digest: [32]byte{1}}}}))
	c = g.call(identity)
	require.Contains(t, g.reason(c.ask(c.evidence(m, c.nonce(), nil))), "PCR 9")

	_, err := g.registry.Lock(t.Context(), "operator:test", registry.Lock{Target: registry.BoxName(box.Serial), Message: "stolen"})
	require.NoError(t, err)
	c = g.call(identity)
	require.Contains(t, g.reason(c.ask(c.evidence(m, c.nonce(), nil))), "stolen")

	second := g.register(thief, "PARIS-2")
	identity = g.enrol(thief)
	c = g.call(identity)
	nonce := c.nonce()
	require.NoError(t, g.registry.RetireBox(t.Context(), "operator:test", second.Serial, "stolen"))
	require.Contains(t, g.reason(c.ask(c.evidence(thief, nonce, nil))), "retired", "while it talked to the door")
	_, leased := g.door.Lease(second.Address)
	require.False(t, leased)
}

func TestOnlyTheRegisteredMachineEnrols(t *testing.T) {
	g := newGate(t, 16)
	m, stranger := newMachine(t), newMachine(t)
	g.register(m, "PARIS-1")
	request, err := attest.NewEnrolment(stranger.tpm)
	require.NoError(t, err)
	require.Contains(t, g.reason(g.call(nil).ask(request)), "no box with this endorsement key")
	for range maxAudited {
		require.IsType(t, &wire.Refused{}, g.call(nil).ask(request))
	}
	log, err := g.store.Audit(t.Context(), store.AuditFilter{Object: "gateway:gw1"})
	require.NoError(t, err)
	require.LessOrEqual(t, len(log), maxAudited, "strangers cannot fill the log")

	mine, err := attest.NewEnrolment(m.tpm)
	require.NoError(t, err)
	mixed := *request
	mixed.EKPublic = mine.EKPublic // claims the registered machine's endorsement key
	c := g.call(nil)
	challenge, ok := c.ask(&mixed).(*wire.EnrolChallenge)
	require.True(t, ok)
	_, err = attest.Answer(stranger.tpm, challenge)
	require.Error(t, err, "only the TPM with that key can open it")
	require.Contains(t, g.reason(c.ask(&wire.EnrolAnswer{Secret: make([]byte, 32)})), string(attest.BadCredential))
	for range maxAudited {
		c := g.call(nil)
		c.ask(&mixed)
		require.IsType(t, &wire.Refused{}, c.ask(&wire.EnrolAnswer{}))
	}
	log, err = g.store.Audit(t.Context(), store.AuditFilter{Object: "box:PARIS-1"})
	require.NoError(t, err)
	require.Len(t, log, 1+maxAudited, "its registration; nor can whoever knows a machine's public key")
	rows, err := g.registry.Boxes(t.Context())
	require.NoError(t, err)
	require.Equal(t, registry.Registered, rows[0].State)
}

// A machine without a certificate may enrol and say nothing else; a foreign certificate, another curve or TLS 1.2 end in the handshake.
func TestDoorIsShutToEverythingElse(t *testing.T) {
	g := newGate(t, 16)
	for _, m := range []wire.Message{&wire.NonceRequest{}, &wire.Evidence{}, &wire.CardIn{}, &wire.Attach{}, &wire.EnrolAnswer{}} {
		c := g.call(nil)
		require.NoError(t, c.line.Write(m))
		_, err := c.line.Read()
		require.Error(t, err, "%T", m)
	}
	foreign := t.TempDir()
	require.NoError(t, ca.Init(filepath.Join(foreign, "pki"), "lab", "", time.Now()))
	devices, err := ca.Open(filepath.Join(foreign, "pki"), profile.Devices, "")
	require.NoError(t, err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	issued, err := devices.Issue(profile.Device{Serial: "PARIS-1", AKName: append([]byte{0, 11}, make([]byte, 32)...), Key: key.Public()})
	require.NoError(t, err)
	for name, conf := range map[string]*tls.Config{
		"foreign certificate": {Certificates: []tls.Certificate{{Certificate: issued.Chain, PrivateKey: key}}},
		"classic curve":       {CurvePreferences: []tls.CurveID{tls.X25519}},
		"TLS 1.2":             {MaxVersion: tls.VersionTLS12},
		"other protocol":      {NextProtos: []string{"h2"}},
	} {
		conf.RootCAs, conf.ServerName = g.trust.Roots(), "gw1.lab"
		if conf.NextProtos == nil {
			conf.NextProtos = []string{wire.DoorProtocol}
		}
		conn, err := tls.Dial("tcp", g.address, conf)
		if err == nil { // TLS 1.3: the client learns of a refused certificate when it reads
			_, err = conn.Read(make([]byte, 1))
			conn.Close()
		}
		require.Error(t, err, name)
	}
}

func TestNonceIsUsedOnceWithinAMinute(t *testing.T) {
	var n nonce
	now := time.Now()
	_, err := n.take(now)
	require.ErrorIs(t, err, errNonce)
	want := n.draw(now)
	got, err := n.take(now.Add(nonceLife - time.Second))
	require.NoError(t, err)
	require.Equal(t, want, got)
	_, err = n.take(now)
	require.ErrorIs(t, err, errNonce)
	n.draw(now)
	_, err = n.take(now.Add(nonceLife))
	require.ErrorIs(t, err, errNonce)
}

// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"sdbox/firmware/reference"
	"sdbox/gateway/audit"
	"sdbox/gateway/registry"
	"sdbox/internal/attest"
	"sdbox/internal/line"
	"sdbox/internal/merkle"
	"sdbox/internal/refusal"
	"sdbox/internal/tpm"
	"sdbox/internal/tpm/tpmsim"
	"sdbox/internal/tunnel"
	"sdbox/internal/wire"
	"sdbox/pki/ca"
	"sdbox/pki/profile"

	"github.com/stretchr/testify/require"
)

// settle makes the folder of a gateway, as sdbox-gateway init and sdbox-pki do, and returns its configuration with free ports.
func settle(t *testing.T) (conf Config, release string) {
	dir := t.TempDir()
	pki, state := filepath.Join(dir, "pki"), filepath.Join(dir, "state")
	require.NoError(t, ca.Init(pki, "lab", "", time.Now()))
	require.NoError(t, os.Mkdir(state, 0o700))
	gateways, err := ca.Open(pki, profile.Gateways, "")
	require.NoError(t, err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	own, err := gateways.Issue(profile.Gateway{Name: "gw1", Key: key.Public()})
	require.NoError(t, err)
	require.NoError(t, gateways.WriteIdentity(filepath.Join(state, "tls"), own, key))
	private, err := tunnel.NewKey()
	require.NoError(t, err)
	secret, verifier, err := merkle.GenerateKey("gw1.lab/audit")
	require.NoError(t, err)
	for name, text := range map[string]string{"tunnel.key": hex.EncodeToString(private[:]), "audit.key": secret, "audit.pub": verifier} {
		require.NoError(t, os.WriteFile(filepath.Join(state, name), []byte(text+"\n"), 0o600))
	}
	release, public, err := reference.GenerateKey("release-1.lab")
	require.NoError(t, err)
	port := freePort(t)
	return Config{
		Domain: "lab", Name: "gw1", State: state, Language: refusal.French, Support: "0800 000 000", TLS: filepath.Join(state, "tls"),
		FrontDoor: FrontDoorConfig{Listen: "127.0.0.1:0", Endpoints: []string{port}, MaxWaiting: 8},
		Tunnel:    TunnelConfig{Listen: port, Key: filepath.Join(state, "tunnel.key"), Lease: 5 * time.Minute},
		Devices:   AuthorityConfig{Dir: pki}, References: []string{public}, Threshold: 1,
		Console: "127.0.0.1:0", Health: "127.0.0.1:0", AuditKey: filepath.Join(state, "audit.key"),
	}, release
}

func freePort(t *testing.T) string {
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	defer c.Close()
	return c.LocalAddr().String()
}

func run(t *testing.T, conf Config) (*Gateway, func()) {
	ctx, cancel := context.WithCancel(context.Background())
	g, err := New(ctx, conf, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	return g, func() {
		cancel()
		require.NoError(t, <-done)
	}
}

// note is the reference note of the simulated machines' recorded boot, of these registers.
func note(t *testing.T, release string, registers ...uint8) []byte {
	boot, err := tpmsim.RecordedBoot()
	require.NoError(t, err)
	predicted := boot.Replay()
	values := reference.Values{Name: "lab", Version: "1"}
	for _, r := range registers {
		values.PCRs = append(values.PCRs, reference.PCR{Index: r, Digest: predicted[r]})
	}
	signed, err := reference.Sign(values, release)
	require.NoError(t, err)
	return signed
}

// box boots a simulated machine, enrols it at the front door, proves its state and opens the tunnel.
func box(t *testing.T, g *Gateway) *tunnel.Box {
	dir := t.TempDir()
	sim, err := tpmsim.Start(context.Background(), tpmsim.Config{Dir: dir, Socket: filepath.Join(dir, "s")})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, sim.Stop()) })
	boot, err := tpmsim.RecordedBoot()
	require.NoError(t, err)
	require.NoError(t, tpmsim.Boot(filepath.Join(dir, "s"), boot))
	chip, err := tpm.Open(sim.Spec())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, chip.Close()) })
	_, err = g.registry.AddBox(t.Context(), "operator:test", registry.Box{Serial: "PARIS-1", EK: sim.EKHash(), Model: "sdbox-1", Country: "FR", Site: "Paris"})
	require.NoError(t, err)

	request, err := attest.NewEnrolment(chip)
	require.NoError(t, err)
	ask, _ := visit(t, g, nil)
	answer, err := attest.Answer(chip, ask(request).(*wire.EnrolChallenge))
	require.NoError(t, err)
	chain := ask(answer).(*wire.EnrolResult).Chain
	key, err := chip.DeviceKey()
	require.NoError(t, err)
	ask, cs := visit(t, g, &tls.Certificate{Certificate: chain, PrivateKey: key})
	private, err := tunnel.NewKey()
	require.NoError(t, err)
	public, err := tunnel.PublicKey(private)
	require.NoError(t, err)
	exporter, err := cs.ExportKeyingMaterial(wire.ExporterLabel, nil, 32)
	require.NoError(t, err)
	nonce := ask(&wire.NonceRequest{}).(*wire.Nonce).Nonce
	evidence, err := attest.Make(chip, attest.Binding{Nonce: nonce, GatewaySPKI: cs.PeerCertificates[0].RawSubjectPublicKeyInfo, TunnelKey: public, Exporter: exporter}, nil, nil)
	require.NoError(t, err)
	lease, ok := ask(evidence).(*wire.Lease)
	require.True(t, ok)
	b, err := tunnel.NewBox(tunnel.BoxConfig{Key: private, Address: netip.MustParseAddr(lease.Address), GatewayKey: lease.GatewayKey,
		GatewayAddress: netip.MustParseAddr(lease.GatewayAddress), PSK: lease.PSK, Endpoints: []netip.AddrPort{netip.MustParseAddrPort(lease.Endpoints[0])}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close()) })
	return b
}

func visit(t *testing.T, g *Gateway, identity *tls.Certificate) (func(wire.Message) wire.Message, tls.ConnectionState) {
	conf := &tls.Config{RootCAs: g.identity.Trust.Roots(), ServerName: "gw1.lab", NextProtos: []string{wire.DoorProtocol}}
	if identity != nil {
		conf.Certificates = []tls.Certificate{*identity}
	}
	conn, err := tls.Dial("tcp", g.front.Addr().String(), conf)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	l, err := line.New(conn, wire.FromGateway, 10*time.Second)
	require.NoError(t, err)
	_, err = l.Greet(&wire.Hello{})
	require.NoError(t, err)
	return func(m wire.Message) wire.Message {
		require.NoError(t, l.Write(m))
		answer, err := l.Read()
		require.NoError(t, err)
		return answer
	}, conn.ConnectionState()
}

// From a chip that the gateway has never seen to a line inside the tunnel; then a lock takes all of it away; then the gateway stops
// and leaves nothing running, and its audit log verifies without it.
func TestGatewayServesABoxAndLetsGoOfIt(t *testing.T) {
	before := runtime.NumGoroutine()
	conf, release := settle(t)
	g, stop := run(t, conf)
	for name, bad := range map[string][]byte{"other registers": note(t, release, 0, 16), "unsigned": []byte("a note\n")} { // written past the API
		_, err := g.registry.AddReference(t.Context(), "sql:test", registry.Reference{Name: name, Model: "sdbox-1", Note: bad})
		require.NoError(t, err)
	}
	_, err := g.registry.AddReference(t.Context(), "operator:test", registry.Reference{Name: "lab 1", Model: "sdbox-1", Note: note(t, release, attest.Registers()...)})
	require.NoError(t, err)
	b := box(t, g)
	conn, err := b.DialTCP(t.Context(), wire.LinePort)
	require.NoError(t, err)
	l, err := line.New(conn, wire.FromGateway, line.Silence)
	require.NoError(t, err)
	hello, err := l.Greet(&wire.Hello{})
	require.NoError(t, err)
	require.Equal(t, "PARIS-1", hello.Box, "inside the tunnel, an address is a box")
	require.Equal(t, "0800 000 000", hello.Support)
	require.NoError(t, l.Write(&wire.NonceRequest{}))
	m, err := l.Read()
	require.NoError(t, err)
	require.IsType(t, &wire.Nonce{}, m)
	_, err = b.DialTCP(t.Context(), 9090)
	require.Error(t, err, "nothing but the line is inside")

	_, err = g.registry.Lock(t.Context(), "operator:test", registry.Lock{Target: "site:Paris", Message: "burgled"})
	require.NoError(t, err)
	m, err = l.Read()
	require.NoError(t, err)
	require.Equal(t, refusal.NotIntact, m.(*wire.Ended).Refusal.Code, "the box is told before its tunnel goes")
	row, err := g.registry.Box(t.Context(), "PARIS-1")
	require.NoError(t, err)
	require.Eventually(t, func() bool { _, held := g.door.Lease(row.Address); return !held }, 5*time.Second, 5*time.Millisecond)

	resp, err := http.Get("http://" + g.health.Addr().String() + "/readyz")
	require.NoError(t, err)
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, "ok\n", string(text))
	http.DefaultClient.CloseIdleConnections()

	folder := filepath.Join(t.TempDir(), "export")
	require.NoError(t, g.sealed.Export(t.Context(), folder))
	verifier, err := os.ReadFile(filepath.Join(conf.State, "audit.pub"))
	require.NoError(t, err)
	report, err := audit.Verify(folder, strings.TrimSpace(string(verifier)))
	require.NoError(t, err)
	require.Greater(t, report.Rows, int64(5))

	require.NoError(t, l.Close())
	require.NoError(t, b.Close())
	stop()
	require.Eventually(t, func() bool { return runtime.NumGoroutine() <= before+8 }, 5*time.Second, 20*time.Millisecond, "goroutines: %d before, %d after", before, runtime.NumGoroutine())

	again, stop := run(t, conf) // and it starts again on what it left
	require.Equal(t, g.inner, again.inner)
	stop()
}

func TestWhatCannotBeOpenedIsNamed(t *testing.T) {
	conf, _ := settle(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	for want, spoil := range map[string]func(*Config){
		"front_door.listen":          func(c *Config) { c.FrontDoor.Listen = taken.Addr().String() },
		"console.listen":             func(c *Config) { c.Console = taken.Addr().String() },
		"health.listen":              func(c *Config) { c.Health = "0.0.0.0:9090" },
		"tunnel key":                 func(c *Config) { c.Tunnel.Key = c.AuditKey },
		"audit key":                  func(c *Config) { c.AuditKey = filepath.Join(c.State, "none") },
		"the configuration says gw2": func(c *Config) { c.Name = "gw2" },
		"tunnel.lease":               func(c *Config) { c.Tunnel.Lease = time.Hour },
		"references":                 func(c *Config) { c.References = nil },
		"devices.dir":                func(c *Config) { c.Devices.Dir = "" },
		"language":                   func(c *Config) { c.Language = "de" },
	} {
		c := conf
		spoil(&c)
		_, err := New(t.Context(), c, slog.New(slog.DiscardHandler))
		require.ErrorContains(t, err, want)
	}
	_, stop := run(t, conf) // and nothing of it stayed open
	stop()
}

// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"sdbox/internal/attest"
	"sdbox/internal/line"
	"sdbox/internal/refusal"
	"sdbox/internal/tpm"
	"sdbox/internal/tpm/tpmsim"
	"sdbox/internal/tunnel"
	"sdbox/internal/wire"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

const gatewayName = "gw1.lab"

// frontDoor is a gateway's front door and tunnel, as far as a box can tell.
type frontDoor struct {
	listener net.Listener
	root     *x509.CertPool
	caKey    *ecdsa.PrivateKey
	ca       *x509.Certificate
	own      *x509.Certificate
	tunnel   *tunnel.Gateway
	key      [32]byte // tunnel, public
	lines    net.Listener
	life     time.Duration
	refuse   *refusal.Refusal // what evidence is answered with, if set

	akName   []byte
	enrolled int
	leases   int
	previous [][]byte
	box      wire.Key // the tunnel key of the last lease
	bearers  sync.WaitGroup
}

func certify(t *testing.T, ca *x509.Certificate, caKey *ecdsa.PrivateKey, pub any, name string) []byte {
	t.Helper()
	plan := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), NotAfter: time.Now().Add(7 * 24 * time.Hour), DNSNames: []string{name}}
	if ca == nil {
		plan.IsCA, plan.BasicConstraintsValid, plan.KeyUsage = true, true, x509.KeyUsageCertSign
		ca = plan
	}
	der, err := x509.CreateCertificate(rand.Reader, plan, ca, pub, caKey)
	require.NoError(t, err)
	return der
}

func newFrontDoor(t *testing.T, curves ...tls.CurveID) *frontDoor {
	t.Helper()
	f := &frontDoor{root: x509.NewCertPool(), life: 10 * time.Minute}
	var err error
	f.caKey, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	f.ca, err = x509.ParseCertificate(certify(t, nil, f.caKey, f.caKey.Public(), "root"))
	require.NoError(t, err)
	f.root.AddCert(f.ca)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	der := certify(t, f.ca, f.caKey, key.Public(), gatewayName)
	f.own, err = x509.ParseCertificate(der)
	require.NoError(t, err)
	f.listener, err = tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		MinVersion: tls.VersionTLS13, CurvePreferences: curves, NextProtos: []string{wire.DoorProtocol, wire.BearerProtocol}, ClientAuth: tls.RequestClientCert,
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
	})
	require.NoError(t, err)
	private, err := tunnel.NewKey()
	require.NoError(t, err)
	f.key, err = tunnel.PublicKey(private)
	require.NoError(t, err)
	f.tunnel, err = tunnel.NewGateway(tunnel.GatewayConfig{
		Key: private, Address: netip.MustParseAddr("fd5d::1"), Prefix: netip.MustParsePrefix("fd5d::/48"), UDP: &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)},
	})
	require.NoError(t, err)
	f.lines, err = f.tunnel.Listen(wire.LinePort)
	require.NoError(t, err)
	t.Cleanup(func() { _ = f.listener.Close(); f.tunnel.Close(); f.bearers.Wait() })
	return f
}

// serve answers n visits, one after the other, and says why it could not.
func (f *frontDoor) serve(t *testing.T, n int) <-chan error {
	t.Helper()
	done := make(chan error, n)
	go func() {
		for range n {
			conn, err := f.accept(t)
			if err == nil {
				err = f.visit(t, conn)
			}
			done <- err
		}
	}()
	return done
}

// accept returns the next visit; a connection that is to carry the tunnel does so.
func (f *frontDoor) accept(t *testing.T) (*tls.Conn, error) {
	for {
		c, err := f.listener.Accept()
		if err != nil {
			return nil, err
		}
		conn := c.(*tls.Conn)
		err = conn.HandshakeContext(t.Context())
		if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, unix.ECONNRESET) {
			continue // a box that has gone, with what was to carry its tunnel
		}
		if err != nil || conn.ConnectionState().NegotiatedProtocol != wire.BearerProtocol {
			return conn, err
		}
		f.bearers.Go(func() { _ = f.tunnel.Carry(t.Context(), f.box, conn) })
	}
}

func (f *frontDoor) visit(t *testing.T, conn *tls.Conn) error {
	defer conn.Close()
	ln, err := line.New(conn, wire.FromBox, 10*time.Second)
	if err != nil {
		return err
	}
	if _, err = ln.Greet(&wire.Hello{}); err != nil {
		return err
	}
	m, err := ln.Read()
	if err != nil {
		return err
	}
	switch m := m.(type) {
	case *wire.EnrolRequest:
		return f.enrol(t, ln, m)
	case *wire.NonceRequest:
		return f.attest(ln, conn.ConnectionState())
	}
	return errors.New("neither enrols nor attests")
}

func (f *frontDoor) enrol(t *testing.T, ln *line.Conn, m *wire.EnrolRequest) error {
	e, challenge, err := attest.Challenge(m)
	if err == nil {
		err = ln.Write(challenge)
	}
	if err != nil {
		return err
	}
	answer, err := ln.Read()
	if err != nil {
		return err
	}
	if err := e.Check(answer.(*wire.EnrolAnswer)); err != nil {
		return err
	}
	f.akName = e.AKName
	f.enrolled++
	return ln.Write(&wire.EnrolResult{Chain: [][]byte{certify(t, f.ca, f.caKey, e.Device, "box")}})
}

func (f *frontDoor) attest(ln *line.Conn, state tls.ConnectionState) error {
	nonce := make([]byte, 32)
	rand.Read(nonce)
	if err := ln.Write(&wire.Nonce{Nonce: nonce}); err != nil {
		return err
	}
	m, err := ln.Read()
	if err != nil {
		return err
	}
	exporter, err := state.ExportKeyingMaterial(wire.ExporterLabel, nil, 32)
	if err != nil {
		return err
	}
	ev := m.(*wire.Evidence)
	f.previous = append(f.previous, ev.Previous)
	_, err = attest.Check(ev, attest.Expectations{
		Nonce: nonce, DeviceSPKI: state.PeerCertificates[0].RawSubjectPublicKeyInfo, GatewaySPKI: f.own.RawSubjectPublicKeyInfo,
		Exporter: exporter, AKName: f.akName,
	})
	if err != nil {
		return err
	}
	if f.refuse != nil {
		return ln.Write(&wire.Refused{Refusal: *f.refuse, Re: wire.TypeOf(ev)})
	}
	psk := tunnel.NewPSK()
	err = f.tunnel.AddPeer(tunnel.Peer{
		PublicKey: ev.TunnelKey, PSK: psk, Address: netip.MustParseAddr("fd5d::2"), Expires: time.Now().Add(f.life),
		AllowedOuter: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
	})
	if err != nil {
		return err
	}
	f.leases++
	f.box = ev.TunnelKey
	return ln.Write(&wire.Lease{
		Result: []byte{byte(f.leases)}, GatewayKey: f.key, PSK: psk, Address: "fd5d::2", GatewayAddress: "fd5d::1",
		Endpoints: []string{netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), f.tunnel.Port()).String()}, LifetimeMS: f.life.Milliseconds(),
	})
}

// greet answers lines as a gateway's session room would.
func (f *frontDoor) greet(t *testing.T) <-chan *line.Conn {
	t.Helper()
	out := make(chan *line.Conn, 1)
	go func() {
		conn, err := f.lines.Accept()
		if err != nil {
			return
		}
		ln, err := line.New(conn, wire.FromBox, line.Silence)
		if err != nil {
			return
		}
		if _, err := ln.Greet(&wire.Hello{Language: refusal.French, Support: "call 12", Box: "PARIS-0042"}); err == nil {
			out <- ln
		}
	}()
	return out
}

func newTestLink(t *testing.T, f *frontDoor) (*link, chan linkEvent) {
	t.Helper()
	dir := t.TempDir()
	sim, err := tpmsim.Start(t.Context(), tpmsim.Config{Dir: filepath.Join(dir, "tpm"), Socket: filepath.Join(dir, "s")})
	require.NoError(t, err)
	t.Cleanup(func() { _ = sim.Stop() })
	chip, err := tpm.Open(sim.Spec())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, chip.Close()) })
	events := make(chan linkEvent, 16)
	l, err := newLink(Config{
		Gateways: []string{f.listener.Addr().String()}, GatewayName: gatewayName, Root: f.root, TPM: chip, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}, events, newRoute())
	require.NoError(t, err)
	return l, events
}

// run starts the link and stops it at the test's end.
func run(t *testing.T, l *link) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.run(ctx) }()
	t.Cleanup(func() { cancel(); require.NoError(t, <-done) })
}

func TestBoxEnrolsAttestsAndOpensItsLineInTheTunnel(t *testing.T) {
	f := newFrontDoor(t, tls.X25519MLKEM768)
	l, events := newTestLink(t, f)
	visits, lines := f.serve(t, 2), f.greet(t)
	run(t, l)
	require.NoError(t, <-visits, "enrolment")
	require.NoError(t, <-visits, "attestation")
	e := <-events
	require.NoError(t, e.err)
	require.NotNil(t, e.up)
	require.Equal(t, "PARIS-0042", e.up.hello.Box)
	require.Equal(t, sum(f.own.Raw), e.up.facts.gatewayCertificate)
	require.Equal(t, sum([]byte{1}), e.up.facts.result)
	require.Equal(t, wire.Key(f.key), e.up.facts.gatewayTunnelKey)
	require.Equal(t, 1, f.enrolled)

	far := <-lines
	require.NoError(t, far.Write(&wire.Notice{Text: "hello"}))
	require.Equal(t, &wire.Notice{Text: "hello"}, (<-events).message)

	// The line breaks: the box attests again with the certificate it has, and names the result before.
	visits, lines = f.serve(t, 1), f.greet(t)
	require.NoError(t, far.Close())
	require.Error(t, (<-events).err)
	require.NoError(t, <-visits)
	require.NotNil(t, (<-events).up)
	<-lines
	require.Equal(t, 1, f.enrolled, "one enrolment serves")
	require.Equal(t, [][]byte{nil, sum([]byte{1})}, f.previous)
}

func TestLeaseIsRenewedBeforeItEnds(t *testing.T) {
	f := newFrontDoor(t, tls.X25519MLKEM768)
	f.life = 9 * time.Second
	l, events := newTestLink(t, f)
	visits, lines := f.serve(t, 3), f.greet(t)
	run(t, l)
	require.NotNil(t, (<-events).up)
	<-lines
	e := <-events
	require.NoError(t, e.err)
	require.NotNil(t, e.renewed)
	require.Equal(t, sum([]byte{2}), e.renewed.result)
	for range 3 {
		require.NoError(t, <-visits)
	}
}

func TestRefusedBoxIsToldAndTriesAgain(t *testing.T) {
	f := newFrontDoor(t, tls.X25519MLKEM768)
	r := refusal.New("B03")
	f.refuse = &r
	l, events := newTestLink(t, f)
	visits := f.serve(t, 3)
	run(t, l)
	for range 2 {
		e := <-events
		require.NotNil(t, e.refused)
		require.Equal(t, r, e.refused.Refusal)
	}
	for range 3 {
		require.NoError(t, <-visits)
	}
}

func TestGatewayWithoutPostQuantumKeyExchangeIsNotSpokenTo(t *testing.T) {
	f := newFrontDoor(t, tls.X25519)
	l, events := newTestLink(t, f)
	visits := f.serve(t, 1)
	run(t, l)
	require.Error(t, <-visits)
	e := <-events
	require.ErrorContains(t, e.err, "handshake failure")
	require.Nil(t, e.refused)
}

func TestForeignGatewayIsNotSpokenTo(t *testing.T) {
	f, other := newFrontDoor(t, tls.X25519MLKEM768), newFrontDoor(t, tls.X25519MLKEM768)
	l, events := newTestLink(t, f)
	l.cfg.Root = other.root
	visits := f.serve(t, 1)
	run(t, l)
	require.Error(t, <-visits)
	var unknown x509.UnknownAuthorityError
	require.ErrorAs(t, (<-events).err, &unknown)
}

// SPDX-License-Identifier: Apache-2.0

// Package frontdoor is the one thing a box reaches without a tunnel: TLS on port 443. A machine without a certificate may only
// enrol; a box with one may prove its state, and gets a tunnel peer for a quarter of an hour if the proof is good.
//
//	no certificate      Hello, EnrolRequest -> EnrolChallenge -> EnrolAnswer -> EnrolResult
//	device certificate  Hello, NonceRequest -> Nonce -> Evidence -> Lease
//	either              Refused B03, with the reason in the log and in the audit only
//
// A box that has its peer may open one connection more (wire.BearerProtocol): it carries the tunnel's packets where UDP is
// blocked, and lives as long as the peer. A lease, and a refusal of a registered box, carry the signed note of the release that the box
// should run; its files come over connections of their own (wire.ReleaseProtocol).
package frontdoor

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"sdbox/gateway/appraise"
	"sdbox/gateway/registry"
	"sdbox/gateway/releases"
	"sdbox/gateway/store"
	"sdbox/internal/attest"
	"sdbox/internal/line"
	"sdbox/internal/refusal"
	"sdbox/internal/seal"
	"sdbox/internal/tunnel"
	"sdbox/internal/wire"
	"sdbox/pki/ca"
	"sdbox/pki/profile"
)

// How long a connection may last. A TPM signs in less than a second, and none that we know needs 20.
const (
	handshakeTime    = 10 * time.Second
	conversationTime = 60 * time.Second
	silence          = 20 * time.Second
)

// breath is how long the door waits when the system has no room for another connection.
const breath = 50 * time.Millisecond

// MaxLease is the longest life of a lease: so long may a box go on whose state is no longer good.
const MaxLease = 15 * time.Minute

// Config is what the front door needs.
type Config struct {
	Name     string // the gateway's short name
	Store    *store.Store
	Registry *registry.Registry
	Trust    *profile.Trust
	Identity tls.Certificate // the gateway's own; Leaf is set
	Devices  *ca.Authority   // issues device certificates
	EKRoots  *attest.EKRoots // manufacturers of TPMs; nil = a registered EK hash is enough
	Verifier *appraise.Verifier
	Signer   *seal.Signer // of attestation results, with the identity's key
	Tunnel   *tunnel.Gateway
	Releases *releases.Depot // nil = boxes are offered nothing

	TunnelKey      wire.Key   // the gateway's public one
	GatewayAddress netip.Addr // inner
	Endpoints      []string   // outer UDP host:port of the tunnel, best first
	Lease          time.Duration
	MaxWaiting     int // connections at once

	Language refusal.Lang
	Support  string
	Log      *slog.Logger
}

// Door is the front door. All methods may be called from any goroutine.
type Door struct {
	conf Config
	spki []byte // of the gateway's certificate

	crowd    *crowd
	fetching fetchers

	granting sync.Mutex // held while a peer is made, so that a lease and its peer are the same one

	mu      sync.Mutex
	leases  map[netip.Addr]lease        // guarded by mu; by inner address
	history map[string][]attest.Binding // guarded by mu; by serial, the newest last
	refused map[string][]time.Time      // guarded by mu; by serial, those of machines that are not registered under ""
}

// New makes a front door.
func New(conf Config) (*Door, error) {
	switch {
	case conf.Store == nil || conf.Registry == nil || conf.Trust == nil || conf.Devices == nil || conf.Verifier == nil || conf.Signer == nil || conf.Tunnel == nil:
		return nil, errors.New("front door: incomplete configuration")
	case conf.Identity.Leaf == nil:
		return nil, errors.New("front door: the gateway's certificate is missing")
	case conf.Lease <= 0 || conf.Lease > MaxLease:
		return nil, fmt.Errorf("front door: lease of %v: at most %v", conf.Lease, MaxLease)
	case conf.MaxWaiting < 1:
		return nil, errors.New("front door: no connection allowed")
	}
	spki, err := x509.MarshalPKIXPublicKey(conf.Identity.Leaf.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("front door: %w", err)
	}
	if conf.Log == nil {
		conf.Log = slog.New(slog.DiscardHandler)
	}
	return &Door{conf: conf, spki: spki, crowd: newCrowd(conf.MaxWaiting), leases: map[netip.Addr]lease{}, history: map[string][]attest.Binding{}, refused: map[string][]time.Time{},
		fetching: fetchers{boxes: map[string]net.Conn{}, strangers: map[netip.Prefix]net.Conn{}}}, nil
}

// tlsConfig accepts TLS 1.3 with the hybrid key exchange and nothing else. There are no tickets: a resumed session would skip the
// proof of the device key. A certificate is optional here; what may be said depends on it.
func (d *Door) tlsConfig() *tls.Config {
	return &tls.Config{
		Certificates: []tls.Certificate{d.conf.Identity}, MinVersion: tls.VersionTLS13, CurvePreferences: []tls.CurveID{tls.X25519MLKEM768},
		NextProtos: []string{wire.DoorProtocol, wire.BearerProtocol, wire.ReleaseProtocol}, SessionTicketsDisabled: true, ClientAuth: tls.RequestClientCert,
		VerifyConnection: func(cs tls.ConnectionState) error {
			switch {
			case cs.CurveID != tls.X25519MLKEM768:
				return fmt.Errorf("front door: key exchange %v, want X25519MLKEM768", cs.CurveID)
			case !slices.Contains([]string{wire.DoorProtocol, wire.BearerProtocol, wire.ReleaseProtocol}, cs.NegotiatedProtocol):
				return fmt.Errorf("front door: protocol %q, want %q, %q or %q", cs.NegotiatedProtocol, wire.DoorProtocol, wire.BearerProtocol, wire.ReleaseProtocol)
			case len(cs.PeerCertificates) == 0 && cs.NegotiatedProtocol == wire.BearerProtocol:
				return errors.New("front door: a tunnel bearer without a device certificate")
			case len(cs.PeerCertificates) == 0:
				return nil
			}
			_, err := d.conf.Trust.VerifyBox(cs.PeerCertificates[0].Raw, time.Now())
			return err
		},
	}
}

// Serve answers on a TCP listener until ctx ends, and returns when the last connection is closed. It owns the listener. Of those that
// have proved nothing yet there are at most MaxWaiting, and few of one source: the newest take the places of the oldest.
func (d *Door) Serve(ctx context.Context, ln net.Listener) error {
	var all sync.WaitGroup
	defer all.Wait()
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	conf := d.tlsConfig()
	for {
		conn, err := ln.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				conn.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("front door: %w", err)
		case err != nil: // out of descriptors or memory, or a connection that ended before it began: no reason to shut the door
			d.conf.Log.Warn("accept", "room", "frontdoor", "err", err)
			d.crowd.relieve()
			select {
			case <-time.After(breath):
			case <-ctx.Done():
			}
			continue
		}
		g, ok := d.crowd.enter(conn)
		if !ok {
			conn.Close()
			continue
		}
		all.Go(func() {
			defer d.crowd.leave(g)
			d.serve(ctx, g, conf)
		})
	}
}

// visit is one connection; it belongs to its goroutine.
type visit struct {
	door     *Door
	line     *line.Conn
	from     string
	exporter []byte
	device   []byte // SPKI of the client certificate; nil without one
	der      []byte // the client certificate
	hash     [32]byte
	box      profile.Box
	nonce    nonce
}

// serve answers one connection. A bearer gives its place back: there is one for each lease.
func (d *Door) serve(ctx context.Context, g *guest, conf *tls.Config) {
	defer g.conn.Close()
	secure := tls.Server(g.conn, conf)
	from := g.conn.RemoteAddr().String()
	limited, cancel := context.WithTimeout(ctx, handshakeTime)
	err := secure.HandshakeContext(limited)
	cancel()
	switch {
	case err != nil:
		err = fmt.Errorf("handshake: %w", err)
	case secure.ConnectionState().NegotiatedProtocol == wire.BearerProtocol:
		err = d.carry(ctx, secure, func() { d.crowd.leave(g) })
	case secure.ConnectionState().NegotiatedProtocol == wire.ReleaseProtocol:
		err = d.hand(ctx, secure, g)
	default:
		err = d.converse(ctx, secure, from, g)
	}
	if err != nil {
		d.conf.Log.Info("visit ended", "room", "frontdoor", "from", from, "err", err)
	}
}

func (d *Door) converse(ctx context.Context, conn *tls.Conn, from string, g *guest) error {
	ctx, cancel := context.WithTimeout(ctx, conversationTime)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { conn.NetConn().Close() }) // whatever it waits for
	defer stop()
	v, err := d.welcome(conn, from, g)
	if err != nil {
		return err
	}
	if v.device == nil {
		return v.enrol(ctx)
	}
	return v.attest(ctx)
}

// welcome exchanges Hellos.
func (d *Door) welcome(conn *tls.Conn, from string, g *guest) (*visit, error) {
	cs := conn.ConnectionState()
	v := &visit{door: d, from: from}
	var err error
	if v.exporter, err = cs.ExportKeyingMaterial(wire.ExporterLabel, nil, 32); err != nil {
		return nil, fmt.Errorf("export: %w", err)
	}
	hello := &wire.Hello{Language: d.conf.Language, Support: d.conf.Support, Now: time.Now().UnixMilli()}
	if len(cs.PeerCertificates) > 0 {
		leaf := cs.PeerCertificates[0]
		if v.box, err = d.conf.Trust.VerifyBox(leaf.Raw, time.Now()); err != nil {
			return nil, err
		}
		d.crowd.know(g, v.box.Serial)
		v.device, v.der, v.hash, hello.Box = leaf.RawSubjectPublicKeyInfo, leaf.Raw, sha256.Sum256(leaf.Raw), v.box.Serial
	}
	if v.line, err = line.New(conn, wire.FromBox, silence); err != nil {
		return nil, err
	}
	_, err = v.line.Greet(hello)
	return v, err
}

// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"sdbox/internal/attest"
	"sdbox/internal/line"
	"sdbox/internal/tpm"
	"sdbox/internal/tunnel"
	"sdbox/internal/wire"

	"golang.org/x/sync/errgroup"
)

// Times of the link (implementation).
const (
	dialLimit    = 5 * time.Second
	firstBackoff = 250 * time.Millisecond
	lastBackoff  = 15 * time.Second
	renewBefore  = 24 * time.Hour // a device certificate with less left is renewed

	pulseEvery  = 500 * time.Millisecond  // beats of a line while a person is at work
	silentAfter = 1500 * time.Millisecond // three of them unanswered: the screen says so
	deadAfter   = 5 * time.Second         // the line is given up; a way around a blocked UDP takes 3 s at most
)

// linkEvent is what the link tells the loop, in order.
type linkEvent struct {
	up      *uplink      // the line is open
	renewed *facts       // a new attestation result stands
	message wire.Message // from the gateway
	offer   *offer       // a release that this box should run
	err     error        // the link is down, or could not come up
	refused *wire.Refused
	attempt int   // of coming up again, from 1
	silence *bool // the line in a session says nothing, or speaks again
}

// facts are what this boot, channel and lease contribute to the login transcript.
type facts struct {
	gatewayCertificate []byte // SHA-256
	gatewayTunnelKey   wire.Key
	result             []byte // SHA-256
	deviceCertificate  []byte // SHA-256
	boxTunnelKey       wire.Key
}

// uplink is one open line inside one tunnel.
type uplink struct {
	line   *line.Conn
	tunnel *tunnel.Box
	media  net.PacketConn // UDP in the tunnel, for the streams of visits
	hello  *wire.Hello
	facts  facts
	lease  *wire.Lease
	out    chan wire.Message // from the loop to the line; see send
	lively atomic.Bool       // a person is at work: silence is noticed at once
}

// outboxSize is how many messages may wait for a gateway that does not read. The grammar never has that many under way.
const outboxSize = 32

// send hands a message to the line without waiting; false means that the gateway does not read and the line must go.
func (u *uplink) send(m wire.Message) bool {
	select {
	case u.out <- m:
		return true
	default:
		return false
	}
}

// write carries what send was given, in order, until ctx ends.
func (u *uplink) write(ctx context.Context) error {
	for {
		select {
		case m := <-u.out:
			if err := u.line.Write(m); err != nil {
				return err
			}
		case <-ctx.Done():
			return nil
		}
	}
}

func (u *uplink) close() error { return errors.Join(u.line.Close(), u.media.Close(), u.tunnel.Close()) }

// link brings the box to its gateway and keeps it there: front door, attestation, tunnel, line. Its fields belong to run, but for
// identified.
type link struct {
	cfg      Config
	log      *slog.Logger
	events   chan<- linkEvent
	route    *route
	key      [32]byte // X25519 private, made at this boot
	public   wire.Key
	previous []byte // SHA-256 of the last attestation result

	identified atomic.Pointer[tls.Certificate] // of the last attestation
}

func newLink(cfg Config, events chan<- linkEvent, way *route) (*link, error) {
	key, err := tunnel.NewKey()
	if err != nil {
		return nil, err
	}
	public, err := tunnel.PublicKey(key)
	if err != nil {
		return nil, err
	}
	return &link{cfg: cfg, log: cfg.Log.With("room", "link"), events: events, route: way, key: key, public: wire.Key(public)}, nil
}

// run comes up, serves and comes up again until ctx ends.
func (l *link) run(ctx context.Context) error {
	backoff := firstBackoff
	for attempt := 1; ; attempt++ {
		up, err := l.connect(ctx)
		if err == nil {
			attempt, backoff = 0, firstBackoff
			if l.tell(ctx, linkEvent{up: up}) {
				err = l.serve(ctx, up)
			}
			err = errors.Join(err, up.close())
		}
		if ctx.Err() != nil {
			return nil
		}
		l.log.Warn("link is down", "err", err, "attempt", attempt)
		e := linkEvent{err: err, attempt: attempt + 1}
		var refused errRefused
		if errors.As(err, &refused) {
			e.refused = refused.refused
		}
		l.tell(ctx, e)
		freed, alive := l.rest(ctx, jitter(backoff))
		if !alive {
			return nil
		}
		backoff = min(2*backoff, lastBackoff)
		if freed {
			backoff = firstBackoff
		}
	}
}

// tell hands an event to the loop, or gives up when ctx ends.
func (l *link) tell(ctx context.Context, e linkEvent) bool {
	select {
	case l.events <- e:
		return true
	case <-ctx.Done():
		return false
	}
}

// connect goes to the first gateway address that answers, enrols if this machine has no certificate, attests, opens the tunnel
// and the line in it.
func (l *link) connect(ctx context.Context) (*uplink, error) {
	var all error
	for _, address := range l.route.doors(l.cfg.Gateways) {
		up, err := l.connectTo(ctx, address)
		if err == nil {
			return up, nil
		}
		all = errors.Join(all, err)
	}
	return nil, all
}

func (l *link) connectTo(ctx context.Context, address string) (*uplink, error) {
	certificate, err := l.deviceCertificate(ctx, address)
	if err != nil {
		return nil, err
	}
	lease, f, err := l.attest(ctx, address, certificate)
	if err != nil {
		return nil, err
	}
	tun, err := l.tunnel(lease, address)
	if err != nil {
		return nil, err
	}
	up, err := openLine(ctx, tun, lease, f)
	if err != nil {
		return nil, errors.Join(err, tun.Close())
	}
	l.log.Info("line is up", "gateway", address, "address", lease.Address)
	return up, nil
}

// deviceCertificate returns the TLS identity of this machine, enrolling it first where it has none or one about to end.
func (l *link) deviceCertificate(ctx context.Context, address string) (*tls.Certificate, error) {
	if err := l.cfg.TPM.EnsureDeviceKey(); err != nil {
		return nil, fmt.Errorf("%w: %w", errChip, err)
	}
	der, err := l.cfg.TPM.Certificate()
	if err == nil {
		leaf, parseErr := x509.ParseCertificate(der)
		if parseErr == nil && time.Now().Add(renewBefore).Before(leaf.NotAfter) && l.ours(leaf) {
			return l.identity(der)
		}
	} else if !errors.Is(err, tpm.ErrNoCertificate) {
		return nil, err
	}
	if der, err = l.enrol(ctx, address); err != nil {
		return nil, fmt.Errorf("enrol: %w", err)
	}
	return l.identity(der)
}

// ours says whether a certificate is of this TPM's device key: the chip may have been cleared since.
func (l *link) ours(leaf *x509.Certificate) bool {
	key, err := l.cfg.TPM.DeviceKey()
	if err != nil {
		return false
	}
	pub, ok := key.Public().(*ecdsa.PublicKey)
	return ok && pub.Equal(leaf.PublicKey)
}

func (l *link) identity(der []byte) (*tls.Certificate, error) {
	key, err := l.cfg.TPM.DeviceKey()
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("device certificate: %w", err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}

// enrol proves to the front door that EK, AK and device key live in one TPM, and keeps the certificate it answers with.
func (l *link) enrol(ctx context.Context, address string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, doorTimeout)
	defer cancel()
	d, err := l.visit(ctx, address, nil)
	if err != nil {
		return nil, err
	}
	defer d.close()
	request, err := attest.NewEnrolment(l.cfg.TPM)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errChip, err)
	}
	challenge, err := ask[*wire.EnrolChallenge](d, request)
	l.offered(ctx, address, nil, nil, err)
	if err != nil {
		return nil, err
	}
	answer, err := attest.Answer(l.cfg.TPM, challenge)
	if err != nil {
		return nil, err
	}
	result, err := ask[*wire.EnrolResult](d, answer)
	if err != nil {
		return nil, err
	}
	if len(result.Chain) == 0 {
		return nil, fmt.Errorf("%w: empty certificate chain", wire.ErrGrammar)
	}
	if err := l.cfg.TPM.StoreCertificate(result.Chain[0]); err != nil {
		return nil, err
	}
	l.log.Info("enrolled")
	return result.Chain[0], nil
}

// attest visits the front door with the device certificate and buys a lease with a quote bound to this channel.
func (l *link) attest(ctx context.Context, address string, certificate *tls.Certificate) (*wire.Lease, facts, error) {
	ctx, cancel := context.WithTimeout(ctx, doorTimeout)
	defer cancel()
	d, err := l.visit(ctx, address, certificate)
	if err != nil {
		return nil, facts{}, err
	}
	defer d.close()
	nonce, err := ask[*wire.Nonce](d, &wire.NonceRequest{})
	if err != nil {
		return nil, facts{}, err
	}
	evidence, err := attest.Make(l.cfg.TPM, attest.Binding{
		Nonce:       nonce.Nonce,
		DeviceSPKI:  certificate.Leaf.RawSubjectPublicKeyInfo,
		GatewaySPKI: d.gateway.RawSubjectPublicKeyInfo,
		TunnelKey:   l.public,
		Exporter:    d.exporter,
	}, l.previous, l.eventLog())
	if err != nil {
		return nil, facts{}, fmt.Errorf("%w: %w", errChip, err)
	}
	lease, err := ask[*wire.Lease](d, evidence)
	l.offered(ctx, address, certificate, lease, err)
	if err != nil {
		return nil, facts{}, fmt.Errorf("attest: %w", err)
	}
	l.previous = sum(lease.Result)
	l.identified.Store(certificate)
	return lease, facts{
		gatewayCertificate: sum(d.gateway.Raw),
		gatewayTunnelKey:   lease.GatewayKey,
		result:             l.previous,
		deviceCertificate:  sum(certificate.Leaf.Raw),
		boxTunnelKey:       l.public,
	}, nil
}

// tunnel opens the box's end of the lease, by UDP, and by TLS to the address of the front door.
func (l *link) tunnel(lease *wire.Lease, address string) (*tunnel.Box, error) {
	own, err := netip.ParseAddr(lease.Address)
	if err != nil {
		return nil, fmt.Errorf("lease: %w", err)
	}
	gateway, err := netip.ParseAddr(lease.GatewayAddress)
	if err != nil {
		return nil, fmt.Errorf("lease: %w", err)
	}
	var endpoints []netip.AddrPort
	for _, e := range lease.Endpoints {
		at, err := netip.ParseAddrPort(e)
		if err != nil {
			return nil, fmt.Errorf("lease: %w", err)
		}
		endpoints = append(endpoints, at)
	}
	return tunnel.NewBox(tunnel.BoxConfig{
		Key: l.key, Address: own, GatewayKey: lease.GatewayKey, GatewayAddress: gateway, PSK: lease.PSK, Endpoints: endpoints, Log: l.log,
		Dial: func(ctx context.Context) (net.Conn, error) { return l.bearer(ctx, address) },
	})
}

func openLine(ctx context.Context, tun *tunnel.Box, lease *wire.Lease, f facts) (*uplink, error) {
	ctx, cancel := context.WithTimeout(ctx, dialLimit)
	defer cancel()
	conn, err := tun.DialTCP(ctx, wire.LinePort)
	if err != nil {
		return nil, fmt.Errorf("open line: %w", err)
	}
	ln, err := line.New(conn, wire.FromGateway, line.Silence)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	hello, err := ln.Greet(&wire.Hello{})
	if err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	media, err := tun.ListenUDP(wire.MediaPort)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("media socket: %w", err), ln.Close())
	}
	return &uplink{line: ln, tunnel: tun, media: media, hello: hello, facts: f, lease: lease, out: make(chan wire.Message, outboxSize)}, nil
}

// serve reads the line, beats, and renews the lease, until one of them fails.
func (l *link) serve(ctx context.Context, up *uplink) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return l.pulse(ctx, up) })
	g.Go(func() error { return up.write(ctx) })
	g.Go(func() error {
		<-ctx.Done()
		return up.line.Close() // wakes the reader
	})
	g.Go(func() error {
		for {
			m, err := up.line.Read()
			if err != nil {
				return fmt.Errorf("line: %w", err)
			}
			if !l.tell(ctx, linkEvent{message: m}) {
				return nil
			}
		}
	})
	g.Go(func() error { return l.renew(ctx, up) })
	return g.Wait()
}

// pulse beats, and listens for the answers: every 5 s, but twice a second while a person is at work, who must not type into a picture
// that has stopped.
func (l *link) pulse(ctx context.Context, up *uplink) error {
	tick := time.NewTicker(pulseEvery / 2)
	defer tick.Stop()
	var beat, work time.Time // of the last beat; since when a person is at work
	silent := false
	for {
		now := time.Now()
		every := line.BeatInterval
		switch {
		case !up.lively.Load():
			work = time.Time{}
		case work.IsZero():
			work = now
			fallthrough
		default:
			every = pulseEvery
		}
		if now.Sub(beat) >= every-pulseEvery/4 {
			beat = now
			if err := up.line.Beat(); err != nil {
				return err
			}
		}
		var quiet time.Duration
		if !work.IsZero() {
			quiet = min(now.Sub(up.line.Heard()), now.Sub(work))
		}
		if quiet > deadAfter {
			return fmt.Errorf("line: %w", line.ErrSilent)
		}
		if is := quiet > silentAfter; is != silent {
			silent = is
			l.tell(ctx, linkEvent{silence: &is})
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// renew attests again after two thirds of each lease; a refusal or an unreachable front door ends the link only when the lease
// itself has ended.
func (l *link) renew(ctx context.Context, up *uplink) error {
	life := time.Duration(up.lease.LifetimeMS) * time.Millisecond
	ends := time.Now().Add(life)
	for wait := life * 2 / 3; pause(ctx, wait); {
		lease, f, err := l.renewOnce(ctx)
		if err == nil {
			err = up.tunnel.Renew(ctx, lease.PSK)
		}
		var refused errRefused
		switch {
		case err == nil:
			life = time.Duration(lease.LifetimeMS) * time.Millisecond
			ends, wait = time.Now().Add(life), life*2/3
			l.tell(ctx, linkEvent{renewed: &f})
		case errors.As(err, &refused), time.Now().After(ends):
			return fmt.Errorf("renew lease: %w", err)
		default:
			l.log.Warn("lease not renewed yet", "err", err)
			wait = jitter(lastBackoff)
		}
	}
	return nil
}

func (l *link) renewOnce(ctx context.Context) (*wire.Lease, facts, error) {
	var all error
	for _, address := range l.cfg.Gateways {
		certificate, err := l.deviceCertificate(ctx, address)
		if err == nil {
			var lease *wire.Lease
			var f facts
			if lease, f, err = l.attest(ctx, address, certificate); err == nil {
				return lease, f, nil
			}
		}
		all = errors.Join(all, err)
	}
	return nil, facts{}, all
}

// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.zx2c4.com/wireguard/device"
)

// renewPoll is how often Renew looks whether the new handshake is done, and asks for it again: within 5 s of the last
// one the engine ignores the wish and says nothing.
const renewPoll = 50 * time.Millisecond

// BoxConfig is what a lease tells a box.
type BoxConfig struct {
	Key            [32]byte         // X25519 private key of this boot
	Address        netip.Addr       // the box's inner IPv6 address
	GatewayKey     [32]byte         // X25519 public key
	GatewayAddress netip.Addr       // inner
	PSK            [32]byte         // never all zero
	Endpoints      []netip.AddrPort // outer UDP addresses of the gateway, best first, 1 to MaxEndpoints
	Log            *slog.Logger     // optional; never gets keys

	// Dial opens the TLS connection that carries the tunnel where UDP does not pass. It is kept open from the start, and
	// dialled again whenever it ends. Nil: UDP or nothing.
	Dial func(context.Context) (net.Conn, error)
}

// MaxEndpoints is how many outer addresses of the gateway a box takes.
const MaxEndpoints = 8

// Box is a box's end of the tunnel. All methods may be called from any goroutine.
type Box struct {
	gateway   netip.Addr
	key       [32]byte // the gateway's
	net       *netstack
	bind      *boxBind
	dev       *device.Device
	handshake chan struct{} // capacity 1: held by the one Renew
	hurry     chan struct{} // capacity 1: TLS is wanted now
	log       *slog.Logger
	stop      context.CancelFunc
	running   sync.WaitGroup // climb, keepStream
}

// NewBox opens the tunnel and begins the handshake; it does not wait for it. The first DialTCP or Ping does.
func NewBox(c BoxConfig) (*Box, error) {
	if c.PSK == [32]byte{} {
		return nil, fmt.Errorf("open tunnel: %w", errZeroPSK)
	}
	if !c.GatewayAddress.Is6() || c.GatewayAddress == c.Address {
		return nil, fmt.Errorf("open tunnel: gateway address %s: want another IPv6 address", c.GatewayAddress)
	}
	bind, err := newBoxBind(c.Endpoints, c.PSK)
	if err != nil {
		return nil, fmt.Errorf("open tunnel: %w", err)
	}
	inner, err := newNetstack(c.Address)
	if err != nil {
		return nil, fmt.Errorf("open tunnel: %w", err)
	}
	b := &Box{
		gateway: c.GatewayAddress, key: c.GatewayKey, net: inner, bind: bind, handshake: make(chan struct{}, 1), hurry: make(chan struct{}, 1),
		log: orDiscard(c.Log), dev: device.NewDevice(inner, bind, deviceLogger(orDiscard(c.Log))),
	}
	if err := b.open(c); err != nil {
		b.dev.Close()
		return nil, fmt.Errorf("open tunnel: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	b.stop = cancel
	b.running.Go(func() { b.climb(ctx) })
	if c.Dial != nil {
		b.running.Go(func() { b.keepStream(ctx, c.Dial) })
	}
	return b, nil
}

func (b *Box) open(c BoxConfig) error {
	var s settings
	s.key("private_key", c.Key).key("public_key", c.GatewayKey).key("preshared_key", c.PSK).
		set("endpoint", logicalEndpoint{}.DstToString()).
		set("replace_allowed_ips", "true").set("allowed_ip", netip.PrefixFrom(c.GatewayAddress, 128).String()).
		set("persistent_keepalive_interval", strconv.Itoa(keepalive))
	if err := s.apply(b.dev); err != nil {
		return err
	}
	return b.dev.Up()
}

// Bearer returns which bearer carries now.
func (b *Box) Bearer() Bearer {
	if b.bind.onTLS.Load() {
		return TLS
	}
	return UDP
}

// DialTCP connects to a port of the gateway's inner address.
func (b *Box) DialTCP(ctx context.Context, port uint16) (net.Conn, error) {
	conn, err := b.net.dialTCP(ctx, b.gateway, port)
	if err != nil {
		return nil, fmt.Errorf("dial gateway port %d in the tunnel: %w", port, err)
	}
	return conn, nil
}

// ListenUDP opens an inner UDP socket on the box's own address; port 0 draws one.
func (b *Box) ListenUDP(port uint16) (net.PacketConn, error) {
	conn, err := b.net.listenUDP(port)
	if err != nil {
		return nil, fmt.Errorf("listen in the tunnel on UDP port %d: %w", port, err)
	}
	return conn, nil
}

// Ping measures one round trip through the tunnel to the gateway (ICMPv6 echo). The first one includes the handshake.
func (b *Box) Ping(ctx context.Context) (time.Duration, error) {
	rtt, err := b.net.echo(ctx, b.gateway)
	if err != nil {
		return 0, fmt.Errorf("ping gateway through the tunnel: %w", err)
	}
	return rtt, nil
}

// Renew takes the PSK of a renewed lease, after the gateway has it, and returns when a handshake has used it: up to
// 5 s after the one before. Meanwhile the old keys carry the traffic, no packet is lost. When it fails the old keys
// serve for 180 s at most, then nothing passes.
func (b *Box) Renew(ctx context.Context, psk [32]byte) error {
	if psk == [32]byte{} {
		return fmt.Errorf("renew tunnel keys: %w", errZeroPSK)
	}
	select {
	case b.handshake <- struct{}{}:
		defer func() { <-b.handshake }()
	case <-ctx.Done():
		return fmt.Errorf("renew tunnel keys: %w", ctx.Err())
	}
	if err := b.bind.renew(psk); err != nil {
		return fmt.Errorf("renew tunnel keys: %w", err)
	}
	var s settings
	if err := s.key("public_key", b.key).set("update_only", "true").key("preshared_key", psk).apply(b.dev); err != nil {
		return fmt.Errorf("renew tunnel keys: %w", err)
	}
	peer := b.dev.LookupPeer(b.key)
	if peer == nil {
		return fmt.Errorf("renew tunnel keys: %w", net.ErrClosed)
	}
	before, err := b.lastHandshake()
	if err != nil {
		return fmt.Errorf("renew tunnel keys: %w", err)
	}
	tick := time.NewTicker(renewPoll)
	defer tick.Stop()
	for {
		// An error here is a network without a route now: the next round tries again.
		_ = peer.SendHandshakeInitiation(false)
		select {
		case <-tick.C:
		case <-b.dev.Wait():
			return fmt.Errorf("renew tunnel keys: %w", net.ErrClosed)
		case <-ctx.Done():
			return fmt.Errorf("renew tunnel keys: no handshake with the new key: %w", ctx.Err())
		}
		last, err := b.lastHandshake()
		if err != nil {
			return fmt.Errorf("renew tunnel keys: %w", err)
		}
		if last != before {
			return nil
		}
	}
}

// lastHandshake reads the time of the last handshake as the engine prints it; only equality matters.
func (b *Box) lastHandshake() (string, error) {
	state, err := b.dev.IpcGet()
	if err != nil {
		return "", err
	}
	at := ""
	for lines := bufio.NewScanner(strings.NewReader(state)); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), "last_handshake_time_") {
			at += lines.Text() + " "
		}
	}
	if at == "" {
		return "", errors.New("the tunnel has no peer")
	}
	return at, nil
}

// Close ends the tunnel and everything in it, and returns when nothing runs any more.
func (b *Box) Close() error {
	b.stop()
	b.running.Wait()
	b.dev.Close()
	return nil
}

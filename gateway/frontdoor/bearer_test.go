// SPDX-License-Identifier: Apache-2.0

package frontdoor

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"sdbox/gateway/registry"
	"sdbox/gateway/store"
	"sdbox/internal/tunnel"
	"sdbox/internal/wire"

	"github.com/stretchr/testify/require"
)

// bearer dials what carries a tunnel by TLS.
func (g *gate) bearer(ctx context.Context, identity *tls.Certificate) (net.Conn, error) {
	conf := &tls.Config{RootCAs: g.trust.Roots(), ServerName: "gw1.lab", NextProtos: []string{wire.BearerProtocol}, MinVersion: tls.VersionTLS13}
	if identity != nil {
		conf.Certificates = []tls.Certificate{*identity}
	}
	return (&tls.Dialer{Config: conf}).DialContext(ctx, "tcp", g.address)
}

// shut says that the door closes a bearer at once.
func (g *gate) shut(identity *tls.Certificate) {
	conn, err := g.bearer(g.t.Context(), identity)
	if err == nil {
		require.NoError(g.t, conn.SetReadDeadline(time.Now().Add(5*time.Second)))
		_, err = conn.Read(make([]byte, 1))
		conn.Close()
	}
	require.Error(g.t, err)
	require.NotErrorIs(g.t, err, os.ErrDeadlineExceeded, "it stayed open")
}

func TestBearerCarriesTheTunnelOfABoxWithALease(t *testing.T) {
	g := newGate(t, 16)
	m := newMachine(t)
	box := g.register(m, "PARIS-1")
	private, err := tunnel.NewKey()
	require.NoError(t, err)
	m.tunnel, err = tunnel.PublicKey(private)
	require.NoError(t, err)
	g.shut(nil)
	identity := g.enrol(m)
	g.shut(identity) // enrolled, but it has proved nothing

	c := g.call(identity)
	lease, ok := c.ask(c.evidence(m, c.nonce(), nil)).(*wire.Lease)
	require.True(t, ok)
	ends := tunnel.BoxConfig{
		Key: private, Address: netip.MustParseAddr(lease.Address), GatewayKey: lease.GatewayKey, GatewayAddress: netip.MustParseAddr(lease.GatewayAddress),
		PSK: lease.PSK, Endpoints: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:9")}, // nothing answers there: UDP is blocked
		Dial: func(ctx context.Context) (net.Conn, error) { return g.bearer(ctx, identity) },
	}
	end, err := tunnel.NewBox(ends)
	require.NoError(t, err)
	defer end.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	_, err = end.Ping(ctx)
	require.NoError(t, err)
	require.Equal(t, tunnel.TLS, end.Bearer())
	moves := func() int {
		rows, err := g.store.Audit(t.Context(), store.AuditFilter{Object: registry.BoxName(box.Serial)})
		require.NoError(t, err)
		n := 0
		for _, row := range rows {
			if strings.Contains(string(row.Leaf), "box.moved") {
				n++
			}
		}
		return n
	}
	require.Eventually(t, func() bool { return moves() == 1 }, 5*time.Second, 10*time.Millisecond, "another bearer is an event")
	require.NoError(t, c.line.Close())
	require.Eventually(t, func() bool {
		waiting, _ := g.door.crowd.size()
		return waiting == 0
	}, 5*time.Second, 10*time.Millisecond, "a bearer takes no place of those that wait at the door")

	// The box is locked while it works; that it moves is when the door decides again.
	_, err = g.registry.Lock(t.Context(), "operator:test", registry.Lock{Target: registry.BoxName(box.Serial), Message: "stolen"})
	require.NoError(t, err)
	g.door.moved(box.Address, m.tunnel, tunnel.Path{Bearer: tunnel.UDP, Address: netip.MustParseAddr("192.0.2.9")})
	_, ok = g.door.Lease(box.Address)
	require.False(t, ok)
	g.shut(identity)
	gone, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err = end.Ping(gone)
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

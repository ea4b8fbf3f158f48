// SPDX-License-Identifier: Apache-2.0

package frontdoor

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"time"

	"sdbox/gateway/registry"
	"sdbox/gateway/store"
	"sdbox/internal/tunnel"
	"sdbox/internal/wire"
)

// moveTime is how long the decision about a box that moved may take.
const moveTime = 5 * time.Second

// errNoLease says that a bearer was asked for by a machine that has proved nothing, or whose proof has ended.
var errNoLease = errors.New("a tunnel bearer without a standing lease")

// carry lets a connection carry the tunnel of the box whose certificate it showed, while that box has its peer. There is one for
// each peer, so that release gives the connection's place to those that wait.
func (d *Door) carry(ctx context.Context, conn *tls.Conn, release func()) error {
	l, ok := d.leaseOf(sha256.Sum256(conn.ConnectionState().PeerCertificates[0].Raw))
	if !ok {
		return errNoLease
	}
	release()
	d.conf.Log.Debug("bearer up", "room", "frontdoor", "box", l.Serial)
	err := d.conf.Tunnel.Carry(ctx, l.TunnelKey, conn)
	if ctx.Err() != nil || errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// leaseOf finds the standing lease that was given to a device certificate.
func (d *Door) leaseOf(certificate [32]byte) (Lease, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, l := range d.leases {
		if l.Certificate == certificate && time.Now().Before(l.Expires) {
			return l.Lease, true
		}
	}
	return Lease{}, false
}

// moved is called by the tunnel when a box is reached another way than before. An address that is not the one it proved its state
// from, or a bearer that is not UDP, is an event; and whether the box may be here is decided again.
func (d *Door) moved(addr netip.Addr, key wire.Key, p tunnel.Path) {
	d.mu.Lock()
	l, ok := d.leases[addr]
	if !ok || l.TunnelKey != key {
		d.mu.Unlock()
		return
	}
	before := l.path
	l.path = p
	d.leases[addr] = l
	d.mu.Unlock()
	if before == p {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), moveTime)
	defer cancel()
	log := d.conf.Log.With("room", "frontdoor", "box", l.Serial, "from", before.String(), "to", p.String())
	e := store.Entry{Actor: d.actor(), Action: "box.moved", Object: registry.BoxName(l.Serial), Fields: map[string]string{
		"from": before.String(), "to": p.String()}}
	err := d.mayStay(ctx, l.Lease, p)
	if err != nil {
		log.Warn("box moved and may not stay", "err", err)
		e.Action, e.Fields["reason"] = "box.expelled", err.Error()
		d.conf.Tunnel.RemovePeer(key)
	}
	if err := d.conf.Store.Change(ctx, e, func(*store.Tx) error { return nil }); err != nil {
		log.Error("a box's move is not in the audit log", "err", err)
		return
	}
	log.Info("box moved")
}

// mayStay asks the registry again. A registry that does not answer keeps nobody.
func (d *Door) mayStay(ctx context.Context, l Lease, now tunnel.Path) error {
	box, err := d.conf.Registry.Box(ctx, l.Serial)
	if err != nil {
		return err
	}
	if err := d.usable(ctx, box); err != nil {
		return err
	}
	if len(box.Outer) > 0 && !slices.ContainsFunc(box.Outer, func(p netip.Prefix) bool { return p.Contains(now.Address) }) {
		return fmt.Errorf("the box may not speak from %s", now.Address)
	}
	return nil
}

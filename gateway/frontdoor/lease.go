// SPDX-License-Identifier: Apache-2.0

package frontdoor

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"sdbox/gateway/appraise"
	"sdbox/gateway/registry"
	"sdbox/gateway/store"
	"sdbox/internal/attest"
	"sdbox/internal/tunnel"
	"sdbox/internal/wire"
)

// remembered is how many bindings of a box are kept, to say what a quote was made for that is not for this connection.
const remembered = 4

// maxTries is how many nonces one connection may ask for.
const maxTries = 3

// Lease is a standing attestation result: while there is one the box has a tunnel peer.
type Lease struct {
	Serial      string
	Address     netip.Addr // inner
	TunnelKey   wire.Key
	Certificate [32]byte // SHA-256 of the DER of the device certificate
	Result      [32]byte // SHA-256 of the sealed result
	Reference   string   // name and version of what it was found to be
	Expires     time.Time
}

type lease struct {
	Lease
	previous appraise.Previous
	log      [32]byte    // SHA-256 of the event log it was given on
	path     tunnel.Path // how the box is reached
}

// Lease returns the lease behind an inner address.
func (d *Door) Lease(addr netip.Addr) (Lease, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	l, ok := d.leases[addr]
	return l.Lease, ok && time.Now().Before(l.Expires)
}

// ErrSilent says that a box holds no lease, or does not answer through its tunnel.
var ErrSilent = errors.New("the box does not answer")

// pingTime is how long a box has for its answer.
const pingTime = 3 * time.Second

// Ping measures one round trip through the tunnel between this process and the box's (ICMPv6 echo). Errors: ErrSilent.
func (d *Door) Ping(ctx context.Context, addr netip.Addr) (time.Duration, error) {
	if _, ok := d.Lease(addr); !ok {
		return 0, fmt.Errorf("%w: it holds no lease", ErrSilent)
	}
	ctx, cancel := context.WithTimeout(ctx, pingTime)
	defer cancel()
	took, err := d.conf.Tunnel.Ping(ctx, addr)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", ErrSilent, err)
	}
	return took, nil
}

// Drop takes a box's peer away, and with it all that the box holds inside the tunnel. It reports whether there was one.
func (d *Door) Drop(serial string) bool {
	d.mu.Lock()
	var keys []wire.Key
	for _, l := range d.leases {
		if l.Serial == serial {
			keys = append(keys, l.TunnelKey)
		}
	}
	d.mu.Unlock()
	dropped := false
	for _, k := range keys {
		dropped = d.conf.Tunnel.RemovePeer(k) || dropped
	}
	return dropped
}

// ended is called by the tunnel when a peer is gone.
func (d *Door) ended(addr netip.Addr, key wire.Key, why tunnel.Reason) {
	d.mu.Lock()
	l, ok := d.leases[addr]
	if ok && l.TunnelKey == key {
		delete(d.leases, addr)
	}
	d.mu.Unlock()
	d.conf.Log.Info("peer gone", "room", "frontdoor", "box", l.Serial, "why", string(why))
}

// attest hears a box's proof of its state and leases it a tunnel peer.
func (v *visit) attest(ctx context.Context) error {
	box, err := v.door.conf.Registry.Box(ctx, v.box.Serial)
	if errors.Is(err, store.ErrNotFound) {
		return v.refuse(ctx, &wire.Hello{}, "", fmt.Errorf("a certificate for %s, which is not registered", v.box.Serial))
	}
	if err != nil {
		return err
	}
	for range 2 * maxTries {
		m, err := v.line.Read()
		if err != nil {
			return err
		}
		switch m := m.(type) {
		case *wire.NonceRequest:
			if err := v.line.Write(&wire.Nonce{Nonce: v.nonce.draw(time.Now())}); err != nil {
				return err
			}
		case *wire.Evidence:
			return v.evidence(ctx, m, box)
		default:
			return fmt.Errorf("%T from a box at the front door", m)
		}
	}
	return fmt.Errorf("more than %d messages without evidence", 2*maxTries)
}

func (v *visit) evidence(ctx context.Context, m *wire.Evidence, box registry.Box) error {
	result, want, err := v.appraise(ctx, m, box)
	if err != nil {
		return v.refuse(ctx, m, box.Serial, err)
	}
	answer, err := v.lease(ctx, m, box, result, want)
	if err != nil {
		return err
	}
	if err := v.door.stands(ctx, box, v.hash); err != nil {
		v.door.conf.Tunnel.RemovePeer(m.TunnelKey)
		return v.refuse(ctx, m, box.Serial, err)
	}
	return v.line.Write(answer)
}

// stands reads the registry once more when there is a peer. Who locks or retires a box takes its peer away, and finds none while the
// box still talks to the door: between the two looks nothing is missed.
func (d *Door) stands(ctx context.Context, before registry.Box, certificate [32]byte) error {
	box, err := d.conf.Registry.Box(ctx, before.Serial)
	if err != nil {
		return err
	}
	if !bytes.Equal(box.AK, before.AK) || !bytes.Equal(box.Device, certificate[:]) {
		return errors.New("the certificate has been replaced by another one")
	}
	return d.usable(ctx, box)
}

// appraise takes the nonce first: whatever is found wrong with the evidence, it has been used.
func (v *visit) appraise(ctx context.Context, m *wire.Evidence, box registry.Box) (*appraise.Result, attest.Expectations, error) {
	d := v.door
	want := attest.Expectations{DeviceSPKI: v.device, GatewaySPKI: d.spki, Exporter: v.exporter, AKName: v.box.AKName, Earlier: d.earlier(box.Serial)}
	var err error
	if want.Nonce, err = v.nonce.take(time.Now()); err != nil {
		return nil, want, err
	}
	d.remember(box.Serial, attest.Binding{Nonce: want.Nonce, DeviceSPKI: want.DeviceSPKI, GatewaySPKI: want.GatewaySPKI, TunnelKey: m.TunnelKey, Exporter: want.Exporter})
	switch {
	case !bytes.Equal(box.AK, v.box.AKName):
		return nil, want, errors.New("the certificate names another attestation key than the registry")
	case !bytes.Equal(box.Device, v.hash[:]):
		return nil, want, errors.New("the certificate has been replaced by another one")
	}
	if err := d.usable(ctx, box); err != nil {
		return nil, want, err
	}
	var previous *appraise.Previous
	d.mu.Lock()
	if l, ok := d.leases[box.Address]; ok && len(m.Previous) > 0 && time.Now().Before(l.Expires) {
		previous = &l.previous
	}
	d.mu.Unlock()
	result, err := d.conf.Verifier.Appraise(m, want, previous, time.Now())
	return result, want, err
}

func (d *Door) earlier(serial string) []attest.Binding {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]attest.Binding(nil), d.history[serial]...)
}

func (d *Door) remember(serial string, b attest.Binding) {
	d.mu.Lock()
	defer d.mu.Unlock()
	list := append(d.history[serial], b)
	if len(list) > remembered {
		list = list[len(list)-remembered:]
	}
	d.history[serial] = list
}

// lease seals the result, audits it, and only then makes the peer.
func (v *visit) lease(ctx context.Context, m *wire.Evidence, box registry.Box, result *appraise.Result, want attest.Expectations) (*wire.Lease, error) {
	d := v.door
	statement, err := d.conf.Signer.Seal(appraise.Type, string(d.conf.Trust.Domain()), d.conf.Lease, result)
	if err != nil {
		return nil, err
	}
	hash := sha256.Sum256(statement)
	short, logged := *m, sha256.Sum256(m.Log)
	short.Log = nil // it stands beside, once
	evidence, err := wire.Canonical(short)
	if err != nil {
		return nil, err
	}
	e := store.Entry{Actor: d.actor(), Action: "box.attested", Object: registry.BoxName(box.Serial), Fields: map[string]string{
		"result": hex.EncodeToString(statement), "result_sha256": hex.EncodeToString(hash[:]), "evidence": hex.EncodeToString(evidence),
		"nonce": hex.EncodeToString(want.Nonce), "exporter": hex.EncodeToString(want.Exporter), "from": v.from, "certificate_sha256": hex.EncodeToString(v.hash[:])}}
	before := d.standing(box.Address)
	if before.Certificate != v.hash { // what the audit log has of the lease that stands is named by its hash
		e.Fields["certificate"] = hex.EncodeToString(v.der)
	}
	if len(m.Log) > 0 {
		e.Fields["log_sha256"] = hex.EncodeToString(logged[:])
		if before.log != logged || before.Certificate != v.hash {
			e.Fields["log"] = hex.EncodeToString(m.Log)
		}
	}
	if err := d.conf.Store.Change(ctx, e, func(*store.Tx) error { return nil }); err != nil {
		return nil, err
	}
	l := lease{
		Lease:    Lease{Serial: box.Serial, Address: box.Address, TunnelKey: m.TunnelKey, Certificate: v.hash, Result: hash, Reference: result.Equals(), Expires: time.Now().Add(d.conf.Lease)},
		previous: appraise.Previous{Statement: statement, Result: result},
		log:      logged,
		path:     tunnel.Path{Bearer: tunnel.UDP, Address: outerAddress(v.from)},
	}
	psk := tunnel.NewPSK()
	if err := d.grant(l, psk, box.Outer); err != nil {
		return nil, err
	}
	d.conf.Log.Info("box attested", "room", "frontdoor", "box", box.Serial, "until", l.Expires.UTC().Format(time.RFC3339))
	return &wire.Lease{
		Result: statement, GatewayKey: d.conf.TunnelKey, PSK: psk, Address: box.Address.String(), GatewayAddress: d.conf.GatewayAddress.String(),
		Endpoints: d.conf.Endpoints, Expires: l.Expires.UnixMilli(), LifetimeMS: d.conf.Lease.Milliseconds(), Release: d.offer(ctx, box),
	}, nil
}

// outerAddress is the address of host:port; the zero one is no box's.
func outerAddress(hostport string) netip.Addr {
	at, err := netip.ParseAddrPort(hostport)
	if err != nil {
		return netip.Addr{}
	}
	return at.Addr().Unmap().WithZone("")
}

// standing returns the lease at an inner address; the zero one, if there is none.
func (d *Door) standing(addr netip.Addr) lease {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.leases[addr]
}

// grant makes the peer and the lease one after the other, for one box at a time.
func (d *Door) grant(l lease, psk [32]byte, outer []netip.Prefix) error {
	if len(outer) == 0 {
		outer = []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}
	}
	d.granting.Lock()
	defer d.granting.Unlock()
	peer := tunnel.Peer{PublicKey: l.TunnelKey, PSK: psk, Address: l.Address, Expires: l.Expires, AllowedOuter: outer,
		OnEnd: func(why tunnel.Reason) { d.ended(l.Address, l.TunnelKey, why) }, OnPath: func(p tunnel.Path) { d.moved(l.Address, l.TunnelKey, p) }}
	if err := d.conf.Tunnel.AddPeer(peer); err != nil {
		return err
	}
	d.mu.Lock()
	if before, ok := d.leases[l.Address]; ok && before.TunnelKey == l.TunnelKey {
		l.path = before.path
	}
	d.leases[l.Address] = l
	d.mu.Unlock()
	return nil
}

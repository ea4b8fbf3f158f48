// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/dhcpv6/nclient6"
	"github.com/insomniacslk/dhcp/iana"
)

// Times of asking for an address (implementation; RFC 2131, 4.1 begins with 4 s, for networks of 1997).
const (
	firstAnswer = time.Second            // how long the first question waits for its answer; each next one twice as long
	questions   = 4                      // of one kind, before all begins anew
	firstRest   = 250 * time.Millisecond // after all of them, or what could not be used; each next one twice as long
	restMost    = 8 * time.Second

	leaseLeast = 30 * time.Second // a shorter lease is taken for so long: it would be renewed all the time
	leaseMost  = 24 * time.Hour   // a longer one is renewed as if it ended then
)

// maxResolvers is how many resolvers are used; Go's asks three at most (resolv.conf(5)).
const maxResolvers = 3

// lease is what a network gives: nothing of it is trusted, and all of it was checked.
type lease struct {
	address   netip.Prefix // invalid when the network only names resolvers
	router    netip.Addr   // invalid without
	resolvers []netip.Addr
	life      time.Duration // from now
	doubted   bool          // the cable was out since
}

// leaseFrom4 takes what is used of a DHCPACK (RFC 2131), checked.
func leaseFrom4(ack *dhcpv4.DHCPv4) (lease, error) {
	address, ok := machineAddress(ack.YourIPAddr)
	if !ok || !address.Is4() {
		return lease{}, fmt.Errorf("dhcp: %v is not one machine's address", ack.YourIPAddr)
	}
	bits := 32
	if mask := ack.SubnetMask(); mask != nil {
		ones, size := mask.Size()
		if size != 32 || ones < 8 {
			return lease{}, fmt.Errorf("dhcp: network mask %v", mask)
		}
		bits = ones
	}
	l := lease{address: netip.PrefixFrom(address, bits), life: boundLife(ack.IPAddressLeaseTime(0))}
	for _, ip := range ack.Router() {
		if r, ok := machineAddress(ip); ok && r != address {
			l.router = r
			break
		}
	}
	l.resolvers = resolversOf(ack.DNS())
	return l, nil
}

// leaseFrom6 takes what is used of a DHCPv6 reply (RFC 8415), checked. The router comes by router advertisement, never from here.
func leaseFrom6(reply *dhcpv6.Message) (lease, error) {
	l := lease{life: leaseMost, resolvers: resolversOf(reply.Options.DNS())}
	if status := reply.Options.Status(); status != nil && status.StatusCode != iana.StatusSuccess {
		return lease{}, fmt.Errorf("dhcpv6: refused with status %d", status.StatusCode)
	}
	for _, given := range reply.Options.IANA() {
		for _, a := range given.Options.Addresses() {
			address, ok := machineAddress(a.IPv6Addr)
			if !ok || !address.Is6() || address.IsLinkLocalUnicast() || a.ValidLifetime == 0 {
				continue
			}
			l.address, l.life = netip.PrefixFrom(address, 128), boundLife(a.ValidLifetime)
			return l, nil
		}
	}
	if len(l.resolvers) == 0 {
		return lease{}, errors.New("dhcpv6: the answer gives nothing")
	}
	return l, nil
}

// machineAddress says whether an address can be one machine's.
func machineAddress(ip net.IP) (netip.Addr, bool) {
	a, ok := netip.AddrFromSlice(ip)
	a = a.Unmap()
	return a, ok && !a.IsUnspecified() && !a.IsLoopback() && !a.IsMulticast() && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

func resolversOf(list []net.IP) []netip.Addr {
	var out []netip.Addr
	for _, ip := range list {
		if a, ok := machineAddress(ip); ok && len(out) < maxResolvers && !slices.Contains(out, a) && !a.IsLinkLocalUnicast() {
			out = append(out, a)
		}
	}
	return out
}

func boundLife(d time.Duration) time.Duration { return min(max(d, leaseLeast), leaseMost) }

// asker keeps one adapter's lease by one protocol. tell is called with each lease, the same one renewed too, and with nil when it ended.
type asker struct {
	name    string // of the adapter
	tell    func(*lease)
	failed  func(error) // why an attempt failed
	ask     func(context.Context, *asker) (lease, error)
	renewal func(context.Context, *asker) (lease, error)

	acked *nclient4.Lease // of ask4, for renew4
}

// run asks until it has a lease, renews it at half of its life and then at half of what is left, and begins anew when it has ended or the
// network takes it back, until ctx ends.
func (k *asker) run(ctx context.Context) {
	for rest := firstRest; ctx.Err() == nil; rest = min(2*rest, restMost) {
		l, err := k.ask(ctx, k)
		if err != nil {
			k.failed(err)
			if !pause(ctx, rest/2+spread(rest/2)) {
				return
			}
			continue
		}
		rest = firstRest
		k.hold(ctx, l)
	}
}

// hold keeps a lease until it has ended.
func (k *asker) hold(ctx context.Context, l lease) {
	k.tell(&l)
	for end := time.Now().Add(l.life); ; {
		left := time.Until(end)
		if left < leaseLeast/10 {
			break
		}
		if !pause(ctx, left/2) {
			return
		}
		renewed, err := k.renewal(ctx, k)
		var nak *nclient4.ErrNak
		if errors.As(err, &nak) {
			k.failed(err)
			break
		}
		if err != nil {
			k.failed(err)
			continue
		}
		end = time.Now().Add(renewed.life)
		k.tell(&renewed)
	}
	k.tell(nil)
}

// pause waits, or says that ctx has ended.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// spread is a random part of d: boxes that were switched on together do not ask together for ever.
func spread(d time.Duration) time.Duration {
	n, err := rand.Int(rand.Reader, big.NewInt(int64(d)+1))
	if err != nil {
		return d
	}
	return time.Duration(n.Int64())
}

// dial4 opens the raw socket that DHCP needs before there is an address.
func dial4(name string) (*nclient4.Client, error) {
	c, err := nclient4.New(name, nclient4.WithTimeout(firstAnswer), nclient4.WithRetry(questions))
	if err != nil {
		return nil, fmt.Errorf("dhcp: %w", err)
	}
	return c, nil
}

// ask4 is DISCOVER, OFFER, REQUEST, ACK (RFC 2131, 3.1).
func ask4(ctx context.Context, k *asker) (lease, error) {
	c, err := dial4(k.name)
	if err != nil {
		return lease{}, err
	}
	defer c.Close()
	got, err := c.Request(ctx)
	if err != nil {
		return lease{}, fmt.Errorf("dhcp: %w", err)
	}
	k.acked = got
	return leaseFrom4(got.ACK)
}

// renew4 asks for the lease again. It does so by broadcast, as in REBINDING (RFC 2131, 4.3.2): a unicast from port 68 would need the
// right to bind it.
func renew4(ctx context.Context, k *asker) (lease, error) {
	c, err := dial4(k.name)
	if err != nil {
		return lease{}, err
	}
	defer c.Close()
	got, err := c.Renew(ctx, k.acked)
	if err != nil {
		return lease{}, fmt.Errorf("dhcp: renew: %w", err)
	}
	k.acked = got
	return leaseFrom4(got.ACK)
}

// ask6 is SOLICIT with rapid commit, or the four messages where the server wants them (RFC 8415, 18.2.1). To renew is to ask again: the
// server knows the box by its DUID and gives the same address.
func ask6(ctx context.Context, k *asker) (lease, error) {
	itf, err := net.InterfaceByName(k.name)
	if err != nil {
		return lease{}, fmt.Errorf("dhcpv6: %w", err)
	}
	conn, err := nclient6.NewIPv6UDPConn(k.name, dhcpv6.DefaultClientPort)
	if err != nil {
		return lease{}, fmt.Errorf("dhcpv6: %w", err)
	}
	c, err := nclient6.NewWithConn(conn, itf.HardwareAddr, nclient6.WithTimeout(firstAnswer), nclient6.WithRetry(questions))
	if err != nil {
		return lease{}, errors.Join(fmt.Errorf("dhcpv6: %w", err), conn.Close())
	}
	defer c.Close()
	reply, err := c.RapidSolicit(ctx, dhcpv6.WithClientID(&dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: itf.HardwareAddr}))
	if err != nil {
		return lease{}, fmt.Errorf("dhcpv6: %w", err)
	}
	return leaseFrom6(reply)
}

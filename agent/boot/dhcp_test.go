// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
	"github.com/stretchr/testify/require"
)

// told is one thing an asker said, and when.
type told struct {
	after time.Duration
	lease bool
}

// asks runs an asker on a clock of its own whose questions are answered by two scripts; the last answer of each goes on.
func asks(t *testing.T, life, run time.Duration, first, renewals []error) (said []told) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), run)
		defer cancel()
		began := time.Now()
		next := func(script *[]error) func(context.Context, *asker) (lease, error) {
			return func(context.Context, *asker) (lease, error) {
				err := (*script)[0]
				if len(*script) > 1 {
					*script = (*script)[1:]
				}
				return lease{life: life}, err
			}
		}
		k := &asker{ask: next(&first), renewal: next(&renewals), failed: func(error) {}, tell: func(l *lease) {
			said = append(said, told{time.Since(began), l != nil})
		}}
		k.run(ctx)
	})
	return said
}

func TestLeaseIsRenewedAtHalfOfItsLife(t *testing.T) {
	silent := errors.New("nobody answers")
	said := asks(t, time.Hour, 119*time.Minute, []error{nil}, []error{nil})
	require.Equal(t, []told{{0, true}, {30 * time.Minute, true}, {60 * time.Minute, true}, {90 * time.Minute, true}}, said)

	said = asks(t, time.Hour, 61*time.Minute, []error{nil, silent}, []error{silent})
	require.Len(t, said, 2, "a lease that nobody renews ends, and no sooner")
	require.False(t, said[1].lease)
	require.InDelta(t, time.Hour, said[1].after, float64(leaseLeast))

	said = asks(t, time.Hour, 46*time.Minute, []error{nil}, []error{silent, nil})
	require.Equal(t, []told{{0, true}, {45 * time.Minute, true}}, said, "asked again at half of what is left")

	said = asks(t, time.Hour, 31*time.Minute, []error{nil, nil}, []error{&nclient4.ErrNak{}})
	require.Equal(t, []told{{0, true}, {30 * time.Minute, false}, {30 * time.Minute, true}}, said, "a lease that is taken back ends at once")

	said = asks(t, time.Hour, 10*time.Minute, []error{silent, silent, silent, nil}, []error{nil})
	require.Len(t, said, 1)
	require.Less(t, said[0].after, 3*time.Second, "what fails is asked again soon")
}

// checkLease holds a lease to what the kernel may be given.
func checkLease(t *testing.T, l lease) {
	require.True(t, l.life >= leaseLeast && l.life <= leaseMost)
	require.LessOrEqual(t, len(l.resolvers), maxResolvers)
	for _, a := range append([]netip.Addr{l.router, l.address.Addr()}, l.resolvers...) {
		require.False(t, a.IsValid() && (a.IsLoopback() || a.IsMulticast() || a.IsUnspecified()), "%s", a)
	}
}

func FuzzLease4(f *testing.F) {
	add := func(more ...dhcpv4.Modifier) {
		p, err := dhcpv4.New(append([]dhcpv4.Modifier{dhcpv4.WithMessageType(dhcpv4.MessageTypeAck), dhcpv4.WithYourIP(net.IPv4(192, 0, 2, 9))}, more...)...)
		require.NoError(f, err)
		f.Add(p.ToBytes())
	}
	add()
	add(dhcpv4.WithNetmask(net.CIDRMask(24, 32)), dhcpv4.WithLeaseTime(5), dhcpv4.WithOption(dhcpv4.OptRouter(net.IPv4(192, 0, 2, 9), net.IPv4(192, 0, 2, 1))))
	add(dhcpv4.WithNetmask(net.IPMask{255, 0, 255, 0}))
	add(dhcpv4.WithNetmask(net.CIDRMask(2, 32)))
	add(dhcpv4.WithLeaseTime(0xffffffff), dhcpv4.WithOption(dhcpv4.OptDNS(net.IPv4(9, 9, 9, 9), net.IPv4(9, 9, 9, 9), net.IPv4(127, 0, 0, 1), net.IPv4(1, 1, 1, 1), net.IPv4(1, 1, 1, 2), net.IPv4(1, 1, 1, 3))))
	add(dhcpv4.WithYourIP(net.IPv4(224, 0, 0, 1)))
	add(dhcpv4.WithGeneric(dhcpv4.OptionRouter, []byte{1, 2, 3}), dhcpv4.WithGeneric(dhcpv4.OptionSubnetMask, []byte{1}), dhcpv4.WithGeneric(dhcpv4.OptionIPAddressLeaseTime, []byte{9}))
	f.Fuzz(func(t *testing.T, raw []byte) {
		p, err := dhcpv4.FromBytes(raw)
		if err != nil {
			return
		}
		if l, err := leaseFrom4(p); err == nil {
			checkLease(t, l)
			require.True(t, l.address.IsValid() && l.address.Addr().Is4() && l.address.Bits() >= 8)
		}
	})
}

func FuzzLease6(f *testing.F) {
	add := func(more ...dhcpv6.Modifier) {
		p, err := dhcpv6.NewMessage(append([]dhcpv6.Modifier{dhcpv6.WithServerID(&dhcpv6.DUIDEN{})}, more...)...)
		require.NoError(f, err)
		f.Add(p.ToBytes())
	}
	address := func(ip string, life time.Duration) dhcpv6.Modifier {
		return dhcpv6.WithIANA(dhcpv6.OptIAAddress{IPv6Addr: net.ParseIP(ip), PreferredLifetime: life, ValidLifetime: life})
	}
	add()
	add(address("2001:db8::9", time.Hour), dhcpv6.WithDNS(net.ParseIP("2001:db8::53"), net.ParseIP("::1")))
	add(address("fe80::9", time.Hour))
	add(address("2001:db8::9", 0))
	add(address("::", time.Hour))
	add(address("::ffff:192.0.2.1", time.Hour))
	add(dhcpv6.WithDNS(net.ParseIP("2001:db8::53")))
	add(dhcpv6.WithOption(&dhcpv6.OptStatusCode{StatusCode: iana.StatusNoAddrsAvail}))
	f.Fuzz(func(t *testing.T, raw []byte) {
		p, err := dhcpv6.MessageFromBytes(raw)
		if err != nil {
			return
		}
		if l, err := leaseFrom6(p); err == nil {
			checkLease(t, l)
			require.True(t, !l.address.IsValid() || l.address.Addr().Is6() && !l.address.Addr().Is4In6())
		}
	})
}

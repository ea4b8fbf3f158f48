// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// userOption is a router's option as the kernel hands it on, of adapter 3.
func userOption(option []byte) []byte {
	b := make([]byte, 16)
	b[0] = unix.AF_INET6
	binary.NativeEndian.PutUint32(b[4:], 3)
	return append(b, option...)
}

// rdnss is option 25 with these resolvers (RFC 8106, 5.1).
func rdnss(life uint32, resolvers ...string) []byte {
	b := []byte{optionRDNSS, byte(1 + 2*len(resolvers)), 0, 0}
	b = binary.BigEndian.AppendUint32(b, life)
	for _, r := range resolvers {
		b = append(b, netip.MustParseAddr(r).AsSlice()...)
	}
	return b
}

func TestResolversOfAnAdvertisementAreTaken(t *testing.T) {
	address := netip.MustParseAddr
	for name, c := range map[string]struct {
		option []byte
		want   []netip.Addr
	}{
		"two":                        {rdnss(600, "2001:db8::53", "2001:db8::54"), []netip.Addr{address("2001:db8::53"), address("2001:db8::54")}},
		"no longer":                  {rdnss(0, "2001:db8::53"), []netip.Addr{}},
		"of the box itself":          {rdnss(600, "::1", "ff02::1", "::", "2001:db8::53"), []netip.Addr{address("2001:db8::53")}},
		"too many":                   {rdnss(600, "2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8::4"), []netip.Addr{address("2001:db8::1"), address("2001:db8::2"), address("2001:db8::3")}},
		"longer than it is":          {changed(rdnss(600, "2001:db8::53"), 1, 9), nil},
		"of no length":               {changed(rdnss(600, "2001:db8::53"), 1, 0), nil},
		"without a resolver":         {rdnss(600), nil},
		"another option":             {changed(rdnss(600, "2001:db8::53"), 0, 31), nil},
		"half an address at the end": {changed(rdnss(600, "2001:db8::53", "2001:db8::54"), 1, 4), []netip.Addr{address("2001:db8::53")}},
	} {
		got := parseTiding(syscall.NetlinkMessage{Header: syscall.NlMsghdr{Type: unix.RTM_NEWNDUSEROPT}, Data: userOption(c.option)})
		require.Equal(t, c.want, got.resolvers, name)
	}
}

func FuzzNetlink(f *testing.F) {
	link := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint16(link[2:], unix.ARPHRD_ETHER)
	binary.NativeEndian.PutUint32(link[4:], 3)
	binary.NativeEndian.PutUint32(link[8:], unix.IFF_UP|unix.IFF_RUNNING)
	named := attribute(attribute(slices.Clone(link), unix.IFLA_IFNAME, []byte("eth0\x00")), unix.IFLA_ADDRESS, []byte{2, 0, 0, 0, 0, 1})
	f.Add(uint16(unix.RTM_NEWLINK), named)
	f.Add(uint16(unix.RTM_NEWLINK), link)
	f.Add(uint16(unix.RTM_NEWLINK), named[:len(named)-5])
	f.Add(uint16(unix.RTM_NEWLINK), append(slices.Clone(link), 9, 0, 3, 0, 1, 2, 3, 4, 5)) // the last one unpadded
	six := slices.Clone(link)
	six[0] = unix.AF_INET6
	flags := attribute(nil, iflaInet6Flags, binary.NativeEndian.AppendUint32(nil, raManaged))
	f.Add(uint16(unix.RTM_NEWLINK), attribute(slices.Clone(six), unix.IFLA_PROTINFO|unix.NLA_F_NESTED, attribute(slices.Clone(attribute(nil, 9, []byte{1})), iflaInet6Flags, flags[4:])))
	f.Add(uint16(unix.RTM_NEWLINK), attribute(slices.Clone(six), unix.IFLA_PROTINFO, []byte{200, 0, 1, 0, 0}))
	f.Add(uint16(unix.RTM_NEWLINK), append(slices.Clone(six), 1, 0, 0, 0))
	f.Add(uint16(unix.RTM_NEWLINK), six[:8])
	f.Add(uint16(unix.RTM_NEWADDR), addressBody(3, netip.MustParsePrefix("192.0.2.1/24")))
	f.Add(uint16(unix.RTM_NEWADDR), append([]byte{unix.AF_INET6, 129, 0, 0, 3, 0, 0, 0}, attribute(nil, unix.IFA_ADDRESS, make([]byte, 16))...))
	f.Add(uint16(unix.RTM_NEWADDR), []byte{unix.AF_INET, 8, unix.IFA_F_TENTATIVE, 0, 3, 0, 0, 0})
	f.Add(uint16(unix.RTM_NEWADDR), []byte{unix.AF_INET, 8, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0})
	f.Add(uint16(unix.RTM_NEWNDUSEROPT), userOption(rdnss(600, "2001:db8::53")))
	f.Add(uint16(unix.RTM_NEWNDUSEROPT), userOption(rdnss(0)))
	f.Add(uint16(unix.RTM_NEWNDUSEROPT), userOption(rdnss(0, "::1")))
	f.Add(uint16(unix.RTM_NEWNDUSEROPT), []byte{})
	f.Add(uint16(0), []byte{})
	f.Fuzz(func(t *testing.T, kind uint16, data []byte) {
		m := syscall.NetlinkMessage{Header: syscall.NlMsghdr{Len: uint32(unix.SizeofNlMsghdr + len(data)), Type: kind}, Data: data}
		if a, ok := parseAdapter(m); ok {
			require.True(t, a.name != "" && len(a.mac) == 6)
		}
		if p, _, ok := parseAddress(m); ok {
			require.True(t, p.IsValid())
		}
		require.LessOrEqual(t, len(parseTiding(m).resolvers), maxResolvers)
	})
}

// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// netAdapter is a network interface that a cable goes into.
type netAdapter struct {
	index   int
	name    string
	mac     []byte
	raised  bool // it may look for a cable
	carrier bool // and has found one that is live at the other end
}

// netlinkSocket opens rtnetlink(7), joined to groups (RTNLGRP_...).
func netlinkSocket(groups ...int) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("network: %w", err)
	}
	f := os.NewFile(uintptr(fd), "rtnetlink")
	err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	for _, g := range groups {
		err = errors.Join(err, unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, g))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("network: %w", err), f.Close())
	}
	return f, nil
}

// receiveNetlink waits for the kernel's next messages. The error is ENOBUFS when some were lost.
func receiveNetlink(f *os.File) ([]syscall.NetlinkMessage, error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	buf := make([]byte, 64<<10)
	for {
		var n int
		var from unix.Sockaddr
		var readErr error
		err := conn.Read(func(fd uintptr) bool {
			n, from, readErr = unix.Recvfrom(int(fd), buf, 0)
			return readErr != unix.EAGAIN
		})
		if err = errors.Join(err, readErr); err != nil {
			return nil, fmt.Errorf("network: %w", err)
		}
		if sender, ok := from.(*unix.SockaddrNetlink); ok && sender.Pid == 0 { // the kernel
			messages, err := syscall.ParseNetlinkMessage(buf[:n])
			if err != nil {
				return nil, fmt.Errorf("network: %w", err)
			}
			return messages, nil
		}
	}
}

// requestNetlink sends one request on a socket of its own and returns what the kernel answers, up to its word that this was all.
func requestNetlink(kind uint16, flags uint16, body []byte) (answers []syscall.NetlinkMessage, err error) {
	f, err := netlinkSocket()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	conn, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	request := make([]byte, unix.SizeofNlMsghdr, unix.SizeofNlMsghdr+len(body))
	binary.NativeEndian.PutUint32(request[0:], uint32(unix.SizeofNlMsghdr+len(body)))
	binary.NativeEndian.PutUint16(request[4:], kind)
	binary.NativeEndian.PutUint16(request[6:], unix.NLM_F_REQUEST|unix.NLM_F_ACK|flags)
	request = append(request, body...)
	var sendErr error
	err = conn.Control(func(fd uintptr) {
		sendErr = unix.Sendto(int(fd), request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	})
	if err = errors.Join(err, sendErr); err != nil {
		return nil, fmt.Errorf("network: %w", err)
	}
	for {
		messages, err := receiveNetlink(f)
		if err != nil {
			return nil, err
		}
		for _, m := range messages {
			switch m.Header.Type {
			case unix.NLMSG_DONE:
				return answers, nil
			case unix.NLMSG_ERROR:
				if len(m.Data) < 4 {
					return nil, errors.New("network: the kernel's answer is cut short")
				}
				if code := int32(binary.NativeEndian.Uint32(m.Data)); code != 0 {
					return nil, fmt.Errorf("network: %w", unix.Errno(-code))
				}
				return answers, nil
			}
			answers = append(answers, m)
		}
	}
}

// attribute appends one rtattr, padded to four bytes.
func attribute(b []byte, kind uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofRtAttr+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	for len(b)%unix.RTA_ALIGNTO != 0 {
		b = append(b, 0)
	}
	return b
}

// attributes reads rtattrs, one after the other, up to the first that does not fit. (Package syscall's reader panics on a last one that
// is not padded.)
func attributes(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= unix.SizeofRtAttr {
			length := int(binary.NativeEndian.Uint16(b))
			if length < unix.SizeofRtAttr || length > len(b) || !yield(binary.NativeEndian.Uint16(b[2:]), b[unix.SizeofRtAttr:length]) {
				return
			}
			b = b[min(len(b), (length+unix.RTA_ALIGNTO-1)&^(unix.RTA_ALIGNTO-1)):]
		}
	}
}

// listAdapters returns the machine's Ethernet adapters, by their index.
func listAdapters() ([]netAdapter, error) {
	messages, err := requestNetlink(unix.RTM_GETLINK, unix.NLM_F_DUMP, make([]byte, unix.SizeofIfInfomsg))
	if err != nil {
		return nil, err
	}
	var list []netAdapter
	for _, m := range messages {
		if a, ok := parseAdapter(m); ok {
			list = append(list, a)
		}
	}
	return list, nil
}

// parseAdapter reads an RTM_NEWLINK; ok is false when it is not of an Ethernet adapter.
func parseAdapter(m syscall.NetlinkMessage) (a netAdapter, ok bool) {
	if m.Header.Type != unix.RTM_NEWLINK || len(m.Data) < unix.SizeofIfInfomsg || binary.NativeEndian.Uint16(m.Data[2:]) != unix.ARPHRD_ETHER {
		return netAdapter{}, false
	}
	flags := binary.NativeEndian.Uint32(m.Data[8:])
	a = netAdapter{
		index: int(int32(binary.NativeEndian.Uint32(m.Data[4:]))), raised: flags&unix.IFF_UP != 0,
		carrier: flags&unix.IFF_UP != 0 && flags&unix.IFF_RUNNING != 0,
	}
	for kind, value := range attributes(m.Data[unix.SizeofIfInfomsg:]) {
		switch kind {
		case unix.IFLA_IFNAME:
			a.name = string(value[:max(0, len(value)-1)])
		case unix.IFLA_ADDRESS:
			a.mac = value
		}
	}
	return a, a.name != "" && len(a.mac) == 6
}

// raise lets an adapter look for a cable.
func raise(index int) error {
	body := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(body[4:], uint32(index))
	binary.NativeEndian.PutUint32(body[8:], unix.IFF_UP)
	binary.NativeEndian.PutUint32(body[12:], unix.IFF_UP)
	_, err := requestNetlink(unix.RTM_NEWLINK, 0, body)
	return err
}

// setAddress gives an adapter an address that the kernel takes away by itself after life; 0 means that it stays. An address that is
// there gets its life anew.
func setAddress(index int, p netip.Prefix, life time.Duration) error {
	body := addressBody(index, p)
	if life > 0 {
		seconds := uint32(max(life/time.Second, 1))
		cache := binary.NativeEndian.AppendUint32(nil, seconds) // struct ifa_cacheinfo: preferred, valid, two times that the kernel sets
		cache = binary.NativeEndian.AppendUint32(cache, seconds)
		body = attribute(body, unix.IFA_CACHEINFO, append(cache, make([]byte, 8)...))
	}
	_, err := requestNetlink(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, body)
	return err
}

// removeAddress takes an address away, and with it the routes that it carries. One that is not there is no error.
func removeAddress(index int, p netip.Prefix) error {
	_, err := requestNetlink(unix.RTM_DELADDR, 0, addressBody(index, p))
	if errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}

// addressBody is struct ifaddrmsg and the address.
func addressBody(index int, p netip.Prefix) []byte {
	body := []byte{family(p.Addr()), byte(p.Bits()), 0, unix.RT_SCOPE_UNIVERSE}
	body = binary.NativeEndian.AppendUint32(body, uint32(index))
	body = attribute(body, unix.IFA_LOCAL, p.Addr().AsSlice())
	return attribute(body, unix.IFA_ADDRESS, p.Addr().AsSlice())
}

// setRouter sends through a router what is not in the adapter's own network. The router need not lie in that network: some give
// addresses of their own one by one.
func setRouter(index int, router netip.Addr) error {
	body := []byte{family(router), 0, 0, 0, unix.RT_TABLE_MAIN, unix.RTPROT_DHCP, unix.RT_SCOPE_UNIVERSE, unix.RTN_UNICAST}
	body = binary.NativeEndian.AppendUint32(body, unix.RTNH_F_ONLINK)
	body = attribute(body, unix.RTA_GATEWAY, router.AsSlice())
	body = attribute(body, unix.RTA_OIF, binary.NativeEndian.AppendUint32(nil, uint32(index)))
	_, err := requestNetlink(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, body)
	return err
}

func family(a netip.Addr) byte {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// listAddresses returns an adapter's addresses of a family that are in use: those still being probed for a twin are not.
func listAddresses(index int, family byte) ([]netip.Prefix, error) {
	body := make([]byte, unix.SizeofIfAddrmsg)
	body[0] = family
	messages, err := requestNetlink(unix.RTM_GETADDR, unix.NLM_F_DUMP, body)
	if err != nil {
		return nil, err
	}
	var list []netip.Prefix
	for _, m := range messages {
		if p, of, ok := parseAddress(m); ok && of == index {
			list = append(list, p)
		}
	}
	return list, nil
}

// parseAddress reads an RTM_NEWADDR of an address in use.
func parseAddress(m syscall.NetlinkMessage) (p netip.Prefix, index int, ok bool) {
	if m.Header.Type != unix.RTM_NEWADDR || len(m.Data) < unix.SizeofIfAddrmsg || m.Data[2]&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) != 0 {
		return netip.Prefix{}, 0, false
	}
	var address netip.Addr
	for kind, value := range attributes(m.Data[unix.SizeofIfAddrmsg:]) {
		if kind == unix.IFA_LOCAL || kind == unix.IFA_ADDRESS && !address.IsValid() { // IPv6 has no IFA_LOCAL
			address, _ = netip.AddrFromSlice(value)
		}
	}
	p = netip.PrefixFrom(address, int(m.Data[1]))
	return p, int(binary.NativeEndian.Uint32(m.Data[4:])), p.IsValid()
}

// tiding is what the kernel says of itself: that something changed, and what routers advertise.
type tiding struct {
	adapter   int
	resolvers []netip.Addr // RFC 8106
	managed   bool         // the router says that DHCPv6 gives addresses; one that has only the rest names resolvers by itself
}

// watchKernel hands on what changes until ctx ends. A loss of messages is news too.
func watchKernel(ctx context.Context, f *os.File, out chan<- tiding) error {
	for {
		messages, err := receiveNetlink(f)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS):
			messages = []syscall.NetlinkMessage{{}}
		case err != nil:
			return err
		}
		for _, m := range messages {
			select {
			case out <- parseTiding(m):
			case <-ctx.Done():
				return nil
			}
		}
	}
}

// What a router advertisement set on an adapter (linux/if_link.h, net/if_inet6.h).
const (
	iflaInet6Flags = 1
	raManaged      = 0x40
)

// parseTiding reads what is used of a message of the watched groups.
func parseTiding(m syscall.NetlinkMessage) tiding {
	switch m.Header.Type {
	case unix.RTM_NEWNDUSEROPT:
		return parseAdvertised(m.Data)
	case unix.RTM_NEWLINK:
		if len(m.Data) < unix.SizeofIfInfomsg || m.Data[0] != unix.AF_INET6 {
			return tiding{}
		}
		t := tiding{adapter: int(int32(binary.NativeEndian.Uint32(m.Data[4:])))}
		for kind, nested := range attributes(m.Data[unix.SizeofIfInfomsg:]) {
			if kind&^unix.NLA_F_NESTED != unix.IFLA_PROTINFO {
				continue
			}
			for kind, value := range attributes(nested) {
				if kind == iflaInet6Flags && len(value) >= 4 {
					t.managed = binary.NativeEndian.Uint32(value)&raManaged != 0
				}
			}
		}
		return t
	}
	return tiding{}
}

// Option of router advertisements that names resolvers (RFC 8106, 5.1): type, length in 8 bytes, two reserved, u32 life in seconds,
// addresses.
const optionRDNSS = 25

// parseAdvertised reads struct nduseroptmsg and the option in it, which is as a router sent it.
func parseAdvertised(b []byte) tiding {
	const header = 16
	if len(b) < header+8 || b[0] != unix.AF_INET6 {
		return tiding{}
	}
	t := tiding{adapter: int(int32(binary.NativeEndian.Uint32(b[4:])))}
	option := b[header:]
	size := int(option[1]) * 8
	if option[0] != optionRDNSS || size < 24 || size > len(option) {
		return tiding{}
	}
	t.resolvers = []netip.Addr{}
	if binary.BigEndian.Uint32(option[4:]) == 0 { // no longer
		return t
	}
	for at := 8; at+16 <= size && len(t.resolvers) < maxResolvers; at += 16 {
		if a, ok := machineAddress(option[at : at+16]); ok && !a.IsLinkLocalUnicast() {
			t.resolvers = append(t.resolvers, a)
		}
	}
	return t
}

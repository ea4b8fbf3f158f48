// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"

	"sdbox/firmware/slot"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// cable is a box's network adapter and the socket in the wall: a pair of virtual Ethernet interfaces, the wall's side in the network
// of the tests, the box's in that of a role that runs as it does in a box.
type cable struct {
	t       *testing.T
	wall    string // interface
	pid     int    // of the role
	reports <-chan report
	site    *Site
	slots   *os.File
}

func ip(t *testing.T, args ...string) {
	t.Helper()
	out, err := exec.Command("ip", args...).CombinedOutput()
	require.NoError(t, err, "ip %v: %s", args, out)
}

// plug starts the role with an adapter whose cable goes into a wall. Its disk has not come yet.
func plug(t *testing.T) *cable {
	require.Zero(t, os.Geteuid(), "the test makes networks: run it as root")
	reportR, reportW, err := os.Pipe()
	require.NoError(t, err)
	slotR, slotW, err := os.Pipe()
	require.NoError(t, err)
	role := &exec.Cmd{
		Path: "/proc/self/exe", Args: []string{testRole}, Env: []string{"GOCOVERDIR=" + t.TempDir()}, ExtraFiles: []*os.File{slotR, reportW}, Stderr: t.Output(),
		SysProcAttr: &syscall.SysProcAttr{
			Cloneflags: unix.CLONE_NEWNET, Pdeathsig: unix.SIGKILL,
			Credential:  &syscall.Credential{Uid: UserNet, Gid: UserNet},
			AmbientCaps: roleSpecs()[RoleNetwork].caps,
		},
	}
	require.NoError(t, role.Start())
	require.NoError(t, reportW.Close())
	require.NoError(t, slotR.Close())
	c := &cable{t: t, wall: fmt.Sprintf("wall%d", role.Process.Pid), pid: role.Process.Pid}
	reports := make(chan report)
	c.reports = reports
	done := make(chan struct{})
	go func() {
		defer close(done)
		lines := bufio.NewScanner(reportR)
		for lines.Scan() {
			var r report
			if json.Unmarshal(lines.Bytes(), &r) == nil {
				select {
				case reports <- r:
				case <-t.Context().Done():
				}
			}
		}
	}()
	t.Cleanup(func() {
		_ = role.Process.Kill()
		_ = role.Wait() // killed
		<-done
		require.NoError(t, reportR.Close())
		_ = exec.Command("ip", "link", "del", c.wall).Run() // it went with the role's network
	})
	ip(t, "link", "add", c.wall, "type", "veth", "peer", "name", "eth0", "netns", strconv.Itoa(c.pid))
	c.slots = slotW
	t.Cleanup(func() { _ = slotW.Close() }) // disk closes it too
	return c
}

// disk gives the role its configuration slots.
func (c *cable) disk(slots []byte) {
	_, err := c.slots.Write(slots)
	require.NoError(c.t, err)
	require.NoError(c.t, c.slots.Close())
}

// box runs ip(8) in the box's network and returns what it says.
func (c *cable) box(args ...string) string {
	out, err := exec.Command("nsenter", append([]string{"--net=/proc/" + strconv.Itoa(c.pid) + "/ns/net", "ip"}, args...)...).CombinedOutput()
	require.NoError(c.t, err, "%s", out)
	return string(out)
}

// hostile answers questions by a script, in order. A question that is not the next one of the script is not answered.
func (c *cable) hostile(script []answer) {
	bind := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var optionErr error
		err := raw.Control(func(fd uintptr) {
			optionErr = errors.Join(unix.BindToDevice(int(fd), c.wall), unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1),
				// dnsmasq of another test takes the port before it says at which interface.
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1), unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1))
		})
		return errors.Join(err, optionErr)
	}}
	conn, err := bind.ListenPacket(c.t.Context(), "udp4", ":67")
	require.NoError(c.t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 1500)
		for len(script) > 0 {
			n, _, err := conn.ReadFrom(b)
			if err != nil {
				return
			}
			q, err := dhcpv4.FromBytes(b[:n])
			if err != nil || q.MessageType() != script[0].to {
				continue
			}
			for _, p := range script[0].packets {
				_, _ = conn.WriteTo(p(q), &net.UDPAddr{IP: net.IPv4bcast, Port: 68})
			}
			script = script[1:]
		}
	}()
	c.t.Cleanup(func() { _ = conn.Close(); <-done })
}

// next returns the next report of the network.
func (c *cable) next() networkReport {
	for {
		select {
		case r := <-c.reports:
			if r.Network != nil {
				return *r.Network
			}
			c.site = r.Site
		case <-time.After(30 * time.Second):
			require.FailNow(c.t, "the role says nothing")
		}
	}
}

// until reads reports up to one of this state.
func (c *cable) until(s NetworkState) networkReport {
	for {
		if r := c.next(); r.State == s {
			return r
		}
	}
}

// house starts dnsmasq on the wall's side.
func (c *cable) house(args ...string) (stop func()) {
	d := exec.Command("dnsmasq", append([]string{
		"--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--interface=" + c.wall, "--bind-interfaces", "--user=root",
		"--dhcp-leasefile=" + c.t.TempDir() + "/leases", "--dhcp-authoritative", "--no-ping", "--pid-file=", "--log-facility=-",
	}, args...)...)
	d.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	d.Stderr = c.t.Output()
	require.NoError(c.t, d.Start())
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			_ = d.Process.Kill()
			_ = d.Wait() // killed
		}
	}
	c.t.Cleanup(stop)
	return stop
}

func TestAddressComesFromTheNetworkAndFollowsIt(t *testing.T) {
	t.Parallel()
	c := plug(t)
	require.Equal(t, NoCable, c.until(NoCable).State)
	ip(t, "link", "set", c.wall, "up")
	require.Equal(t, NoAddress, c.until(NoAddress).State, "nobody answers")
	ip(t, "addr", "add", "192.0.2.1/24", "dev", c.wall)
	stop := c.house("--dhcp-range=192.0.2.10,192.0.2.10,255.255.255.0,10m", "--dhcp-option=option:dns-server,192.0.2.53", "--dhcp-option=option:router,192.0.2.1")
	up := c.until(Up)
	require.Equal(t, networkReport{Up, "eth0", netip.MustParsePrefix("192.0.2.10/24"), []netip.Addr{netip.MustParseAddr("192.0.2.53")}}, up)
	require.Contains(t, c.box("route"), "default via 192.0.2.1 dev eth0")
	ip(t, "link", "set", c.wall, "down")
	require.Equal(t, NoCable, c.next().State)
	require.Contains(t, c.box("addr", "show", "eth0"), "192.0.2.10/24", "it may be the same network again")
	stop()
	ip(t, "link", "set", c.wall, "up")
	c.house("--dhcp-range=192.0.2.77,192.0.2.77,255.255.255.0,10m")
	require.Equal(t, netip.MustParsePrefix("192.0.2.77/24"), c.until(Up).Address)
	require.NotContains(t, c.box("addr", "show", "eth0"), "192.0.2.10/24")
}

func TestStaticAddressIsTheSlots(t *testing.T) {
	t.Parallel()
	addresses := []netip.Prefix{netip.MustParsePrefix("198.51.100.7/24"), netip.MustParsePrefix("2001:db8:7::7/64")}
	raw, err := slot.Encode(1, slot.Settings{
		Network: slot.Static, Addresses: addresses, Routers: []netip.Addr{netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("fe80::1")},
		Resolvers: []netip.Addr{netip.MustParseAddr("198.51.100.53")}, Gateways: []string{"gw7.lab:443"}, Language: "fr",
	})
	require.NoError(t, err)
	c := plug(t)
	ip(t, "link", "set", c.wall, "up")
	ip(t, "addr", "add", "192.0.2.1/24", "dev", c.wall)
	c.house("--dhcp-range=192.0.2.10,192.0.2.10,255.255.255.0,10m", "--dhcp-option=option:dns-server,192.0.2.53")
	require.Equal(t, netip.MustParsePrefix("192.0.2.10/24"), c.until(Up).Address, "the disk comes late")
	c.disk(append(make([]byte, slot.Size), raw...))
	require.Equal(t, networkReport{Up, "eth0", addresses[0], []netip.Addr{netip.MustParseAddr("198.51.100.53")}}, c.until(Up))
	require.NotContains(t, c.box("addr", "show", "eth0"), "192.0.2.10/24")
	require.Equal(t, &Site{Gateways: []string{"gw7.lab:443"}, Language: "fr"}, c.site)
	require.Contains(t, c.box("route"), "default via 198.51.100.1 dev eth0")
	require.Contains(t, c.box("-6", "route"), "default via fe80::1 dev eth0")
	ip(t, "link", "set", c.wall, "down")
	require.Equal(t, NoCable, c.next().State)
	ip(t, "link", "set", c.wall, "up")
	require.Equal(t, addresses[0], c.until(Up).Address)
}

func TestIPv6ComesByAdvertisementAndDHCPv6(t *testing.T) {
	t.Parallel()
	c := plug(t)
	ip(t, "link", "set", c.wall, "up")
	ip(t, "addr", "add", "2001:db8:6::1/64", "dev", c.wall, "nodad")
	c.house("--enable-ra", "--dhcp-range=2001:db8:6::100,2001:db8:6::100,64,10m", "--dhcp-option=option6:dns-server,[2001:db8:6::53]", "--ra-param="+c.wall+",high,4")
	for up := c.until(Up); up.Address.Addr() != netip.MustParseAddr("2001:db8:6::100") || len(up.Resolvers) == 0; up = c.until(Up) {
	}
	require.Contains(t, c.box("-6", "route"), "default via fe80::")
}

func TestIPv6ComesByAdvertisementAlone(t *testing.T) {
	t.Parallel()
	c := plug(t)
	ip(t, "link", "set", c.wall, "up")
	ip(t, "addr", "add", "2001:db8:5::1/64", "dev", c.wall, "nodad")
	c.house("--enable-ra", "--dhcp-range=2001:db8:5::,ra-stateless", "--dhcp-option=option6:dns-server,[2001:db8:5::53]", "--ra-param="+c.wall+",high,4")
	up := c.until(Up)
	for ; len(up.Resolvers) == 0; up = c.until(Up) {
	}
	require.True(t, netip.MustParsePrefix("2001:db8:5::/64").Contains(up.Address.Addr()))
	require.Equal(t, []netip.Addr{netip.MustParseAddr("2001:db8:5::53")}, up.Resolvers)
}

// packet4 makes a datagram for a question.
type packet4 func(*dhcpv4.DHCPv4) []byte

// answer is what a hostile house answers to a question of a type.
type answer struct {
	to      dhcpv4.MessageType
	packets []packet4
}

// reply makes a well-formed answer.
func reply(kind dhcpv4.MessageType, address string, more ...dhcpv4.Modifier) packet4 {
	return func(q *dhcpv4.DHCPv4) []byte {
		a, err := dhcpv4.NewReplyFromRequest(q, append([]dhcpv4.Modifier{
			dhcpv4.WithMessageType(kind), dhcpv4.WithYourIP(net.ParseIP(address)), dhcpv4.WithServerIP(net.IPv4(203, 0, 113, 1)),
			dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4(203, 0, 113, 1))), dhcpv4.WithLeaseTime(600), dhcpv4.WithNetmask(net.CIDRMask(24, 32)),
		}, more...)...)
		if err != nil {
			return nil
		}
		return a.ToBytes()
	}
}

func TestHostileHouseGivesNothingThatIsNoAddress(t *testing.T) {
	t.Parallel()
	c := plug(t)
	ip(t, "link", "set", c.wall, "up")
	ip(t, "addr", "add", "203.0.113.1/24", "dev", c.wall)
	offer, ack := dhcpv4.MessageTypeOffer, dhcpv4.MessageTypeAck
	cut := func(n int) packet4 {
		return func(q *dhcpv4.DHCPv4) []byte { return reply(offer, "203.0.113.9")(q)[:n] }
	}
	garbage := func(*dhcpv4.DHCPv4) []byte { return bytes.Repeat([]byte{0xff}, 1400) }
	good := reply(offer, "203.0.113.9")
	discover, request := dhcpv4.MessageTypeDiscover, dhcpv4.MessageTypeRequest
	c.hostile([]answer{
		{discover, []packet4{garbage, cut(0), cut(200), cut(245), reply(ack, "203.0.113.66"), good}}, {request, []packet4{reply(dhcpv4.MessageTypeNak, "0.0.0.0")}},
		{discover, []packet4{good}}, {request, []packet4{reply(ack, "127.0.0.1")}},
		{discover, []packet4{good}}, {request, []packet4{reply(ack, "203.0.113.9",
			dhcpv4.WithOption(dhcpv4.OptRouter(net.IPv4(0, 0, 0, 0), net.IPv4(224, 0, 0, 1), net.IPv4(203, 0, 113, 1))),
			dhcpv4.WithOption(dhcpv4.OptDNS(net.IPv4(127, 0, 0, 1), net.IPv4zero, net.IPv4(203, 0, 113, 53))))}},
	})
	up := c.until(Up)
	require.Equal(t, networkReport{Up, "eth0", netip.MustParsePrefix("203.0.113.9/24"), []netip.Addr{netip.MustParseAddr("203.0.113.53")}}, up)
	require.Contains(t, c.box("route"), "default via 203.0.113.1 dev eth0")
}

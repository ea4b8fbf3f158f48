// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"bufio"
	"bytes"
	"encoding/json"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"

	"sdbox/firmware/slot"

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
}

func ip(t *testing.T, args ...string) {
	t.Helper()
	out, err := exec.Command("ip", args...).CombinedOutput()
	require.NoError(t, err, "ip %v: %s", args, out)
}

// plug starts the role with these configuration slots and an adapter whose cable goes into a wall.
func plug(t *testing.T, slots []byte) *cable {
	require.Zero(t, os.Geteuid(), "the test makes networks: run it as root")
	reportR, reportW, err := os.Pipe()
	require.NoError(t, err)
	slotR, slotW, err := os.Pipe()
	require.NoError(t, err)
	role := &exec.Cmd{
		Path: "/proc/self/exe", Args: []string{testRole}, Env: []string{"GOCOVERDIR=" + t.TempDir()}, ExtraFiles: []*os.File{reportW, slotR}, Stderr: t.Output(),
		SysProcAttr: &syscall.SysProcAttr{
			Cloneflags: unix.CLONE_NEWNET, Pdeathsig: unix.SIGKILL,
			Credential:  &syscall.Credential{Uid: UserNet, Gid: UserNet},
			AmbientCaps: roleSpecs()[RoleNetwork].caps,
		},
	}
	require.NoError(t, role.Start())
	require.NoError(t, reportW.Close())
	require.NoError(t, slotR.Close())
	c := &cable{t: t, wall: "wall", pid: role.Process.Pid}
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
	ip(t, "link", "set", c.wall, "up")
	_, err = slotW.Write(slots)
	require.NoError(t, err)
	require.NoError(t, slotW.Close())
	return c
}

// next returns the next report of the network.
func (c *cable) next() networkReport {
	for {
		select {
		case r := <-c.reports:
			if r.Network != nil {
				return *r.Network
			}
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

func static(t *testing.T, s slot.Settings) []byte {
	raw, err := slot.Encode(1, s)
	require.NoError(t, err)
	return append(raw, bytes.Repeat([]byte{0}, slot.Size)...)
}

func TestAddressComesFromTheNetworkAndFollowsIt(t *testing.T) {
	c := plug(t, nil)
	ip(t, "addr", "add", "192.0.2.1/24", "dev", c.wall)
	stop := c.house("--dhcp-range=192.0.2.10,192.0.2.10,255.255.255.0,10m", "--dhcp-option=option:dns-server,192.0.2.53", "--dhcp-option=option:router,192.0.2.1")
	up := c.until(Up)
	require.Equal(t, netip.MustParsePrefix("192.0.2.10/24"), up.Address)
	require.Equal(t, []netip.Addr{netip.MustParseAddr("192.0.2.53")}, up.Resolvers)
	require.Equal(t, "eth0", up.Adapter)
	ip(t, "link", "set", c.wall, "down")
	require.Equal(t, NoCable, c.next().State)
	stop()
	ip(t, "link", "set", c.wall, "up")
	c.house("--dhcp-range=192.0.2.77,192.0.2.77,255.255.255.0,10m")
	require.Equal(t, netip.MustParsePrefix("192.0.2.77/24"), c.until(Up).Address)
}

// SPDX-License-Identifier: Apache-2.0

package house_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"sdbox/internal/lab/house"
	labnet "sdbox/internal/lab/net"
	"sdbox/internal/tpm/tpmsim"

	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) {
	house.Main()
	if dir := os.Getenv(lonelyEnv); dir != "" {
		fmt.Println("lonely house:", lonely(dir))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// open makes a house under /tmp: paths of sockets must stay short.
func open(t *testing.T) *house.House {
	dir, err := os.MkdirTemp("", "house")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	h, err := house.Open(dir, "")
	require.NoError(t, err)
	return h
}

func place(t *testing.T, h *house.House, name string, accounts ...house.Account) *house.Place {
	p, err := h.NewPlace(name, accounts...)
	require.NoError(t, err)
	return p
}

func run(t *testing.T, p *house.Place, argv ...string) string {
	out, err := p.Run(t.Context(), house.Account{}, []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, argv[0], argv[1:]...)
	require.NoError(t, err)
	return string(out)
}

// TestPlaceIsAMachineOfItsOwn: processes, files, accounts, host name and network are its own; nothing shows outside.
func TestPlaceIsAMachineOfItsOwn(t *testing.T) {
	h := open(t)
	defer h.Close()
	p := place(t, h, "epi", house.Account{Name: "durand", UID: 2001, Full: "Camille Durand"})
	other := place(t, h, "econ")

	require.Equal(t, "epi\n", run(t, p, "/usr/bin/uname", "-n"))
	require.Regexp(t, `durand:x:2001:2001:Camille Durand:/home/durand:/bin/bash`, run(t, p, "/usr/bin/getent", "passwd", "durand"))
	require.Contains(t, run(t, p, "/usr/bin/stat", "-c", "%U %a", "/home/durand"), "durand 700")
	require.LessOrEqual(t, len(strings.Fields(run(t, p, "/usr/bin/ps", "-e", "-o", "pid="))), 2, "a place sees its own processes")

	require.NoError(t, os.WriteFile(filepath.Join(other.Dir(), "secret"), []byte("x"), 0o644))
	_, err := p.Run(t.Context(), house.Account{}, nil, "/usr/bin/test", "-e", filepath.Join(other.Dir(), "secret"))
	require.Error(t, err, "a place does not see its neighbours' files")
	run(t, p, "/usr/bin/touch", "/tmp/mark-of-epi", "/run/place/kept")
	require.NoFileExists(t, "/tmp/mark-of-epi")
	require.FileExists(t, p.Outside("/tmp/mark-of-epi"))
	require.FileExists(t, filepath.Join(p.Dir(), "kept"))

	host, err := os.ReadFile("/etc/passwd")
	require.NoError(t, err)
	require.NotContains(t, string(host), "durand")
}

// TestPlacesReachOnlyWhatTheyAreJoinedTo: two bubbles on one gateway reach neither one another nor the box beyond it.
func TestPlacesReachOnlyWhatTheyAreJoinedTo(t *testing.T) {
	h := open(t)
	defer h.Close()
	gateway, epi, econ := place(t, h, "gw1"), place(t, h, "epi"), place(t, h, "econ")
	require.NoError(t, h.Wire(
		house.End{Place: gateway, Interface: "epi", Address: "10.72.1.1/24"}, house.End{Place: epi, Interface: "eth0", Address: "10.72.1.2/24"}))
	require.NoError(t, h.Wire(
		house.End{Place: gateway, Interface: "econ", Address: "10.72.2.1/24"}, house.End{Place: econ, Interface: "eth0", Address: "10.72.2.2/24"}))

	_, err := ping(t, gateway, "10.72.1.2")
	require.NoError(t, err)
	for _, target := range []string{"10.72.2.2", "10.72.2.1", "1.1.1.1"} {
		_, err := ping(t, epi, target)
		require.Error(t, err, target)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	_, err = epi.Dial(t.Context(), "tcp", l.Addr().String())
	require.Error(t, err, "the host's loopback is not the place's")
}

// TestDialEntersThePlace: a connection made by the lab comes out inside, on the place's own loopback.
func TestDialEntersThePlace(t *testing.T) {
	h := open(t)
	defer h.Close()
	p := place(t, h, "box")
	server, err := p.Start("server", nil, "/usr/bin/perl", "-MIO::Socket::INET", "-e",
		`my $l = IO::Socket::INET->new(Listen => 1, LocalAddr => "127.0.0.1:35963") or die; while (my $c = $l->accept) { print $c "inside\n"; close $c }`)
	require.NoError(t, err)
	var conn net.Conn
	require.Eventually(t, func() bool {
		conn, err = p.Dial(t.Context(), "tcp", "127.0.0.1:35963")
		return err == nil
	}, 5*time.Second, 10*time.Millisecond)
	answer, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.Equal(t, "inside\n", string(answer))

	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	require.NoError(t, server.Stop(ctx))
	require.Error(t, server.Err(), "ended by a signal")
}

// TestLinkDelaysLosesAndUnplugs measures the link's conditions with ping, an independent program.
func TestLinkDelaysLosesAndUnplugs(t *testing.T) {
	h := open(t)
	defer h.Close()
	gateway, box := place(t, h, "gw1"), place(t, h, "box")
	link, err := h.Join(1, house.End{Place: box, Interface: "eth0", Address: "10.71.1.2/24"},
		house.End{Place: gateway, Interface: "box1", Address: "10.71.1.1/24"})
	require.NoError(t, err)

	_, err = ping(t, box, "10.71.1.1") // neighbour lookup
	require.NoError(t, err)
	require.NoError(t, link.Set(labnet.Conditions{Delay: 20 * time.Millisecond}))
	best := time.Hour // the fastest of some: a busy machine only adds
	for range 5 {
		rtt, err := ping(t, box, "10.71.1.1")
		require.NoError(t, err)
		best = min(best, rtt)
	}
	require.GreaterOrEqual(t, best, 40*time.Millisecond, "two ways of 20 ms")
	require.Less(t, best, 100*time.Millisecond)

	require.NoError(t, link.Set(labnet.Conditions{Loss: 1}))
	_, err = ping(t, box, "10.71.1.1")
	require.Error(t, err)

	require.NoError(t, link.Set(labnet.Conditions{Unplugged: true}))
	require.Contains(t, run(t, box, "/usr/sbin/ip", "-o", "link", "show", "eth0"), "NO-CARRIER")
	require.NoError(t, link.Set(labnet.Conditions{}))
	require.Eventually(t, func() bool {
		_, err := ping(t, box, "10.71.1.1")
		return err == nil
	}, 5*time.Second, 10*time.Millisecond, "plugged in again")

	require.Error(t, link.Set(labnet.Conditions{Loss: 2}))
	require.Error(t, link.Set(labnet.Conditions{Delay: -1}))
}

func ping(t *testing.T, from *house.Place, to string) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	return from.Ping(ctx, to)
}

// lonelyEnv makes the test's program open a house in this folder and wait to be killed.
const lonelyEnv = "SDBOX_LONELY_HOUSE"

// lonely opens a house with all that runs on a lab's machine: a place, a program in it, a link, a TPM.
func lonely(dir string) error {
	h, err := house.Open(dir, "")
	if err != nil {
		return err
	}
	a, err := h.NewPlace("a")
	if err != nil {
		return err
	}
	b, err := h.NewPlace("b")
	if err != nil {
		return err
	}
	if _, err := h.Join(1, house.End{Place: a, Interface: "eth0", Address: "10.71.1.2/24"}, house.End{Place: b, Interface: "eth0", Address: "10.71.1.1/24"}); err != nil {
		return err
	}
	if _, err := a.Start("stubborn", nil, "/bin/sh", "-c", "trap '' TERM INT HUP; setsid sleep 1000 "+dir+"; sleep 1000 & wait"); err != nil {
		return err
	}
	if _, err := tpmsim.Start(context.Background(), tpmsim.Config{Dir: filepath.Join(dir, "tpm"), Socket: a.Outside("/run/tpm.sock")}); err != nil {
		return err
	}
	fmt.Println("ready")
	select {}
}

// TestNothingOutlivesALabThatIsKilled: kill -9, in which nobody closes anything.
func TestNothingOutlivesALabThatIsKilled(t *testing.T) {
	dir, err := os.MkdirTemp("", "lonely")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	running := func() (list []string) { // whose command line names the folder
		files, err := filepath.Glob("/proc/[0-9]*/cmdline")
		require.NoError(t, err)
		for _, file := range files {
			if line, err := os.ReadFile(file); err == nil && strings.Contains(string(line), dir) {
				list = append(list, strings.ReplaceAll(string(line), "\x00", " "))
			}
		}
		return list
	}
	lab := exec.CommandContext(t.Context(), os.Args[0])
	lab.Env = append(os.Environ(), lonelyEnv+"="+dir)
	out, err := lab.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, lab.Start())
	said, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "ready\n", said)
	require.GreaterOrEqual(t, len(running()), 4, "two places, a program, a TPM: %v", running())
	require.NoError(t, lab.Process.Kill())
	require.Error(t, lab.Wait())
	require.Eventually(t, func() bool { return len(running()) == 0 }, 10*time.Second, 10*time.Millisecond, "still there")
}

// TestNothingStaysAfterClose: no process, no mount, no interface outlives the house, not even a program that ignores signals
// or has left its parent.
func TestNothingStaysAfterClose(t *testing.T) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	interfaces, err := net.Interfaces()
	require.NoError(t, err)

	h := open(t)
	a, b := place(t, h, "a"), place(t, h, "b")
	_, err = h.Join(1, house.End{Place: a, Interface: "eth0", Address: "10.71.1.2/24"}, house.End{Place: b, Interface: "eth0", Address: "10.71.1.1/24"})
	require.NoError(t, err)
	stubborn, err := a.Start("stubborn", nil, "/bin/sh", "-c", "trap '' TERM INT HUP; setsid sleep 1000 & wait")
	require.NoError(t, err)
	inside := strings.Fields(run(t, a, "/usr/bin/ps", "-e", "-o", "args="))
	require.Contains(t, inside, "1000")

	require.NoError(t, h.Close())
	<-stubborn.Done()
	require.NoDirExists(t, filepath.Join("/proc", strconv.Itoa(stubborn.PID)))
	left, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	require.Equal(t, string(mounts), string(left))
	now, err := net.Interfaces()
	require.NoError(t, err)
	require.Len(t, now, len(interfaces))
}

// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sdbox/agent/screen"
	"sdbox/internal/lab/house"

	"github.com/stretchr/testify/require"
)

// TestBubbleIsSealed builds the lab once: while a person logs in and her desktop is shown, the box's link carries the front
// door, the tunnel and nothing else; what runs in her bubble reaches neither the other bubble, nor the gateway, nor the host.
func TestBubbleIsSealed(t *testing.T) {
	site, dir := build(t, house.Config{})

	t.Run("the link carries front door and tunnel alone", func(t *testing.T) {
		l := newLink(capture(t, site.Boxes[0], func(sofar func() [][]byte) {
			work(t, site)
			require.Eventually(t, func() bool { // a box that booted on a busy machine may have begun by the front door
				require.NoError(t, site.Boxes[0].Keyboard.Send(house.Tap(house.KeySpace)...))
				return newLink(sofar()).seen["tunnel data"] > 0
			}, patience, 200*time.Millisecond, "the tunnel carries her work")
		}))
		require.Empty(t, l.strange, "neither front door nor tunnel nor neighbour lookup")
		for _, kind := range []string{"front door", "tunnel handshake", "tunnel data"} {
			require.Positive(t, l.seen[kind], "%s: %v", kind, l.seen)
		}
		for of, parts := range l.flows {
			require.NoError(t, records(parts), "%v is no TLS", of)
		}
		t.Log(l.seen)
	})
	epi := site.Bubbles[0].Place
	t.Run("no other place", func(t *testing.T) { reachesOnlyItself(t, epi) })
	t.Run("nor with a route made by its root", func(t *testing.T) {
		_, err := epi.Run(t.Context(), house.Account{}, nil, "/sbin/ip", "route", "add", "default", "via", "10.72.1.1")
		require.NoError(t, err)
		reachesOnlyItself(t, epi)
	})
	t.Run("no file or socket of the host", func(t *testing.T) { seesNoHost(t, epi, dir) })
}

// work takes a person at the first box from the boot to her desktop.
func work(t *testing.T, site *house.Site) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	box, person := site.Boxes[0], site.People[0]
	require.NoError(t, site.Boot(ctx, box))
	var eyes *house.Watcher
	require.Eventually(t, func() bool {
		var err error
		eyes, err = house.Watch(box.ScreenFile(), 20*time.Millisecond)
		return err == nil
	}, patience, 20*time.Millisecond)
	defer eyes.Close()
	require.NoError(t, site.Tray.Insert(ctx, person.GUID, box))
	impression, err := person.Impression(house.Right)
	require.NoError(t, err)
	_, err = box.Touch(ctx, impression)
	require.NoError(t, err)
	require.Eventually(t, func() bool { // Enter before the list is there does nothing
		require.NoError(t, box.Keyboard.Send(house.Tap(house.KeyEnter)...))
		require.NoError(t, eyes.Now(ctx))
		return eyes.Image.RGBAAt(1, screenMiddle) == site.Bubbles[0].Frame()
	}, patience, 50*time.Millisecond)
	typed, err := house.Typing("echo sealed\n")
	require.NoError(t, err)
	require.NoError(t, box.Keyboard.Send(typed...))
	_, err = eyes.Until(ctx, func(img *screen.Image) bool { return !dull(img) })
	require.NoError(t, err)
}

const screenMiddle = house.ScreenHeight / 2

// dull says whether the desktop shows one colour: its programs have drawn nothing yet.
func dull(img *screen.Image) bool {
	first := img.RGBAAt(200, screenMiddle)
	for x := 200; x < house.ScreenWidth-200; x += 10 {
		if img.RGBAAt(x, screenMiddle) != first {
			return false
		}
	}
	return true
}

// capture runs tcpdump on a box's only link while f runs, and returns the frames. f may ask for those that came so far.
func capture(t *testing.T, box *house.Box, f func(sofar func() [][]byte)) [][]byte {
	const file = "/run/place/link.pcap"
	dump, err := box.Place.Start("tcpdump", nil, "/usr/bin/tcpdump", "-i", "eth0", "-U", "--immediate-mode", "-Z", "root", "-w", file)
	require.NoError(t, err)
	read := func() []byte {
		raw, err := os.ReadFile(filepath.Join(box.Place.Dir(), filepath.Base(file)))
		if !errors.Is(err, os.ErrNotExist) {
			require.NoError(t, err)
		}
		return raw
	}
	require.Eventually(t, func() bool { return len(read()) >= 24 }, patience, 20*time.Millisecond, "tcpdump listens")
	f(func() [][]byte {
		frames, _ := packets(t, read())
		return frames
	})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	require.NoError(t, dump.Stop(ctx))
	frames, rest := packets(t, read())
	require.Empty(t, rest)
	return frames
}

// packets reads a capture file of this machine's byte order (pcap-savefile(5)): 24 bytes, then 16 before each frame. The rest is a frame
// that is being written.
func packets(t *testing.T, raw []byte) (frames [][]byte, rest []byte) {
	le := binary.LittleEndian
	require.Equal(t, uint32(0xa1b2c3d4), le.Uint32(raw))
	for raw = raw[24:]; len(raw) >= 16; {
		captured, full := int(le.Uint32(raw[8:])), int(le.Uint32(raw[12:]))
		require.Equal(t, full, captured)
		if len(raw) < 16+captured {
			break
		}
		frames, raw = append(frames, raw[16:16+captured]), raw[16+captured:]
	}
	return frames, raw
}

// link is what went over a box's link.
type link struct {
	seen    map[string]int
	strange []string
	flows   map[flow]map[uint32][]byte // what each TCP connection carried each way, by sequence number
}

func newLink(frames [][]byte) *link {
	l := &link{seen: map[string]int{}, flows: map[flow]map[uint32][]byte{}}
	for _, f := range frames {
		l.add(f)
	}
	return l
}

type flow struct {
	from, to     netip.Addr
	source, port uint16
}

// add says what an Ethernet frame is. What it does not know is strange.
func (l *link) add(frame []byte) {
	be := binary.BigEndian
	kind := "strange"
	switch ether := be.Uint16(frame[12:]); {
	case ether == 0x0806:
		kind = "neighbour lookup"
	case ether == 0x0800 && int(be.Uint16(frame[16:])) <= len(frame)-14:
		ip := frame[14 : 14+be.Uint16(frame[16:])] // without what pads a short frame
		part := ip[int(ip[0]&15)*4:]
		f := flow{netip.AddrFrom4([4]byte(ip[12:])), netip.AddrFrom4([4]byte(ip[16:])), be.Uint16(part), be.Uint16(part[2:])}
		gateway := netip.AddrPortFrom(netip.MustParseAddr(house.GatewayAddress), 443)
		if from, to := netip.AddrPortFrom(f.from, f.source), netip.AddrPortFrom(f.to, f.port); from != gateway && to != gateway {
			break
		}
		switch ip[9] {
		case syscall.IPPROTO_TCP:
			kind = "front door"
			if data := part[int(part[12]>>4)*4:]; len(data) > 0 {
				if l.flows[f] == nil {
					l.flows[f] = map[uint32][]byte{}
				}
				l.flows[f][be.Uint32(part[4:])] = data
			}
		case syscall.IPPROTO_UDP:
			kind = datagram(part[8:])
		}
	}
	if l.seen[kind]++; kind == "strange" {
		l.strange = append(l.strange, fmt.Sprintf("%x", frame[:min(len(frame), 64)]))
	}
}

// datagram says which of the tunnel's messages one is (WireGuard, 5.4).
func datagram(data []byte) string {
	switch {
	case len(data) < 32 || data[2]|data[3] != 0:
		return "strange"
	case data[0] >= 1 && data[0] <= 3 && data[1] == 0:
		return "tunnel handshake"
	case data[0] == 4 && data[1] == 0:
		return "tunnel data"
	case data[0] == 0x50:
		return "tunnel probe"
	}
	return "strange"
}

// records holds what a connection carried one way to being TLS records and nothing else (RFC 8446, 5.1): a handshake first, and
// of the rest only what TLS 1.3 shows.
func records(parts map[uint32][]byte) error {
	sequence := slices.SortedFunc(maps.Keys(parts), func(a, b uint32) int { return int(int32(a - b)) })
	var all []byte
	for _, at := range sequence {
		known := len(all) - int(int32(at-sequence[0]))
		if known < 0 {
			return fmt.Errorf("hole before %d", at)
		}
		all = append(all, parts[at][min(known, len(parts[at])):]...) // a repeated segment brings nothing new
	}
	for first := true; len(all) >= 5; first = false {
		kind, version, length := all[0], binary.BigEndian.Uint16(all[1:]), int(binary.BigEndian.Uint16(all[3:]))
		if kind < 20 || kind > 23 || (first && kind != 22) || (version != 0x0301 && version != 0x0303) || length > 1<<14+256 {
			return fmt.Errorf("record %x", all[:5])
		}
		all = all[min(len(all), 5+length):] // the last one may be cut by the end of the capture
	}
	return nil
}

// reachesOnlyItself tries ports of every address of the house, of the host and of the world from a place, by TCP and UDP. A
// refusal counts as reached: whoever refuses was asked.
func reachesOnlyItself(t *testing.T, from *house.Place) {
	beside, err := net.Listen("tcp", ":0") // on every address of the host
	require.NoError(t, err)
	defer beside.Close()
	targets := []string{"10.72.1.1", "10.72.2.1", "10.72.2.2", "10.72.3.2", house.GatewayAddress, "10.71.1.1", "10.71.1.2", "10.71.2.2", "1.1.1.1", "169.254.169.254"}
	own, err := net.InterfaceAddrs()
	require.NoError(t, err)
	for _, a := range own {
		if ip := a.(*net.IPNet).IP; ip.To4() != nil && !ip.IsLoopback() {
			targets = append(targets, ip.String())
		}
	}
	ports := []int{22, 53, 80, 111, 443, 5901, 6000, 6001, 7000, 7001, 7443, 8443, 9090, beside.Addr().(*net.TCPAddr).Port}
	var mu sync.Mutex
	var reached []string
	var tries sync.WaitGroup
	for _, target := range targets {
		for _, port := range ports {
			for _, network := range []string{"tcp", "udp"} {
				tries.Go(func() {
					address := net.JoinHostPort(target, fmt.Sprint(port))
					if reaches(t.Context(), from, network, address) {
						mu.Lock()
						defer mu.Unlock()
						reached = append(reached, network+" "+address)
					}
				})
			}
		}
	}
	tries.Wait()
	require.Empty(t, reached)
	require.True(t, reaches(t.Context(), from, "tcp", "10.72.1.2:7443"), "its own port: the trial itself works")
	require.True(t, reaches(t.Context(), from, "udp", "127.0.0.1:9"), "its own refusal: the trial itself works")
	_, err = from.Dial(t.Context(), "tcp", fmt.Sprintf("127.0.0.1:%d", ports[len(ports)-1]))
	require.ErrorIs(t, err, syscall.ECONNREFUSED, "the loopback is its own, not the host's")
}

// reaches says whether anything answers, a refusal included.
func reaches(ctx context.Context, from *house.Place, network, address string) bool {
	ctx, cancel := context.WithTimeout(ctx, 700*time.Millisecond)
	defer cancel()
	conn, err := from.Dial(ctx, network, address)
	if err != nil {
		return errors.Is(err, syscall.ECONNREFUSED)
	}
	defer conn.Close()
	if network == "tcp" {
		return true
	}
	if _, err := conn.Write([]byte("anybody there")); err != nil {
		return errors.Is(err, syscall.ECONNREFUSED)
	}
	deadline, _ := ctx.Deadline()
	if err := conn.SetReadDeadline(deadline); err != nil {
		return true
	}
	_, err = conn.Read(make([]byte, 64))
	return err == nil || errors.Is(err, syscall.ECONNREFUSED)
}

// seesNoHost looks about in a place as its root: no file, socket or process of the host.
func seesNoHost(t *testing.T, from *house.Place, dir string) {
	beside, err := net.Listen("unix", filepath.Join(dir, "s"))
	require.NoError(t, err)
	defer beside.Close()
	abstract, err := net.Listen("unix", "@"+dir)
	require.NoError(t, err)
	defer abstract.Close()
	run := func(script string) string {
		out, err := from.Run(t.Context(), house.Account{}, []string{"PATH=/usr/bin:/bin"}, "/bin/sh", "-c", script)
		require.NoError(t, err)
		return string(out)
	}
	for line := range strings.Lines(run("find / -path /proc -prune -o -type s -print")) {
		require.Regexp(t, `^/(tmp|run/sdbox|run/place|home)/`, line, "a socket that is not the place's own")
	}
	require.NotContains(t, run("cat /proc/net/unix"), dir)
	for _, path := range []string{dir, "/etc/shadow", "/etc/ssh", "/root/.ssh", "/sys", "/boot", "/old", "/dev/mem", "/dev/kmsg", "/dev/vda", "/run/dbus", "/var/run/docker.sock", "/proc/1/root/etc/shadow"} {
		require.Equal(t, "no", strings.TrimSpace(run("test -e "+path+" && echo yes || echo no")), path)
	}
	require.Equal(t, "no", strings.TrimSpace(run("touch /usr/bin/mark 2>/dev/null && echo yes || echo no")), "the host's programs are read-only")
	homes := strings.Fields(run("ls /home"))
	require.Equal(t, []string{"durand", "weber"}, homes)
	require.NotContains(t, run("cat /proc/[0-9]*/cmdline | tr '\\0' ' '"), "sdbox-gateway", "a process of another place")
}

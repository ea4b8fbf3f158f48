// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sdbox/internal/tunnel/tunneltest"

	"github.com/stretchr/testify/require"
	"golang.zx2c4.com/wireguard/device"
)

// serveStreams lets connections to the returned address carry the packets of one peer.
func (h *house) serveStreams(key [32]byte) (dial func(context.Context) (net.Conn, error), ended <-chan error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(h.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	out := make(chan error, 100)
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { out <- h.Carry(ctx, key, c) })
		}
	})
	h.t.Cleanup(func() {
		cancel()
		l.Close()
		all.Wait()
	})
	return func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", l.Addr().String())
	}, out
}

// slowly takes as long as a TLS handshake with a TPM.
func slowly(dial func(context.Context) (net.Conn, error)) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
		}
		return dial(ctx)
	}
}

// awaitBearer waits until a box is carried by a bearer, and returns how long that took.
func awaitBearer(t testing.TB, b *Box, want Bearer, within time.Duration) time.Duration {
	began := time.Now()
	require.Eventually(t, func() bool { return b.Bearer() == want }, within, time.Millisecond, "not on %s", want)
	return time.Since(began)
}

// beacon sends a numbered datagram each 5 ms through the tunnel and counts those that the gateway sent back.
type beacon struct {
	count *atomic.Int64 // came back
	stop  func() (sent, back int, longest time.Duration)
}

// more waits for some that come back from now on.
func (b beacon) more(t testing.TB) {
	want := b.count.Load() + 20
	require.Eventually(t, func() bool { return b.count.Load() >= want }, 5*time.Second, time.Millisecond)
}

func newBeacon(t testing.TB, h *house, box *Box) beacon {
	up, err := h.ListenUDP(0)
	require.NoError(t, err)
	down, err := box.ListenUDP(0)
	require.NoError(t, err)
	var all sync.WaitGroup
	all.Go(func() {
		buf := make([]byte, 100)
		for {
			n, from, err := up.ReadFrom(buf)
			if err != nil {
				return
			}
			up.WriteTo(buf[:n], from)
		}
	})
	quit := make(chan struct{})
	sent, back, longest, count := 0, map[uint64]bool{}, time.Duration(0), &atomic.Int64{}
	all.Go(func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			down.WriteTo(binary.BigEndian.AppendUint64(nil, uint64(sent)), up.LocalAddr())
			sent++
			select {
			case <-tick.C:
			case <-quit:
				return
			}
		}
	})
	all.Go(func() {
		buf := make([]byte, 100)
		for last := time.Now(); ; last = time.Now() {
			n, _, err := down.ReadFrom(buf)
			if err != nil || n != 8 {
				return
			}
			longest = max(longest, time.Since(last))
			back[binary.BigEndian.Uint64(buf)] = true
			count.Add(1)
		}
	})
	return beacon{count, func() (int, int, time.Duration) {
		close(quit)
		time.AfterFunc(500*time.Millisecond, func() { up.Close(); down.Close() })
		all.Wait()
		return sent, len(back), longest
	}}
}

func TestBlockedUDPGoesOnByTLSAndComesBack(t *testing.T) {
	h := newHouse(t)
	h.serveEcho(7000)
	link := tunneltest.NewLink(t, h.Port(), tunneltest.Config{Delay: 5 * time.Millisecond})
	config, peer := h.peer(1)
	paths := make(chan Path, 100)
	peer.OnPath = func(p Path) { paths <- p }
	config.Endpoints = []netip.AddrPort{link.Addr()}
	dial, _ := h.serveStreams(peer.PublicKey)
	config.Dial = slowly(dial)
	require.NoError(t, h.AddPeer(peer))
	box := h.open(config)
	ctx := within(t, time.Minute)
	session, err := box.DialTCP(ctx, 7000)
	require.NoError(t, err)
	defer session.Close()
	require.Equal(t, UDP, box.Bearer())
	local := netip.MustParseAddr("127.0.0.1")
	require.Equal(t, Path{UDP, local}, <-paths)
	require.Eventually(t, func() bool { return box.bind.stream.Load() != nil }, 5*time.Second, time.Millisecond, "TLS is warm")

	b := newBeacon(t, h, box)
	b.more(t)
	link.Cut(true)
	took := awaitBearer(t, box, TLS, 3*time.Second)
	echo := make([]byte, 1)
	began := time.Now()
	_, err = session.Write([]byte{7})
	require.NoError(t, err)
	_, err = io.ReadFull(session, echo)
	require.NoError(t, err, "the session of before goes on")
	answer := time.Since(began)
	b.more(t)
	_, _, silence := b.stop()
	t.Logf("on TLS after %v, silence %v, first answer %v later", took, silence, answer)
	require.Less(t, silence, 3*time.Second)
	require.Equal(t, Path{TLS, local}, <-paths)

	b = newBeacon(t, h, box)
	link.Cut(false)
	took = awaitBearer(t, box, UDP, 30*time.Second)
	require.Eventually(t, func() bool { return len(paths) > 0 }, 5*time.Second, time.Millisecond)
	b.more(t)
	sent, back, silence := b.stop()
	t.Logf("on UDP after %v, %d of %d came back, silence %v", took, back, sent, silence)
	require.Equal(t, sent, back, "a packet was lost on the way back to UDP")
	require.Equal(t, Path{UDP, local}, <-paths)
}

func TestBoxWithoutAnyUDPComesUp(t *testing.T) {
	h := newHouse(t)
	link := tunneltest.NewLink(t, h.Port(), tunneltest.Config{})
	link.Cut(true)
	config, peer := h.peer(1)
	config.Endpoints = []netip.AddrPort{link.Addr()}
	dial, _ := h.serveStreams(peer.PublicKey)
	config.Dial = slowly(dial)
	require.NoError(t, h.AddPeer(peer))
	began := time.Now()
	box := h.open(config)
	_, err := box.Ping(within(t, 3*time.Second))
	require.NoError(t, err)
	require.Equal(t, TLS, box.Bearer())
	t.Logf("first answer after %v", time.Since(began))

	peer.PSK = NewPSK() // renewed by TLS alone
	require.NoError(t, h.AddPeer(peer))
	require.NoError(t, box.Renew(within(t, 20*time.Second), peer.PSK))
	_, err = box.Ping(within(t, 3*time.Second))
	require.NoError(t, err)

	require.True(t, h.RemovePeer(peer.PublicKey))
	_, err = box.Ping(within(t, 300*time.Millisecond))
	require.ErrorIs(t, err, context.DeadlineExceeded, "without a lease TLS carries nothing either")
}

// deaf stops reading when told to, as a hostile or a broken box would.
type deaf struct {
	net.Conn
	stopped chan struct{}
	closed  chan struct{}
	once    sync.Once
}

func (d *deaf) Read(b []byte) (int, error) {
	select {
	case <-d.stopped:
		<-d.closed
		return 0, net.ErrClosed
	default:
		return d.Conn.Read(b)
	}
}

func (d *deaf) Close() error {
	d.once.Do(func() { close(d.closed) })
	return d.Conn.Close()
}

func TestStreamNobodyReadsStopsNoRevocation(t *testing.T) {
	h := newHouse(t)
	h.serveEcho(7000)
	link := tunneltest.NewLink(t, h.Port(), tunneltest.Config{})
	link.Cut(true)
	config, peer := h.peer(1)
	config.Endpoints = []netip.AddrPort{link.Addr()}
	dial, _ := h.serveStreams(peer.PublicKey)
	stopped := make(chan struct{})
	config.Dial = func(ctx context.Context) (net.Conn, error) {
		c, err := dial(ctx)
		if err != nil {
			return nil, err
		}
		return &deaf{Conn: c, stopped: stopped, closed: make(chan struct{})}, nil
	}
	require.NoError(t, h.AddPeer(peer))
	box := h.open(config)
	_, err := box.Ping(within(t, 3*time.Second))
	require.NoError(t, err)
	close(stopped)

	up, err := h.ListenUDP(0)
	require.NoError(t, err)
	defer up.Close()
	to := net.UDPAddrFromAddrPort(netip.AddrPortFrom(config.Address, 9))
	payload := make([]byte, 1200)
	for range 20_000 { // 24 MB: more than kernel and queue take
		_, err = up.WriteTo(payload, to)
		require.NoError(t, err)
	}
	other, peer2 := h.peer(2)
	require.NoError(t, h.AddPeer(peer2))
	c, err := h.open(other).DialTCP(within(t, 4*time.Second), 7000)
	require.NoError(t, err, "another box is held up")
	c.Close()
	began := time.Now()
	require.True(t, h.RemovePeer(peer.PublicKey))
	require.Less(t, time.Since(began), streamWriteTime, "it waited for the stream")
	t.Logf("removed in %v", time.Since(began))
}

func TestStreamIsHeldToItsBox(t *testing.T) {
	h := newHouse(t)
	config, peer := h.peer(1)
	dial, ended := h.serveStreams(peer.PublicKey)
	open := func() net.Conn {
		c, err := dial(t.Context())
		require.NoError(t, err)
		t.Cleanup(func() { c.Close() })
		return c
	}
	frame := func(packet []byte) []byte {
		return append(binary.BigEndian.AppendUint16(nil, uint16(len(packet))), packet...)
	}
	open()
	require.ErrorIs(t, <-ended, errNoLease)

	peer.AllowedOuter = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	require.NoError(t, h.AddPeer(peer))
	open()
	require.ErrorIs(t, <-ended, errOutside)

	peer.AllowedOuter = loopback
	require.NoError(t, h.AddPeer(peer))
	c := open()
	key, err := newProbeKey(peer.PSK)
	require.NoError(t, err)
	probe := key.ask(1, maxPacket)
	_, err = c.Write(frame(probe))
	require.NoError(t, err)
	buf := make([]byte, maxPacket)
	got, err := readFrame(c, buf)
	require.NoError(t, err)
	number, ok := key.number(got)
	require.True(t, ok)
	require.EqualValues(t, 1, number)

	// What is another box's passes no more than garbage does, and is counted; the stream stays.
	stranger, peer2 := h.peer(2)
	require.NoError(t, h.AddPeer(peer2))
	theirs, err := newProbeKey(peer2.PSK)
	require.NoError(t, err)
	before := h.Refused()
	forged := key.ask(2, probeSize)
	forged[31] ^= 1
	for _, packet := range [][]byte{capture(t, stranger), theirs.ask(1, probeSize), forged, bytes.Repeat([]byte{9}, 500)} {
		_, err = c.Write(frame(packet))
		require.NoError(t, err)
	}
	own := capture(t, config)
	for range 100 { // a flood of handshakes by the stream
		_, err = c.Write(frame(own))
		require.NoError(t, err)
	}
	require.Eventually(t, func() bool { return h.Refused() >= before+4+100-2*streamInitiationBurst }, 5*time.Second, time.Millisecond)
	_, err = c.Write(frame(key.ask(3, probeSize)))
	require.NoError(t, err)
	for number = 0; number != 3; { // past the answer to the handshake
		got, err = readFrame(c, buf)
		require.NoError(t, err)
		if isProbe(got) {
			number, ok = key.number(got)
			require.True(t, ok)
		}
	}

	second := open() // the newest takes the place of the one before
	require.Error(t, <-ended)
	_, err = second.Write(frame(key.ask(4, probeSize)))
	require.NoError(t, err)
	_, err = readFrame(second, buf)
	require.NoError(t, err)
	peer.AllowedOuter = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	require.NoError(t, h.AddPeer(peer)) // the list changes under an open connection
	require.Error(t, <-ended)

	peer.AllowedOuter = loopback
	require.NoError(t, h.AddPeer(peer))
	third := open()
	_, err = third.Write([]byte{0xff, 0xff})
	require.NoError(t, err)
	require.ErrorIs(t, <-ended, errFrame)
	fourth := open()
	_, err = fourth.Write(frame(key.ask(5, probeSize)))
	require.NoError(t, err)
	require.True(t, h.RemovePeer(peer.PublicKey))
	require.Error(t, <-ended)
}

func TestProbeOfTheLeaseBeforeIsStillAnswered(t *testing.T) {
	h := newHouse(t)
	_, peer := h.peer(1)
	local := netip.MustParseAddr("127.0.0.1")
	var keys []probeKey
	for range 3 {
		peer.PSK = NewPSK()
		require.NoError(t, h.AddPeer(peer))
		key, err := newProbeKey(peer.PSK)
		require.NoError(t, err)
		keys = append(keys, key)
	}
	for i, want := range []bool{false, true, true} {
		packet := keys[i].ask(1, probeSize)
		copied := append([]byte(nil), packet...)
		require.Equal(t, want, h.guard.answer(packet, local, nil), i)
		require.False(t, h.guard.answer(copied, netip.MustParseAddr("192.0.2.1"), nil), "from where it may not speak")
	}
	require.Len(t, h.guard.probes, 2)
	require.True(t, h.RemovePeer(peer.PublicKey))
	require.Empty(t, h.guard.probes)
}

func TestQueueIsBoundedAndForgets(t *testing.T) {
	s := newStreamConn(nil)
	for i := range streamQueue + 10 {
		s.push(binary.BigEndian.AppendUint64(make([]byte, 24), uint64(i)))
	}
	require.Len(t, s.queue, streamQueue)
	first := s.take()
	require.LessOrEqual(t, len(first), writeSize)
	require.EqualValues(t, 10, binary.BigEndian.Uint64(first[26:]), "the oldest go")
	for i := range s.queue {
		s.queue[i].at = s.queue[i].at.Add(-time.Second)
	}
	require.Empty(t, s.take())
	s.push(make([]byte, maxPacket+1))
	require.Empty(t, s.take(), "no packet of ours")
}

func FuzzFrames(f *testing.F) {
	f.Add([]byte{0, 32, 1})
	f.Add(append([]byte{0, 32}, make([]byte, 32)...))
	f.Add([]byte{0, 31})
	f.Add([]byte{0xff, 0xff})
	f.Add([]byte{5})
	f.Fuzz(func(t *testing.T, stream []byte) {
		r, buf := bytes.NewReader(stream), make([]byte, maxPacket)
		for at := 0; ; {
			packet, err := readFrame(r, buf)
			if err != nil {
				if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, errFrame) {
					t.Fatal(err)
				}
				return
			}
			if len(packet) < device.MinMessageSize || !bytes.Equal(packet, stream[at+2:at+2+len(packet)]) {
				t.Fatal("another packet than was sent")
			}
			at += 2 + len(packet)
		}
	})
}

func FuzzProbe(f *testing.F) {
	key, err := newProbeKey([32]byte{1})
	require.NoError(f, err)
	answer := key.ask(7, probeSize)
	require.True(f, key.answer(answer))
	f.Add(key.ask(7, probeSize))
	f.Add(key.ask(7, maxPacket))
	f.Add(answer)
	f.Add([]byte{probeType})
	f.Add(bytes.Repeat([]byte{probeType}, probeSize))
	f.Fuzz(func(t *testing.T, packet []byte) {
		if !isProbe(packet) {
			return
		}
		number, answered := key.number(packet)
		if answered && !bytes.Equal(packet[:16], answerOf(&key, number, len(packet))[:16]) {
			t.Fatal("an answer passed that the gateway did not give")
		}
		asked := append([]byte(nil), packet...)
		if key.answer(packet) {
			if answered || len(packet) != len(asked) {
				t.Fatal("an answer was answered, or grew")
			}
			if _, ok := key.number(packet); !ok {
				t.Fatal("a genuine answer was not taken")
			}
		}
	})
}

func answerOf(key *probeKey, number uint32, size int) []byte {
	packet := key.ask(number, size)
	key.answer(packet)
	return packet
}

func BenchmarkProbeAnswered(b *testing.B) {
	h := newHouse(b)
	_, peer := h.peer(1)
	require.NoError(b, h.AddPeer(peer))
	key, err := newProbeKey(peer.PSK)
	require.NoError(b, err)
	for _, size := range []int{probeSize, maxPacket} {
		asked := key.ask(1, size)
		b.Run(strconv.Itoa(size), func(b *testing.B) {
			for b.Loop() {
				require.True(b, h.guard.answer(bytes.Clone(asked), netip.MustParseAddr("127.0.0.1"), nil))
			}
		})
	}
}

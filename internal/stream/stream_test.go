// SPDX-License-Identifier: Apache-2.0

package stream_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"sdbox/internal/stream"
	"sdbox/internal/tunnel"
	"sdbox/internal/tunnel/tunneltest"
	"sdbox/test/leak"

	"github.com/stretchr/testify/require"
)

// house is a gateway with its one media port, as in the product: WireGuard, netstack, one mux for all boxes.
type house struct {
	t      testing.TB
	tunnel *tunnel.Gateway
	public [32]byte
	media  *stream.Mux
	link   *tunneltest.Link
	boxes  int
}

func newHouse(t testing.TB, link tunneltest.Config) *house {
	leak.Check(t)
	key, err := tunnel.NewKey()
	require.NoError(t, err)
	public, err := tunnel.PublicKey(key)
	require.NoError(t, err)
	g, err := tunnel.NewGateway(tunnel.GatewayConfig{
		Key: key, Address: netip.MustParseAddr("fd00:5db0::1"), Prefix: netip.MustParsePrefix("fd00:5db0::/48"),
		UDP: &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)},
	})
	require.NoError(t, err)
	t.Cleanup(func() { g.Close() })
	socket, err := g.ListenUDP(7001)
	require.NoError(t, err)
	media, err := stream.NewMux(socket)
	require.NoError(t, err)
	t.Cleanup(func() { media.Close() })
	return &house{t: t, tunnel: g, public: public, media: media, link: tunneltest.NewLink(t, g.Port(), link)}
}

// session is a box with its tunnel and its stream.
type session struct {
	tunnel  *tunnel.Box
	box     *stream.Box
	gateway *stream.Gateway
	setup   time.Duration
}

func (h *house) open() *session {
	h.boxes++
	t, ctx := h.t, within(h.t, 30*time.Second)
	key, err := tunnel.NewKey()
	require.NoError(t, err)
	public, err := tunnel.PublicKey(key)
	require.NoError(t, err)
	psk, address := tunnel.NewPSK(), netip.MustParseAddr(fmt.Sprintf("fd00:5db0::b:%x", h.boxes))
	require.NoError(t, h.tunnel.AddPeer(tunnel.Peer{
		PublicKey: public, PSK: psk, Address: address, Expires: time.Now().Add(time.Hour),
		AllowedOuter: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
	}))
	tun, err := tunnel.NewBox(tunnel.BoxConfig{
		Key: key, Address: address, GatewayKey: h.public, GatewayAddress: netip.MustParseAddr("fd00:5db0::1"), PSK: psk,
		Endpoints: []netip.AddrPort{h.link.Addr()},
	})
	require.NoError(t, err)
	t.Cleanup(func() { tun.Close() })
	_, err = tun.Ping(ctx)
	require.NoError(t, err)
	socket, err := tun.ListenUDP(7001)
	require.NoError(t, err)
	media, err := stream.NewMux(socket)
	require.NoError(t, err)
	t.Cleanup(func() { media.Close() })

	start := time.Now()
	boxCert, err := stream.NewCertificate()
	require.NoError(t, err)
	gatewayCert, err := stream.NewCertificate()
	require.NoError(t, err)
	box, offer, err := media.Offer(ctx, boxCert)
	require.NoError(t, err)
	t.Cleanup(func() { box.Close() })
	gateway, answer, err := h.media.Answer(ctx, gatewayCert, offer, boxCert.Fingerprint[:])
	require.NoError(t, err)
	t.Cleanup(func() { gateway.Close() })
	require.NoError(t, box.Accept(answer, gatewayCert.Fingerprint[:]))
	for _, ready := range []<-chan struct{}{box.Ready(), gateway.Ready()} {
		select {
		case <-ready:
		case <-ctx.Done():
			require.FailNow(t, "stream is not ready", "box: %v, gateway: %v", box.Err(), gateway.Err())
		}
	}
	return &session{tun, box, gateway, time.Since(start)}
}

func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// frame n carries the time of its writing, and then bytes that its reader can tell.
func frame(n uint32, size int) []byte {
	f := make([]byte, max(size, 8))
	rand.NewChaCha8([32]byte{byte(n), byte(n >> 8)}).Read(f)
	binary.BigEndian.PutUint64(f, uint64(time.Now().UnixNano()))
	return f
}

// watch reads frames until number last, acknowledges each, and returns how long each was on its way.
func (s *session) watch(ctx context.Context, last uint32, size func(n uint32) int) (delays []time.Duration, gaps int, err error) {
	for {
		select {
		case <-ctx.Done():
			return delays, gaps, fmt.Errorf("after %d frames and %d gaps: %w", len(delays), gaps, ctx.Err())
		case f := <-s.box.Frames():
			if f.Gap {
				gaps++
				continue
			}
			delays = append(delays, time.Since(time.Unix(0, int64(binary.BigEndian.Uint64(f.Data)))))
			if want := frame(f.N, size(f.N)); !bytes.Equal(want[8:], f.Data[8:]) {
				return delays, gaps, fmt.Errorf("frame %d is not what was written", f.N)
			}
			s.box.Ack(f.N)
			if f.N == last {
				return delays, gaps, nil
			}
		}
	}
}

// paint writes count frames, one per tick, a large one every so often.
func (s *session) paint(ctx context.Context, tick time.Duration, count uint32, size func(n uint32) int) error {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for n := range count {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := s.gateway.WriteFrame(n+1, frame(n+1, size(n+1))); err != nil {
			return err
		}
	}
	return nil
}

func desk(n uint32) int {
	if n%50 == 1 {
		return 90_000 // a key frame
	}
	return 4000
}

func quantiles(d []time.Duration) (p50, p95, p99, longest time.Duration) {
	d = slices.Sorted(slices.Values(d))
	at := func(q int) time.Duration { return d[min(len(d)-1, len(d)*q/100)] }
	return at(50), at(95), at(99), d[len(d)-1]
}

// typing sends count key events, and pointer moves between them, and checks what the gateway gets.
func (s *session) typing(ctx context.Context, count int) ([]time.Duration, error) {
	sentAt := make([]time.Time, count)
	failed := make(chan error, 1)
	dice := rand.New(rand.NewPCG(11, 12))
	go func() {
		for i := range count {
			select {
			case <-time.After(time.Duration(2+dice.IntN(20)) * time.Millisecond):
			case <-ctx.Done():
				failed <- ctx.Err()
				return
			}
			sentAt[i] = time.Now()
			err := s.box.SendInput(stream.Input{Kind: stream.Key, Code: uint16(1 + i%200), Down: i%2 == 0})
			if err == nil && i%3 == 0 {
				err = s.box.SendInput(stream.Input{Kind: stream.Pointer, X: uint16(i), Y: uint16(i)})
			}
			if err != nil {
				failed <- err
				return
			}
		}
		failed <- nil
	}()
	var gotAt []time.Time
	for len(gotAt) < count {
		select {
		case e := <-s.gateway.Input():
			if e.Kind == stream.Pointer {
				continue
			}
			i := len(gotAt)
			if want := (stream.Input{Seq: uint32(i + 1), Kind: stream.Key, Code: uint16(1 + i%200), Down: i%2 == 0}); e != want {
				return nil, fmt.Errorf("event %d is %+v", i+1, e)
			}
			gotAt = append(gotAt, time.Now())
		case <-ctx.Done():
			return nil, fmt.Errorf("after %d events: %w", len(gotAt), ctx.Err())
		}
	}
	if err := <-failed; err != nil {
		return nil, err
	}
	var delays []time.Duration
	for i := range gotAt {
		delays = append(delays, gotAt[i].Sub(sentAt[i]))
	}
	return delays, nil
}

func TestPictureAndInputSurviveABadNetwork(t *testing.T) {
	h := newHouse(t, tunneltest.Config{Delay: 10 * time.Millisecond, Loss: 0.02, Seed: 42})
	s := h.open()
	ctx := within(t, 60*time.Second)
	const frames, events = 200, 300
	painted := make(chan error, 1)
	go func() { painted <- s.paint(ctx, 15*time.Millisecond, frames, desk) }()
	type typed struct {
		delays []time.Duration
		err    error
	}
	keys := make(chan typed, 1)
	go func() {
		d, err := s.typing(ctx, events)
		keys <- typed{d, err}
	}()
	delays, gaps, err := s.watch(ctx, frames, desk)
	require.NoError(t, err)
	require.NoError(t, <-painted)
	k := <-keys
	require.NoError(t, k.err)
	require.Len(t, delays, frames, "every frame comes, each once and in order")
	require.Zero(t, gaps)
	var acked uint32
	for acked != frames {
		select {
		case acked = <-s.gateway.Acks():
		case <-ctx.Done():
			require.FailNow(t, "no acknowledgement")
		}
	}
	p50, p95, p99, longest := quantiles(delays)
	t.Logf("set-up %v; %d frames at RTT 20 ms, 2 %% loss: p50 %v p95 %v p99 %v max %v", s.setup, frames, p50, p95, p99, longest)
	p50, p95, p99, longest = quantiles(k.delays)
	t.Logf("%d events: p50 %v p95 %v p99 %v max %v; delay %v", events, p50, p95, p99, longest, s.box.Delay())
	require.Greater(t, s.box.Delay(), 15*time.Millisecond)
}

func TestCutNetworkIsAGapAndARefresh(t *testing.T) {
	h := newHouse(t, tunneltest.Config{Delay: 2 * time.Millisecond, Seed: 1})
	s := h.open()
	ctx := within(t, 30*time.Second)
	require.NoError(t, s.gateway.WriteFrame(1, frame(1, 5000)))
	_, _, err := s.watch(ctx, 1, func(uint32) int { return 5000 })
	require.NoError(t, err)
	h.link.Cut(true)
	n := uint32(2)
	for ; n < 6; n++ { // lost with every repeat of theirs, and beyond repair
		require.NoError(t, s.gateway.WriteFrame(n, frame(n, 90_000)))
	}
	select {
	case <-s.box.Frames():
		require.FailNow(t, "a frame came over a cut network")
	case <-time.After(400 * time.Millisecond):
	}
	h.link.Cut(false)
	var got []stream.Frame
	for len(got) == 0 || got[len(got)-1].Data == nil {
		err := s.gateway.WriteFrame(n, frame(n, 5000)) // the desktop goes on
		n++
		require.NoError(t, err)
		select {
		case f := <-s.box.Frames():
			got = append(got, f)
			if f.Gap {
				s.box.WantRefresh()
			}
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			require.FailNow(t, "the picture did not come back")
		}
	}
	if slices.ContainsFunc(got, func(f stream.Frame) bool { return f.Gap }) {
		select {
		case <-s.gateway.Refresh():
		case <-ctx.Done():
			require.FailNow(t, "no refresh is wanted")
		}
	}
	h.link.Cut(true) // a stream closes without the other end's help
	start := time.Now()
	require.NoError(t, s.gateway.Close())
	require.NoError(t, s.box.Close())
	require.Less(t, time.Since(start), 3*time.Second)
	require.ErrorIs(t, s.box.SendInput(stream.Input{Kind: stream.Key, Code: 1}), stream.ErrClosed)
}

func TestManyBoxesShareOnePort(t *testing.T) {
	h := newHouse(t, tunneltest.Config{Delay: time.Millisecond, Seed: 3})
	ctx := within(t, 60*time.Second)
	var sessions []*session
	for range 4 {
		sessions = append(sessions, h.open())
	}
	done := make(chan error, len(sessions))
	for i, s := range sessions {
		size := func(n uint32) int { return 3000 + 500*i }
		go func() {
			if err := s.paint(ctx, 20*time.Millisecond, 30, size); err != nil {
				done <- err
			}
		}()
		go func() {
			delays, gaps, err := s.watch(ctx, 30, size)
			if err == nil && (len(delays) != 30 || gaps != 0) {
				err = fmt.Errorf("%d frames and %d gaps", len(delays), gaps)
			}
			done <- err
		}()
	}
	for range sessions {
		require.NoError(t, <-done)
	}
	require.NoError(t, sessions[0].gateway.Close())
	select {
	case <-sessions[0].box.Done(): // told at once; the others stay
	case <-ctx.Done():
		require.FailNow(t, "the box does not see the end")
	}
	require.NoError(t, sessions[1].box.SendInput(stream.Input{Kind: stream.Key, Code: 28, Down: true}))
	select {
	case e := <-sessions[1].gateway.Input():
		require.Equal(t, uint16(28), e.Code)
	case <-ctx.Done():
		require.FailNow(t, "no input")
	}
}

// BenchmarkDelivery is the note's table: 4 kB frames at 15 a second, RTT 20 ms, 2 % loss each way.
func BenchmarkDelivery(b *testing.B) {
	h := newHouse(b, tunneltest.Config{Delay: 10 * time.Millisecond, Loss: 0.02, Seed: 7})
	s := h.open()
	ctx := within(b, 10*time.Minute)
	size := func(uint32) int { return 4000 }
	var all []time.Duration
	for b.Loop() {
		painted := make(chan error, 1)
		go func() { painted <- s.paint(ctx, time.Second/15, 150, size) }()
		delays, _, err := s.watch(ctx, 150, size)
		require.NoError(b, err)
		require.NoError(b, <-painted)
		all = append(all, delays...)
	}
	p50, p95, p99, longest := quantiles(all)
	for name, d := range map[string]time.Duration{"p50-ms": p50, "p95-ms": p95, "p99-ms": p99, "max-ms": longest} {
		b.ReportMetric(float64(d.Microseconds())/1000, name)
	}
}

// BenchmarkBulk sends frames of 1 MB, one after the other.
func BenchmarkBulk(b *testing.B) {
	h := newHouse(b, tunneltest.Config{})
	s := h.open()
	ctx := within(b, 10*time.Minute)
	size := func(uint32) int { return 1 << 20 }
	b.SetBytes(1 << 20)
	for b.Loop() {
		require.NoError(b, s.gateway.WriteFrame(1, frame(1, 1<<20)))
		_, gaps, err := s.watch(ctx, 1, size)
		require.NoError(b, err)
		require.Zero(b, gaps)
	}
}

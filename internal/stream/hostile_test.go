// SPDX-License-Identifier: Apache-2.0

package stream

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sdbox/test/leak"

	"github.com/pion/datachannel"
	"github.com/pion/rtcp"
	"github.com/pion/rtp"
	"github.com/stretchr/testify/require"
)

// pair is both ends of a stream over the loopback, without a tunnel.
type pair struct {
	boxMux, gatewayMux *Mux
	box                *Box
	gateway            *Gateway
}

func socket(t testing.TB) net.PacketConn {
	conn, err := net.ListenUDP("udp6", &net.UDPAddr{IP: net.IPv6loopback})
	require.NoError(t, err)
	return conn
}

func newMux(t testing.TB) *Mux { return newMuxOver(t, socket(t)) }

func newMuxOver(t testing.TB, conn net.PacketConn) *Mux {
	m, err := NewMux(conn)
	require.NoError(t, err)
	t.Cleanup(func() { m.Close() })
	return m
}

func certificate(t testing.TB) *Certificate {
	c, err := NewCertificate()
	require.NoError(t, err)
	return c
}

func newPair(t testing.TB) *pair { return newPairOver(t, socket(t), socket(t)) }

// newPairOver gives both ends their sockets.
func newPairOver(t testing.TB, gatewayConn, boxConn net.PacketConn) *pair {
	leak.Check(t)
	p := &pair{boxMux: newMuxOver(t, boxConn), gatewayMux: newMuxOver(t, gatewayConn)}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	boxCert, gatewayCert := certificate(t), certificate(t)
	box, offer, err := p.boxMux.Offer(ctx, boxCert)
	require.NoError(t, err)
	t.Cleanup(func() { box.Close() })
	gateway, answer, err := p.gatewayMux.Answer(ctx, gatewayCert, offer, boxCert.Fingerprint[:])
	require.NoError(t, err)
	t.Cleanup(func() { gateway.Close() })
	require.NoError(t, box.Accept(answer, gatewayCert.Fingerprint[:]))
	for _, ready := range []<-chan struct{}{box.Ready(), gateway.Ready()} {
		select {
		case <-ready:
		case <-ctx.Done():
			require.FailNow(t, "not ready", "box: %v, gateway: %v", box.Err(), gateway.Err())
		}
	}
	p.box, p.gateway = box, gateway
	return p
}

func next[T any](t testing.TB, c <-chan T) T {
	select {
	case v := <-c:
		return v
	case <-time.After(10 * time.Second):
		require.FailNow(t, "nothing came")
		panic("unreachable")
	}
}

func TestWrongFingerprintIsRefused(t *testing.T) {
	leak.Check(t)
	m, ctx := newMux(t), context.Background()
	boxCert, gatewayCert, other := certificate(t), certificate(t), certificate(t)
	box, offer, err := m.Offer(ctx, boxCert)
	require.NoError(t, err)
	defer box.Close()
	gatewayMux := newMux(t)
	_, _, err = gatewayMux.Answer(ctx, gatewayCert, offer, other.Fingerprint[:])
	require.ErrorIs(t, err, ErrFingerprint)
	for name, bad := range map[string]string{
		"nothing":        "",
		"no fingerprint": strings.ReplaceAll(offer, "a=fingerprint", "a=finger"),
		"two of them":    offer + "a=fingerprint:sha-256 " + strings.Repeat("00:", 31) + "00\r\n",
		"another hash":   strings.ReplaceAll(offer, "sha-256 ", "sha-1 "),
		"too long":       offer + strings.Repeat("a=x\r\n", MaxSDP/5),
		"too many media": offer + strings.Repeat("m=video 9 UDP/TLS/RTP/SAVPF 100\r\n", 2),
		"no media":       "a=fingerprint:" + offer[strings.Index(offer, "sha-256 "):],
	} {
		_, _, err = gatewayMux.Answer(ctx, gatewayCert, bad, boxCert.Fingerprint[:])
		require.Error(t, err, name)
	}
	gateway, answer, err := gatewayMux.Answer(ctx, gatewayCert, offer, boxCert.Fingerprint[:])
	require.NoError(t, err)
	defer gateway.Close()
	require.ErrorIs(t, box.Accept(answer, other.Fingerprint[:]), ErrFingerprint)
	require.Error(t, box.Accept(answer, nil))
}

func TestFramesThatCannotBeSentAreRefused(t *testing.T) {
	leak.Check(t)
	ctx := context.Background()
	boxCert := certificate(t)
	box, offer, err := newMux(t).Offer(ctx, boxCert)
	require.NoError(t, err)
	defer box.Close()
	gateway, _, err := newMux(t).Answer(ctx, certificate(t), offer, boxCert.Fingerprint[:])
	require.NoError(t, err)
	require.Error(t, gateway.WriteFrame(1, nil))
	require.Error(t, gateway.WriteFrame(1, make([]byte, MaxFrame+1)))
	for n := range uint32(frameQueueLength) {
		require.NoError(t, gateway.WriteFrame(n, []byte{1}), "frames wait for the connection")
	}
	require.ErrorIs(t, gateway.WriteFrame(9, []byte{1}), ErrBacklog)
	require.NoError(t, gateway.Close())
	require.ErrorIs(t, gateway.WriteFrame(9, []byte{1}), ErrClosed)
	require.ErrorIs(t, gateway.Err(), ErrClosed)
}

func TestGarbageOnThePictureIsDropped(t *testing.T) {
	p := newPair(t)
	dice := rand.New(rand.NewPCG(7, 8))
	for i := range 300 { // a track of its own numbers: what a broken gateway would send
		payload := make([]byte, dice.IntN(maxPayload+20))
		for j := range payload {
			payload[j] = byte(dice.Uint32())
		}
		if i%2 == 0 && len(payload) > partHeader {
			copy(payload, []byte{0, 0, 0, 1, 0, byte(dice.IntN(4)), 0, 3}) // nearly right
		}
		header := rtp.Header{Version: 2, PayloadType: payloadType, Marker: dice.IntN(2) == 0, SequenceNumber: uint16(10_000 + i)}
		require.NoError(t, p.gateway.track.WriteRTP(&rtp.Packet{Header: header, Payload: payload}))
	}
	stranger, err := net.DialUDP("udp6", nil, p.boxMux.mux.LocalAddr().(*net.UDPAddr))
	require.NoError(t, err)
	defer stranger.Close()
	for range 300 {
		packet := make([]byte, 1+dice.IntN(200))
		for j := range packet {
			packet[j] = byte(dice.Uint32())
		}
		stranger.Write(packet)
	}
	honest := &sender{track: p.gateway.track, start: time.Now(), sequence: 10_300} // numbers never go back
	for n := uint32(1); ; n++ {                                                    // the picture comes back by itself
		require.Less(t, n, uint32(500), "no frame came through")
		honest.send(t.Context(), time.NewTimer(time.Hour), outFrame{n, noise(3000, byte(n))})
		select {
		case f := <-p.box.Frames():
			if f.Gap {
				continue
			}
			require.Equal(t, noise(3000, byte(f.N)), f.Data)
			return
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// rawBox is a box's end without the code that speaks for it.
func rawBox(t testing.TB) (*Box, *datachannel.DataChannel, *Gateway) {
	leak.Check(t)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	boxCert, gatewayCert, boxMux := certificate(t), certificate(t), newMux(t)
	p, err := newPeer(boxMux.offer, boxCert)
	require.NoError(t, err)
	box := &Box{peer: p}
	t.Cleanup(func() { box.Close() })
	offer, err := box.offer(ctx)
	require.NoError(t, err)
	gateway, answer, err := newMux(t).Answer(ctx, gatewayCert, offer, boxCert.Fingerprint[:])
	require.NoError(t, err)
	t.Cleanup(func() { gateway.Close() })
	require.NoError(t, box.Accept(answer, gatewayCert.Fingerprint[:]))
	channel := p.open()
	require.NotNil(t, channel)
	next(t, gateway.Ready())
	return box, channel, gateway
}

func TestGarbageOnTheChannelIsDropped(t *testing.T) {
	box, channel, gateway := rawBox(t)
	dice := rand.New(rand.NewPCG(9, 10))
	for i := range 300 {
		message := make([]byte, 1+dice.IntN(maxMessage))
		for j := range message {
			message[j] = byte(dice.Uint32())
		}
		message[0] = byte(1 + i%reportVersion)
		_, err := channel.Write(message)
		require.NoError(t, err)
	}
	o := newOutbox()
	require.NoError(t, o.input(key(30, true)))
	for { // one of them gets through
		_, err := channel.Write(o.report(nil, time.Now()))
		require.NoError(t, err)
		select {
		case e := <-gateway.Input():
			require.Equal(t, Input{Seq: 1, Kind: Key, Code: 30, Down: true}, e)
			require.NoError(t, gateway.Err())
			require.NoError(t, box.Err())
			endByLongMessage(t, channel, gateway)
			return
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func endByLongMessage(t testing.TB, channel *datachannel.DataChannel, gateway *Gateway) {
	_, err := channel.Write(make([]byte, maxMessage+1))
	require.NoError(t, err)
	for { // until one is not lost
		select {
		case <-gateway.Done():
			require.ErrorIs(t, gateway.Err(), io.ErrShortBuffer)
			return
		case <-time.After(20 * time.Millisecond):
			_, _ = channel.Write(make([]byte, maxMessage+1))
		}
	}
}

func TestFloodOfEventsWaitsAtTheBox(t *testing.T) {
	p := newPair(t)
	for i := range maxUnconfirmed { // nobody reads them at the gateway
		require.NoError(t, p.box.SendInput(key(uint16(1+i%100), i%2 == 0)))
	}
	for i := range maxUnconfirmed {
		require.Equal(t, uint32(i+1), next(t, p.gateway.Input()).Seq)
	}
}

// noisy sends, after each packet, from the same address: garbage that looks like STUN, DTLS, RTP and RTCP (RFC 7983, 7), the packet
// again with a bit turned, and one of long ago.
type noisy struct {
	net.PacketConn

	mu   sync.Mutex
	dice *rand.Rand // guarded by mu
	sent [][]byte   // guarded by mu
}

func (c *noisy) WriteTo(b []byte, to net.Addr) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, err := c.PacketConn.WriteTo(b, to)
	turned := bytes.Clone(b)
	turned[c.dice.IntN(len(b))] ^= 1 << c.dice.IntN(8)
	all := [][]byte{turned}
	for _, first := range []byte{0, 20, 22, 23, 128, 0x90} {
		garbage := noise(1+c.dice.IntN(300), byte(c.dice.Uint32()))
		garbage[0] = first
		all = append(all, garbage)
	}
	rtcpLike := noise(40, 1)
	copy(rtcpLike, []byte{0x81, 205, 0, 9})
	all = append(all, rtcpLike)
	if c.sent = append(c.sent, bytes.Clone(b)); len(c.sent) > 8 {
		all = append(all, c.sent[c.dice.IntN(len(c.sent)-8)])
	}
	for _, packet := range all {
		_, _ = c.PacketConn.WriteTo(packet, to)
	}
	return n, err
}

// A box that sends garbage, damaged packets and packets of before between its own, from the handshake on, gets its picture, and what it
// typed comes once and in order.
func TestGarbageAndReplaysOfABoxChangeNothing(t *testing.T) {
	p := newPairOver(t, socket(t), &noisy{PacketConn: socket(t), dice: rand.New(rand.NewPCG(9, 9))})
	for n := range uint32(30) {
		require.NoError(t, p.gateway.WriteFrame(n, noise(20_000, byte(n))))
		f := next(t, p.box.Frames())
		require.Equal(t, n, f.N)
		require.Equal(t, noise(20_000, byte(n)), f.Data)
		require.NoError(t, p.box.SendInput(key(uint16(1+n), n%2 == 0)))
		in := next(t, p.gateway.Input())
		require.Equal(t, n+1, in.Seq)
		require.Equal(t, uint16(1+n), in.Code)
	}
	select {
	case in := <-p.gateway.Input():
		require.Fail(t, "one more came", "%v", in)
	default:
	}
}

// counted counts what a socket sends.
type counted struct {
	net.PacketConn
	bytes atomic.Int64
}

func (c *counted) WriteTo(b []byte, to net.Addr) (int, error) {
	c.bytes.Add(int64(len(b)))
	return c.PacketConn.WriteTo(b, to)
}

func TestResendFloodIsBounded(t *testing.T) {
	count := &counted{PacketConn: socket(t)}
	p := newPairOver(t, count, socket(t))
	for n := range uint32(3) {
		require.NoError(t, p.gateway.WriteFrame(n, noise(1<<20, 1)))
		next(t, p.box.Frames()) // or a gap: a busy machine may lose some of it
	}
	ask := &rtcp.TransportLayerNack{MediaSSRC: uint32(p.box.peer.pc.GetReceivers()[0].Track().SSRC())}
	before, began, tick := count.bytes.Load(), time.Now(), time.NewTicker(6*time.Millisecond)
	defer tick.Stop()
	for range 200 { // each time for all of it
		for sequence := 0; sequence < 2700; sequence += 250 * 17 {
			ask.Nacks = nil
			for i := range 250 {
				ask.Nacks = append(ask.Nacks, rtcp.NackPair{PacketID: uint16(sequence + i*17), LostPackets: 0xffff})
			}
			require.NoError(t, p.box.peer.pc.WriteRTCP([]rtcp.Packet{ask}))
		}
		<-tick.C
	}
	sent, seconds := float64(count.bytes.Load()-before), time.Since(began).Seconds()
	t.Logf("resent %.0f bytes in %.1f s", sent, seconds)
	require.Less(t, sent, (1+seconds)*resendRate/8)
	for n := uint32(9); ; n++ {
		require.Less(t, n, uint32(100), "no frame comes through any more")
		require.NoError(t, p.gateway.WriteFrame(n, noise(1000, 2)))
		if f := next(t, p.box.Frames()); !f.Gap && f.N >= 9 {
			require.Equal(t, noise(1000, 2), f.Data)
			return
		}
	}
}

func TestSecondChannelEndsTheStream(t *testing.T) {
	p := newPair(t)
	_, err := p.box.peer.pc.CreateDataChannel("more", nil)
	require.NoError(t, err)
	next(t, p.gateway.Done())
	require.False(t, errors.Is(p.gateway.Err(), ErrClosed))
}

func TestSlowReaderGetsAGap(t *testing.T) {
	var q frameQueue
	for n := range uint32(3 * maxQueuedFrames) {
		q.push(Frame{N: n, Data: []byte{1}})
		require.LessOrEqual(t, len(q.frames), maxQueuedFrames+1)
	}
	require.True(t, q.frames[0].Gap)
	q = frameQueue{}
	for n := range uint32(10) {
		q.push(Frame{N: n, Data: make([]byte, MaxFrame)})
		require.LessOrEqual(t, q.bytes, maxQueuedBytes)
	}
	require.True(t, q.frames[0].Gap)
	for len(q.frames) > 0 {
		q.pop()
	}
	require.Zero(t, q.bytes)
}

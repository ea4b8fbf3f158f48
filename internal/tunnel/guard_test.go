// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"encoding/binary"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/blake2s"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
)

// capture gives a real initiation of a box for this house.
func (h *house) capture(c BoxConfig) []byte {
	wire, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(h.t, err)
	defer wire.Close()
	c.Endpoints = []netip.AddrPort{wire.LocalAddr().(*net.UDPAddr).AddrPort()}
	box, err := NewBox(c)
	require.NoError(h.t, err)
	defer box.Close()
	packet := make([]byte, 2000)
	require.NoError(h.t, wire.SetReadDeadline(time.Now().Add(5*time.Second)))
	n, err := wire.Read(packet)
	require.NoError(h.t, err)
	return packet[:n]
}

func from(address string) conn.Endpoint {
	return &conn.StdNetEndpoint{AddrPort: netip.MustParseAddrPort(address)}
}

func TestGuardNamesThePeerOfAPacket(t *testing.T) {
	h := newHouse(t)
	g := h.guard
	config, peer := h.peer(1)
	initiation := h.capture(config)
	require.Nil(t, g.check(initiation, from("127.0.0.1:9")), "no such peer")
	require.NoError(t, h.AddPeer(peer))
	require.Equal(t, peer.PublicKey, g.check(initiation, from("127.0.0.1:9")).key)
	require.Nil(t, g.check(initiation, from("192.0.2.1:9")))

	outer := g.peers[peer.PublicKey]
	data := make([]byte, device.MessageTransportSize)
	data[0] = device.MessageTransportType
	for index := range uint32(20) { // 20 handshakes: only the newest indexes stay
		g.learn(outer, index+1)
	}
	require.Len(t, g.indexes, indexesPerPeer)
	binary.LittleEndian.PutUint32(data[4:], 20)
	require.Equal(t, outer, g.check(data, from("127.0.0.1:9")))
	require.Nil(t, g.check(data, from("[2001:db8::1]:9")))
	binary.LittleEndian.PutUint32(data[4:], 1)
	require.Nil(t, g.check(data, from("127.0.0.1:9")), "an index long gone")

	require.True(t, h.RemovePeer(peer.PublicKey))
	g.learn(outer, 99) // a response under way when the peer went
	require.Empty(t, g.indexes)
	require.Empty(t, g.prefixes)
}

func TestGuardLimitsTheWorkOfAFlood(t *testing.T) {
	b := bucket{rate: 10, burst: 3}
	start := time.Now()
	taken := 0
	for range 100 {
		if b.take(start) {
			taken++
		}
	}
	require.Equal(t, 3, taken)
	require.True(t, b.take(start.Add(100*time.Millisecond)))
	require.False(t, b.take(start.Add(100*time.Millisecond)))
}

func TestHostilePacketsLeaveTheTunnelUp(t *testing.T) {
	h := newHouse(t)
	config, peer := h.peer(1)
	require.NoError(t, h.AddPeer(peer))
	box := h.open(config)
	_, err := box.Ping(within(t, 10*time.Second))
	require.NoError(t, err)
	attacker, err := net.Dial("udp4", h.endpoint().String())
	require.NoError(t, err)
	defer attacker.Close()
	stranger, _ := h.peer(2)
	dice := rand.New(rand.NewPCG(1, 1))
	for i := range 3000 {
		packet := make([]byte, 1+dice.IntN(300))
		for j := range packet {
			packet[j] = byte(dice.Uint32())
		}
		if len(packet) > 4 {
			binary.LittleEndian.PutUint32(packet, uint32(i%6))
		}
		if i%3 == 0 { // what anybody can make who knows the gateway's public key
			packet = make([]byte, device.MessageInitiationSize)
			binary.LittleEndian.PutUint32(packet, device.MessageInitiationType)
			for j := 4; j < 116; j++ {
				packet[j] = byte(dice.Uint32())
			}
			mac, err := blake2s.New128(h.guard.mac1Key[:])
			require.NoError(t, err)
			mac.Write(packet[:116])
			copy(packet[116:], mac.Sum(nil))
		}
		attacker.Write(packet)
	}
	_, err = attacker.Write(h.capture(stranger))
	require.NoError(t, err)
	_, err = box.Ping(within(t, 10*time.Second))
	require.NoError(t, err)
	require.Greater(t, h.Refused(), uint64(1000))
}

func FuzzGuard(f *testing.F) {
	key, err := NewKey()
	require.NoError(f, err)
	g, err := newGuard(key, netip.Addr{})
	require.NoError(f, err)
	g.admit([32]byte{1}, loopback)
	g.learn(g.peers[[32]byte{1}], 7)
	good := make([]byte, device.MessageTransportSize)
	good[0], good[4] = device.MessageTransportType, 7
	f.Add(good)
	for kind, size := range map[byte]int{1: device.MessageInitiationSize, 2: device.MessageResponseSize, 3: device.MessageCookieReplySize} {
		packet := make([]byte, size)
		packet[0] = kind
		if kind == 1 {
			mac, err := blake2s.New128(g.mac1Key[:])
			require.NoError(f, err)
			mac.Write(packet[:116])
			copy(packet[116:], mac.Sum(nil))
		}
		f.Add(packet)
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, packet []byte) {
		peer := g.check(packet, from("127.0.0.1:9"))
		if peer == nil {
			return
		}
		kind := messageType(packet)
		require.True(t, kind == 2 && binary.LittleEndian.Uint32(packet[8:]) == 7 || binary.LittleEndian.Uint32(packet[4:]) == 7)
	})
}

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
	"golang.zx2c4.com/wireguard/device"
)

// capture gives a real initiation of a box.
func capture(t testing.TB, c BoxConfig) []byte {
	wire, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	defer wire.Close()
	c.Endpoints = []netip.AddrPort{wire.LocalAddr().(*net.UDPAddr).AddrPort()}
	box, err := NewBox(c)
	require.NoError(t, err)
	defer box.Close()
	packet := make([]byte, 2000)
	require.NoError(t, wire.SetReadDeadline(time.Now().Add(5*time.Second)))
	n, err := wire.Read(packet)
	require.NoError(t, err)
	return packet[:n]
}

func from(address string) netip.Addr { return netip.MustParseAddrPort(address).Addr() }

func TestGuardNamesThePeerOfAPacket(t *testing.T) {
	h := newHouse(t)
	g := h.guard
	config, peer := h.peer(1)
	initiation := capture(t, config)
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
	_, err = attacker.Write(capture(t, stranger))
	require.NoError(t, err)
	_, err = box.Ping(within(t, 10*time.Second))
	require.NoError(t, err)
	require.Greater(t, h.Refused(), uint64(1000))
}

func FuzzGuard(f *testing.F) {
	private, box := [32]byte{8}, [32]byte{16} // the same in every process of the fuzzer
	public, err := PublicKey(private)
	require.NoError(f, err)
	boxPublic, err := PublicKey(box)
	require.NoError(f, err)
	g, err := newGuard(private, netip.Addr{})
	require.NoError(f, err)
	g.initiation = bucket{rate: 1e9, burst: 1e9}
	g.admit(boxPublic, netip.MustParseAddr("fd00::2"), loopback, probeKey{})
	peer := g.peers[boxPublic]
	g.learn(peer, 7)
	initiation := capture(f, BoxConfig{
		Key: box, Address: netip.MustParseAddr("fd00::2"), GatewayKey: public, GatewayAddress: testGateway, PSK: NewPSK(),
	})
	require.Equal(f, peer, g.check(initiation, from("127.0.0.1:9")))
	f.Add(initiation)
	for kind, size := range map[byte]int{
		2: device.MessageResponseSize, 3: device.MessageCookieReplySize, 4: device.MessageTransportSize, 5: 100,
	} {
		packet := make([]byte, size)
		packet[0], packet[4], packet[8] = kind, 7, 7
		f.Add(packet)
	}
	f.Add([]byte{})
	f.Add(make([]byte, device.MessageInitiationSize))
	f.Fuzz(func(t *testing.T, packet []byte) {
		if g.check(packet, from("127.0.0.1:9")) == nil {
			return
		}
		at := 4
		switch messageType(packet) {
		case device.MessageInitiationType:
			return // only who knows the box's key made this
		case device.MessageResponseType:
			at = 8
		}
		if binary.LittleEndian.Uint32(packet[at:]) != 7 {
			t.Fatal("a packet passed for an index never given out")
		}
	})
}

// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
)

// A probe asks whether a bearer carries, there and back, without wireguard, whose own timers react after 15 s:
//
//	0x50 | flags u8 | 0 | 0 | tag 8 B | number u32 BE | HMAC-SHA256[:16] | padding
//
// WireGuard's messages have types 1 to 4, so its engine would drop one. The tag says to the gateway whose it is; tag and
// key come from the lease's preshared key. The MAC covers all the rest. The answer is the probe with the answer flag, as
// long as the probe: a copied one gains its sender nothing.
const (
	probeType   = 0x50
	probeAnswer = 1 // flag
	probeSize   = 32
	tagSize     = 8
)

// probeKey makes and knows the probes of one lease.
type probeKey struct {
	tag [tagSize]byte
	mac [32]byte
}

// newProbeKey derives it from the lease's preshared key (RFC 5869).
func newProbeKey(psk [32]byte) (probeKey, error) {
	out, err := hkdf.Key(sha256.New, psk[:], nil, "sdbox-probe-1", tagSize+32)
	if err != nil {
		return probeKey{}, fmt.Errorf("derive probe key: %w", err)
	}
	return probeKey{tag: [tagSize]byte(out), mac: [32]byte(out[tagSize:])}, nil
}

func (k *probeKey) sum(packet []byte) []byte {
	mac := hmac.New(sha256.New, k.mac[:])
	mac.Write(packet[:16])
	mac.Write(packet[probeSize:])
	return mac.Sum(nil)[:16]
}

// ask makes a probe of size bytes, at least probeSize.
func (k *probeKey) ask(number uint32, size int) []byte {
	packet := make([]byte, size)
	packet[0] = probeType
	copy(packet[4:], k.tag[:])
	binary.BigEndian.PutUint32(packet[12:], number)
	copy(packet[16:], k.sum(packet))
	return packet
}

// answer turns a probe that is genuine into its answer, in place.
func (k *probeKey) answer(packet []byte) bool {
	if packet[1] != 0 || !hmac.Equal(packet[16:probeSize], k.sum(packet)) {
		return false
	}
	packet[1] = probeAnswer
	copy(packet[16:], k.sum(packet))
	return true
}

// number reads the number of an answer that is genuine.
func (k *probeKey) number(packet []byte) (uint32, bool) {
	if packet[1] != probeAnswer || probeTag(packet) != k.tag || !hmac.Equal(packet[16:probeSize], k.sum(packet)) {
		return 0, false
	}
	return binary.BigEndian.Uint32(packet[12:]), true
}

// isProbe says whether a packet has the shape of one; the other functions here need it.
func isProbe(packet []byte) bool {
	return len(packet) >= probeSize && len(packet) <= maxPacket && packet[0] == probeType && packet[1] <= probeAnswer && packet[2] == 0 && packet[3] == 0
}

func probeTag(packet []byte) [tagSize]byte { return [tagSize]byte(packet[4:]) }

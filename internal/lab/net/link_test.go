// SPDX-License-Identifier: Apache-2.0

package net

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestOnlyUDPIsBlocked(t *testing.T) {
	frame := func(etherType uint16, at int, protocol byte, size int) []byte {
		b := make([]byte, size)
		b[22], b[23] = byte(etherType>>8), byte(etherType)
		if at < size {
			b[at] = protocol
		}
		return b
	}
	for name, c := range map[string]struct {
		frame []byte
		udp   bool
	}{
		"UDP over IPv4": {frame(0x0800, 24+9, 17, 60), true},
		"UDP over IPv6": {frame(0x86dd, 24+6, 17, 80), true},
		"TCP over IPv4": {frame(0x0800, 24+9, 6, 60), false},
		"TCP over IPv6": {frame(0x86dd, 24+6, 6, 80), false},
		"ICMP":          {frame(0x0800, 24+9, 1, 60), false},
		"ARP":           {frame(0x0806, 24+9, 17, 60), false},
		"cut short":     {frame(0x0800, 24+9, 17, 40), false},
		"empty":         {nil, false},
	} {
		require.Equal(t, c.udp, isUDP(c.frame), name)
	}
}

func FuzzIsUDP(f *testing.F) {
	f.Add(make([]byte, 10))
	for _, kind := range []byte{0x00, 0xdd} { // IPv4, IPv6
		frame := make([]byte, 60)
		frame[22], frame[23] = 0x08, kind
		if kind != 0 {
			frame[22] = 0x86
		}
		f.Add(frame)
	}
	f.Add(make([]byte, 60))
	f.Fuzz(func(_ *testing.T, frame []byte) { isUDP(frame) })
}

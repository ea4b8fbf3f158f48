// SPDX-License-Identifier: Apache-2.0

// Package tunnel joins boxes to their gateway by WireGuard, in user space at both ends, so that no program but the
// agent and the gateway can speak inside it and no kernel interface exists.
//
//	box    DialTCP, ListenUDP, Ping -> netstack -> wireguard -> boxBind  -> UDP  ~~~~+
//	                                                                                 |
//	gateway    Listen, ListenUDP <- netstack <- wireguard <- guard (address list) <--+
//
// A peer exists at the gateway only while a lease stands: AddPeer gives it a preshared key and an end, the clock or
// RemovePeer takes it away, and its inner connections with it. Inside the tunnel an IPv6 address is a box: WireGuard
// drops every packet whose source is not the peer's own address (allowed IPs).
//
// Two bearers carry the packets: UDP, and a TLS connection that each box keeps open for where UDP is blocked (Gateway.Carry,
// BoxConfig.Dial). Both enter below wireguard, so that a change of bearer is no new session: at the gateway the guard gives
// each box's connection a peerEndpoint, at the box boxBind chooses who carries, told by the ladder and its probes.
package tunnel

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"golang.zx2c4.com/wireguard/device"
)

// MTU is the size of the largest packet inside the tunnel: the IPv6 minimum (RFC 8200, 5), so that the outer packet
// of 1,340 or 1,360 bytes passes almost every path.
const MTU = 1280

// keepalive is how often a silent box speaks, in seconds: less than the 30 s after which common NATs forget UDP.
const keepalive = 25

// NewKey draws an X25519 private key (WireGuard's own, sections 5.4 of its paper). A box makes one per boot.
func NewKey() ([32]byte, error) {
	private, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return [32]byte{}, fmt.Errorf("draw tunnel key: %w", err)
	}
	return [32]byte(private.Bytes()), nil
}

// PublicKey returns the X25519 public key of a private key.
func PublicKey(private [32]byte) ([32]byte, error) {
	key, err := ecdh.X25519().NewPrivateKey(private[:])
	if err != nil {
		return [32]byte{}, fmt.Errorf("tunnel key: %w", err)
	}
	return [32]byte(key.PublicKey().Bytes()), nil
}

// NewPSK draws a preshared key. The gateway makes one per lease and sends it over TLS with X25519MLKEM768, which makes
// what the tunnel carries confidential against a later quantum computer.
func NewPSK() [32]byte {
	var psk [32]byte
	rand.Read(psk[:]) // never fails: crypto/rand ends the program instead
	return psk
}

var errZeroPSK = errors.New("preshared key is all zero, which WireGuard takes as none")

// settings builds one IpcSet text: `key=value` lines, keys in hexadecimal. A blank line would end it early with
// success, so no value here may come from outside unparsed.
type settings struct{ text strings.Builder }

func (s *settings) set(key, value string) *settings {
	s.text.WriteString(key + "=" + value + "\n")
	return s
}

func (s *settings) key(name string, key [32]byte) *settings {
	return s.set(name, hex.EncodeToString(key[:]))
}

// apply hands the text to the device. The error never carries the text: it holds keys.
func (s *settings) apply(dev *device.Device) error {
	return dev.IpcSet(s.text.String())
}

// deviceLogger passes wireguard's errors on as debug records: a hostile sender can cause any number of them.
func deviceLogger(log *slog.Logger) *device.Logger {
	return &device.Logger{
		Verbosef: device.DiscardLogf,
		Errorf:   func(format string, args ...any) { log.Debug("tunnel: " + fmt.Sprintf(format, args...)) },
	}
}

func orDiscard(log *slog.Logger) *slog.Logger {
	if log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return log
}

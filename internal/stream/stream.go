// SPDX-License-Identifier: Apache-2.0

// Package stream carries a session's picture from the gateway to the box, and keys, pointer and acknowledgements back,
// by WebRTC inside the tunnel: one PeerConnection per session, made at card-in and kept across bubbles.
//
//	gateway  WriteFrame -> parts -> RTP type 100 "video/sdtile" over SRTP -> parts -> whole frames in order  Frames  box
//	gateway  Input, Acks, Refresh <- reports  <- data channel 1, unordered, unreliable <- SendInput, Ack, WantRefresh  box
//	                              receipts -> data channel 1 -> what need not be said again
//
// A lost packet is asked for again after 10 ms (RFC 4585, 6.2.1), and a small frame is sent twice, 8 ms apart, so that
// it needs no question. What the box says is repeated until the gateway has it; the gateway applies each event once and
// in order. Frames are opaque bytes here.
package stream

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/pion/webrtc/v4"
)

// MaxSDP is the longest session description either end reads, in bytes.
const MaxSDP = 8 << 10

// maxMedia is how many m= sections a description may have: the picture and the data channel.
const maxMedia = 2

var (
	// ErrClosed is the end of a stream that was closed on this side.
	ErrClosed = errors.New("stream is closed")
	// ErrBacklog says that the other end does not take what it is sent; the call had no effect.
	ErrBacklog = errors.New("stream is backed up")
	// ErrFingerprint says that the other end's certificate is not the expected one.
	ErrFingerprint = errors.New("stream certificate is not the one expected")
)

// Certificate is the DTLS identity of one session, P-256, never used again. It knows no name: Fingerprint is what the
// login transcript and the line carry.
type Certificate struct {
	Fingerprint [32]byte // SHA-256 of the DER (RFC 8122, 5)
	pion        webrtc.Certificate
}

// NewCertificate draws a key and signs a certificate for it.
func NewCertificate() (*Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("draw stream key: %w", err)
	}
	cert, err := webrtc.GenerateCertificate(key)
	if err != nil {
		return nil, fmt.Errorf("sign stream certificate: %w", err)
	}
	prints, err := cert.GetFingerprints()
	if err != nil {
		return nil, fmt.Errorf("hash stream certificate: %w", err)
	}
	c := &Certificate{pion: *cert}
	for _, print := range prints {
		if print.Algorithm == "sha-256" {
			c.Fingerprint, err = parseFingerprint(print.Value)
			return c, err
		}
	}
	return nil, errors.New("hash stream certificate: no SHA-256 fingerprint")
}

// parseFingerprint reads colon-separated hexadecimal pairs (RFC 8122, 5).
func parseFingerprint(s string) (sum [32]byte, err error) {
	raw, err := hex.DecodeString(strings.ReplaceAll(s, ":", ""))
	if err != nil || len(raw) != len(sum) || len(s) != 3*len(sum)-1 {
		return sum, errors.New("fingerprint: want 32 hexadecimal pairs")
	}
	return [32]byte(raw), nil
}

// checkSDP lets a description through to the parser only when it is small and every fingerprint in it is the given
// one. Pion then holds the DTLS handshake to what the description says.
func checkSDP(sdp string, fingerprint []byte) error {
	if len(fingerprint) != sha256.Size {
		return fmt.Errorf("fingerprint of %d bytes: want %d", len(fingerprint), sha256.Size)
	}
	if len(sdp) > MaxSDP {
		return fmt.Errorf("session description of %d bytes: at most %d", len(sdp), MaxSDP)
	}
	media, prints := 0, 0
	for line := range strings.FieldsFuncSeq(sdp, func(r rune) bool { return r == '\r' || r == '\n' }) { // pion takes either for an end
		if strings.HasPrefix(line, "m=") {
			media++
		}
		value, found := strings.CutPrefix(line, "a=fingerprint:")
		if !found {
			continue
		}
		prints++
		sum, err := parseFingerprint(strings.TrimPrefix(value, "sha-256 "))
		if err != nil || subtle.ConstantTimeCompare(sum[:], fingerprint) != 1 {
			return ErrFingerprint
		}
	}
	if prints == 0 {
		return ErrFingerprint
	}
	if media > maxMedia {
		return fmt.Errorf("session description with %d media: at most %d", media, maxMedia)
	}
	return nil
}

// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"io"
	"net"
	"path/filepath"
	"testing"

	"sdbox/internal/card"

	"github.com/stretchr/testify/require"
)

// reader is the daemon's end of a virtual reader, with a card in it.
type reader struct{ net.Conn }

// send frames one message; only a message longer than a byte is answered.
func (r reader) send(message ...byte) error {
	_, err := r.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(message))), message...))
	return err
}

// Transmit implements card.Transport.
func (r reader) Transmit(apdu []byte) ([]byte, error) {
	if err := r.send(apdu...); err != nil {
		return nil, err
	}
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	answer := make([]byte, binary.BigEndian.Uint16(head[:]))
	_, err := io.ReadFull(r, answer)
	return answer, err
}

// inReader runs "sdbox-lab card" with a reader of the test's own, uses its card and pulls it.
func inReader(t *testing.T, args []string, use func(*card.Card)) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	ctx, pull := context.WithCancel(t.Context())
	var out, errs bytes.Buffer
	done := make(chan int, 1)
	go func() {
		code := run(ctx, append([]string{"card", "--vpcd", listener.Addr().String()}, args...), &out, &errs)
		listener.Close()
		done <- code
	}()
	conn, err := listener.Accept()
	require.NoError(t, err, "%s", &errs)
	defer conn.Close()
	r := reader{conn}
	require.NoError(t, r.send(1)) // power
	c, err := card.Select(r, card.Limits{Extended: true})
	require.NoError(t, err)
	use(c)
	pull()
	require.Zero(t, <-done, "%s", &errs)
	require.Contains(t, out.String(), "card of ")
}

func TestCardAloneIsPersonalised(t *testing.T) {
	for _, profile := range []string{"nist-occ", "yubikey-5.7"} {
		t.Run(profile, func(t *testing.T) {
			args := []string{"--profile", profile, "--person", "Ada Martin", "--pin", "246810", "--file", filepath.Join(t.TempDir(), "card")}
			var first []byte
			for range 2 { // the second time it is the same card
				inReader(t, args, func(c *card.Card) {
					der, err := c.Certificate(card.Slot9A)
					require.NoError(t, err)
					if first == nil {
						first = der
					}
					require.Equal(t, first, der)
					cert, err := x509.ParseCertificate(der)
					require.NoError(t, err)
					require.Equal(t, "Ada Martin", cert.Subject.CommonName)
					require.NoError(t, c.VerifyPIN("246810"))
					digest := sha256.Sum256([]byte("any program"))
					_, err = c.Signer(card.Slot9A, cert.PublicKey.(*ecdsa.PublicKey)).Sign(nil, digest[:], crypto.SHA256)
					require.NoError(t, err)
					_, err = c.Certificate(card.Slot9E)
					require.NoError(t, err)
				})
			}
		})
	}
}

func TestCardSaysWhatIsMissing(t *testing.T) {
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"--profile", "gold"}, 2, "nist-occ"},
		{[]string{"--person", ""}, 1, "name"},
		{[]string{"--pin", "12"}, 1, "6 to 8 digits"},
		{[]string{"--vpcd", "127.0.0.1:1"}, 1, "hint: no virtual reader listens"},
		{[]string{"--file", "card_test.go"}, 1, "load card"},
	} {
		var out, errs bytes.Buffer
		require.Equal(t, c.code, run(t.Context(), append([]string{"card"}, c.args...), &out, &errs), c.args)
		require.Contains(t, errs.String(), c.says)
	}
}

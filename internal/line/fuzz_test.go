// SPDX-License-Identifier: Apache-2.0

package line

import (
	"bytes"
	"errors"
	"io"
	"net"
	"slices"
	"testing"
	"time"

	"sdbox/internal/wire"

	"github.com/stretchr/testify/require"
)

// tape is a connection whose other end has said all that it will say, and takes whatever comes.
type tape struct {
	net.Conn
	said *bytes.Reader
}

func (t tape) Read(b []byte) (int, error)       { return t.said.Read(b) }
func (tape) Write(b []byte) (int, error)        { return len(b), nil }
func (tape) SetReadDeadline(_ time.Time) error  { return nil }
func (tape) SetWriteDeadline(_ time.Time) error { return nil }

func framed(t testing.TB, messages ...wire.Message) []byte {
	t.Helper()
	codec, err := wire.NewCodec()
	require.NoError(t, err)
	var out []byte
	for _, m := range messages {
		b, err := codec.Encode(m)
		require.NoError(t, err)
		out = append(append(out, 0, 0, byte(len(b)>>8), byte(len(b))), b...)
	}
	return out
}

// FuzzRead is a hostile end of a line, from its first byte on.
func FuzzRead(f *testing.F) {
	hello, beat := &wire.Hello{Version: wire.Version}, &wire.Beat{Seq: 1}
	for _, seed := range [][]byte{
		framed(f, hello, beat, &wire.Beat{Seq: 0, Echo: true}, &wire.NonceRequest{}),
		framed(f, beat, hello, &wire.Nonce{Nonce: make([]byte, 32)}),
		framed(f, &wire.Hello{Version: 2}),
		framed(f, beat, &wire.NonceRequest{}),
		framed(f, hello)[:7],
		{0, 1, 0, 1},          // a byte more than any message
		{0, 0, 0, 2, 0x82, 9}, // no message
		{0, 0},
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, said []byte) {
		for _, peer := range []wire.Origin{wire.FromBox, wire.FromGateway} {
			c, err := New(tape{said: bytes.NewReader(said)}, peer, Silence)
			require.NoError(t, err)
			_, err = c.Greet(&wire.Hello{})
			for err == nil {
				var m wire.Message
				if m, err = c.Read(); err == nil {
					require.Contains(t, string(said), string(framed(t, m)), "a message that was not sent")
				}
			}
			require.True(t, slices.ContainsFunc([]error{io.EOF, io.ErrUnexpectedEOF, wire.ErrGrammar, ErrVersion}, func(kind error) bool { return errors.Is(err, kind) }), "%v", err)
		}
	})
}

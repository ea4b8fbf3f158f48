// SPDX-License-Identifier: Apache-2.0

package finger

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestTemplateRoundTrip(t *testing.T) {
	want := Template{{X: 0, Y: 255, Type: Bifurcation, Angle: 63}, {X: 128, Y: 1, Type: Ending}, {Type: Other, Angle: 5}}
	b := want.Encode()
	require.Equal(t, []byte{0, 255, 0xBF, 128, 1, 0x40, 0, 0, 5}, b)
	got, err := Parse(b)
	require.NoError(t, err)
	require.Equal(t, want, got)
	got.Wipe()
	require.Equal(t, make(Template, 3), got)
	require.Len(t, make(Template, MaxMinutiae+9).Encode(), MaxMinutiae*Size)
}

func TestMalformedTemplateIsRefused(t *testing.T) {
	for name, b := range map[string][]byte{
		"empty": {}, "cut off": {1, 2}, "four bytes": {1, 2, 3, 4}, "reserved type": {1, 2, 0xC0}, "too long": make([]byte, 3*MaxMinutiae+3),
	} {
		_, err := Parse(b)
		require.ErrorIs(t, err, errTemplate, name)
	}
}

// sensor serves one reply to each client.
func sensor(t *testing.T, reply func(net.Conn)) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "finger.sock")
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			reply(conn)
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return path
}

func TestSourceReadsOneFinger(t *testing.T) {
	want := Template{{X: 1, Y: 2, Type: Ending, Angle: 3}}
	ask := Unix(sensor(t, func(c net.Conn) { _ = WriteFrame(c, want) }))
	for range 2 {
		got, err := ask(t.Context())
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
}

func TestHostileSensorIsRefused(t *testing.T) {
	for name, reply := range map[string][]byte{
		"nothing": {}, "half a length": {0}, "no minutiae": {0, 0}, "too many": {0xFF, 0xFF, 1, 2, 3}, "cut off": {0, 2, 1, 2, 3},
		"reserved type": {0, 1, 1, 2, 0xC0},
	} {
		_, err := Unix(sensor(t, func(c net.Conn) { _, _ = c.Write(reply) }))(t.Context())
		require.Error(t, err, name)
	}
	_, err := Unix(filepath.Join(t.TempDir(), "none"))(t.Context())
	require.Error(t, err)
}

func TestWaitForFingerEndsWithItsContext(t *testing.T) {
	stop := errors.New("card out")
	ctx, cancel := context.WithCancelCause(t.Context())
	path := sensor(t, func(c net.Conn) {
		cancel(stop)
		_, _ = io.Copy(io.Discard, c) // until the client goes
	})
	_, err := Unix(path)(ctx)
	require.ErrorIs(t, err, stop)
	late, cancelLate := context.WithTimeout(t.Context(), -time.Second)
	defer cancelLate()
	_, err = Unix(path)(late)
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

// FuzzParse reads any bytes as a template.
func FuzzParse(f *testing.F) {
	f.Add([]byte{1, 2, 3})
	f.Add([]byte{1, 2, 0xC3, 4})
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, err := Parse(b); err == nil && !bytes.Equal(m.Encode(), b) {
			t.Fatalf("% X is not what was read", b)
		}
	})
}

// FuzzReadFrame reads any bytes as a sensor's frame.
func FuzzReadFrame(f *testing.F) {
	f.Add([]byte{0, 1, 1, 2, 3})
	f.Add([]byte{0xFF, 0xFF})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ReadFrame(bytes.NewReader(b))
		if err != nil {
			return
		}
		var back bytes.Buffer
		if err := WriteFrame(&back, m); err != nil || !bytes.HasPrefix(b, back.Bytes()) {
			t.Fatalf("% X is not what was read: %v", b, err)
		}
	})
}

// SPDX-License-Identifier: Apache-2.0

package line

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"sdbox/internal/wire"

	"github.com/stretchr/testify/require"
)

func pair(t *testing.T) (box, gateway *Conn, rawBox, rawGateway net.Conn) {
	t.Helper()
	a, b := net.Pipe()
	box, err := New(a, wire.FromGateway, Silence)
	require.NoError(t, err)
	gateway, err = New(b, wire.FromBox, Silence)
	require.NoError(t, err)
	return box, gateway, a, b
}

func TestBothEndsGreetAndTalk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box, gateway, _, _ := pair(t)
		done := make(chan error, 1)
		go func() {
			m, err := gateway.Read()
			if err == nil && m.(*wire.Hello).Version != wire.Version {
				err = ErrVersion
			}
			if err == nil {
				err = gateway.Write(&wire.Hello{Version: wire.Version, Support: "call us"})
			}
			if err == nil {
				_, err = gateway.Read()
			}
			done <- err
		}()
		hello, err := box.Greet(&wire.Hello{})
		require.NoError(t, err)
		require.Equal(t, "call us", hello.Support)
		require.NoError(t, box.Write(&wire.NonceRequest{}))
		require.NoError(t, <-done)
		require.NoError(t, box.Close())
		_, err = gateway.Read()
		require.ErrorIs(t, err, io.EOF)
	})
}

func TestSilentPeerIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box, _, _, _ := pair(t)
		start := time.Now()
		_, err := box.Read()
		require.ErrorIs(t, err, ErrSilent)
		require.Equal(t, Silence, time.Since(start))
	})
}

func TestBeatsKeepTheLineAndMeasureIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box, gateway, _, _ := pair(t)
		ctx, cancel := context.WithCancel(t.Context())
		errs := make(chan error, 3)
		go func() { errs <- box.Beats(ctx) }()
		go func() { _, err := box.Read(); errs <- err }()
		go func() { _, err := gateway.Read(); errs <- err }()
		time.Sleep(time.Minute) // bubble time: four silence limits
		require.Empty(t, errs)
		cancel()
		require.NoError(t, <-errs)
		require.NoError(t, gateway.Close())
		require.Error(t, <-errs)
		require.Error(t, <-errs)
	})
}

func TestPeerThatDoesNotReadCannotHoldAWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box, _, _, _ := pair(t)
		start := time.Now()
		require.Error(t, box.Write(&wire.NonceRequest{}))
		require.Equal(t, writeLimit, time.Since(start))
	})
}

func TestHostileFramesCloseTheLine(t *testing.T) {
	for name, raw := range map[string][]byte{
		"length over the limit": binary.BigEndian.AppendUint32(nil, wire.MaxMessage+1),
		"length of 4 GiB":       {0xff, 0xff, 0xff, 0xff},
		"empty frame":           {0, 0, 0, 0},
		"garbage":               {0, 0, 0, 3, 1, 2, 3},
		"gateway's message":     {0, 0, 0, 4, 0x82, 0x0a, 0xa1, 0x01},
	} {
		t.Run(name, func(t *testing.T) {
			_, gateway, raw1, _ := pair(t)
			go func() { _, _ = raw1.Write(raw) }()
			_, err := gateway.Read()
			require.ErrorIs(t, err, wire.ErrGrammar)
		})
	}
	t.Run("cut in the middle", func(t *testing.T) {
		_, gateway, raw1, _ := pair(t)
		go func() { _, _ = raw1.Write([]byte{0, 0, 0, 9, 1}); _ = raw1.Close() }()
		_, err := gateway.Read()
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	})
}

func TestOtherVersionIsRefused(t *testing.T) {
	box, gateway, _, _ := pair(t)
	go func() { _, _ = gateway.Read(); _ = gateway.Write(&wire.Hello{Version: wire.Version + 1}) }()
	_, err := box.Greet(&wire.Hello{})
	require.ErrorIs(t, err, ErrVersion)
}

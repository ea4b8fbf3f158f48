// SPDX-License-Identifier: Apache-2.0

package cardsim

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"io"
	"net"
	"slices"
	"testing"
	"time"

	"sdbox/internal/card"

	"github.com/stretchr/testify/require"
)

// host is a virtual machine's end of the reader's protocol, as QEMU's ccid-card-passthru speaks it.
type host struct {
	t    *testing.T
	conn net.Conn
}

// machine puts the card into a reader in memory and returns when the host has its answer to reset.
func machine(t *testing.T, ctx context.Context, s *Sim) (h host, done chan error) {
	t.Helper()
	here, there := net.Pipe()
	t.Cleanup(func() { here.Close() })
	done = make(chan error, 1)
	go func() {
		done <- s.InsertVSCard(ctx, func(context.Context) (net.Conn, error) { return there, nil })
	}()
	h = host{t, here}
	kind, reader, hello := h.receive()
	require.Equal(t, [2]uint32{vscInit, vscNoReader}, [2]uint32{kind, reader})
	require.Equal(t, must(hex.DecodeString("565343440000000200000000")), hello)
	kind, _, _ = h.receive()
	require.Equal(t, uint32(vscReaderAdd), kind)
	kind, reader, atr := h.receive()
	require.Equal(t, [2]uint32{vscATR, 0}, [2]uint32{kind, reader})
	require.Equal(t, must(hex.DecodeString("3B6500007364626F78")), atr)
	h.send(vscInit, hello)
	h.send(vscError, make([]byte, 4))
	h.send(vscError, make([]byte, 4))
	return h, done
}

func (h host) send(kind uint32, payload []byte) {
	head := make([]byte, vscHeader)
	binary.BigEndian.PutUint32(head, kind)
	binary.BigEndian.PutUint32(head[8:], uint32(len(payload)))
	_, err := h.conn.Write(append(head, payload...))
	require.NoError(h.t, err)
}

func (h host) receive() (kind, reader uint32, payload []byte) {
	head := make([]byte, vscHeader)
	_, err := io.ReadFull(h.conn, head)
	require.NoError(h.t, err)
	payload = make([]byte, binary.BigEndian.Uint32(head[8:]))
	_, err = io.ReadFull(h.conn, payload)
	require.NoError(h.t, err)
	return binary.BigEndian.Uint32(head), binary.BigEndian.Uint32(head[4:]), payload
}

// Transmit implements card.Transport: the machine's reader passes a command through. An answer that QEMU would drop fails the test.
func (h host) Transmit(apdu []byte) ([]byte, error) {
	h.send(vscAPDU, apdu)
	kind, _, answer := h.receive()
	if kind == vscCardRemove {
		h.send(vscError, make([]byte, 4))
		return nil, card.ErrRemoved
	}
	require.Equal(h.t, uint32(vscAPDU), kind)
	require.LessOrEqual(h.t, len(answer), 258)
	if len(apdu) > 5 {
		require.Len(h.t, answer, 2, "at T=0 a command that brings data takes none away")
	}
	return answer, nil
}

func TestCardInAVirtualMachineSpeaksT0(t *testing.T) {
	occ := newSim(t)
	_, err := occ.Generate(card.Slot9E)
	require.NoError(t, err)
	key, err := occ.nvm.Keys["9A"].private()
	require.NoError(t, err)
	require.NoError(t, occ.PutCertificate(card.Slot9A, certificate(t, &key.PublicKey, 600)))
	yubico, err := New(YubiKey57, occ.Person())
	require.NoError(t, err)
	for name, work := range map[string]struct {
		sim *Sim
		do  func(card.Transport) error
	}{
		"login":   {occ, func(line card.Transport) error { return login(line, card.Limits{T0: true}, probe(1, 1)) }},
		"renewal": {yubico, func(line card.Transport) error { return renew(t, line, card.Limits{T0: true}) }},
	} {
		h, done := machine(t, t.Context(), work.sim)
		require.NoError(t, work.do(h), name)
		gone := make(chan struct{})
		go func() { defer close(gone); work.sim.Eject() }()
		kind, reader, _ := h.receive()
		require.Equal(t, [2]uint32{vscCardRemove, 0}, [2]uint32{kind, reader}, name)
		select {
		case <-gone:
			t.Fatal("out before the machine knows it")
		default:
		}
		h.send(vscError, make([]byte, 4))
		<-gone
		require.NoError(t, <-done, name)
	}
}

func TestSelectStandsForTheResetThatAVirtualMachineKeepsToItself(t *testing.T) {
	s := newSim(t)
	h, done := machine(t, t.Context(), s)
	for _, c := range []struct{ name, tpdu, sw string }{
		{"select", testSelect[:len(testSelect)-2], "6123"},
		{"PIN", "0020008008313233343536FFFF", "9000"},
		{"select again", testSelect[:len(testSelect)-2], "6123"},
		{"9A wants the PIN again", "0087119A267C2482008120" + testDigest, "6982"},
		{"tries left, P3 of zero", "0020008000", "63C5"},
		{"data with Le", testSelect, "6700"},
		{"extended length", "00CB3FFF0000055C035FC102", "6700"},
		{"nothing waits", "00C0000000", "6985"},
		{"no P3", "00200080", "63C5"},
	} {
		answer, err := h.Transmit(must(hex.DecodeString(c.tpdu)))
		require.NoError(t, err, c.name)
		require.Equal(t, must(hex.DecodeString(c.sw)), answer, c.name)
	}
	h.send(vscFlush, nil)
	kind, _, _ := h.receive()
	require.Equal(t, uint32(vscFlushComplete), kind)
	s.CutPower(1, BeforeAnswer)
	_, err := h.Transmit(must(hex.DecodeString("0020008000")))
	require.ErrorIs(t, err, card.ErrRemoved)
	require.ErrorIs(t, <-done, card.ErrRemoved)
}

func TestHostileMachineEndsTheStayOnly(t *testing.T) {
	for name, said := range hostileMachines() {
		s := newSim(t)
		err := s.reside(t.Context(), true, func(ctx context.Context) error {
			return s.serveVSCard(ctx, &vscard{conn: tape{said: bytes.NewReader(said)}})
		})
		require.Error(t, err, name)
		require.Equal(t, 3, s.Tries(card.RefFinger), name)
		require.Empty(t, s.ram, name)
	}
}

func hostileMachines() map[string][]byte {
	message := func(kind, length uint32, payload ...byte) []byte {
		b := binary.BigEndian.AppendUint32(nil, kind)
		b = binary.BigEndian.AppendUint32(b, 0)
		return append(binary.BigEndian.AppendUint32(b, length), payload...)
	}
	tpdu := must(hex.DecodeString(testSelect[:len(testSelect)-2]))
	good := slices.Concat(message(vscInit, 12, make([]byte, 12)...), message(vscError, 4, 0, 0, 0, 0), message(vscAPDU, uint32(len(tpdu)), tpdu...))
	return map[string][]byte{
		"nothing": {}, "half a header": {0, 0, 0}, "endless message": message(vscAPDU, 0xFFFFFFFF), "cut off": message(vscAPDU, 200, 1, 2),
		"unknown": message(99, 0), "refused": message(vscError, 4, 0, 0, 0, 2), "odd error": message(vscError, 1, 0), "goes away": good,
		"flush": append(good, message(vscFlush, 0)...), "odd command": append(good, message(vscAPDU, 6, 0, 0x20, 0, 0x80, 9, 1)...),
		"lets go": slices.Concat(good, message(vscError, 4, 0, 0, 0, 0), message(vscError, 4, 0, 0, 0, 0)),
	}
}

// FuzzMachine is a hostile virtual machine: messages of its reader's protocol, with commands in them; the power goes at one of them, or
// at none.
func FuzzMachine(f *testing.F) {
	for _, said := range hostileMachines() {
		f.Add(said, uint8(0))
		f.Add(said, uint8(1))
	}
	blank := newSim(f)
	f.Fuzz(func(t *testing.T, said []byte, cut uint8) {
		s := &Sim{profile: blank.profile, nvm: blank.nvm, t0: true}
		s.ram.verified = map[byte]bool{}
		if cut > 0 {
			s.CutPower(int(cut), BeforeAnswer)
		}
		if s.serveVSCard(t.Context(), &vscard{conn: tape{said: bytes.NewReader(said)}}) == nil {
			t.Fatal("a stay without an end")
		}
	})
}

// tape is a reader that says all it will say at once, and takes every answer.
type tape struct {
	net.Conn
	said *bytes.Reader
}

func (t tape) Read(b []byte) (int, error) { return t.said.Read(b) }
func (tape) Write(b []byte) (int, error)  { return len(b), nil }
func (tape) SetDeadline(time.Time) error  { return nil }

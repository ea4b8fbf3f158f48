// SPDX-License-Identifier: Apache-2.0

package stream

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func key(code uint16, down bool) Input { return Input{Kind: Key, Code: code, Down: down} }

func TestReportComesBackAsSent(t *testing.T) {
	o := newOutbox()
	require.NoError(t, o.input(key(0x1e, true)))
	require.NoError(t, o.input(Input{Stream: 2, Kind: Pointer, X: 1919, Y: 1079, Buttons: 1}))
	require.NoError(t, o.input(Input{Stream: 3, Kind: Pointer, X: 5, Y: 6, Buttons: 1}))
	require.NoError(t, o.input(Input{Stream: 65535, Kind: Pointer, Buttons: 1, Wheel: -1}))
	o.acknowledge(77)
	o.wantRefresh()
	r, err := parseReport(o.report(nil, time.Now()))
	require.NoError(t, err)
	require.Equal(t, report{
		id: 1, acks: 1, ack: 77, refresh: 1, motion: motion{count: 1, after: 2, stream: 3, x: 5, y: 6, buttons: 1}, first: 1,
		events: []Input{
			{Seq: 1, Kind: Key, Code: 0x1e, Down: true},
			{Seq: 2, Stream: 2, Kind: Pointer, X: 1919, Y: 1079, Buttons: 1},
			{Seq: 3, Stream: 65535, Kind: Pointer, Buttons: 1, Wheel: -1},
		},
	}, r)
}

func TestInputThatIsNoneIsRefused(t *testing.T) {
	o := newOutbox()
	for _, bad := range []Input{
		{}, {Kind: 3}, {Kind: Key}, {Kind: Key, Code: 1, X: 1}, {Kind: Key, Code: 1, Wheel: 1},
		{Kind: Pointer, Code: 1}, {Kind: Pointer, Down: true},
	} {
		require.Error(t, o.input(bad))
	}
	for range maxUnconfirmed {
		require.NoError(t, o.input(key(1, true)))
	}
	require.ErrorIs(t, o.input(key(1, true)), ErrBacklog)
	require.LessOrEqual(t, len(o.report(nil, time.Now())), reportHead+maxEvents*eventSize)
}

// badNet joins an outbox and an inbox by a network that loses, repeats and disorders, and has a reader at the gateway
// that now and then takes nothing.
type badNet struct {
	t           testing.TB
	dice        *rand.Rand
	out         *outbox
	in          inbox
	up, down    [][]byte
	got, moved  []Input
	acks        uint32
	refreshes   int
	loss, stale int // percent; how many old packets may come again
}

func (b *badNet) deliver(e Input) bool {
	switch {
	case b.dice.IntN(10) == 0:
		return false
	case e.Kind == Key || e.Buttons != 0 || e.Wheel != 0:
		b.got = append(b.got, e)
	default:
		b.moved = append(b.moved, e)
	}
	return true
}

// pick returns one of the newest packets, or nil for a lost one.
func (b *badNet) pick(packets [][]byte) []byte {
	packets = packets[max(0, len(packets)-b.stale):]
	if b.dice.IntN(100) < b.loss {
		return nil
	}
	return packets[b.dice.IntN(len(packets))]
}

func (b *badNet) exchange() {
	b.up = append(b.up, b.out.report(nil, time.Now()))
	for range 2 {
		packet := b.pick(b.up)
		if packet == nil {
			continue
		}
		r, err := parseReport(packet)
		require.NoError(b.t, err)
		acked, refresh := b.in.apply(r, b.deliver)
		if acked {
			b.acks = r.ack
		}
		if refresh {
			b.refreshes++
		}
		b.down = append(b.down, b.in.taken.append(nil))
		if packet = b.pick(b.down); packet != nil {
			answer, err := parseReceipt(packet)
			require.NoError(b.t, err)
			b.out.confirm(answer, time.Now())
		}
	}
}

func TestEventsArriveOnceAndInOrder(t *testing.T) {
	b := &badNet{t: t, dice: rand.New(rand.NewPCG(5, 6)), out: newOutbox(), loss: 33, stale: 20}
	var sent []Input
	for i := range 3000 {
		e := key(uint16(1+i%200), i%2 == 0)
		if i%7 == 0 {
			e = Input{Kind: Pointer, X: uint16(i), Wheel: 1}
		}
		if i%5 == 0 {
			require.NoError(t, b.out.input(Input{Stream: uint16(i / 100), Kind: Pointer, X: uint16(i), Y: 9}))
		}
		e.Stream = uint16(i / 100) // what was typed into one picture is never taken for another, however late it comes
		require.NoError(t, b.out.input(e))
		e.Seq = uint32(i + 1)
		sent = append(sent, e)
		b.out.acknowledge(uint32(i))
		b.exchange()
	}
	require.NoError(t, b.out.input(Input{Kind: Pointer, X: 12, Y: 34}))
	b.out.wantRefresh()
	for range 1000 {
		b.exchange()
	}
	require.True(t, b.out.settled())
	require.Equal(t, sent, b.got)
	require.Equal(t, uint32(2999), b.acks)
	require.Equal(t, 1, b.refreshes)
	require.Equal(t, Input{Seq: 3000, Kind: Pointer, X: 12, Y: 34}, b.moved[len(b.moved)-1])
}

func TestReceiptForWhatWasNeverSentIsIgnored(t *testing.T) {
	o := newOutbox()
	require.NoError(t, o.input(key(1, true)))
	o.report(nil, time.Now())
	for _, bad := range []receipt{
		{id: 99, acks: 5, refresh: 5, motion: 5, applied: 50}, {applied: 1 << 31}, {applied: ^uint32(0)}, {acks: 1 << 30},
	} {
		o.confirm(bad, time.Now())
	}
	require.False(t, o.settled())
	require.Len(t, o.unsent, 1)
	o.acknowledge(1)
	o.confirm(receipt{applied: 1}, time.Now())
	require.False(t, o.settled(), "the frame acknowledgement is still to be confirmed")
}

func FuzzReport(f *testing.F) {
	o := newOutbox()
	f.Add(o.report(nil, time.Now()))
	require.NoError(f, o.input(key(5, true)))
	require.NoError(f, o.input(Input{Kind: Pointer, X: 3, Buttons: 4}))
	good := o.report(nil, time.Now())
	f.Add(good)
	f.Add(good[:len(good)-1])
	f.Add(append(slices.Clone(good[:reportHead]), make([]byte, 2*eventSize)...)) // events of no kind
	f.Add([]byte{reportVersion})
	f.Add(make([]byte, maxMessage))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseReport(b)
		if err != nil {
			return
		}
		require.Equal(t, b, r.append(nil))
		in, delivered := inbox{}, 0
		in.apply(r, func(e Input) bool {
			require.NoError(t, e.check())
			delivered++
			return true
		})
		require.LessOrEqual(t, delivered, maxEvents+1)
	})
}

func FuzzReceipt(f *testing.F) {
	f.Add((&receipt{1, 2, 3, 4, 5}).append(nil))
	f.Add([]byte{})
	f.Add(make([]byte, receiptSize))
	f.Add((&receipt{id: 1, applied: 1}).append(nil))
	f.Add((&receipt{id: 1, applied: maxEvents}).append(nil))
	f.Add((&receipt{id: 1, applied: 1 << 31, acks: 1, refresh: 1, motion: 1}).append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseReceipt(b)
		if err != nil {
			return
		}
		require.Equal(t, b, r.append(nil))
		o := newOutbox()
		for range maxEvents + 1 {
			require.NoError(t, o.input(key(5, true)))
		}
		require.NoError(t, o.input(Input{Kind: Pointer, X: 3}))
		o.acknowledge(7)
		o.wantRefresh()
		o.report(nil, time.Unix(1, 0)) // one time for all runs: the fuzzer compares their ways
		o.confirm(r, time.Unix(1, 1))
		require.LessOrEqual(t, len(o.unsent), maxEvents+1)
	})
}

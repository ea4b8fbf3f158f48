// SPDX-License-Identifier: Apache-2.0

package stream

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func key(code uint16, down bool) Input { return Input{Kind: Key, Code: code, Down: down} }

func TestReportComesBackAsSent(t *testing.T) {
	o := newOutbox()
	require.NoError(t, o.input(key(0x1e, true)))
	require.NoError(t, o.input(Input{Kind: Pointer, X: 1919, Y: 1079, Buttons: 1}))
	require.NoError(t, o.input(Input{Kind: Pointer, X: 5, Y: 6, Buttons: 1}))
	require.NoError(t, o.input(Input{Kind: Pointer, Buttons: 1, Wheel: -1}))
	o.acknowledge(77)
	o.wantRefresh()
	r, err := parseReport(o.report(nil, time.Now()))
	require.NoError(t, err)
	require.Equal(t, report{
		id: 1, acks: 1, ack: 77, refresh: 1, motion: motion{count: 1, after: 2, x: 5, y: 6, buttons: 1}, first: 1,
		events: []Input{
			{Seq: 1, Kind: Key, Code: 0x1e, Down: true},
			{Seq: 2, Kind: Pointer, X: 1919, Y: 1079, Buttons: 1},
			{Seq: 3, Kind: Pointer, Buttons: 1, Wheel: -1},
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

// TestEventsArriveOnceAndInOrder plays both ends over a network that loses a third, repeats and disorders, and against a
// gateway that now and then takes nothing.
func TestEventsArriveOnceAndInOrder(t *testing.T) {
	dice := rand.New(rand.NewPCG(5, 6))
	o, in := newOutbox(), inbox{}
	var sent, got, moved []Input
	var up, down [][]byte
	acks, refreshes := uint32(0), 0
	deliver := func(e Input) bool {
		if dice.IntN(10) == 0 {
			return false
		}
		if e.Kind == Key || e.Buttons != 0 || e.Wheel != 0 {
			got = append(got, e)
		} else {
			moved = append(moved, e)
		}
		return true
	}
	exchange := func(loss int) {
		up = append(up, o.report(nil, time.Now()))
		for range 2 {
			packet := up[dice.IntN(len(up))] // old ones too
			if up = up[max(0, len(up)-20):]; dice.IntN(100) < loss {
				continue
			}
			r, err := parseReport(packet)
			require.NoError(t, err)
			if acked, refresh := in.apply(r, deliver); acked || refresh {
				acks = max(acks, r.ack)
				if refresh {
					refreshes++
				}
			}
			down = append(down, in.taken.append(nil))
			answer, err := parseReceipt(down[dice.IntN(len(down))])
			require.NoError(t, err)
			if down = down[max(0, len(down)-20):]; dice.IntN(100) >= loss {
				o.confirm(answer, time.Now())
			}
		}
	}
	for i := range 3000 {
		e := key(uint16(1+i%200), i%2 == 0)
		if i%7 == 0 {
			e = Input{Kind: Pointer, X: uint16(i), Wheel: 1}
		}
		if i%5 == 0 {
			require.NoError(t, o.input(Input{Kind: Pointer, X: uint16(i), Y: 9}))
		}
		require.NoError(t, o.input(e))
		e.Seq = uint32(i + 1)
		sent = append(sent, e)
		o.acknowledge(uint32(i))
		exchange(33)
	}
	require.NoError(t, o.input(Input{Kind: Pointer, X: 12, Y: 34}))
	o.wantRefresh()
	for range 1000 {
		exchange(0)
	}
	require.True(t, o.settled())
	require.Equal(t, sent, got)
	require.Equal(t, uint32(2999), acks)
	require.Equal(t, 1, refreshes)
	require.Equal(t, Input{Seq: 3000, Kind: Pointer, X: 12, Y: 34}, moved[len(moved)-1])
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
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseReceipt(b)
		if err != nil {
			return
		}
		require.Equal(t, b, r.append(nil))
		o := newOutbox()
		require.NoError(t, o.input(key(5, true)))
		o.report(nil, time.Now())
		o.confirm(r, time.Now())
		require.LessOrEqual(t, len(o.unsent), 1)
	})
}

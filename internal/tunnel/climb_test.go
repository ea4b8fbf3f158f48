// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// ladderRun plays a ladder against a clock of its own, tick by tick; run says by which bearer its probes are answered.
type ladderRun struct {
	*ladder
	now    time.Time
	number uint32
	loss   *rand.Rand
}

func (r *ladderRun) run(d time.Duration, udp func(size int) bool, tls bool) {
	for end := r.now.Add(d); r.now.Before(end); r.now = r.now.Add(ladderTick) {
		o := r.step(r.now, true)
		if o.udp > 0 {
			r.number++
			r.udp.sent(r.number, r.now)
			if udp(o.udp) {
				r.udp.answered(r.number, r.now.Add(20*time.Millisecond))
			}
		}
		if o.tls > 0 {
			r.number++
			r.tls.sent(r.number, r.now)
			if tls {
				r.tls.answered(r.number, r.now.Add(20*time.Millisecond))
			}
		}
	}
}

func TestLadderChangesTheBearerOnlyForABetterOne(t *testing.T) {
	never, always := func(int) bool { return false }, func(int) bool { return true }
	start := func() *ladderRun {
		r := &ladderRun{ladder: newLadder(time.Now()), now: time.Now(), loss: rand.New(rand.NewPCG(1, 1))}
		r.stream(true)
		r.run(5*time.Second, always, true)
		require.False(t, r.onTLS)
		return r
	}
	t.Run("silence", func(t *testing.T) {
		r := start()
		r.run(time.Second, never, true)
		require.False(t, r.onTLS)
		r.run(750*time.Millisecond, never, true)
		require.True(t, r.onTLS, "after 1.5 s and a step")
	})
	t.Run("loss", func(t *testing.T) {
		r := start()
		r.run(30*time.Second, func(int) bool { return r.loss.IntN(10) > 0 }, true)
		require.False(t, r.onTLS, "10 %")
		began := r.now
		for !r.onTLS {
			r.run(ladderTick, func(int) bool { return r.loss.IntN(2) > 0 }, true)
			require.Less(t, r.now.Sub(began), lossWindow, "50 %")
		}
	})
	t.Run("a cable unplugged is no blocked UDP", func(t *testing.T) {
		r := start()
		r.run(5*time.Second, never, false)
		require.False(t, r.onTLS)
		r.run(5*time.Second, always, true)
		require.False(t, r.onTLS)
	})
	t.Run("nothing better", func(t *testing.T) {
		r := start()
		r.stream(false)
		r.run(10*time.Second, never, false)
		require.False(t, r.onTLS)
		require.True(t, r.step(r.now, true).hurry)
		r.stream(true)
		r.run(750*time.Millisecond, never, true)
		require.True(t, r.onTLS)
		r.stream(false)
		r.run(3*time.Second, always, false)
		require.False(t, r.onTLS, "UDP is the only one")
	})
	t.Run("large packets are lost", func(t *testing.T) {
		r := start()
		r.run(3*time.Second, never, true)
		r.run(5*time.Minute, func(size int) bool { return size < 1300 }, true)
		require.True(t, r.onTLS)
	})
	t.Run("waits longer each time, but never 30 s", func(t *testing.T) {
		r := start()
		var waits []float64
		for range 5 {
			r.run(3*time.Second, never, true)
			require.True(t, r.onTLS)
			began := r.now
			for r.onTLS {
				r.run(ladderTick, always, true)
			}
			waits = append(waits, r.now.Sub(began).Seconds())
			r.run(2*time.Second, always, true)
		}
		t.Log(waits)
		for i := range waits {
			require.InDelta(t, []float64{6, 12, 20, 20, 20}[i], waits[i], 3)
		}
		r.run(longStay, always, true)
		r.run(3*time.Second, never, true)
		require.Equal(t, firstWait, r.wait, "a long stay forgives")
	})
	t.Run("a lossy network that lets UDP pass again", func(t *testing.T) {
		r := start()
		r.wait = longestWait
		r.run(3*time.Second, never, true)
		began := r.now
		for r.onTLS {
			r.run(ladderTick, func(int) bool { return r.loss.IntN(25) > 0 }, true)
		}
		require.Less(t, r.now.Sub(began), 30*time.Second, "a lost probe does not begin the wait anew")
	})
	t.Run("dead TLS is made anew", func(t *testing.T) {
		r := start()
		r.run(30*time.Second, always, false)
		require.True(t, r.step(r.now, true).redial)
	})
	t.Run("foreign answers", func(t *testing.T) {
		r := start()
		heard := r.udp.heard
		r.udp.answered(1<<30, r.now.Add(time.Hour))
		r.udp.answered(1, r.now.Add(time.Hour)) // a second time
		require.Equal(t, heard, r.udp.heard)
	})
}

// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestDeadlinesFireInOrderAndOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type event struct {
			key byte
			at  time.Duration
		}
		start := time.Now()
		var events []event
		d := newDeadlines(func(key [32]byte) { events = append(events, event{key[0], time.Since(start)}) })
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			d.run(ctx)
			close(done)
		}()
		for key, after := range map[byte]time.Duration{1: 15 * time.Minute, 2: 5 * time.Minute, 3: 10 * time.Minute, 4: time.Minute} {
			d.set([32]byte{key}, start.Add(after))
		}
		d.drop([32]byte{3})
		d.drop([32]byte{7})
		time.Sleep(4 * time.Minute)
		d.set([32]byte{2}, start.Add(20*time.Minute)) // renewed
		d.set([32]byte{5}, start.Add(6*time.Minute))  // earlier than all that wait
		time.Sleep(time.Hour)
		synctest.Wait()
		cancel()
		<-done
		require.Equal(t, []event{{4, time.Minute}, {5, 6 * time.Minute}, {1, 15 * time.Minute}, {2, 20 * time.Minute}}, events)
		require.Empty(t, d.queue)
		require.Empty(t, d.byKey)
	})
}

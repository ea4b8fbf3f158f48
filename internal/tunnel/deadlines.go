// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"container/heap"
	"context"
	"sync"
	"time"
)

// deadlines calls expire for each key whose time has come, at that time and once. WireGuard itself knows no expiry.
// Times are of the monotonic clock: a wall clock set back must not lengthen a lease.
type deadlines struct {
	expire func(key [32]byte) // called by run, without mu
	wake   chan struct{}      // capacity 1: the earliest deadline has changed

	mu    sync.Mutex
	queue deadlineQueue          // guarded by mu
	byKey map[[32]byte]*deadline // guarded by mu; what queue holds
}

type deadline struct {
	key [32]byte
	at  time.Time // with monotonic reading
	pos int       // in the queue
}

func newDeadlines(expire func(key [32]byte)) *deadlines {
	return &deadlines{expire: expire, wake: make(chan struct{}, 1), byKey: map[[32]byte]*deadline{}}
}

// set gives key a deadline, in the place of the one it had.
func (d *deadlines) set(key [32]byte, at time.Time) {
	d.mu.Lock()
	if entry := d.byKey[key]; entry != nil {
		entry.at = at
		heap.Fix(&d.queue, entry.pos)
	} else {
		entry = &deadline{key: key, at: at}
		d.byKey[key] = entry
		heap.Push(&d.queue, entry)
	}
	d.mu.Unlock()
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// drop takes the deadline of key away.
func (d *deadlines) drop(key [32]byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if entry := d.byKey[key]; entry != nil {
		heap.Remove(&d.queue, entry.pos)
		delete(d.byKey, key)
	}
}

// pop returns a key that is due, or how long to wait for the next one.
func (d *deadlines) pop() (key [32]byte, due bool, wait time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.queue) == 0 {
		return key, false, time.Hour
	}
	first := d.queue[0]
	if wait = time.Until(first.at); wait > 0 {
		return key, false, wait
	}
	heap.Pop(&d.queue)
	delete(d.byKey, first.key)
	return first.key, true, 0
}

// run expires keys until ctx is done.
func (d *deadlines) run(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		key, due, wait := d.pop()
		if due {
			d.expire(key)
			continue
		}
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-d.wake:
		case <-ctx.Done():
			return
		}
	}
}

// deadlineQueue implements heap.Interface, earliest first.
type deadlineQueue []*deadline

func (q deadlineQueue) Len() int           { return len(q) }
func (q deadlineQueue) Less(i, j int) bool { return q[i].at.Before(q[j].at) }
func (q deadlineQueue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].pos, q[j].pos = i, j
}

// Push appends; heap.Push calls it.
func (q *deadlineQueue) Push(x any) {
	entry := x.(*deadline)
	entry.pos = len(*q)
	*q = append(*q, entry)
}

// Pop takes the last; heap.Pop calls it.
func (q *deadlineQueue) Pop() any {
	last := (*q)[len(*q)-1]
	(*q)[len(*q)-1] = nil
	*q = (*q)[:len(*q)-1]
	return last
}

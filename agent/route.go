// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"crypto/rand"
	"math/big"
	"slices"
	"sync/atomic"
	"time"
)

// route is what the loop tells the link of the way to the centre: where it may be found besides, and that it may be free now.
type route struct {
	hints atomic.Pointer[[]string]
	free  chan struct{} // holds one word
}

func newRoute() *route { return &route{free: make(chan struct{}, 1)} }

// hint names front doors to be tried before those of the image. They prove who they are like any other.
func (r *route) hint(gateways []string) { r.hints.Store(&gateways) }

// open has a link that waits try again at once.
func (r *route) open() {
	select {
	case r.free <- struct{}{}:
	default: // it was told
	}
}

// doors are all front doors, best first, each once.
func (r *route) doors(image []string) []string {
	var all []string
	if hints := r.hints.Load(); hints != nil {
		all = append(all, *hints...)
	}
	for _, g := range image {
		if !slices.Contains(all, g) {
			all = append(all, g)
		}
	}
	return all
}

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// rest waits, or until the way may be free; alive is false when ctx has ended.
func (l *link) rest(ctx context.Context, d time.Duration) (freed, alive bool) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return false, true
	case <-l.route.free:
		return true, true
	case <-ctx.Done():
		return false, false
	}
}

// jitter spreads boxes that lost the same gateway: half to all of d.
func jitter(d time.Duration) time.Duration {
	n, err := rand.Int(rand.Reader, big.NewInt(int64(d/2)+1))
	if err != nil {
		return d
	}
	return d/2 + time.Duration(n.Int64())
}

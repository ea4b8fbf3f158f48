// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"image"
	"sync"
	"sync/atomic"
	"testing"

	"sdbox/agent/keys"
	"sdbox/agent/screen"
	"sdbox/internal/card"
	"sdbox/internal/card/cardsim"
	"sdbox/internal/card/pcsc"

	"github.com/stretchr/testify/require"
)

// reader is a card reader in memory with a simulated card.
type reader struct {
	events chan pcsc.Event
	card   *cardsim.Sim
}

func (r *reader) Events() <-chan pcsc.Event { return r.events }
func (r *reader) Readers() int              { return 1 }
func (r *reader) Connect(string) (Connection, error) {
	return inserted{r.card}, nil
}

type inserted struct{ *cardsim.Sim }

func (inserted) Limits() card.Limits { return card.Limits{Extended: true} }
func (c inserted) Close() error      { c.Reset(); return nil }

// watched is a screen in memory that another goroutine may look at.
type watched struct {
	mu      sync.Mutex
	memory  *screen.Memory // guarded by mu, its image the loop's
	changed chan struct{}  // capacity 1
}

func newWatched(t testing.TB) *watched {
	m, err := screen.NewMemory(width, height)
	require.NoError(t, err)
	return &watched{memory: m, changed: make(chan struct{}, 1)}
}

func (w *watched) Image() *screen.Image { return w.memory.Image() }
func (w *watched) Close() error         { return nil }

func (w *watched) Flush(rects ...image.Rectangle) error {
	return w.do(func() error { return w.memory.Flush(rects...) })
}

func (w *watched) Point(c *screen.Cursor, at image.Point, clip image.Rectangle) error {
	return w.do(func() error { return w.memory.Point(c, at, clip) })
}

func (w *watched) do(show func() error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case w.changed <- struct{}{}:
	default:
	}
	return show()
}

// see asks something of what a person sees now.
func (w *watched) see(is func(*screen.Image) bool) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return is(w.memory.Front())
}

// silent is a keyboard that says nothing, and whose lights can be seen.
type silent struct{ lit atomic.Uint32 }

func (s *silent) Run(ctx context.Context, _ chan<- keys.Raw) error { <-ctx.Done(); return nil }
func (s *silent) Light(l keys.Lights)                              { s.lit.Store(uint32(l)) }

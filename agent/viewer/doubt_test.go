// SPDX-License-Identifier: Apache-2.0

package viewer

import (
	"bytes"
	"image"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"sdbox/internal/tile"

	"github.com/stretchr/testify/require"
)

// road loses, repeats, reorders, cuts and changes frames; the one who asks for a key frame may go unheard, too.
type road struct {
	*rand.Rand
	held [][]byte // frames that come later than they should
	past [][]byte // frames that came already
}

func (r *road) carry(frame []byte) (out [][]byte) {
	out = append(out, r.held...)
	r.held = nil
	switch r.IntN(12) {
	case 0:
	case 1:
		r.held = append(r.held, frame)
	case 2:
		out = append(out, frame, frame)
	case 3:
		bad := bytes.Clone(frame)
		bad[r.IntN(len(bad))] ^= byte(1 << r.IntN(8))
		out = append(out, bad)
	case 4:
		bad := bytes.Clone(frame)
		bad[r.IntN(min(len(bad), tile.HeaderLen))] ^= byte(1 << r.IntN(8))
		out = append(out, bad)
	case 5:
		out = append(out, frame[:r.IntN(len(frame))])
	case 6:
		if len(r.past) > 0 {
			out = append(out, r.past[r.IntN(len(r.past))])
		}
		out = append(out, frame)
	default:
		out = append(out, frame)
	}
	r.past = append(r.past, frame)
	return out
}

// TestNoWrongPictureIsEverShownAsRight sends moving pictures over a bad road: after each frame that the viewer takes for good, the
// screen is that very moment of the desktop, bit for bit; one that it does not take asks for a key frame; and once the road is good
// again, a refresh at most stands between the screen and the desktop.
func TestNoWrongPictureIsEverShownAsRight(t *testing.T) {
	for seed := range uint64(4) {
		synctest.Test(t, func(t *testing.T) {
			r := newRoomOf(t, 200, 160)
			r.open(t, 1, blue)
			way := &road{Rand: rand.New(rand.NewPCG(seed, 2))}
			moments := map[uint32]tile.Source{}
			newest := uint32(0)
			deliver := func(frame []byte) (doubt bool) {
				got := r.see(t, frame)
				if got.Decoded {
					now := r.source
					require.Contains(t, moments, got.N)
					require.Greater(t, got.N, newest, "never back to an older picture")
					newest = got.N
					r.source = moments[got.N]
					r.equal(t)
					r.source = now
				}
				return got.Refresh
			}
			for range 120 {
				frame := r.moving(t, way.Rand)
				if frame == nil {
					continue
				}
				h, err := tile.ParseHeader(frame)
				require.NoError(t, err)
				moment := r.source
				moment.Pix = bytes.Clone(moment.Pix)
				moments[h.N] = moment
				for _, f := range way.carry(frame) {
					if deliver(f) && way.IntN(4) > 0 {
						r.source.Key = true
					}
				}
				time.Sleep(refreshEvery / 2)
			}
			time.Sleep(refreshEvery)
			if r.see(t, r.frame(t, image.Rect(0, 0, 5, 5))).Refresh {
				r.source.Key = true
				require.True(t, r.see(t, r.frame(t)).Decoded, "the key frame that was asked for")
			}
			require.False(t, r.stale)
			r.equal(t)
		})
	}
}

// moving changes the desktop by noise or by a move that nobody told of, and encodes it.
func (r *room) moving(t testing.TB, rnd *rand.Rand) []byte {
	w, h := r.source.Width, r.source.Height
	x, y := rnd.IntN(w-60), rnd.IntN(h-60)
	area := image.Rect(x, y, x+40+rnd.IntN(w-x-40), y+40+rnd.IntN(h-y-40))
	if rnd.IntN(2) == 0 {
		return r.frame(t, area)
	}
	by := 1 + rnd.IntN(30)
	for y := area.Min.Y; y < area.Max.Y-by; y++ {
		copy(r.source.Pix[(y*w+area.Min.X)*4:(y*w+area.Max.X)*4], r.source.Pix[((y+by)*w+area.Min.X)*4:])
	}
	r.source.Damage = []image.Rectangle{area}
	f, err := r.encoder.Encode(r.source)
	require.NoError(t, err)
	r.source.Key = false
	return f
}

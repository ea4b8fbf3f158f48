// SPDX-License-Identifier: Apache-2.0

package session

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"image"
	"io"
	"net"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"

	"sdbox/gateway/desktop"
	"sdbox/gateway/registry"
	"sdbox/internal/refusal"
	"sdbox/internal/stream"
	"sdbox/internal/wire"

	"github.com/stretchr/testify/require"
)

// Rectangles of an RFB server (RFC 6143, 7.7 and 7.8, and rfbproto.rst).
const (
	rawPixels   = 0
	copyPixels  = 1
	desktopSize = -223
	screens     = -308
	cursorShape = -239
	allUntilEnd = 65535 // rectangles, until one that ends the update
)

func rectangle(r image.Rectangle, encoding int32, body ...byte) []byte {
	var b []byte
	for _, v := range []int{r.Min.X, r.Min.Y, r.Dx(), r.Dy()} {
		b = binary.BigEndian.AppendUint16(b, uint16(v))
	}
	return append(binary.BigEndian.AppendUint32(b, uint32(encoding)), body...)
}

func framebufferUpdate(count uint16, rectangles ...[]byte) []byte {
	return slices.Concat(append([]byte{0, 0}, binary.BigEndian.AppendUint16(nil, count)...), slices.Concat(rectangles...))
}

// picture is a whole update of one colour.
func picture(r image.Rectangle, v byte) []byte {
	return framebufferUpdate(1, rectangle(r, rawPixels, bytes.Repeat([]byte{v}, 4*r.Dx()*r.Dy())...))
}

// liar is a bubble whose RFB server greets as it should, then says what the test has it say: first once, then again and again.
type liar struct {
	first, again []byte
	asked        atomic.Bool  // somebody opens it
	said         atomic.Int64 // how often it said again
	over         atomic.Bool  // the gateway hung up, and nothing of it runs any more
}

func (b *liar) Running(context.Context) ([]string, error) { return nil, nil }
func (b *liar) End(context.Context, []byte) error         { return nil }
func (b *liar) Close() error                              { return nil }
func (b *liar) play(conn net.Conn) {
	gone := make(chan struct{})
	defer b.over.Store(true)
	defer func() { <-gone }()
	defer conn.Close()
	go func() {
		defer close(gone)
		_, _ = io.Copy(io.Discard, conn)
	}()
	hello := []byte("RFB 003.008\n\x01\x01\x00\x00\x00\x00")
	hello = binary.BigEndian.AppendUint16(hello, wide)
	hello = binary.BigEndian.AppendUint16(hello, high)
	hello = append(hello, "\x20\x18\x00\x01\x00\xff\x00\xff\x00\xff\x10\x08\x00\x00\x00\x00\x00\x00\x00\x00"...)
	if _, err := conn.Write(append(hello, b.first...)); err != nil {
		return
	}
	for len(b.again) > 0 {
		if _, err := conn.Write(b.again); err != nil {
			return
		}
		b.said.Add(1)
	}
	<-gone // stalled, until the gateway hangs up
}

// Open attaches as the gateway does to any bubble.
func (b *liar) Open(ctx context.Context, _ []byte, w, h int, _ string) (desktop.Desktop, error) {
	ours, theirs := net.Pipe()
	b.asked.Store(true)
	go b.play(theirs)
	return desktop.Attach(ctx, ours, w, h) // as realBubble does
}

// lies are what a bubble may say. Those that can be told from a desktop's end in B01 at once; the others go on, at the bubble's own cost.
func lies() map[string]struct {
	first, again []byte
	cut          bool
} {
	whole, huge := image.Rect(0, 0, wide, high), image.Rect(0, 0, 4096, 2400)
	small := image.Rect(0, 0, 1, 1)
	good := slices.Concat(framebufferUpdate(1, rectangle(whole, screens, append([]byte{1, 0, 0, 0}, make([]byte, 16)...)...)), picture(whole, 1))
	type lie = struct {
		first, again []byte
		cut          bool
	}
	return map[string]lie{
		"draws outside of itself":   {first: slices.Concat(good, framebufferUpdate(1, rectangle(whole.Add(image.Pt(1, 0)), rawPixels))), cut: true},
		"copies from outside":       {first: slices.Concat(good, framebufferUpdate(1, rectangle(whole, copyPixels, 0, 1, 0, 0))), cut: true},
		"is larger than allowed":    {first: framebufferUpdate(1, rectangle(image.Rect(0, 0, 65535, 65535), desktopSize)), cut: true},
		"speaks of what nobody did": {first: []byte{77}, cut: true},
		"shows nothing":             {},
		"stops inside its picture":  {first: good[:len(good)/2]},
		"stops inside an update":    {first: slices.Concat(good, framebufferUpdate(2))},
		"floods with pictures":      {first: good, again: picture(whole, 2)},
		"floods with one update":    {first: slices.Concat(good, framebufferUpdate(allUntilEnd)), again: rectangle(small, rawPixels, 1, 2, 3, 4)},
		"floods with copies":        {first: good, again: framebufferUpdate(1, rectangle(image.Rect(1, 1, wide, high), copyPixels, 0, 0, 0, 0))},
		"floods with sizes":         {first: good, again: framebufferUpdate(2, rectangle(huge, desktopSize), rectangle(huge.Inset(1), desktopSize))},
		"floods with pointers":      {first: good, again: framebufferUpdate(1, rectangle(image.Rect(0, 0, 256, 256), cursorShape, make([]byte, 256*256*4+256*32)...))},
		"floods with clipboards":    {first: good, again: append([]byte{3, 0, 0, 0, 0, 1, 0, 0}, make([]byte, 1<<16)...)},
		"floods with questions":     {first: good, again: []byte{248, 0, 0, 0, 0x80, 0, 0, 0, 0}},
	}
}

// colleague is another person, at work in another bubble, on another box.
func (h *house) colleague() *testBox {
	other, err := h.registry.AddPerson(h.t.Context(), "operator:test", registry.Person{Name: "Jean Petit", Language: "fr"})
	require.NoError(h.t, err)
	c := h.newCard("Jean Petit")
	h.register(c, other.ID)
	_, err = h.registry.AddMembership(h.t.Context(), "operator:test", registry.Membership{Person: other.ID, Bubble: "econ", Account: "jpetit"})
	require.NoError(h.t, err)
	b := h.boot(2)
	b.finger(c)
	b.attach("econ", 1)
	expect[*wire.Attached](b)
	b.sees("econ", 1)
	return b
}

// heap is what the gateway holds, in MB.
func heap() int {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc >> 20)
}

// A bubble that lies, floods or stalls has the session that it is open in, and no more: the colleague's picture and keys pass, memory is
// bounded, and the person leaves it when she likes.
func TestHostileBubbleHarmsItsOwnSessionOnly(t *testing.T) {
	h := build(t, newMux(t))
	var epi atomic.Pointer[liar]
	epi.Store(&liar{})
	honest := h.conf.Dial
	h.conf.Dial = func(ctx context.Context, b registry.Bubble) (Bubble, error) {
		if b.Name == "epi" {
			return epi.Load(), nil
		}
		return honest(ctx, b)
	}
	var err error
	h.server, err = New(h.conf)
	require.NoError(t, err)
	h.serve()
	other := h.colleague()
	before := heap()
	seed, all := uint64(100), []*liar(nil)
	for name, lie := range lies() {
		t.Log(name)
		bubble := &liar{first: lie.first, again: lie.again}
		epi.Store(bubble)
		b := h.boot(1)
		b.finger(h.card)
		b.attach("epi", 1)
		switch {
		case lie.cut:
			require.Equal(t, refusal.BubbleDown, expect[*wire.Refused](b).Refusal.Code, name)
		case lie.again != nil:
			waitFor(t, "the flood begins", func() bool { return bubble.said.Load() >= 3 || bubble.over.Load() })
		default:
			waitFor(t, "it is opened", bubble.asked.Load)
		}
		seed++
		typed := len(h.desktop("econ").Inputs())
		h.desktop("econ").Draw(seed)
		other.sees("econ", 1)
		require.NoError(t, other.media.SendInput(stream.Input{Stream: 1, Kind: stream.Key, Code: 0x1e, Down: true}))
		waitFor(t, "the colleague's key arrives", func() bool { return len(h.desktop("econ").Inputs()) > typed })
		require.Less(t, heap()-before, 256, name) // two pictures of 4096 x 2400, and what encodes them
		b.media.WantRefresh()
		b.send(&wire.Detach{Session: b.person.Session, Why: wire.CardOut})
		waitFor(t, "the session is suspended: "+name, func() bool { return slices.Contains(h.states(), "PARIS-1 suspended ") })
		all = append(all, bubble)
		b.line.Close()
		require.NoError(t, b.media.Close())
		b.media = nil
	}
	for _, bubble := range all {
		waitFor(t, "the gateway hangs up", bubble.over.Load)
	}
	require.Less(t, heap()-before, 64)
	require.Equal(t, fmt.Sprint([]string{"AMS-2 active econ", "PARIS-1 suspended "}), fmt.Sprint(h.states()))
}

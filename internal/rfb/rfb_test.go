// SPDX-License-Identifier: Apache-2.0

package rfb

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"image"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// peer is a server that a test plays. Its reads collect what the client says.
type peer struct {
	t    testing.TB
	conn net.Conn
	said chan []byte
}

// greeting is what a good server sends up to ServerInit.
func greeting(w, h uint16) []byte {
	b := []byte(protocolVersion + "\x01\x01\x00\x00\x00\x00")
	b = binary.BigEndian.AppendUint16(b, w)
	b = binary.BigEndian.AppendUint16(b, h)
	return append(b, "\x20\x18\x00\x01\x00\xff\x00\xff\x00\xff\x10\x08\x00\x00\x00\x00\x00\x00\x00\x04desk"...)
}

// connect shakes hands over an in-memory pipe.
func connect(t testing.TB, w, h uint16) (*Client, *peer) {
	ours, theirs := net.Pipe()
	p := &peer{t, theirs, make(chan []byte, 4096)}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			b := make([]byte, 4096)
			n, err := theirs.Read(b)
			if err != nil {
				return
			}
			p.said <- b[:n]
		}
	}()
	sent := make(chan error, 1)
	go func() { _, err := theirs.Write(greeting(w, h)); sent <- err }()
	c, err := New(context.Background(), ours, 256, 256)
	require.NoError(t, err)
	require.NoError(t, <-sent)
	t.Cleanup(func() {
		theirs.Close()
		require.NoError(t, c.Close())
		<-ended
	})
	return c, p
}

func (p *peer) send(b []byte) {
	_, err := p.conn.Write(b)
	require.NoError(p.t, err)
}

// hears waits until the client has said want.
func (p *peer) hears(want []byte) {
	var all []byte
	for !bytes.Contains(all, want) {
		select {
		case b := <-p.said:
			all = append(all, b...)
		case <-time.After(5 * time.Second):
			require.Fail(p.t, "client did not say it", "want %x in %x", want, all)
		}
	}
}

func u16s(vs ...int) (b []byte) {
	for _, v := range vs {
		b = binary.BigEndian.AppendUint16(b, uint16(v))
	}
	return b
}

func rect(r image.Rectangle, encoding int32, body ...byte) []byte {
	b := u16s(r.Min.X, r.Min.Y, r.Dx(), r.Dy())
	return append(binary.BigEndian.AppendUint32(b, uint32(encoding)), body...)
}

func update(rects ...[]byte) []byte {
	return slices.Concat([]byte{msgUpdate, 0}, u16s(len(rects)), slices.Concat(rects...))
}

func rawRect(r image.Rectangle, v byte) []byte {
	return rect(r, encRaw, bytes.Repeat([]byte{v, v, v, 0}, r.Dx()*r.Dy())...)
}

func take(t testing.TB, c *Client) (u Update) {
	select {
	case <-c.Changed():
	case <-time.After(5 * time.Second):
		require.Fail(t, "nothing changed")
	}
	require.NoError(t, c.Take(t.Context(), func(now Update) error {
		u = now
		u.Pix = slices.Clone(now.Pix)
		return nil
	}))
	return u
}

func TestPictureShowsOnlyWhenWhole(t *testing.T) {
	c, p := connect(t, 8, 8)
	p.send(update(rawRect(image.Rect(0, 0, 8, 4), 1)))
	p.send([]byte{msgBell})
	require.Empty(t, c.Changed())
	p.send(update(rawRect(image.Rect(0, 4, 8, 8), 2), rect(image.Rectangle{}, encLastRect)))
	u := take(t, c)
	require.Equal(t, image.Pt(8, 8), u.Size)
	require.Equal(t, byte(1), u.Pix[0])
	require.Equal(t, byte(2), u.Pix[len(u.Pix)-4])
}

func TestServerIsAnsweredAndNothingIsTakenFromItsClipboard(t *testing.T) {
	c, p := connect(t, 8, 8)
	p.hears(openingMessages(image.Pt(8, 8)))
	p.send([]byte{msgFence, 0, 0, 0, 0x80, 0, 0, 0xff, 3, 'a', 'b', 'c'})
	p.hears([]byte{msgFence, 0, 0, 0, 0, 0, 0, 7, 3, 'a', 'b', 'c'})
	p.send([]byte{msgEndContinuous})
	p.hears(continuousUpdates(image.Pt(8, 8)))
	p.send(append([]byte{msgCutText, 0, 0, 0, 0, 0, 0, 5}, "hello"...))
	p.send(append([]byte{msgCutText, 0, 0, 0, 0xff, 0xff, 0xff, 0xfc}, "\x00\x00\x00\x01"...))
	p.send(append([]byte{msgColourMap, 0, 0, 0, 0, 1}, make([]byte, 6)...))
	require.ErrorIs(t, c.Key(0x1e, true), ErrNoKeys)
	p.send(update(rawRect(image.Rect(0, 0, 8, 8), 1), rect(image.Rectangle{}, encQEMUKey), rect(image.Rectangle{}, encLED, 4)))
	require.Equal(t, CapsLock, take(t, c).LEDs)
	require.NoError(t, c.Key(0x1e, true))
	p.hears([]byte{255, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0x1e})
	require.NoError(t, c.Pointer(100, -3, 1))
	p.hears([]byte{msgPointer, 1, 0, 7, 0, 0})
	require.NoError(t, c.ReleaseAll())
	p.hears(append([]byte{255, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x1e}, msgPointer, 0, 0, 7, 0, 0))
	require.Error(t, c.Key(0, true))
	require.Error(t, c.Key(0x100, true))
}

func TestResizeAsksAgainForContinuousUpdates(t *testing.T) {
	c, p := connect(t, 8, 8)
	p.send([]byte{msgEndContinuous})
	require.NoError(t, c.Resize(16, 12))
	require.ErrorIs(t, c.Resize(300, 12), ErrTooBig)
	screens := append([]byte{1, 0, 0, 0, 0, 0, 0, 9}, make([]byte, 12)...)
	p.send(update(rawRect(image.Rect(0, 0, 8, 8), 1), rect(image.Rect(0, 0, 8, 8), encExtendedDesktop, screens...)))
	p.hears(resizeMessage(9, image.Pt(16, 12)))
	require.False(t, c.Sized())
	take(t, c)
	p.send(update(rect(image.Rect(resizeByMe, 0, resizeByMe+16, 12), encExtendedDesktop, screens...)))
	p.hears(append(continuousUpdates(image.Pt(16, 12)), updateRequest(false, image.Pt(16, 12))...))
	require.True(t, c.Sized())
	require.Empty(t, c.Changed(), "the new picture is not whole")
	p.send(update(rawRect(image.Rect(0, 0, 16, 12), 3)))
	require.Equal(t, image.Pt(16, 12), take(t, c).Size)
	require.NoError(t, c.Resize(20, 20))
	p.send(update(rect(image.Rect(resizeByMe, 3, resizeByMe+16, 3+12), encExtendedDesktop, screens...)))
	require.Eventually(t, c.Sized, 5*time.Second, time.Millisecond, "a refusal ends the wish")
}

func TestCursorShapes(t *testing.T) {
	c, p := connect(t, 4, 4)
	p.send(update(rawRect(image.Rect(0, 0, 4, 4), 1), rect(image.Rect(1, 0, 3, 1), encCursor, 1, 2, 3, 9, 4, 5, 6, 9, 0x40)))
	require.Equal(t, &Cursor{2, 1, image.Pt(1, 0), []byte{0, 0, 0, 0, 4, 5, 6, 255}}, take(t, c).Cursor)
	p.send(update(rect(image.Rect(0, 0, 1, 1), encCursorAlpha, 0, 0, 0, 0, 1, 2, 3, 128)))
	require.Equal(t, &Cursor{1, 1, image.Point{}, []byte{3, 2, 1, 128}}, take(t, c).Cursor)
	p.send(update(rect(image.Rectangle{}, encCursorAlpha, 0, 0, 0, 0)))
	require.Equal(t, &Cursor{}, take(t, c).Cursor)
	p.send(update(rawRect(image.Rect(0, 0, 1, 1), 1)))
	require.Nil(t, take(t, c).Cursor)
	c.Refresh()
	require.NotNil(t, take(t, c).Cursor)
}

// TestMergedCopiesReadFromTheTakenPicture scrolls and draws at random between takes. Damage must cover every change, and a hint
// that survives must be right for most of its pixels.
func TestMergedCopiesReadFromTheTakenPicture(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	s := screen{}
	s.resize(image.Pt(60, 40))
	s.drawn(s.bounds())
	s.take()
	right, all := 0, 0
	for range 500 {
		before := slices.Clone(s.pix)
		for range 1 + r.IntN(5) {
			a := image.Rect(r.IntN(60), r.IntN(40), r.IntN(60), r.IntN(40))
			if a.Empty() {
				continue
			}
			if r.IntN(3) == 0 {
				for y := a.Min.Y; y < a.Max.Y; y++ {
					row := s.row(a, y)
					for i := range row {
						row[i] = byte(r.Uint32())
					}
				}
				s.drawn(a)
				continue
			}
			s.copyRect(Copy{a, image.Pt(r.IntN(60-a.Dx()+1), r.IntN(40-a.Dy()+1))})
		}
		after := slices.Clone(s.pix)
		u := s.take()
		old := screen{pix: slices.Clone(before), size: s.size}
		guess := screen{pix: slices.Clone(before), size: s.size}
		for _, c := range u.Copies {
			src := c.Dst.Sub(c.Dst.Min).Add(c.Src)
			for y := range c.Dst.Dy() {
				copy(guess.row(c.Dst, c.Dst.Min.Y+y), old.row(src, src.Min.Y+y))
			}
		}
		for y := range 40 {
			for x := range 60 {
				at := (y*60 + x) * 4
				covered := slices.ContainsFunc(u.Damage, image.Pt(x, y).In)
				require.True(t, covered || bytes.Equal(before[at:at+4], after[at:at+4]), "change at %d,%d is not in the damage", x, y)
				if slices.ContainsFunc(u.Copies, func(c Copy) bool { return image.Pt(x, y).In(c.Dst) }) {
					all++
					if bytes.Equal(guess.pix[at:at+4], after[at:at+4]) {
						right++
					}
				}
			}
		}
	}
	require.Greater(t, right*10, all*7, "%d of %d hinted pixels are right", right, all)
}

// TestHostileServerIsCutOff lists what a server must not say; after each the client ends with an error, and holds nothing.
func TestHostileServerIsCutOff(t *testing.T) {
	whole := image.Rect(0, 0, 8, 8)
	for name, lie := range map[string][]byte{
		"unknown message":               {77},
		"unknown encoding":              update(rect(whole, 5)),
		"pixels outside":                update(rawRect(image.Rect(1, 0, 9, 1), 1)),
		"copy from outside":             update(rect(image.Rect(0, 0, 4, 4), encCopyRect, u16s(6, 6)...)),
		"copy to outside":               update(rect(image.Rect(6, 6, 10, 10), encCopyRect, u16s(0, 0)...)),
		"desktop of no size":            update(rect(image.Rectangle{}, encDesktopSize)),
		"desktop too large":             update(rect(image.Rect(0, 0, 257, 8), encDesktopSize)),
		"cursor too large":              update(rect(image.Rect(0, 0, 257, 1), encCursor)),
		"hot spot outside":              update(rect(image.Rect(3, 0, 5, 1), encCursorAlpha, 0, 0, 0, 0)),
		"cursor in another encoding":    update(rect(image.Rect(0, 0, 1, 1), encCursorAlpha, 0, 0, 0, 1)),
		"long cut text":                 {msgCutText, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff},
		"cut text of smallest length":   {msgCutText, 0, 0, 0, 0x80, 0, 0, 0},
		"long fence":                    {msgFence, 0, 0, 0, 0x80, 0, 0, 0, 65},
		"extended desktop not its size": update(rect(image.Rect(0, 0, 5000, 5000), encExtendedDesktop, 0, 0, 0, 0)),
	} {
		t.Run(name, func(t *testing.T) {
			c, p := connect(t, 8, 8)
			p.conn.Write(lie) // the client may close before the last byte
			select {
			case <-c.Done():
			case <-time.After(5 * time.Second):
				require.Fail(t, "client believes it")
			}
			require.Error(t, c.Err())
			require.NotErrorIs(t, c.Err(), ErrClosed)
			require.Error(t, c.Pointer(1, 1, 0))
		})
	}
}

func TestHostileGreetingIsRefused(t *testing.T) {
	good := greeting(8, 8)
	for name, b := range map[string][]byte{
		"old version":     []byte("RFB 003.003\n"),
		"no security":     []byte(protocolVersion + "\x00\x00\x00\x00\x02no"),
		"password wanted": []byte(protocolVersion + "\x01\x02"),
		"refused":         []byte(protocolVersion + "\x01\x01\x00\x00\x00\x01\xff\xff\xff\xff"),
		"too large":       greeting(257, 8),
		"no size":         greeting(0, 8),
		"endless name":    append(good[:len(good)-8:len(good)-8], 0xff, 0xff, 0xff, 0xff),
		"cut short":       good[:20],
	} {
		t.Run(name, func(t *testing.T) {
			ours, theirs := net.Pipe()
			done := make(chan struct{})
			go func() {
				defer close(done)
				go io.Copy(io.Discard, theirs)
				theirs.Write(b)
				theirs.Close()
			}()
			_, err := New(context.Background(), ours, 256, 256)
			require.Error(t, err)
			<-done
		})
	}
}

// TestStalledServerIsCutOff: a server that stops in the middle of an update, and one that does not read.
func TestStalledServerIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, p := connect(t, 8, 8)
		p.send([]byte{msgUpdate, 0, 0, 1, 0})
		start := time.Now()
		<-c.Done()
		require.Equal(t, messageTime, time.Since(start))
	})
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		go func() {
			io.CopyN(io.Discard, theirs, int64(len(protocolVersion)+2+len(openingMessages(image.Pt(8, 8)))))
		}()
		go theirs.Write(greeting(8, 8))
		c, err := New(context.Background(), ours, 256, 256)
		require.NoError(t, err)
		for range maxQueue + 2 {
			if err = c.Pointer(1, 1, 0); err != nil {
				break
			}
		}
		require.ErrorIs(t, err, ErrStalled)
		require.NoError(t, c.Close())
		theirs.Close()
	})
}

// A few bytes of a server's may not keep a processor busy: copies and new sizes come at the pace of the budget, and whoever asks for
// the whole picture meanwhile does not wait for them.
func TestWorkForNothingIsPaced(t *testing.T) {
	full := image.Rect(0, 0, 256, 256)
	for name, flood := range map[string]struct {
		rect []byte
		work int
	}{
		"copies": {rect(full, encCopyRect, u16s(0, 0)...), 256*256 + rectWork},
		"sizes": {slices.Concat(rect(image.Rect(0, 0, 255, 256), encDesktopSize), rect(full, encDesktopSize)),
			sizeWork*(255*256+256*256) + 2*rectWork},
		"nothing": {rect(image.Rectangle{}, encRaw), rectWork},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, p := connect(t, 256, 256)
				p.send(update(rawRect(full, 1)))
				take(t, c)
				n := (maxSaved + workRate/2) / flood.work
				start := time.Now()
				p.send(append([]byte{msgUpdate, 0}, u16s(untilLastRect)...))
				for range n {
					p.send(flood.rect)
					c.Refresh()
				}
				require.InDelta(t, 0.5, time.Since(start).Seconds(), 0.05)
			})
		})
	}
}

func TestCancelledOpenReturns(t *testing.T) {
	ours, theirs := net.Pipe()
	defer theirs.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err := New(ctx, ours, 256, 256)
	require.Error(t, err)
}

// FuzzServer plays a server that says anything.
func FuzzServer(f *testing.F) {
	f.Add(greeting(8, 8))
	screens := append([]byte{1, 0, 0, 0, 0, 0, 0, 9}, make([]byte, 12)...)
	f.Add(slices.Concat(greeting(8, 8), []byte{msgEndContinuous, msgBell},
		update(rawRect(image.Rect(0, 0, 8, 8), 1), rect(image.Rect(0, 0, 4, 4), encCopyRect, u16s(2, 2)...)),
		update(rect(image.Rect(0, 0, 8, 8), encExtendedDesktop, screens...), rect(image.Rectangle{}, encLED, 4), rect(image.Rectangle{}, encLastRect)),
		[]byte{msgFence, 0, 0, 0, 0x80, 0, 0, 1, 1, 9}, append([]byte{msgCutText, 0, 0, 0, 0, 0, 0, 5}, "hello"...)))
	f.Add(slices.Concat(greeting(8, 8), update(rect(image.Rect(1, 0, 3, 1), encCursor, 1, 2, 3, 9, 4, 5, 6, 9, 0x40),
		rect(image.Rect(0, 0, 1, 1), encCursorAlpha, 0, 0, 0, 0, 1, 2, 3, 128), rect(image.Rect(0, 0, 12, 12), encDesktopSize))))
	for _, hello := range []string{"RFB 003.003\n", protocolVersion + "\x00\x00\x00\x00\x03no!", protocolVersion + "\x01\x02", protocolVersion + "\x01\x01\x00\x00\x00\x01\x00\x00\x00\x01n",
		protocolVersion + "\x02\x01", "RFB", protocolVersion + "\x01\x01\x00", protocolVersion + "\x00\x00"} {
		f.Add([]byte(hello))
	}
	f.Add(greeting(0, 8))
	f.Add(greeting(8, 80))
	f.Add(slices.Concat(greeting(8, 8)[:len(greeting(8, 8))-8], []byte{0xff, 0, 0, 0}))
	whole, shape := rawRect(image.Rect(0, 0, 8, 8), 1), image.Rect(0, 0, 1, 1)
	for _, bad := range [][]byte{ // each the end of what a lying server says
		{99}, {msgColourMap, 0, 0, 0, 0, 0, 1, 1, 2, 3, 4, 5, 6, msgColourMap}, {msgCutText, 0}, {msgCutText, 0, 0, 0, 0xff, 0, 0, 0}, {msgFence, 0},
		{msgFence, 0, 0, 0, 0, 0, 0, 0, 1, 9, msgFence, 0, 0, 0, 0, 0, 0, 0, 99}, {msgFence, 0, 0, 0, 0x80, 0, 0, 0, 9}, {msgUpdate}, {msgUpdate, 0, 0, 1},
		update(rect(shape, 77)), update(rect(shape, encQEMUKey), rect(image.Rect(4, 4, 99, 99), encRaw)), update(rect(image.Rect(0, 0, 0, 4), encRaw), rect(shape, encRaw, 1)),
		update(rect(image.Rect(4, 4, 9, 9), encCopyRect, u16s(0, 0)...)), update(rect(shape, encCopyRect, 1)), update(rect(image.Rect(0, 0, 0, 9), encCopyRect, u16s(0, 0)...), nil),
		update(rect(image.Rect(0, 0, 80, 8), encDesktopSize)), update(rect(image.Rect(0, 0, 8, 8), encExtendedDesktop, 1)), update(rect(image.Rect(0, 0, 8, 8), encExtendedDesktop, 1, 0, 0, 0, 1)),
		update(rect(image.Rect(0, 0, 80, 80), encExtendedDesktop, screens...)), update(rect(image.Rect(1, 1, 8, 8), encExtendedDesktop, screens...)),
		update(rect(image.Rect(0, 0, 600, 8), encCursor)), update(rect(image.Rect(9, 9, 11, 11), encCursor)), update(rect(image.Rect(0, 0, 0, 0), encCursor), rect(shape, encCursor, 1, 2)),
		update(rect(shape, encCursor, 1, 2, 3, 4)), update(rect(shape, encCursorAlpha, 0)), update(rect(shape, encCursorAlpha, 0, 0, 0, 7)), update(rect(shape, encCursorAlpha, 0, 0, 0, 0, 1)),
		update(rect(image.Rect(3, 3, 4, 4), encCursorAlpha, 0, 0, 0, 0, 1, 2, 3, 4)), slices.Concat([]byte{msgEndContinuous, msgEndContinuous}, update(rect(image.Rect(0, 0, 9, 9), encDesktopSize))),
	} {
		f.Add(slices.Concat(greeting(8, 8), update(whole), bad))
	}
	var many [][]byte // copies that build on each other, then more pieces than a picture is kept in
	for i := range 3 {
		many = append(many, rect(image.Rect(0, 4, 4, 8), encCopyRect, u16s(i, 0)...), rect(image.Rect(4, 4, 8, 8), encCopyRect, u16s(0, 4)...), rect(image.Rect(0, 2, 4, 6), encCopyRect, u16s(0, 0)...))
	}
	for i := range 40 * 40 {
		if p := image.Pt(i%40, i/40); (p.X+p.Y)%2 == 0 {
			many = append(many, rawRect(image.Rectangle{p, p.Add(image.Pt(1, 1))}, 3))
		}
	}
	f.Add(slices.Concat(greeting(40, 40), update(many...))) // holes first
	f.Add(slices.Concat(greeting(40, 40), update(rawRect(image.Rect(0, 0, 40, 40), 1)), update(many...)))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := New(context.Background(), &tape{bytes.NewReader(b)}, 64, 64)
		if err != nil {
			return
		}
		c.Refresh()
		<-c.Done()
		require.NoError(t, c.Take(t.Context(), func(u Update) error {
			require.Len(t, u.Pix, u.Size.X*u.Size.Y*4)
			return nil
		}))
		require.NoError(t, c.Close())
		require.False(t, errors.Is(c.Err(), ErrStalled) && len(b) < maxQueue)
	})
}

// tape is a connection that plays bytes and swallows what is written.
type tape struct{ *bytes.Reader }

func (*tape) Write(b []byte) (int, error)      { return len(b), nil }
func (*tape) WriteTo(io.Writer) (int64, error) { return 0, io.EOF }
func (*tape) Close() error                     { return nil }
func (*tape) LocalAddr() net.Addr              { return nil }
func (*tape) RemoteAddr() net.Addr             { return nil }
func (*tape) SetDeadline(time.Time) error      { return nil }
func (*tape) SetReadDeadline(time.Time) error  { return nil }
func (*tape) SetWriteDeadline(time.Time) error { return nil }

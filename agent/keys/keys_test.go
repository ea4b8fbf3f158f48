// SPDX-License-Identifier: Apache-2.0

package keys

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// take feeds raws to a state and returns the events.
func take(s *State, raws ...[]Raw) []Event {
	var out []Event
	for _, group := range raws {
		for _, r := range group {
			if e, ok := s.Take(r); ok {
				out = append(out, e)
			}
		}
	}
	return out
}

// Key codes used by the tests (linux/input-event-codes.h).
const keyA, keyQ, keyF5, keyKP7, keyVolume = 30, 16, 63, 71, 115

func TestScancodesAreThoseOfTheKeyboardTable(t *testing.T) {
	want := map[uint16]uint32{1: 1, 30: 30, 88: 88, 96: 0x9c, 97: 0x9d, 98: 0xb5, 99: 0x54, 100: 0xb8, 102: 0xc7, 103: 0xc8, 104: 0xc9,
		105: 0xcb, 106: 0xcd, 107: 0xcf, 108: 0xd0, 109: 0xd1, 110: 0xd2, 111: 0xd3, 119: 0xc6, 125: 0xdb, 126: 0xdc, 127: 0xdd}
	seen := map[uint32]bool{}
	for code := range uint16(1024) {
		xt, ok := XT(code)
		if w, known := want[code]; known {
			require.True(t, ok && xt == w, "code %d: %#x", code, xt)
		} else {
			require.Equal(t, code >= 1 && code <= 88, ok, "code %d", code)
		}
		require.False(t, ok && seen[xt] && code != 99, "code %d shares a scancode", code) // with 84, which no keyboard sends
		seen[xt] = ok
	}
}

func TestKeyGoesDownRepeatsAndComesUp(t *testing.T) {
	s := NewState(1920, 1080)
	require.Equal(t, []Event{
		{Kind: KeyEvent, XT: keyA, Down: true}, {Kind: KeyEvent, XT: keyA, Down: true, Repeat: true}, {Kind: KeyEvent, XT: keyA},
	}, take(s, Key(keyA, 1), Key(keyA, 2), Key(keyA, 0)))
	require.Empty(t, take(s, Key(keyA, 0), Key(keyA, 2), Key(keyVolume, 1), Key(keyA, 7)), "releases and repeats of nothing")
	require.Empty(t, s.Held())
}

func TestChordsStayOnTheBox(t *testing.T) {
	for code, chord := range map[uint16]Chord{codeRight: NextBubble, codeLeft: PreviousBubble, codeUp: BackToList} {
		for _, ctrl := range []uint16{codeLeftCtrl, codeRightCtrl} {
			s := NewState(1920, 1080)
			take(s, Key(ctrl, 1), Key(codeLeftAlt, 1))
			got := take(s, Key(code, 1), Key(code, 2), Key(code, 0))
			require.Equal(t, []Event{{Kind: ChordEvent, Chord: chord}}, got, "and neither its repetition nor its release")
		}
	}
	s := NewState(1920, 1080)
	take(s, Key(codeLeftCtrl, 1), Key(codeRightAlt, 1)) // AltGr types characters
	require.Equal(t, KeyEvent, take(s, Key(codeRight, 1))[0].Kind)
}

func TestReleaseLetsGoOfEverythingOnce(t *testing.T) {
	s := NewState(1920, 1080)
	take(s, Key(codeLeftCtrl, 1), Key(codeLeftAlt, 1), Key(keyQ, 1), Button(Left, true), Key(codeRight, 1))
	require.Equal(t, []uint32{29, 56, keyQ}, s.Held())
	require.Equal(t, []Event{
		{Kind: KeyEvent, XT: keyQ}, {Kind: KeyEvent, XT: 56}, {Kind: KeyEvent, XT: 29}, {Kind: PointerEvent, X: 960, Y: 540},
	}, s.Release())
	require.Empty(t, s.Release())
	require.Empty(t, s.Held())
	require.Empty(t, take(s, Key(keyQ, 2), Key(keyQ, 0)), "a key from before says nothing to the next bubble")
	take(s, Key(codeRight, 0))
	require.Equal(t, []Event{{Kind: ChordEvent, Chord: NextBubble}}, take(s, Key(codeRight, 1)), "the fingers never left Ctrl and Alt")
	require.Empty(t, take(s, Key(codeRight, 0), Key(codeLeftAlt, 0), Key(codeLeftCtrl, 0)))
	require.Len(t, take(s, Key(keyQ, 1)), 1)
}

func TestLostDeviceReleasesWhatItHeld(t *testing.T) {
	s := NewState(1920, 1080)
	take(s, Key(keyA, 1))
	require.Equal(t, []Event{{Kind: LostEvent}}, take(s, []Raw{Lost()}))
	require.Equal(t, []Event{{Kind: KeyEvent, XT: keyA}}, s.Release())
	require.Equal(t, []Event{{Kind: KeyEvent, XT: keyA, Down: true}}, take(s, Key(keyA, 1)), "it can be pressed again")
}

// typist makes the bytes of a device whose keys go down every gap and are held for hold.
type typist struct {
	b   []byte
	now time.Duration
}

func (y *typist) event(code uint16, value int32) {
	for _, r := range Key(code, value) {
		e := r.Append(nil)
		binary.LittleEndian.PutUint64(e, uint64(y.now/time.Second))
		binary.LittleEndian.PutUint64(e[8:], uint64(y.now%time.Second/time.Microsecond))
		y.b = append(y.b, e...)
	}
}

func (y *typist) strokes(n int, gap, hold time.Duration) *typist {
	for i := range n {
		y.event(uint16(16+i%10), 1)
		y.now += hold
		y.event(uint16(16+i%10), 0)
		y.now += gap - hold
	}
	return y
}

// slap presses ten keys within a few milliseconds and lets go of them together.
func (y *typist) slap() *typist {
	for i := range uint16(10) {
		y.event(30+i, 1)
		y.now += 3 * time.Millisecond
	}
	y.now += 60 * time.Millisecond
	for i := range uint16(10) {
		y.event(30+i, 0)
	}
	y.now += 70 * time.Millisecond
	return y
}

func TestKeyboardThatTypesAsNoPersonDoesIsRefused(t *testing.T) {
	const ms = time.Millisecond
	from := func() *typist { return &typist{now: 100 * time.Hour} }
	for name, c := range map[string]struct {
		typed   *typist
		refused bool
	}{
		"a good typist":                 {from().strokes(500, 70*ms, 50*ms), false},
		"the fastest typist":            {from().strokes(500, 41*ms, 30*ms), false},
		"short taps of a light hand":    {from().strokes(100, 120*ms, 14*ms), false},
		"a worn key that bounces":       {from().strokes(40, 300*ms, 3*ms), false},
		"two hands flat, three times":   {from().slap().slap().slap(), false},
		"a barcode of 13 digits, Enter": {from().strokes(14, 10*ms, 5*ms), true},
		"a slow barcode reader":         {from().strokes(14, 40*ms, 8*ms), true},
		"a stick that types":            {from().strokes(200, 2*ms, 1*ms), true},
		"one that holds its keys long":  {from().strokes(200, 21*ms, 20*ms), true},
		"kept while the machine stood":  {from().strokes(20, 60*ms, 30*ms).strokes(8, 16*ms, 8*ms).strokes(3, 60*ms, 30*ms).strokes(8, 16*ms, 8*ms).strokes(20, 60*ms, 30*ms), false},
		"two slow, then a burst":        {from().strokes(2, 500*ms, 90*ms).strokes(14, 10*ms, 5*ms), true},
	} {
		t.Run(name, func(t *testing.T) {
			d := device{}
			n := d.judge(c.typed.b)
			require.Equal(t, c.refused, d.refused)
			if !c.refused {
				require.Equal(t, len(c.typed.b), n)
				return
			}
			require.Equal(t, TooFast(), ParseRaw((*[RawSize]byte)(c.typed.b[n-RawSize:])))
			require.LessOrEqual(t, n/RawSize, 1+4*60, "what came through")
			s := NewState(640, 480)
			for b := c.typed.b[:n]; len(b) > 0; b = b[RawSize:] {
				if e, ok := s.Take(ParseRaw((*[RawSize]byte)(b))); ok && len(b) == RawSize {
					require.Equal(t, Event{Kind: TooFastEvent}, e)
				}
			}
			s.Release()
			require.Empty(t, s.held, "what it held is let go")
		})
	}
}

func TestEveryKeyboardIsToldItsLights(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	listener, err := net.Listen("unix", path)
	require.NoError(t, err)
	src := Unix(path)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = src.Run(ctx, make(chan Raw, 4)) })
	conn, err := listener.Accept()
	require.NoError(t, err)
	told := func() (got []Raw) {
		var b [4 * RawSize]byte
		_, err := io.ReadFull(conn, b[:])
		require.NoError(t, err)
		for i := 0; i < len(b); i += RawSize {
			got = append(got, ParseRaw((*[RawSize]byte)(b[i:])))
		}
		return got
	}
	leds := func(num, caps, scroll int32) []Raw {
		return []Raw{{17, 0, num}, {17, 1, caps}, {17, 2, scroll}, {0, 0, 0}}
	}
	require.Equal(t, leds(0, 0, 0), told(), "as soon as it is there")
	src.Light(CapsLock)
	src.Light(CapsLock)
	src.Light(ScrollLock | NumLock)
	require.Equal(t, leds(0, 1, 0), told())
	require.Equal(t, leds(1, 0, 1), told())
	conn.Close()
	conn, err = listener.Accept()
	require.NoError(t, err)
	require.Equal(t, leds(1, 0, 1), told(), "one that is plugged in later")
	cancel()
	wg.Wait()
	require.NoError(t, listener.Close())
}

func TestNavigationIsPlainKeysOnly(t *testing.T) {
	for code, want := range map[uint16]Event{
		codeUp: {Nav: NavUp}, codeDown: {Nav: NavDown}, codeEnter: {Nav: NavEnter}, codeKeypadEnter: {Nav: NavEnter}, codeEscape: {Nav: NavEscape},
		code1: {Nav: NavDigit, Digit: 1}, code1 + 8: {Nav: NavDigit, Digit: 9}, code0: {Nav: NavDigit, Digit: 0}, keyKP7: {Nav: NavDigit, Digit: 7}, keyF5: {},
	} {
		e := take(NewState(640, 480), Key(code, 1))[0]
		require.Equal(t, want, Event{Nav: e.Nav, Digit: e.Digit}, "code %d", code)
		s := NewState(640, 480)
		take(s, Key(codeLeftShift, 1))
		require.Equal(t, NavNone, take(s, Key(code, 1))[0].Nav)
	}
}

func TestPointerReachesEveryPixelAndNoOther(t *testing.T) {
	s := NewState(1920, 1080)
	for _, x := range []int{0, 1, 959, 960, 1918, 1919} {
		e := take(s, Move(int32((x*AbsMax+959)/1919), 0))
		require.Equal(t, x, e[0].X)
	}
	require.Equal(t, []Event{{Kind: PointerEvent, X: 1919, Y: 1079}}, take(s, Move(AbsMax, AbsMax)))
	require.Equal(t, []Event{{Kind: PointerEvent, X: 1919, Y: 1079, Buttons: Left | Right}},
		take(s, []Raw{{evKey, btnLeft, 1}, {evKey, btnRight, 1}, {evSyn, synReport, 0}}))
	require.Equal(t, []Event{{Kind: PointerEvent, X: 1919, Y: 1079, Buttons: Left | Right, Wheel: -2}}, take(s, Wheel(-2)))
	require.Equal(t, []Event{{Kind: PointerEvent, X: 1918, Y: 1079, Buttons: Left | Right}}, take(s, []Raw{{evRel, relX, -1}, {evSyn, synReport, 0}}))
	require.Empty(t, take(s, []Raw{{evSyn, synReport, 0}}))
}

func TestHostileDeviceStaysInBounds(t *testing.T) {
	s := NewState(800, 600)
	for code := range uint16(300) {
		take(s, Key(code, 1))
	}
	require.LessOrEqual(t, len(s.Held()), maxHeld)
	s.Release()
	for _, r := range []Raw{{evRel, relX, -1 << 31}, {evRel, relY, 1<<31 - 1}, {evAbs, absX, -1 << 31}, {evAbs, absY, 1<<31 - 1}, {evRel, relWheel, 1<<31 - 1}, {evRel, relWheel, 1<<31 - 1}} {
		e := take(s, []Raw{r, {evSyn, synReport, 0}})[0]
		require.True(t, e.X >= 0 && e.X < 800 && e.Y >= 0 && e.Y < 600 && e.Wheel <= maxWheel, "%+v", e)
	}
}

func TestSocketIsReadAcrossCutsAndDialledAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	listener, err := net.Listen("unix", path)
	require.NoError(t, err)
	src, err := Open("unix:" + path)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	out := make(chan Raw)
	var wg sync.WaitGroup
	wg.Go(func() { _ = src.Run(ctx, out) })

	var sent []byte
	for _, r := range append(Key(keyA, 1), Key(keyA, 0)...) {
		sent = r.Append(sent)
	}
	for range 2 {
		conn, err := listener.Accept()
		require.NoError(t, err)
		wg.Go(func() {
			for i := range sent { // in the smallest pieces
				_, _ = conn.Write(sent[i : i+1])
			}
			_, _ = conn.Write(sent[:7]) // and cut inside an event
			conn.Close()
		})
		for _, want := range append(append(Key(keyA, 1), Key(keyA, 0)...), Lost()) {
			require.Equal(t, want, <-out)
		}
	}
	cancel()
	wg.Wait()
	require.NoError(t, listener.Close())
}

func TestSourceWithoutItsSocketEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	require.NoError(t, Unix(filepath.Join(t.TempDir(), "none")).Run(ctx, nil))
	require.NoError(t, Evdev(t.TempDir()).Run(ctx, nil))
	require.Error(t, Evdev(filepath.Join(t.TempDir(), "none")).Run(t.Context(), nil))
}

func TestOpenKnowsItsTwoKinds(t *testing.T) {
	for _, bad := range []string{"", "unix:", "tcp:1", "evdev:x"} {
		_, err := Open(bad)
		require.Error(t, err, bad)
	}
	_, err := Open("evdev")
	require.NoError(t, err)
}

func TestAbsoluteAxesAreBroughtToOneScale(t *testing.T) {
	a := axis{-100, 100}
	require.EqualValues(t, 0, a.scale(-100))
	require.EqualValues(t, AbsMax, a.scale(100))
	require.EqualValues(t, AbsMax, a.scale(5000))
	require.EqualValues(t, 7, axis{0, 0}.scale(7))
	require.EqualValues(t, AbsMax, axis{-1 << 31, 1<<31 - 1}.scale(1<<31-1))
}

func FuzzRaw(f *testing.F) {
	var seed []byte
	for _, group := range [][]Raw{Key(codeLeftCtrl, 1), Key(codeLeftAlt, 1), Key(codeRight, 1), Move(AbsMax, 0), Button(Right, true), Wheel(3), {Lost()}, Key(keyA, 2)} {
		for _, r := range group {
			seed = r.Append(seed)
		}
	}
	f.Add(seed)
	f.Add(seed[:len(seed)-5])
	press := func(codes ...uint16) (groups [][]Raw) {
		for _, code := range codes {
			groups = append(groups, Key(code, 1), Key(code, 0))
		}
		return groups
	}
	with := func(groups ...[]Raw) {
		var seed []byte
		for _, group := range groups {
			for _, r := range group {
				seed = r.Append(seed)
			}
		}
		f.Add(seed)
	}
	var every []uint16
	for code := range uint16(128) {
		every = append(every, code, code) // pressed twice: repeated, let go, let go again
	}
	with(press(every...)...)
	with(append([][]Raw{Key(codeLeftCtrl, 1), Key(codeLeftAlt, 1)}, press(codeLeft, codeRight, codeUp, codeDown, keyA)...)...)
	var held [][]Raw
	for code := range uint16(128) {
		held = append(held, Key(code, 1), Key(code, 2))
	}
	with(held...)
	with(Button(Left, true), Button(Middle, true), Button(Right, true), Button(Left, false), Move(7, 9), Wheel(-2),
		[]Raw{{Type: 2, Code: relX, Value: 5}, {Type: 2, Code: relY, Value: -5}, {Type: 2, Code: 99, Value: 1}, {Type: 3, Code: 99, Value: 1}, {}})
	f.Add([]byte("not an event of any kind"))
	f.Add((&typist{now: time.Hour}).strokes(30, 5*time.Millisecond, 2*time.Millisecond).strokes(30, 90*time.Millisecond, 50*time.Millisecond).b)
	f.Fuzz(func(t *testing.T, b []byte) {
		d := device{abs: [2]axis{{-5, 5}, {0, 0}}}
		read := bytes.Clone(b[:len(b)/RawSize*RawSize])
		n := d.judge(read)
		require.True(t, n == len(read) || d.refused && n%RawSize == 0 && ParseRaw((*[RawSize]byte)(read[n-RawSize:])) == TooFast())
		s := NewState(1920, 1080)
		down := map[uint32]bool{}
		for ; len(b) >= RawSize; b = b[RawSize:] {
			r := ParseRaw((*[RawSize]byte)(b))
			require.Equal(t, r, ParseRaw((*[RawSize]byte)(r.Append(nil))))
			e, ok := s.Take(r)
			if !ok {
				continue
			}
			require.NotZero(t, e.Kind)
			require.True(t, e.Kind != PointerEvent || e.X >= 0 && e.X < 1920 && e.Y >= 0 && e.Y < 1080)
			if e.Kind == KeyEvent {
				down[e.XT] = e.Down
			}
		}
		require.LessOrEqual(t, len(s.Held()), maxHeld)
		x, y := s.x, s.y
		require.True(t, x >= 0 && x < 1920 && y >= 0 && y < 1080)
		for _, e := range s.Release() {
			if e.Kind == KeyEvent {
				require.False(t, e.Down)
				down[e.XT] = false
			}
		}
		for xt, held := range down {
			require.False(t, held, "scancode %#x stays pressed", xt)
		}
	})
}

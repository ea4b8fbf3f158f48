// SPDX-License-Identifier: Apache-2.0

package tile

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"image"
	"io"
	"math"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sdbox/internal/bubble"
	"sdbox/internal/bubble/bubbletest"
	"sdbox/internal/rfb"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// The screen of the benchmarks is what a box of 1920 x 1080 leaves to a bubble.
const (
	benchWidth  = 1912
	benchHeight = 1036
	benchSteps  = 8
	benchQuiet  = 150 * time.Millisecond // so long nothing moves: the step is over
	benchMerge  = 2 * time.Millisecond   // as the gateway waits for what belongs together (desktop.Settle)
	benchWait   = 5 * time.Second
)

// scene is a desktop with one program in it, and what a person does to it step after step.
type scene struct {
	name, session string
	prepare       func(*stage)
	step          func(s *stage, i int)
}

const (
	listing  = `ls -l /usr/bin >"$HOME/list"; `
	manager  = `openbox & until xprop -root _NET_SUPPORTING_WM_CHECK | grep -q 0x; do sleep 0.05; done; `
	terminal = listing + `exec xterm -fullscreen -b 0 -bw 0 -geometry 200x60+0+0 -fa 'DejaVu Sans Mono' -fs 12 -bg '#10212b' -fg '#e8eef2' -e sh -c '
		exec 3<"$HOME/list"; while read x; do for i in 1 2 3; do IFS= read -r l <&3 && echo "$l"; done; done'`
	spreadsheet = `awk 'BEGIN { print "week,region,age_group,tests,positive,incidence_per_100k"; for (i = 1; i < 900; i++)
		printf "2026-W%02d,Region %d,%d-%d,%d,%d,%.1f\n", i%52, i*7%23, i%8*10, i%8*10+9, i*7919%4001, i*31%211, i*13%997/10 }' >"$HOME/data.csv"
		` + manager + `exec gnumeric --geometry=1800x980+20+30 "$HOME/data.csv"`
	window = listing + manager + `exec xterm -geometry 90x30+100+100 -fa 'DejaVu Sans Mono' -fs 12 -e sh -c 'head -n 40 "$HOME/list"; exec sleep 999'`
	empty  = `exec sleep 999`
	enter  = 0x1c
	down   = uint8(1 << 4) // the wheel
)

// scenes are real programs on a real Xvnc. That some of them tell of their scrolling (CopyRect) is kept from every codec: it is
// as with the many programs that draw all anew.
func scenes() []scene {
	return []scene{
		{"terminal", terminal, func(s *stage) {
			s.point(900, 500, 0)
			for range 25 { // the screen is full, then
				s.key(enter)
				s.settle(benchWait)
			}
		}, func(s *stage, _ int) { s.key(enter) }},
		{"spreadsheet", spreadsheet, func(s *stage) { s.point(900, 600, 0) }, func(s *stage, _ int) {
			s.point(900, 600, down)
			s.point(900, 600, 0)
		}},
		{"window", window, func(s *stage) {
			s.point(400, 110, 0)
			for i := range 20 { // as a hand does: a window manager takes a leap for no drag
				s.point(390+i/2, 105+i/4, 1)
			}
		}, func(s *stage, i int) { s.point(400+17*(i+1), 110+11*(i+1), 1) }},
		{"plot", empty, func(s *stage) { s.start("gnuplot") }, func(s *stage, i int) {
			_, err := fmt.Fprintf(s.program, "set term x11 size 1200,820 position 60,40; set grid; plot sin(x*%d/3.0)*x lw 2, cos(x)*%d\n", i+2, i+1)
			require.NoError(s.b, err)
		}},
		{"noise", empty, func(*stage) {}, func(s *stage, i int) { s.show(noise(uint64(i), 1280, 720)) }},
	}
}

// stage is a scene that runs.
type stage struct {
	b       *testing.B
	house   *bubbletest.House
	client  *rfb.Client
	program io.Writer // standard input of the program that start has started
	shots   []shot
}

// shot is one moment of the screen, and what has changed since the one before.
type shot struct {
	pix    []byte
	damage []image.Rectangle
}

func newStage(b *testing.B, sc scene) *stage {
	s := &stage{b: b, house: bubbletest.New(b, sc.session)}
	s.house.Serve(b)
	conn, err := bubble.Dial(b.Context(), s.house.Address, s.house.TLS())
	require.NoError(b, err)
	raw, err := conn.Open(b.Context(), s.house.Token(b, "amina"), benchWidth, benchHeight, "")
	require.NoError(b, err)
	s.client, err = rfb.New(b.Context(), raw, benchWidth, benchHeight)
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, s.client.Close()) })
	s.point(900, 500, 0)
	for sc.session != empty && !s.drawn() { // programs take their time to come up
		require.Positive(b, s.settle(4*benchWait), "%s does not come up", sc.name)
	}
	s.rest()
	sc.prepare(s)
	s.rest()
	return s
}

// rest waits until nothing has moved for a second, and keeps the last shot alone.
func (s *stage) rest() {
	for s.settle(time.Second) > 0 {
		s.shots = s.shots[len(s.shots)-1:]
	}
}

// drawn says whether the last shot is of more than one colour.
func (s *stage) drawn() bool {
	if len(s.shots) == 0 {
		return false
	}
	pix := s.shots[len(s.shots)-1].pix
	return !bytes.Equal(pix[4:], pix[:len(pix)-4])
}

func (s *stage) key(xt uint32) {
	require.NoError(s.b, s.client.Key(xt, true))
	require.NoError(s.b, s.client.Key(xt, false))
}

func (s *stage) point(x, y int, buttons uint8) { require.NoError(s.b, s.client.Pointer(x, y, buttons)) }

// start runs a program on the desktop until the benchmark's end.
func (s *stage) start(name string, args ...string) {
	cmd := s.house.X(s.b, "amina", name, args...)
	in, err := cmd.StdinPipe()
	require.NoError(s.b, err)
	require.NoError(s.b, cmd.Start())
	s.program = in
	s.b.Cleanup(func() {
		in.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
}

// show has xwud(1) show a picture in a window.
func (s *stage) show(p picture) {
	path := filepath.Join(s.b.TempDir(), "picture.xwd")
	require.NoError(s.b, os.WriteFile(path, xwd(p), 0o600))
	s.start("xwud", "-in", path, "-geometry", "+200+100")
}

// xwd writes a picture as XWDFile.h describes it: version 7, Z pixmap, true colour.
func xwd(p picture) []byte {
	const words = 25
	var b []byte
	for _, v := range []int{words*4 + 4, 7, 2, 24, p.w, p.h, 0, 0, 32, 0, 32, 32, p.w * 4, 4, 0xff0000, 0xff00, 0xff, 8, 256, 0, p.w, p.h, 0, 0, 0} {
		b = binary.BigEndian.AppendUint32(b, uint32(v))
	}
	return append(append(b, "sdb\x00"...), p.pix...)
}

func noise(seed uint64, w, h int) picture {
	k := newDesk(w, h, seed)
	for i := range k.pix {
		k.pix[i] = byte(k.r.Uint32())
	}
	return k.picture
}

// settle takes shots as a gateway takes updates, until nothing moves any more, and returns how many. patience is for the first.
func (s *stage) settle(patience time.Duration) (updates int) {
	for wait := patience; ; wait = benchQuiet {
		select {
		case <-s.client.Changed():
		case <-s.client.Done():
			require.NoError(s.b, s.client.Err())
		case <-time.After(wait):
			return updates
		}
		<-time.After(benchMerge)
		require.NoError(s.b, s.client.Take(s.b.Context(), func(u rfb.Update) error {
			s.shots = append(s.shots, shot{slices.Clone(u.Pix), u.Damage})
			updates++
			return nil
		}))
	}
}

// play performs the scene's steps and returns the processor time of the desktop's server for each of them.
func (s *stage) play(sc scene, from int) time.Duration {
	before := s.spent()
	for i := range benchSteps {
		sc.step(s, from+i)
		require.Positive(s.b, s.settle(benchWait), "%s: step %d shows nothing", sc.name, i)
	}
	return (s.spent() - before) / benchSteps
}

// spent is the processor time of Xvnc so far (proc_pid_schedstat(5)).
func (s *stage) spent() time.Duration {
	pid, _ := s.house.Desktop(s.b, "amina")
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/schedstat", pid))
	require.NoError(s.b, err)
	var ns int64
	_, err = fmt.Sscan(string(text), &ns)
	require.NoError(s.b, err)
	return time.Duration(ns)
}

// watcher is a client that asks the desktop for one encoding and counts what comes.
type watcher struct {
	conn  net.Conn
	bytes atomic.Int64
	done  chan struct{}
}

// The encodings of RFC 6143, 7.7.6, and of rfbproto.rst. Without a quality level Tight is lossless.
const (
	tight  = 7
	zrle   = 16
	cursor = -239 // so that the pointer is in nobody's pixels
	where  = 0x574d5666
)

func (s *stage) watch(encoding int32) *watcher {
	conn, err := net.Dial("unix", filepath.Join(s.house.Config.Run, "amina", "rfb"))
	require.NoError(s.b, err)
	read := func(n int) {
		_, err := io.ReadFull(conn, make([]byte, n))
		require.NoError(s.b, err)
	}
	write := func(b []byte) {
		_, err := conn.Write(b)
		require.NoError(s.b, err)
	}
	read(12)
	write([]byte("RFB 003.008\n"))
	read(2) // one security type: none
	write([]byte{1})
	read(4)
	write([]byte{1})
	read(24)
	b := []byte{0, 0, 0, 0, 32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0, 2, 0, 0, 3}
	for _, e := range []int32{encoding, cursor, where} {
		b = binary.BigEndian.AppendUint32(b, uint32(e))
	}
	write(append(b, 3, 0, 0, 0, 0, 0, benchWidth>>8, benchWidth&0xff, benchHeight>>8, benchHeight&0xff))
	w := &watcher{conn: conn, done: make(chan struct{})}
	go func() {
		defer close(w.done)
		w.run()
	}()
	return w
}

// run counts, and asks for more so often that nothing waits for it.
func (w *watcher) run() {
	var asking sync.WaitGroup
	defer asking.Wait()
	ended := make(chan struct{})
	defer close(ended)
	asking.Go(func() {
		ticks := time.NewTicker(5 * time.Millisecond)
		defer ticks.Stop()
		for {
			select {
			case <-ended:
				return
			case <-ticks.C:
			}
			if _, err := w.conn.Write([]byte{3, 1, 0, 0, 0, 0, benchWidth >> 8, benchWidth & 0xff, benchHeight >> 8, benchHeight & 0xff}); err != nil {
				return
			}
		}
	})
	buf := make([]byte, 1<<16)
	for {
		n, err := w.conn.Read(buf)
		w.bytes.Add(int64(n))
		if err != nil {
			return
		}
	}
}

// rest returns how many bytes have come once no more come.
func (w *watcher) rest() int64 {
	for {
		n := w.bytes.Load()
		select {
		case <-w.done:
			return n
		case <-time.After(benchQuiet):
		}
		if n == w.bytes.Load() {
			return n
		}
	}
}

func (w *watcher) close() {
	w.conn.Close()
	<-w.done
}

// BenchmarkScreen is a step of each scene: bytes and time of our encoder with and without its search for what moved, and of a VNC
// server that is asked for the lossless encodings of today. The server's time is what it spends more than with our client alone.
func BenchmarkScreen(b *testing.B) {
	for _, sc := range scenes() {
		b.Run(sc.name, func(b *testing.B) {
			s := newStage(b, sc)
			alone := s.play(sc, 0)
			shots := s.shots
			for _, encoding := range []int32{tight, zrle} {
				w := s.watch(encoding)
				before := w.rest()
				s.shots = nil
				spent := s.play(sc, benchSteps) - alone
				size := float64(w.rest()-before) / benchSteps
				w.close()
				b.Run(map[int32]string{tight: "tight", zrle: "zrle"}[encoding], func(b *testing.B) {
					b.ReportMetric(float64(spent), "ns/op")
					b.ReportMetric(size, "B/step")
				})
			}
			b.Run("sdbox", func(b *testing.B) { encodeShots(b, shots, searchTiles) })
			b.Run("sdbox-without-search", func(b *testing.B) { encodeShots(b, shots, math.MaxInt) })
		})
	}
}

// encodeShots plays the shots from the first, whose key frame is not counted. The time is the processor's, as the server's.
func encodeShots(b *testing.B, shots []shot, fewest int) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	size, spent := 0, time.Duration(0)
	for b.Loop() {
		e, err := NewEncoder()
		require.NoError(b, err)
		e.finder.fewest = fewest
		began := time.Duration(0)
		for i, shot := range shots {
			frame, err := e.Encode(Source{Width: benchWidth, Height: benchHeight, Pix: shot.pix, Damage: shot.damage})
			require.NoError(b, err)
			if i == 0 {
				began = threadTime(b)
				continue
			}
			size += len(frame)
		}
		spent += threadTime(b) - began
	}
	b.ReportMetric(float64(spent)/float64(b.N*benchSteps), "ns/op")
	b.ReportMetric(float64(size)/float64(b.N*benchSteps), "B/step")
}

func threadTime(b *testing.B) time.Duration {
	var u unix.Rusage
	require.NoError(b, unix.Getrusage(unix.RUSAGE_THREAD, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

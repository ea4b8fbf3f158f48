// SPDX-License-Identifier: Apache-2.0

package screen

import (
	"encoding/binary"
	"encoding/json"
	"image"
	"image/color"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestModesAreTriedBestFirst(t *testing.T) {
	full, wide, tall := modeOf(1920, 1080, 60, 0, 0), modeOf(2560, 1440, 60, 0, modePreferred), modeOf(3840, 2160, 30, 0, 0)
	all := []mode{
		full, modeOf(320, 200, 60, 0, modePreferred), modeOf(0, 0, 0, 0, modePreferred), wide, modeOf(1920, 1080, 50, 0, 0), tall,
		modeOf(MaxSide+1, 2000, 60, 0, modePreferred), modeOf(1920, 1200, 60, modeFlagsInterlace, modePreferred),
	}
	require.Equal(t, []mode{wide, tall, full}, usable(all))
	for i := range 100 { // a monitor that states everything
		all = append(all, modeOf(700+i, 500, 60, 0, 0))
	}
	require.Equal(t, wide, usable(all)[0])
	require.Equal(t, `"2560x1440" (2560x1440, 60 Hz)`, wide.String())
	require.Empty(t, usable(nil))
}

func TestDisplayShowsInThePreferredModeOfTheFirstMonitor(t *testing.T) {
	a := newAdapter(t, socket{status: 2}, socket{statusUnknown, []mode{modeOf(1024, 768, 60, 0, 0)}},
		monitor(modeOf(800, 600, 60, 0, 0), modeOf(1280, 800, 60, 0, modePreferred)), monitor(modeOf(1920, 1080, 60, 0, modePreferred)))
	a.pitch = 1300 * 4
	d, err := openWith(a.driver(t))
	require.NoError(t, err)
	g := d.Geometry()
	require.Equal(t, Geometry{
		Width: 1280, Height: 800, Buffer: Buffer{Handle: 1, Pitch: 5200, Offset: bufferAt, Size: 5200 * 800}, Framebuffer: 77, Connector: 33, CRTC: 11,
	}, g)
	require.EqualValues(t, 77, a.shown[11].framebuffer)
	require.Zero(t, a.shown[12].framebuffer, "what was on another monitor goes")
	require.Zero(t, a.shown[12].withMode)

	d.Image().Fill(image.Rect(10, 10, 30, 30), 0x123456)
	require.NoError(t, d.Flush(image.Rect(12, 12, 20, 20), image.Rect(-5, -5, 5000, 11), image.Rect(2000, 2000, 2001, 2001)))
	require.Equal(t, []drmClip{{12, 12, 20, 20}, {0, 0, 1280, 11}}, a.clips)
	require.Equal(t, color.RGBA{0x12, 0x34, 0x56, 255}, a.at(t, g, 19, 19))
	require.Equal(t, color.RGBA{A: 255}, a.at(t, g, 25, 25), "drawn, not flushed")

	sent, err := json.Marshal(g)
	require.NoError(t, err)
	var got Geometry
	require.NoError(t, json.Unmarshal(sent, &got))
	agent, err := Shared(a.driver(t).file, got)
	require.NoError(t, err)
	require.Equal(t, color.RGBA{0x12, 0x34, 0x56, 255}, a.at(t, g, 19, 19), "what the other process shows stays")
	require.ErrorContains(t, agent.Close(), "show what changed", "a file in memory is no driver")
	agent, err = show(a.driver(t), got, true)
	require.NoError(t, err)
	agent.Image().Fill(agent.Image().Bounds(), 0xffffff)
	require.NoError(t, agent.Flush(image.Rect(0, 0, 1, 1)))
	require.Equal(t, color.RGBA{255, 255, 255, 255}, a.at(t, g, 1279, 799))
	require.NoError(t, agent.Close())
	require.Equal(t, color.RGBA{A: 255}, a.at(t, g, 1279, 799), "who lets go leaves black")
	require.Equal(t, 2, a.live, "and the buffer to its owner")
	require.NoError(t, d.Close())
	require.ErrorIs(t, d.Flush(image.Rect(0, 0, 1, 1)), ErrClosed)
	require.ErrorIs(t, d.Close(), ErrClosed)
	require.ErrorIs(t, d.Reconnect(), ErrClosed)
	require.Zero(t, a.live)
}

func TestManyChangesFitInOneRequest(t *testing.T) {
	a := newAdapter(t, monitor(modeOf(1024, 768, 60, 0, 0)))
	d, err := openWith(a.driver(t))
	require.NoError(t, err)
	var rects []image.Rectangle
	for i := range 700 {
		rects = append(rects, image.Rect(i, i, i+2, i+2))
	}
	require.NoError(t, d.Flush(rects...))
	require.Len(t, a.clips, maxClips)
	require.Equal(t, drmClip{255, 255, 701, 701}, a.clips[maxClips-1], "the last one covers the rest")
	a.noDirty = true
	require.NoError(t, d.Flush(rects...))
	a.refuse = func(uint, unsafe.Pointer) unix.Errno { return unix.EIO }
	require.NoError(t, d.Flush(rects...), "a driver that once had no such call is not asked again")
	a.refuse = nil
	require.NoError(t, d.Close())
}

func TestPointerOfTheHardwareIsUsedWhereItShowsTheSame(t *testing.T) {
	a := newAdapter(t, monitor(modeOf(1024, 768, 60, 0, 0)))
	a.pointer = true
	d, err := openWith(a.driver(t))
	require.NoError(t, err)
	g := d.Geometry()
	require.Equal(t, 64, g.CursorSide)
	b := d.Image().Bounds()
	arrow := Arrow(1)
	require.NoError(t, d.Point(arrow, image.Pt(1020, 760), b))
	require.Equal(t, drmCursor{flags: 3, crtc: 11, x: 1020, y: 760, width: 64, height: 64, handle: g.Cursor.Handle}, a.cursor)
	var pix [4]byte
	_, err = a.memory.ReadAt(pix[:], g.Cursor.Offset+18*g.Cursor.Pitch)
	require.NoError(t, err)
	require.Equal(t, arrow.Pix[18*arrow.Width*4:][:4], pix[:], "its edge")
	require.Equal(t, color.RGBA{A: 255}, a.at(t, g, 1020, 765), "it is not drawn besides")

	require.NoError(t, d.Point(arrow, image.Pt(90, 90), image.Rect(0, 0, 100, 100)))
	require.Zero(t, a.cursor.handle, "the hardware cannot cut it")
	require.Equal(t, color.RGBA{255, 255, 255, 255}, a.at(t, g, 90, 99))
	require.Equal(t, color.RGBA{A: 255}, a.at(t, g, 90, 100))
	large := &Cursor{Pix: make([]byte, 65*65*4), Width: 65, Height: 65}
	require.NoError(t, d.Point(large, image.Pt(500, 500), b))
	require.Zero(t, a.cursor.handle)
	require.NoError(t, d.Point(arrow, image.Pt(90, 90), b))
	require.Equal(t, g.Cursor.Handle, a.cursor.handle)
	require.Equal(t, color.RGBA{A: 255}, a.at(t, g, 90, 99), "what was drawn is gone")

	safe, err := show(a.driver(t), g, true) // another process finds the pointer as it was left
	require.NoError(t, err)
	require.Zero(t, a.cursor.handle)
	require.NoError(t, d.Point(arrow, image.Pt(91, 90), b))
	require.NoError(t, safe.Point(nil, image.Point{}, b))
	require.Zero(t, a.cursor.handle)
	require.NoError(t, safe.Close())

	a.pointer = false
	require.NoError(t, d.Point(Arrow(1.5), image.Pt(91, 90), b))
	require.Equal(t, color.RGBA{255, 255, 255, 255}, a.at(t, g, 91, 99), "a pointer that broke is drawn")
	require.NoError(t, d.Close())
	require.Zero(t, a.live)
}

func TestMonitorThatCannotDoItsBestGetsTheNextMode(t *testing.T) {
	a := newAdapter(t, monitor(modeOf(1920, 1080, 60, 0, 0), modeOf(3840, 2160, 60, 0, modePreferred), modeOf(2560, 1440, 60, 0, 0)))
	a.largest = 2560 * 1440 // the adapter's memory
	a.refuse = func(request uint, arg unsafe.Pointer) unix.Errno {
		if request == drmSetCRTC && parseMode((*drmCRTC)(arg).mode).width == 2560 { // the line is too slow
			return unix.EINVAL
		}
		return 0
	}
	d, err := openWith(a.driver(t))
	require.NoError(t, err)
	require.Equal(t, 1920, d.Geometry().Width)
	require.Equal(t, 2, a.live, "the buffers that were not shown are given back")
	require.NoError(t, d.Close())
}

func TestPluggedMonitorIsSetAgainOrNamed(t *testing.T) {
	a := newAdapter(t, monitor(modeOf(1920, 1080, 60, 0, modePreferred)), socket{status: 2})
	d, err := openWith(a.driver(t))
	require.NoError(t, err)
	a.shown[11] = drmCRTC{}
	require.NoError(t, d.Reconnect())
	require.EqualValues(t, 77, a.shown[11].framebuffer)
	a.sockets[0].modes = []mode{modeOf(3840, 2160, 60, 0, modePreferred), modeOf(1920, 1080, 60, 0, 0)}
	require.NoError(t, d.Reconnect(), "a larger monitor that can do the same size disturbs nobody")
	a.sockets[0].modes = a.sockets[0].modes[:1]
	require.ErrorIs(t, d.Reconnect(), ErrOtherDisplay)
	a.sockets = []socket{{status: 2}, monitor(modeOf(1920, 1080, 60, 0, 0))}
	require.ErrorIs(t, d.Reconnect(), ErrOtherDisplay)
	a.sockets[1].status = 2
	a.sockets[1].modes = nil
	require.ErrorIs(t, d.Reconnect(), ErrNoDisplay)
	require.NoError(t, d.Flush(d.Image().Bounds()), "nobody sees it, and it can be drawn on")
	require.NoError(t, d.Close())
}

func TestDriverThatAnswersNonsenseIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(request uint, arg unsafe.Pointer)
		want  string
	}{
		"no plain buffers": {func(r uint, arg unsafe.Pointer) {
			if r == drmGetCap {
				(*drmCap)(arg).value = 0
			}
		}, "no plain buffers"},
		"many outputs": {func(r uint, arg unsafe.Pointer) {
			if r == drmGetResources {
				(*drmResources)(arg).connectors = 1 << 31
			}
		}, "connectors"},
		"many modes": {func(r uint, arg unsafe.Pointer) {
			if r == drmGetConnector {
				(*drmConnector)(arg).modes = 1 << 31
			}
		}, "modes"},
		"more modes the second time": {func(r uint, arg unsafe.Pointer) {
			if r == drmGetConnector && (*drmConnector)(arg).modesPtr != 0 {
				(*drmConnector)(arg).modes++
			}
		}, "no monitor"},
		"no CRTC": {func(r uint, arg unsafe.Pointer) {
			if r == drmGetEncoder {
				(*drmEncoder)(arg).possibleCRTCs = 1 << 31
			}
		}, "no CRTC feeds"},
		"short rows": {func(r uint, arg unsafe.Pointer) {
			if r == drmCreateDumb {
				(*drmDumb)(arg).pitch = 1023 * 4
			}
		}, "does not hold"},
		"crooked rows": {func(r uint, arg unsafe.Pointer) {
			if r == drmCreateDumb {
				(*drmDumb)(arg).pitch = 1<<32 - 1
			}
		}, "does not hold"},
		"small buffer": {func(r uint, arg unsafe.Pointer) {
			if r == drmCreateDumb {
				(*drmDumb)(arg).size--
			}
		}, "does not hold"},
		"huge buffer": {func(r uint, arg unsafe.Pointer) {
			if r == drmCreateDumb {
				(*drmDumb)(arg).size = 1<<64 - 1
			}
		}, "does not hold"},
		"crooked place": {func(r uint, arg unsafe.Pointer) {
			if r == drmMapDumb {
				(*drmMap)(arg).offset = 1<<63 + 1
			}
		}, "cannot be mapped"},
		"no framebuffer": {func(r uint, arg unsafe.Pointer) {
			if r == drmAddFB {
				(*drmFramebuffer)(arg).id = 0
			}
		}, "no number"},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAdapter(t, monitor(modeOf(1024, 768, 60, 0, 0)))
			a.spoil = c.spoil
			_, err := openWith(a.driver(t))
			require.ErrorContains(t, err, c.want)
		})
	}
}

func TestRefusedRequestEndsInAnErrorAndLeavesNothing(t *testing.T) {
	for _, request := range []uint{
		drmGetCap, drmGetResources, drmGetConnector, drmGetEncoder, drmCreateDumb, drmMapDumb, drmAddFB, drmSetCRTC, drmDirtyFB,
	} {
		a := newAdapter(t, monitor(modeOf(1024, 768, 60, 0, 0)))
		a.refuse = func(r uint, _ unsafe.Pointer) unix.Errno {
			if r == request {
				return unix.EACCES
			}
			return 0
		}
		_, err := openWith(a.driver(t))
		require.ErrorIs(t, err, unix.EACCES, "%#x", request)
		require.Zero(t, a.live, "%#x", request)
	}
}

func TestMachineWithoutDisplaySaysSo(t *testing.T) {
	dev := t.TempDir()
	_, err := Open(dev)
	require.ErrorIs(t, err, ErrNoDisplay)
	require.NoError(t, os.Mkdir(filepath.Join(dev, "dri"), 0o700))
	for _, name := range []string{"dri/card0", "fb0"} {
		require.NoError(t, os.WriteFile(filepath.Join(dev, name), nil, 0o600))
	}
	_, err = Open(dev)
	require.ErrorIs(t, err, ErrNoDisplay)
	require.ErrorIs(t, err, unix.ENOTTY, "neither is a driver")
}

// framebuffer is what a framebuffer device says of 1024x768 pixels in rows of 4096+64 bytes.
func framebuffer() (variable, fixed []byte) {
	variable, fixed = make([]byte, fbVariableSize), make([]byte, fbFixedSize)
	for at, v := range map[int]uint32{0: 1024, 4: 768, 24: 32, 32: 16, 36: 8, 44: 8, 48: 8, 60: 8} {
		binary.NativeEndian.PutUint32(variable[at:], v)
	}
	for at, v := range map[int]uint32{24: 16 << 20, 36: fbTrueColour, 48: 4160} {
		binary.NativeEndian.PutUint32(fixed[at:], v)
	}
	return variable, fixed
}

func TestFramebufferOfAnotherFormIsRefused(t *testing.T) {
	variable, fixed := framebuffer()
	g, err := parseFramebuffer(variable, fixed)
	require.NoError(t, err)
	require.Equal(t, Geometry{Width: 1024, Height: 768, Buffer: Buffer{Pitch: 4160, Size: 4160 * 768}}, g)
	a := newAdapter(t)
	require.NoError(t, a.memory.Truncate(g.Buffer.Size))
	d, err := openMemory(driver{a.driver(t).file, func(request uint, arg unsafe.Pointer) error {
		answer := map[uint][]byte{fbGetVariable: variable, fbGetFixed: fixed}[request]
		copy(unsafe.Slice((*byte)(arg), len(answer)), answer)
		return nil
	}})
	require.NoError(t, err)
	d.Image().Fill(d.Image().Bounds(), 0x102030)
	require.NoError(t, d.Flush(image.Rect(1023, 767, 1024, 768)))
	require.Equal(t, color.RGBA{0x10, 0x20, 0x30, 255}, a.at(t, g, 1023, 767))
	require.NoError(t, d.Reconnect())
	require.NoError(t, d.Close())

	for _, c := range []struct {
		fixed bool
		at    int
		value uint32
	}{
		{false, 24, 16}, {false, 24, 24}, {false, 32, 0}, {false, 36, 5}, {false, 56, 16}, {false, 64, 1}, {false, 0, 0}, {false, 4, 0},
		{false, 0, 1 << 31}, {false, 4, MaxSide + 1}, {false, 16, 1}, {false, 20, 768}, {true, 28, 1}, {true, 36, 4}, {true, 24, 0},
		{true, 24, 4160*768 - 1}, {true, 48, 4092}, {true, 48, 4162}, {true, 48, 1<<32 - 4},
	} {
		variable, fixed := framebuffer()
		b := variable
		if c.fixed {
			b = fixed
		}
		binary.NativeEndian.PutUint32(b[c.at:], c.value)
		_, err := parseFramebuffer(variable, fixed)
		require.Error(t, err, "%+v", c)
	}
}

func FuzzFramebuffer(f *testing.F) {
	variable, fixed := framebuffer()
	f.Add(variable, fixed)
	for _, at := range []int{0, 4, 16, 20, 24, 32} {
		v := slices.Clone(variable)
		v[at]++
		f.Add(v, fixed)
	}
	for _, at := range []int{28, 36, 48} {
		x := slices.Clone(fixed)
		x[at]++
		f.Add(variable, x)
	}
	f.Fuzz(func(t *testing.T, variable, fixed []byte) {
		if len(variable) != fbVariableSize || len(fixed) != fbFixedSize {
			return
		}
		if g, err := parseFramebuffer(variable, fixed); err == nil {
			require.NoError(t, checkSize(g.Width, g.Height))
			require.LessOrEqual(t, int64(g.Height-1)*g.Buffer.Pitch+int64(g.Width)*4, g.Buffer.Size)
		}
	})
}

func FuzzModes(f *testing.F) {
	var seed []byte
	for _, m := range []mode{modeOf(1920, 1080, 60, 0, modePreferred), modeOf(1920, 1080, 50, 0, 0), modeOf(640, 480, 60, modeFlagsInterlace, 0), modeOf(0, 1, 0, 0, 0)} {
		seed = append(seed, m.raw[:]...)
	}
	f.Add(seed)
	f.Add(seed[:modeSize])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		var all []mode
		for ; len(b) >= modeSize; b = b[modeSize:] {
			all = append(all, parseMode([modeSize]byte(b)))
		}
		for _, m := range usable(all) {
			require.NoError(t, checkSize(m.width, m.height))
			require.NotEmpty(t, m.String())
		}
	})
}

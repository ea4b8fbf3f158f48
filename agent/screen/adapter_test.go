// SPDX-License-Identifier: Apache-2.0

package screen

import (
	"encoding/binary"
	"fmt"
	"image/color"
	"os"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// adapter is a display driver in software: it answers the requests of drm_mode.h in their own structures, and its buffer is a
// file in memory.
type adapter struct {
	memory  *os.File
	sockets []socket
	crtcs   []uint32
	pitch   uint32                                            // of its buffers; 0 = just enough
	largest int                                               // pixels of the largest buffer; 0 = any
	noDirty bool                                              // it shows the memory itself
	spoil   func(request uint, arg unsafe.Pointer)            // changes an answer before it is given
	refuse  func(request uint, arg unsafe.Pointer) unix.Errno // refuses a request
	shown   map[uint32]drmCRTC                                // by CRTC
	live    int                                               // buffers and framebuffers not given back
	clips   []drmClip
	pointer bool      // it has one of its own
	cursor  drmCursor // where that is and what it looks like
}

// bufferAt is where the first buffer of an adapter lies, and how far the others lie apart.
const bufferAt = 1 << 26

// socket is one connector of an adapter.
type socket struct {
	status uint32
	modes  []mode
}

func newAdapter(t *testing.T, sockets ...socket) *adapter {
	fd, err := unix.MemfdCreate("adapter", unix.MFD_CLOEXEC)
	require.NoError(t, err)
	f := os.NewFile(uintptr(fd), "adapter")
	return &adapter{memory: f, sockets: sockets, crtcs: []uint32{11, 12}, shown: map[uint32]drmCRTC{}}
}

// driver opens the adapter once more.
func (a *adapter) driver(t *testing.T) driver {
	fd, err := unix.Dup(int(a.memory.Fd()))
	require.NoError(t, err)
	return driver{os.NewFile(uintptr(fd), "adapter"), a.call}
}

func fill[T any](ptr uint64, room uint32, values []T) {
	if int(room) >= len(values) && ptr != 0 {
		copy(unsafe.Slice((*T)(*(*unsafe.Pointer)(unsafe.Pointer(&ptr))), room), values)
	}
}

func (a *adapter) call(request uint, arg unsafe.Pointer) error {
	if a.refuse != nil {
		if errno := a.refuse(request, arg); errno != 0 {
			return errno
		}
	}
	if errno := a.answer(request, arg); errno != 0 {
		return errno
	}
	if a.spoil != nil {
		a.spoil(request, arg)
	}
	return nil
}

func (a *adapter) answer(request uint, arg unsafe.Pointer) unix.Errno {
	switch request {
	case drmGetCap:
		c := (*drmCap)(arg)
		c.value = map[uint64]uint64{capDumbBuffer: 1, capCursorWidth: 64, capCursorHeight: 64}[c.capability]
	case drmGetResources:
		r := (*drmResources)(arg)
		var ids []uint32
		for i := range a.sockets {
			ids = append(ids, uint32(31+i))
		}
		fill(r.crtcsPtr, r.crtcs, a.crtcs)
		fill(r.connectorsPtr, r.connectors, ids)
		r.crtcs, r.connectors = uint32(len(a.crtcs)), uint32(len(ids))
	case drmGetConnector:
		c := (*drmConnector)(arg)
		s := a.sockets[c.id-31]
		var raws [][modeSize]byte
		for _, m := range s.modes {
			raws = append(raws, m.raw)
		}
		fill(c.modesPtr, c.modes, raws)
		fill(c.encodersPtr, c.encoders, []uint32{c.id + 10})
		c.modes, c.encoders, c.status = uint32(len(raws)), 1, s.status
	case drmGetEncoder:
		(*drmEncoder)(arg).possibleCRTCs = 3
	case drmSetCRTC:
		set := *(*drmCRTC)(arg)
		a.shown[set.id] = set
	default:
		return a.answerBuffer(request, arg)
	}
	return 0
}

func (a *adapter) answerBuffer(request uint, arg unsafe.Pointer) unix.Errno {
	switch request {
	case drmCreateDumb:
		d := (*drmDumb)(arg)
		if a.largest > 0 && int(d.width*d.height) > a.largest {
			return unix.ENOMEM
		}
		d.handle, d.pitch = uint32(a.live+1), max(a.pitch, d.width*4)
		d.size = uint64(d.pitch) * uint64(d.height)
		if err := a.memory.Truncate(bufferAt*int64(a.live+1) + int64(d.size)); err != nil {
			return unix.ENOMEM
		}
		a.live++
	case drmMapDumb:
		m := (*drmMap)(arg)
		m.offset = bufferAt * uint64(m.handle)
	case drmAddFB:
		(*drmFramebuffer)(arg).id = 77
		a.live++
	case drmRemoveFB, drmDestroyDumb:
		a.live--
	case drmDirtyFB:
		if a.noDirty {
			return unix.ENOSYS
		}
		d := (*drmDirty)(arg)
		a.clips = make([]drmClip, d.clips)
		copy(a.clips, unsafe.Slice((*drmClip)(*(*unsafe.Pointer)(unsafe.Pointer(&d.clipsPtr))), d.clips))
	case drmCursor2:
		c := (*drmCursor)(arg)
		if !a.pointer {
			return unix.ENXIO
		}
		if c.flags&cursorShape != 0 {
			a.cursor = *c
		}
		a.cursor.x, a.cursor.y = c.x, c.y
	default:
		return unix.EINVAL
	}
	return 0
}

// at returns the pixel a monitor shows.
func (a *adapter) at(t *testing.T, g Geometry, x, y int) color.RGBA {
	var b [4]byte
	_, err := a.memory.ReadAt(b[:], g.Buffer.Offset+int64(y)*g.Buffer.Pitch+int64(x)*4)
	require.NoError(t, err)
	return color.RGBA{b[2], b[1], b[0], 255}
}

// modeOf makes a mode as a driver states it.
func modeOf(width, height, refresh int, flags, kind uint32) mode {
	var raw [modeSize]byte
	binary.NativeEndian.PutUint16(raw[4:], uint16(width))
	binary.NativeEndian.PutUint16(raw[14:], uint16(height))
	binary.NativeEndian.PutUint32(raw[24:], uint32(refresh))
	binary.NativeEndian.PutUint32(raw[28:], flags)
	binary.NativeEndian.PutUint32(raw[32:], kind)
	copy(raw[36:], fmt.Sprintf("%dx%d", width, height))
	return parseMode(raw)
}

func monitor(modes ...mode) socket { return socket{statusConnected, modes} }

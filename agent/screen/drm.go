// SPDX-License-Identifier: Apache-2.0

package screen

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"sdbox/internal/ioctl"
)

// Requests of drm.h and drm_mode.h, the legacy mode setting every driver answers.
const (
	drmGetCap       = 0xc010640c
	drmGetResources = 0xc04064a0
	drmSetCRTC      = 0xc06864a2
	drmGetEncoder   = 0xc01464a6
	drmGetConnector = 0xc05064a7
	drmAddFB        = 0xc01c64ae
	drmRemoveFB     = 0xc00464af
	drmDirtyFB      = 0xc01864b1
	drmCreateDumb   = 0xc02064b2
	drmMapDumb      = 0xc01064b3
	drmDestroyDumb  = 0xc00464b4
	drmCursor2      = 0xc02464bb
)

// Values of drm.h and drm_mode.h.
const (
	capDumbBuffer, capCursorWidth, capCursorHeight = 1, 8, 9

	cursorShape, cursorMove = 1, 2 // flags of drmCursor

	statusConnected, statusUnknown = 1, 3

	modeSize                          = 68 // struct drm_mode_modeinfo
	modeFlagsInterlace, modePreferred = 1 << 4, 1 << 3

	maxClips = 256 // DRM_MODE_FB_DIRTY_MAX_CLIPS
)

// What a driver may answer: more is taken for a broken driver, not believed. (The largest adapters have 6 CRTCs, and a monitor
// states some 60 modes.)
const (
	maxObjects = 64
	maxModes   = 512
)

// The structures of drm_mode.h. A field that ends in Ptr is the address of an array of the count beside it.
type (
	drmResources struct {
		framebuffersPtr, crtcsPtr, connectorsPtr, encodersPtr uint64
		framebuffers, crtcs, connectors, encoders             uint32
		minWidth, maxWidth, minHeight, maxHeight              uint32
	}
	drmConnector struct {
		encodersPtr, modesPtr, propsPtr, valuesPtr uint64
		modes, props, encoders                     uint32
		encoder, id, kind, kindID                  uint32
		status, mmWidth, mmHeight, subpixel, _     uint32
	}
	drmEncoder struct {
		id, kind, crtc, possibleCRTCs, possibleClones uint32
	}
	drmCRTC struct {
		connectorsPtr                                      uint64
		connectors, id, framebuffer, x, y, gamma, withMode uint32
		mode                                               [modeSize]byte
	}
	drmFramebuffer struct {
		id, width, height, pitch, bits, depth, handle uint32
	}
	drmDumb struct {
		height, width, bits, flags, handle, pitch uint32
		size                                      uint64
	}
	drmMap struct {
		handle, _ uint32
		offset    uint64
	}
	drmDirty struct {
		framebuffer, flags, colour, clips uint32
		clipsPtr                          uint64
	}
	drmCursor struct {
		flags, crtc           uint32
		x, y                  int32
		width, height, handle uint32
		hotX, hotY            int32
	}
	drmClip struct{ x1, y1, x2, y2 uint16 }
	drmCap  struct{ capability, value uint64 }
)

// driver is an open display driver. call is ioctl.Do on its file.
type driver struct {
	file *os.File
	call func(request uint, arg unsafe.Pointer) error
}

func openDriver(f *os.File) driver {
	return driver{f, func(request uint, arg unsafe.Pointer) error { return ioctl.Do(f, request, arg) }}
}

// pinned returns the address of a slice's array for a structure's Ptr field, held in place until pin lets go.
func pinned[T any](pin *runtime.Pinner, s []T) uint64 {
	if len(s) == 0 {
		return 0
	}
	pin.Pin(&s[0])
	return uint64(uintptr(unsafe.Pointer(&s[0])))
}

// objects lists the driver's CRTCs and connectors.
func (d driver) objects() (crtcs, connectors []uint32, err error) {
	var r drmResources
	if err := d.call(drmGetResources, unsafe.Pointer(&r)); err != nil {
		return nil, nil, fmt.Errorf("list display outputs: %w", err)
	}
	if r.crtcs > maxObjects || r.connectors > maxObjects {
		return nil, nil, fmt.Errorf("list display outputs: the driver states %d CRTCs and %d connectors", r.crtcs, r.connectors)
	}
	crtcs, connectors = make([]uint32, r.crtcs), make([]uint32, r.connectors)
	var pin runtime.Pinner
	defer pin.Unpin()
	r = drmResources{crtcsPtr: pinned(&pin, crtcs), connectorsPtr: pinned(&pin, connectors), crtcs: r.crtcs, connectors: r.connectors}
	if err := d.call(drmGetResources, unsafe.Pointer(&r)); err != nil {
		return nil, nil, fmt.Errorf("list display outputs: %w", err)
	}
	// The second answer may state fewer: a connector of a dock went meanwhile.
	return crtcs[:min(len(crtcs), int(r.crtcs))], connectors[:min(len(connectors), int(r.connectors))], nil
}

// connector is one socket a monitor may be plugged into.
type connector struct {
	id       uint32
	status   uint32
	encoders []uint32
	modes    []mode // the driver's order: the monitor's preferred one first
}

// connector looks which monitor is plugged in; the driver asks the monitor anew, and reads its EDID itself.
func (d driver) connector(id uint32) (connector, error) {
	c := drmConnector{id: id} // no room for modes: that is what makes the driver look
	if err := d.call(drmGetConnector, unsafe.Pointer(&c)); err != nil {
		return connector{}, fmt.Errorf("ask connector %d: %w", id, err)
	}
	if c.modes > maxModes || c.encoders > maxObjects {
		return connector{}, fmt.Errorf("ask connector %d: the driver states %d modes and %d encoders", id, c.modes, c.encoders)
	}
	modes, encoders := make([][modeSize]byte, c.modes), make([]uint32, c.encoders)
	if len(modes) == 0 {
		modes = make([][modeSize]byte, 1) // with none the driver would look once more
	}
	var pin runtime.Pinner
	defer pin.Unpin()
	c = drmConnector{
		id: id, modesPtr: pinned(&pin, modes), modes: uint32(len(modes)), encodersPtr: pinned(&pin, encoders), encoders: uint32(len(encoders)),
	}
	if err := d.call(drmGetConnector, unsafe.Pointer(&c)); err != nil {
		return connector{}, fmt.Errorf("ask connector %d: %w", id, err)
	}
	out := connector{id: id, status: c.status}
	if int(c.encoders) <= len(encoders) { // else the driver filled in nothing
		out.encoders = encoders[:c.encoders]
	}
	if int(c.modes) <= len(modes) {
		for _, m := range modes[:c.modes] {
			out.modes = append(out.modes, parseMode(m))
		}
	}
	return out, nil
}

// crtcFor finds a CRTC that can feed the connector: the one its encoder uses already, else the first possible one.
func (d driver) crtcFor(c connector, crtcs []uint32) (uint32, error) {
	possible := uint32(0)
	for _, id := range c.encoders {
		e := drmEncoder{id: id}
		if err := d.call(drmGetEncoder, unsafe.Pointer(&e)); err != nil {
			return 0, fmt.Errorf("ask encoder %d: %w", id, err)
		}
		for i, crtc := range crtcs {
			if e.crtc == crtc && e.crtc != 0 {
				return crtc, nil
			}
			if i < 32 && e.possibleCRTCs&(1<<i) != 0 && possible == 0 {
				possible = crtc
			}
		}
	}
	if possible == 0 {
		return 0, fmt.Errorf("no CRTC feeds connector %d", c.id)
	}
	return possible, nil
}

// setCRTC shows a framebuffer on a connector in a mode.
func (d driver) setCRTC(crtc, framebuffer, connector uint32, m mode) error {
	connectors := []uint32{connector}
	var pin runtime.Pinner
	defer pin.Unpin()
	set := drmCRTC{connectorsPtr: pinned(&pin, connectors), connectors: 1, id: crtc, framebuffer: framebuffer, withMode: 1, mode: m.raw}
	if err := d.call(drmSetCRTC, unsafe.Pointer(&set)); err != nil {
		return fmt.Errorf("set mode %s: %w", m, err)
	}
	return nil
}

// switchOff ends what a CRTC shows.
func (d driver) switchOff(crtc uint32) error {
	return d.call(drmSetCRTC, unsafe.Pointer(&drmCRTC{id: crtc}))
}

// buffer makes a buffer of 32 bits a pixel, black.
func (d driver) buffer(width, height int) (Buffer, error) {
	dumb := drmDumb{width: uint32(width), height: uint32(height), bits: 32}
	if err := d.call(drmCreateDumb, unsafe.Pointer(&dumb)); err != nil {
		return Buffer{}, fmt.Errorf("make buffer of %dx%d pixels: %w", width, height, err)
	}
	b := Buffer{Handle: dumb.handle}
	at := drmMap{handle: dumb.handle}
	if err := d.call(drmMapDumb, unsafe.Pointer(&at)); err != nil {
		return Buffer{}, errors.Join(fmt.Errorf("place buffer: %w", err), d.free(b))
	}
	b.Pitch, b.Size, b.Offset = int64(dumb.pitch), int64(dumb.size), int64(at.offset)
	if err := b.check(width, height); err != nil {
		return Buffer{}, errors.Join(err, d.free(b))
	}
	return b, nil
}

// free gives a buffer back.
func (d driver) free(b Buffer) error {
	handle := b.Handle
	return d.call(drmDestroyDumb, unsafe.Pointer(&handle))
}

// framebuffer makes a buffer one that can be shown.
func (d driver) framebuffer(b Buffer, width, height int) (uint32, error) {
	fb := drmFramebuffer{width: uint32(width), height: uint32(height), pitch: uint32(b.Pitch), bits: 32, depth: 24, handle: b.Handle}
	if err := d.call(drmAddFB, unsafe.Pointer(&fb)); err != nil {
		return 0, fmt.Errorf("make framebuffer: %w", err)
	}
	if fb.id == 0 {
		return 0, errors.New("make framebuffer: the driver gave it no number")
	}
	return fb.id, nil
}

// removeFramebuffer ends what framebuffer made; the buffer stays.
func (d driver) removeFramebuffer(id uint32) error { return d.call(drmRemoveFB, unsafe.Pointer(&id)) }

// dirty tells the driver which parts of the framebuffer changed; a driver that shows the memory itself has no such call.
func (d driver) dirty(framebuffer uint32, clips []drmClip) error {
	var pin runtime.Pinner
	defer pin.Unpin()
	arg := drmDirty{framebuffer: framebuffer, clips: uint32(len(clips)), clipsPtr: pinned(&pin, clips)}
	return d.call(drmDirtyFB, unsafe.Pointer(&arg))
}

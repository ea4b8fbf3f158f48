// SPDX-License-Identifier: Apache-2.0

package screen

import (
	"errors"
	"fmt"
	"image"
	"os"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

var (
	// ErrNoDisplay says that no monitor is connected. Whoever opens a screen waits for the driver's next uevent and tries again.
	ErrNoDisplay = errors.New("no monitor is connected")

	// ErrOtherDisplay says that another monitor is there than the one the screen was opened for: it must be opened anew.
	ErrOtherDisplay = errors.New("another monitor is connected")
)

// maxBuffer bounds the memory a screen may map, in bytes: the largest screen with rows twice as long as needed.
const maxBuffer = MaxSide * MaxSide * 8

// Geometry is what a process must know to draw into the screen that another process opened: Shared makes a screen of it. It
// is plain data, to be sent beside the open device file.
type Geometry struct {
	Width       int    `json:"width"` // pixels
	Height      int    `json:"height"`
	Pitch       int64  `json:"pitch"`       // bytes from one row to the next
	Offset      int64  `json:"offset"`      // of the buffer, in the device file's mapping
	Size        int64  `json:"size"`        // of the buffer, in bytes
	Handle      uint32 `json:"handle"`      // the driver's number of the buffer
	Framebuffer uint32 `json:"framebuffer"` // the driver's number of the framebuffer; 0 = a framebuffer device, without modes
	Connector   uint32 `json:"connector"`
	CRTC        uint32 `json:"crtc"`
}

// check holds a geometry, from a driver or another process, to what can be mapped and drawn into.
func (g Geometry) check() error {
	if err := checkSize(g.Width, g.Height); err != nil {
		return err
	}
	if g.Size < 1 || g.Size > maxBuffer || g.Pitch < int64(g.Width)*4 || g.Pitch%4 != 0 || g.Pitch > g.Size/int64(g.Height) {
		return fmt.Errorf("buffer of %d bytes in rows of %d does not hold %dx%d pixels", g.Size, g.Pitch, g.Width, g.Height)
	}
	if g.Offset < 0 || g.Offset%int64(os.Getpagesize()) != 0 {
		return fmt.Errorf("buffer lies at %d, which cannot be mapped", g.Offset)
	}
	return nil
}

// Display is the machine's own screen: one buffer that is shown for the display's whole life, and a copy of it in memory that
// is drawn into. OpenDRM makes one, and Shared another over the same buffer in a second process.
type Display struct {
	driver   driver
	geometry Geometry
	image    *Image
	front    *Image // the buffer itself: written, never read, for reading display memory is slow
	data     []byte // the mapping under it; nil when closed
	owner    bool   // this process set the mode and made the buffer
	still    bool   // the driver shows the memory as it stands, without DIRTYFB
}

// OpenDRM opens a display adapter (/dev/dri/card0), finds the monitor, sets the mode it prefers, or the best that the driver
// takes, and shows a black screen. Other monitors go dark. Whoever opens the adapter first is its master, and stays it. The
// error is ErrNoDisplay when there is a driver and no monitor, and os.ErrNotExist without a driver.
func OpenDRM(path string) (*Display, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("open display adapter: %w", err)
	}
	d, err := openWith(openDriver(f))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("display adapter %s: %w", path, err), f.Close())
	}
	return d, nil
}

func openWith(drv driver) (*Display, error) {
	dumb := drmCap{capability: capDumbBuffer}
	if err := drv.call(drmGetCap, unsafe.Pointer(&dumb)); err != nil || dumb.value == 0 {
		return nil, errors.Join(errors.New("the driver has no plain buffers"), err)
	}
	crtcs, c, err := drv.monitor()
	if err != nil {
		return nil, err
	}
	crtc, err := drv.crtcFor(c, crtcs)
	if err != nil {
		return nil, err
	}
	var g Geometry
	for _, m := range usable(c.modes) {
		var next error
		if g, next = drv.show(m, c.id, crtc); next == nil {
			break
		}
		err = errors.Join(err, next)
	}
	if g.Framebuffer == 0 {
		return nil, errors.Join(errors.New("no mode of the monitor can be set"), err)
	}
	for _, other := range crtcs {
		if other != crtc { // what shows the kernel's console on a second monitor
			_ = drv.switchOff(other) // an idle one may say so by an error
		}
	}
	d, err := show(drv, g)
	if err != nil {
		return nil, errors.Join(err, drv.drop(g))
	}
	d.owner = true
	return d, nil
}

// show makes a buffer and shows it on a connector.
func (d driver) show(m mode, connector, crtc uint32) (Geometry, error) {
	g, err := d.buffer(m)
	if err != nil {
		return Geometry{}, err
	}
	if err := d.setCRTC(crtc, g.Framebuffer, connector, m); err != nil {
		return Geometry{}, errors.Join(err, d.drop(g))
	}
	g.Connector, g.CRTC = connector, crtc
	return g, nil
}

// monitor finds the first connector with a monitor and a usable mode. One whose state the driver cannot tell comes last.
func (d driver) monitor() (crtcs []uint32, c connector, err error) {
	crtcs, ids, err := d.objects()
	if err != nil {
		return nil, connector{}, err
	}
	var unsure *connector
	var broken error
	for _, id := range ids {
		c, err := d.connector(id)
		switch {
		case err != nil:
			broken = errors.Join(broken, err) // it may be a dock's that was just pulled out
		case len(usable(c.modes)) == 0 || len(c.encoders) == 0:
		case c.status == statusConnected:
			return crtcs, c, nil
		case c.status == statusUnknown && unsure == nil:
			unsure = &c
		}
	}
	if unsure != nil {
		return crtcs, *unsure, nil
	}
	return nil, connector{}, errors.Join(ErrNoDisplay, broken)
}

// Shared makes a screen over a buffer that another process opened and goes on showing: f is its device file, g its Geometry.
// Closing it blackens the buffer and leaves it to the other process. It takes f over.
func Shared(f *os.File, g Geometry) (*Display, error) {
	d, err := show(openDriver(f), g)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("shared screen: %w", err), f.Close())
	}
	return d, nil
}

// show maps the buffer and begins with black.
func show(drv driver, g Geometry) (*Display, error) {
	if err := g.check(); err != nil {
		return nil, err
	}
	conn, err := drv.file.SyscallConn()
	if err != nil {
		return nil, err
	}
	var data []byte
	var mapErr error
	err = conn.Control(func(fd uintptr) {
		data, mapErr = unix.Mmap(int(fd), g.Offset, int(g.Size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	})
	if err := errors.Join(err, mapErr); err != nil {
		return nil, fmt.Errorf("map buffer: %w", err)
	}
	d := &Display{
		driver: drv, geometry: g, data: data, still: g.Framebuffer == 0, image: NewImage(g.Width, g.Height),
		front: &Image{Pix: data, Stride: int(g.Pitch), Width: g.Width, Height: g.Height},
	}
	if err := d.Flush(d.image.Bounds()); err != nil {
		return nil, errors.Join(err, unix.Munmap(data))
	}
	return d, nil
}

// File returns the device file, to be handed to the process that calls Shared.
func (d *Display) File() *os.File { return d.driver.file }

// Geometry says where the buffer lies.
func (d *Display) Geometry() Geometry { return d.geometry }

// Image implements Screen.
func (d *Display) Image() *Image { return d.image }

// Flush implements Screen.
func (d *Display) Flush(rects ...image.Rectangle) error {
	if d.data == nil {
		return ErrClosed
	}
	clips := make([]drmClip, 0, min(len(rects), maxClips))
	for _, r := range rects {
		if r = r.Intersect(d.image.Bounds()); r.Empty() {
			continue
		}
		d.front.Copy(d.image, r)
		if len(clips) == maxClips { // the last one grows over what has no room
			last := &clips[maxClips-1]
			r = r.Union(image.Rect(int(last.x1), int(last.y1), int(last.x2), int(last.y2)))
			clips = clips[:maxClips-1]
		}
		clips = append(clips, drmClip{uint16(r.Min.X), uint16(r.Min.Y), uint16(r.Max.X), uint16(r.Max.Y)})
	}
	if len(clips) == 0 || d.still {
		return nil
	}
	err := d.driver.dirty(d.geometry.Framebuffer, clips)
	if errors.Is(err, unix.ENOSYS) { // the memory itself is on the screen
		d.still, err = true, nil
	}
	if err != nil {
		return fmt.Errorf("show what changed: %w", err)
	}
	return nil
}

// Reconnect answers the driver's word that something was plugged in or out: it sets the mode again, which some monitors need
// after they were away. The error is ErrNoDisplay while no monitor is there, and ErrOtherDisplay when the one that is there
// lacks the screen's size or hangs on another socket. The screen can be drawn on in both cases. For the process that opened it.
func (d *Display) Reconnect() error {
	if d.data == nil {
		return ErrClosed
	}
	g := d.geometry
	if g.Framebuffer == 0 {
		return nil
	}
	_, c, err := d.driver.monitor()
	if err != nil {
		return err
	}
	modes := usable(c.modes)
	same := slices.IndexFunc(modes, func(m mode) bool { return m.width == g.Width && m.height == g.Height })
	if c.id != g.Connector || same < 0 {
		return ErrOtherDisplay
	}
	return d.driver.setCRTC(g.CRTC, g.Framebuffer, c.id, modes[same])
}

// Close implements Screen.
func (d *Display) Close() error {
	if d.data == nil {
		return ErrClosed
	}
	d.image.Fill(d.image.Bounds(), 0)
	err := d.Flush(d.image.Bounds())
	data := d.data
	d.data = nil
	err = errors.Join(err, unix.Munmap(data))
	if d.owner {
		err = errors.Join(err, d.driver.drop(d.geometry))
	}
	return errors.Join(err, d.driver.file.Close())
}

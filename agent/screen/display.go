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

// Buffer is a piece of display memory.
type Buffer struct {
	Handle uint32 `json:"handle"` // the driver's number of it
	Pitch  int64  `json:"pitch"`  // bytes from one row to the next
	Offset int64  `json:"offset"` // in the device file's mapping
	Size   int64  `json:"size"`   // bytes
}

// Geometry is what a process must know to draw into the screen that another process opened: Shared makes a screen of it. It
// is plain data, to be sent beside the open device file.
type Geometry struct {
	Width       int    `json:"width"` // pixels
	Height      int    `json:"height"`
	Buffer      Buffer `json:"buffer"`
	Framebuffer uint32 `json:"framebuffer"` // the driver's number of it; 0 = a framebuffer device, without modes
	Connector   uint32 `json:"connector"`
	CRTC        uint32 `json:"crtc"`
	Cursor      Buffer `json:"cursor"`      // the shape of the hardware's pointer
	CursorSide  int    `json:"cursor_side"` // its width and height; 0 = the hardware has none
}

// check holds a buffer, from a driver or another process, to what can be mapped and drawn into.
func (b Buffer) check(width, height int) error {
	if err := checkSize(width, height); err != nil {
		return err
	}
	if b.Size < 1 || b.Size > maxBuffer || b.Pitch < int64(width)*4 || b.Pitch%4 != 0 || b.Pitch > b.Size/int64(height) {
		return fmt.Errorf("buffer of %d bytes in rows of %d does not hold %dx%d pixels", b.Size, b.Pitch, width, height)
	}
	if b.Offset < 0 || b.Offset%int64(os.Getpagesize()) != 0 {
		return fmt.Errorf("buffer lies at %d, which cannot be mapped", b.Offset)
	}
	return nil
}

// surface maps a buffer of a device file as a picture.
func (b Buffer) surface(f *os.File, width, height int) (*Image, error) {
	if err := b.check(width, height); err != nil {
		return nil, err
	}
	conn, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	var data []byte
	var mapErr error
	err = conn.Control(func(fd uintptr) {
		data, mapErr = unix.Mmap(int(fd), b.Offset, int(b.Size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	})
	if err := errors.Join(err, mapErr); err != nil {
		return nil, fmt.Errorf("map buffer: %w", err)
	}
	return &Image{Pix: data, Stride: int(b.Pitch), Width: width, Height: height}, nil
}

// Display is the machine's own screen: one buffer that is shown for the display's whole life, and a copy of it in memory that
// is drawn into. OpenDRM makes one, and Shared another over the same buffer in a second process.
type Display struct {
	pane
	driver   driver
	geometry Geometry
	closed   bool
	owner    bool     // this process set the mode and made the buffers
	console  *os.File // held open so that the kernel's console stays quiet; nil without
	still    bool     // the driver shows the memory as it stands, without DIRTYFB
	foreign  bool     // another process drew what is shown
	sprite   *Image   // the shape of the hardware's pointer; nil without
	shape    *Cursor  // what the hardware's pointer shows; nil = it is hidden
	spot     image.Point
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
	g := Geometry{Connector: c.id, CRTC: crtc}
	for _, m := range usable(c.modes) {
		next := drv.light(m, &g)
		if next == nil {
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
	g.Cursor, g.CursorSide = drv.pointer(crtc)
	d, err := show(drv, g, false)
	if err != nil {
		return nil, errors.Join(err, drv.drop(g))
	}
	d.owner = true
	return d, nil
}

// light makes a buffer of a mode's size, shows it, and fills in g.
func (d driver) light(m mode, g *Geometry) error {
	b, err := d.buffer(m.width, m.height)
	if err != nil {
		return err
	}
	id, err := d.framebuffer(b, m.width, m.height)
	if err != nil {
		return errors.Join(err, d.free(b))
	}
	if err := d.setCRTC(g.CRTC, id, g.Connector, m); err != nil {
		return errors.Join(err, d.removeFramebuffer(id), d.free(b))
	}
	g.Width, g.Height, g.Buffer, g.Framebuffer = m.width, m.height, b, id
	return nil
}

// drop gives back what OpenDRM made.
func (d driver) drop(g Geometry) error {
	err := errors.Join(d.removeFramebuffer(g.Framebuffer), d.free(g.Buffer))
	if g.Cursor.Size > 0 {
		err = errors.Join(err, d.free(g.Cursor))
	}
	return err
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
// What the other one shows stays until the first Flush, which brings all of Image. Closing it blackens the buffer and leaves it to the
// other process. It takes f over.
func Shared(f *os.File, g Geometry) (*Display, error) {
	d, err := show(openDriver(f), g, true)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("shared screen: %w", err), f.Close())
	}
	return d, nil
}

// show maps the buffers. It begins with black, or with what a shared screen shows until the first flush, and without a pointer.
func show(drv driver, g Geometry, shared bool) (*Display, error) {
	front, err := g.Buffer.surface(drv.file, g.Width, g.Height)
	if err != nil {
		return nil, err
	}
	d := &Display{driver: drv, geometry: g, still: g.Framebuffer == 0, foreign: shared, pane: newPane(front)}
	if g.CursorSide > 0 {
		d.sprite, err = g.Cursor.surface(drv.file, g.CursorSide, g.CursorSide)
	}
	if err == nil && !shared {
		err = d.Flush(d.image.Bounds())
	}
	if err == nil {
		err = d.Point(nil, image.Point{}, image.Rectangle{})
	}
	if err != nil {
		return nil, errors.Join(err, d.unmap())
	}
	return d, nil
}

func (d *Display) unmap() error {
	err := unix.Munmap(d.front.Pix)
	if d.sprite != nil {
		err = errors.Join(err, unix.Munmap(d.sprite.Pix))
	}
	return err
}

// File returns the device file, to be handed to the process that calls Shared.
func (d *Display) File() *os.File { return d.driver.file }

// Geometry says where the buffer lies.
func (d *Display) Geometry() Geometry { return d.geometry }

// Flush implements Screen.
func (d *Display) Flush(rects ...image.Rectangle) error {
	if d.closed {
		return ErrClosed
	}
	if d.foreign && len(rects) > 0 { // what is there is not what Image was when it was made
		rects, d.foreign = []image.Rectangle{d.image.Bounds()}, false
	}
	clips := make([]drmClip, 0, min(len(rects), maxClips))
	for _, r := range rects {
		if r = r.Intersect(d.image.Bounds()); r.Empty() {
			continue
		}
		d.put(r)
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
	if d.closed {
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
	if d.closed {
		return ErrClosed
	}
	d.image.Fill(d.image.Bounds(), 0)
	err := errors.Join(d.Flush(d.image.Bounds()), d.Point(nil, image.Point{}, image.Rectangle{}), d.unmap())
	d.closed = true
	if d.owner {
		err = errors.Join(err, d.driver.drop(d.geometry))
	}
	if d.console != nil {
		err = errors.Join(err, d.console.Close())
	}
	return errors.Join(err, d.driver.file.Close())
}

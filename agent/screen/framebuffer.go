// SPDX-License-Identifier: Apache-2.0

package screen

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"unsafe"

	"sdbox/internal/ioctl"

	"golang.org/x/sys/unix"
)

// Requests and values of linux/fb.h and linux/kd.h.
const (
	fbGetVariable, fbVariableSize = 0x4600, 160 // FBIOGET_VSCREENINFO: struct fb_var_screeninfo
	fbGetFixed, fbFixedSize       = 0x4602, 80  // FBIOGET_FSCREENINFO: struct fb_fix_screeninfo
	fbPacked, fbTrueColour        = 0, 2

	kdSetMode, kdGraphics = 0x4b3a, 1
)

// OpenFramebuffer opens a framebuffer device (/dev/fb0): what the firmware set up and the kernel left as it was, for a machine
// whose display adapter has no driver in the image. Its mode cannot be changed. The kernel's console stops drawing into it.
func OpenFramebuffer(path string) (*Display, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("open framebuffer: %w", err)
	}
	d, err := openMemory(openDriver(f))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("framebuffer %s: %w", path, err), f.Close())
	}
	d.console = quietConsole(filepath.Dir(path))
	return d, nil
}

func openMemory(drv driver) (*Display, error) {
	variable, fixed := make([]byte, fbVariableSize), make([]byte, fbFixedSize)
	if err := drv.call(fbGetVariable, unsafe.Pointer(&variable[0])); err != nil {
		return nil, fmt.Errorf("ask for its picture: %w", err)
	}
	if err := drv.call(fbGetFixed, unsafe.Pointer(&fixed[0])); err != nil {
		return nil, fmt.Errorf("ask for its memory: %w", err)
	}
	g, err := parseFramebuffer(variable, fixed)
	if err != nil {
		return nil, err
	}
	return show(drv, g, false)
}

// parseFramebuffer reads fb_var_screeninfo and fb_fix_screeninfo. A firmware's framebuffer has 32 bits a pixel (UEFI 2.10, 12.9:
// PixelBlueGreenRedReserved or its mirror image), so anything but BGRX is refused and not converted: no machine is known to need it.
func parseFramebuffer(variable, fixed []byte) (Geometry, error) {
	word := func(at int) uint32 { return binary.NativeEndian.Uint32(variable[at:]) }
	type field struct{ offset, length, mirrored uint32 }
	channel := func(at int) field { return field{word(at), word(at + 4), word(at + 8)} }
	bits, blue, green, red := word(24), channel(56), channel(44), channel(32)
	if bits != 32 || blue != (field{0, 8, 0}) || green != (field{8, 8, 0}) || red != (field{16, 8, 0}) {
		return Geometry{}, fmt.Errorf("%d bits a pixel, red at %d, green at %d, blue at %d: want 32, 16, 8, 0", bits, red.offset, green.offset, blue.offset)
	}
	kind, visual := binary.NativeEndian.Uint32(fixed[28:]), binary.NativeEndian.Uint32(fixed[36:])
	if kind != fbPacked || visual != fbTrueColour {
		return Geometry{}, fmt.Errorf("memory of type %d, visual %d: want %d, %d", kind, visual, fbPacked, fbTrueColour)
	}
	if word(16) != 0 || word(20) != 0 {
		return Geometry{}, fmt.Errorf("its picture begins at %d,%d: want 0,0", word(16), word(20))
	}
	size := int64(binary.NativeEndian.Uint32(fixed[24:]))
	pitch := int64(binary.NativeEndian.Uint32(fixed[48:]))
	if word(0) > MaxSide || word(4) > MaxSide { // before they become an int
		return Geometry{}, fmt.Errorf("it states %dx%d pixels", word(0), word(4))
	}
	b := Buffer{Pitch: pitch, Size: size}
	if height := int64(word(4)); height > 0 && pitch > 0 && pitch <= maxBuffer/MaxSide {
		b.Size = min(size, pitch*height) // the memory may be the adapter's whole
	}
	g := Geometry{Width: int(word(0)), Height: int(word(4)), Buffer: b}
	return g, b.check(g.Width, g.Height)
}

// quietConsole keeps the kernel's console from drawing over the framebuffer while the returned file is open, and for as long
// as nobody sets the console back. A machine without a console has nothing to keep quiet: nil.
func quietConsole(dev string) *os.File {
	tty, err := os.OpenFile(filepath.Join(dev, "tty0"), os.O_RDWR|unix.O_NOCTTY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil
	}
	if err := ioctl.Set(tty, kdSetMode, kdGraphics); err != nil {
		tty.Close()
		return nil
	}
	return tty
}

// SPDX-License-Identifier: Apache-2.0

package keys

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"
	"unsafe"

	"sdbox/internal/ioctl"

	"golang.org/x/sys/unix"
)

// Requests of linux/input.h.
const (
	eviocgbit0    = 0x80084520 // EVIOCGBIT(0, 8): the event types a device has
	eviocgabs     = 0x80184540 // EVIOCGABS(axis), plus the axis: struct input_absinfo, six s32
	eviocgrab     = 0x40044590 // EVIOCGRAB: nobody else sees the device's events
	eviocsclockid = 0x400445a0 // EVIOCSCLOCKID: the clock of its events' times
)

// maxDevices bounds how many input devices are read at once.
const maxDevices = 16

// Evdev returns a source that reads every keyboard and mouse in dir (normally /dev/input), those plugged in later too.
// Each device is grabbed, so that no console of the machine sees what is typed. A keyboard that types as no person does is not
// listened to any more until it is plugged in anew.
func Evdev(dir string) Source { return &evdevSource{dir, newLamps()} }

type evdevSource struct {
	dir string
	*lamps
}

func (e *evdevSource) Run(ctx context.Context, out chan<- Raw) error {
	watch, err := watchDir(e.dir)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { watch.Close() })
	defer func() {
		if stop() {
			watch.Close()
		}
	}()
	var (
		wg      sync.WaitGroup
		mu      sync.Mutex
		reading = map[string]bool{} // guarded by mu
	)
	defer wg.Wait()
	buf := make([]byte, 4096)
	for ctx.Err() == nil {
		paths, err := filepath.Glob(filepath.Join(e.dir, "event*"))
		if err != nil {
			return fmt.Errorf("list input devices: %w", err)
		}
		for _, path := range paths {
			mu.Lock()
			known := reading[path] || len(reading) >= maxDevices
			if !known {
				reading[path] = true
			}
			mu.Unlock()
			if known {
				continue
			}
			wg.Go(func() {
				e.readDevice(ctx, path, out)
				mu.Lock()
				delete(reading, path)
				mu.Unlock()
			})
		}
		// Any change in the folder, a device node's new owner included, is a reason to look again.
		if _, err := watch.Read(buf); err != nil && ctx.Err() == nil {
			return fmt.Errorf("watch input devices: %w", err)
		}
	}
	return nil
}

// watchDir returns a file that becomes readable when something in dir appears or changes its rights.
func watchDir(dir string) (*os.File, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch input devices: %w", err)
	}
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_CREATE|unix.IN_ATTRIB|unix.IN_MOVED_TO); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("watch input devices in %s: %w", dir, err)
	}
	return os.NewFile(uintptr(fd), "inotify"), nil
}

// readDevice reads one device until it goes away. A device that is neither keyboard nor mouse is left alone.
func (e *evdevSource) readDevice(ctx context.Context, path string, out chan<- Raw) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return
	}
	d := &device{file: f}
	if err := d.prepare(); err != nil {
		f.Close()
		return
	}
	e.add(f)
	defer e.remove(f)
	// A device may end in ENODEV at any time: that is how unplugging looks.
	_ = pump(ctx, d, out)
}

// device is one open event device; Read hands on its events with absolute axes brought to 0..AbsMax.
type device struct {
	file    *os.File
	abs     [2]axis
	pace    pace
	refused bool // it types as no person does: what it sends is dropped
}

// axis is the range a device reports for one absolute axis.
type axis struct{ min, max int32 }

func (a axis) scale(v int32) int32 {
	span := int64(a.max) - int64(a.min)
	if span <= 0 {
		return v
	}
	return int32(min(max((int64(v)-int64(a.min))*AbsMax/span, 0), AbsMax))
}

// prepare asks what the device is and grabs it.
func (d *device) prepare() error {
	var types [8]byte
	if err := ioctl.Do(d.file, eviocgbit0, unsafe.Pointer(&types)); err != nil {
		return err
	}
	bits := binary.LittleEndian.Uint64(types[:])
	if bits&(1<<evKey) == 0 {
		return errors.New("neither keyboard nor mouse")
	}
	if bits&(1<<evAbs) != 0 {
		for i := range d.abs {
			var info [6]int32 // value, minimum, maximum, fuzz, flat, resolution
			if err := ioctl.Do(d.file, eviocgabs+uint(i), unsafe.Pointer(&info)); err != nil {
				return err
			}
			d.abs[i] = axis{info[1], info[2]}
		}
	}
	clock := int32(unix.CLOCK_MONOTONIC) // that no setting of the time makes jump
	if err := ioctl.Do(d.file, eviocsclockid, unsafe.Pointer(&clock)); err != nil {
		return err
	}
	return ioctl.Set(d.file, eviocgrab, 1)
}

// Read reads whole events (the kernel never splits one). From a device that types as no person does, it reads that as the last
// event, and waits until it is unplugged.
func (d *device) Read(b []byte) (int, error) {
	b = b[:len(b)/RawSize*RawSize]
	for {
		n, err := d.file.Read(b)
		if d.refused && err == nil {
			continue
		}
		return d.judge(b[:max(n, 0)]), err
	}
}

// judge scales the absolute axes of events in place and says how many bytes of them are to be handed on.
func (d *device) judge(b []byte) int {
	for at := 0; at+RawSize <= len(b); at += RawSize {
		e := b[at : at+RawSize]
		r := ParseRaw((*[RawSize]byte)(e))
		if r.Type == evAbs && r.Code <= absY {
			binary.LittleEndian.PutUint32(e[20:], uint32(d.abs[r.Code].scale(r.Value)))
		}
		if !d.pace.human(r, timeOf(e)) {
			d.refused = true
			return at + copy(e, TooFast().Append(nil))
		}
	}
	return len(b)
}

// timeOf reads when the kernel heard of an event: s64 seconds, s64 microseconds.
func timeOf(e []byte) time.Duration {
	sec, usec := int64(binary.LittleEndian.Uint64(e)), int64(binary.LittleEndian.Uint64(e[8:]))
	return time.Duration(sec)*time.Second + time.Duration(usec)*time.Microsecond
}

// Close lets the device go, and with it the grab.
func (d *device) Close() error { return d.file.Close() }

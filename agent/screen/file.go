// SPDX-License-Identifier: Apache-2.0

package screen

import (
	"encoding/binary"
	"errors"
	"fmt"
	"image"
	"os"
	"path/filepath"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Layout of a screen file, all numbers little-endian:
//
//	0   magic "SDBXFB1\n"
//	8   u32 width | u32 height | u32 stride in bytes | u32 reserved
//	24  u64 flushes done      counted up after the pixels of a flush are in place
//	32  u64 flushes begun     counted up before the first of them is written
//	4096 rows of BGRX
//
// A reader that finds "begun" after its copy equal to "done" before it holds one whole picture.
const (
	magic       = "SDBXFB1\n"
	headerSize  = 4096
	offsetDone  = 24
	offsetBegun = 32
)

// mapping is a screen file in memory.
type mapping struct {
	data  []byte
	front *Image
}

func (m *mapping) counter(offset int) *uint64 { return (*uint64)(unsafe.Pointer(&m.data[offset])) }

// File is a screen that another process of the same machine looks at, through a mapped file. It stands in for a
// display where there is none: the lab's page shows it.
type File struct {
	pane
	m *mapping
}

// OpenFile makes or takes over the screen file at path, black, readable by its owner only. A reader that already maps a
// file of the same size sees the new screen; a file of another size is replaced and such a reader must map it again.
func OpenFile(path string, width, height int) (*File, error) {
	if err := checkSize(width, height); err != nil {
		return nil, err
	}
	size := int64(headerSize + width*height*4)
	f, err := openSized(path, width, height)
	if err != nil {
		return nil, fmt.Errorf("open screen file: %w", err)
	}
	defer f.Close()
	data, err := unix.Mmap(int(f.Fd()), 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map screen file %s: %w", path, err)
	}
	m := &mapping{data: data, front: &Image{Pix: data[headerSize:], Stride: width * 4, Width: width, Height: height}}
	s := &File{pane: newPane(m.front), m: m}
	binary.LittleEndian.PutUint32(data[8:], uint32(width))
	binary.LittleEndian.PutUint32(data[12:], uint32(height))
	binary.LittleEndian.PutUint32(data[16:], uint32(width*4))
	// A program that died inside a flush left the counters apart.
	atomic.StoreUint64(m.counter(offsetBegun), atomic.LoadUint64(m.counter(offsetDone)))
	copy(data, magic) // last: a file with its magic is a file that can be read
	return s, s.Flush(s.image.Bounds())
}

// openSized opens path if it is a screen file of exactly this size, else puts a new one in its place. It never cuts a
// file short: whoever maps it would die of SIGBUS.
func openSized(path string, width, height int) (*os.File, error) {
	size := int64(headerSize + width*height*4)
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err == nil {
		header := make([]byte, offsetBegun)
		_, readErr := f.ReadAt(header, 0)
		w, h, headerErr := parseHeader(header)
		if info, err := f.Stat(); err == nil && readErr == nil && headerErr == nil && w == width && h == height && info.Size() == size {
			return f, nil
		}
		f.Close()
	} else if !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	f, err = os.CreateTemp(filepath.Dir(path), ".screen-*")
	if err != nil {
		return nil, err
	}
	if err = f.Truncate(size); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
		f.Close()
		return nil, err
	}
	return f, nil
}

// Flush implements Screen.
func (s *File) Flush(rects ...image.Rectangle) error {
	if s.m == nil {
		return ErrClosed
	}
	if len(rects) == 0 {
		return nil
	}
	atomic.AddUint64(s.m.counter(offsetBegun), 1)
	for _, r := range rects {
		s.put(r)
	}
	atomic.AddUint64(s.m.counter(offsetDone), 1)
	return nil
}

// Point implements Screen.
func (s *File) Point(c *Cursor, at image.Point, clip image.Rectangle) error {
	return s.Flush(s.point(c, at, clip)...)
}

// Close implements Screen. The file stays, black.
func (s *File) Close() error {
	if s.m == nil {
		return ErrClosed
	}
	s.image.Fill(s.image.Bounds(), 0)
	s.cursor = nil
	err := s.Flush(s.image.Bounds())
	data := s.m.data
	s.m = nil
	return errors.Join(err, unix.Munmap(data))
}

// Reader looks at a screen file that another process writes. It is owned by one goroutine.
type Reader struct{ m *mapping }

// MapFile opens a screen file for looking. It believes nothing of the header that the file's size does not bear out.
func MapFile(path string) (*Reader, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open screen file: %w", err)
	}
	defer f.Close()
	header := make([]byte, offsetBegun+8)
	if _, err := f.ReadAt(header, 0); err != nil {
		return nil, fmt.Errorf("read header of screen file %s: %w", path, err)
	}
	width, height, err := parseHeader(header)
	if err != nil {
		return nil, fmt.Errorf("screen file %s: %w", path, err)
	}
	size := headerSize + width*height*4
	if info, err := f.Stat(); err != nil || info.Size() != int64(size) {
		return nil, fmt.Errorf("screen file %s: its size is not that of %dx%d pixels", path, width, height)
	}
	data, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map screen file %s: %w", path, err)
	}
	return &Reader{&mapping{data: data, front: &Image{Pix: data[headerSize:], Stride: width * 4, Width: width, Height: height}}}, nil
}

// parseHeader reads the size a header states and holds it to the limits of a screen.
func parseHeader(b []byte) (width, height int, err error) {
	if len(b) < offsetBegun || string(b[:len(magic)]) != magic {
		return 0, 0, errors.New("not a screen file")
	}
	w, h, stride := binary.LittleEndian.Uint32(b[8:]), binary.LittleEndian.Uint32(b[12:]), binary.LittleEndian.Uint32(b[16:])
	if w > MaxSide || h > MaxSide || stride != w*4 {
		return 0, 0, fmt.Errorf("header states %dx%d pixels in rows of %d bytes", w, h, stride)
	}
	return int(w), int(h), checkSize(int(w), int(h))
}

// Size returns width and height in pixels.
func (r *Reader) Size() (width, height int) { return r.m.front.Width, r.m.front.Height }

// Sequence counts the flushes done; a picture need not be read again while it stands still.
func (r *Reader) Sequence() uint64 { return atomic.LoadUint64(r.m.counter(offsetDone)) }

// Read copies the screen into dst, which must have its size, and returns the sequence of the copy. whole is false when
// a flush ran meanwhile; the copy then mixes two pictures and should be read again.
func (r *Reader) Read(dst *Image) (sequence uint64, whole bool) {
	sequence = r.Sequence()
	dst.Copy(r.m.front, r.m.front.Bounds())
	return sequence, atomic.LoadUint64(r.m.counter(offsetBegun)) == sequence
}

// Close lets the file go.
func (r *Reader) Close() error {
	data := r.m.data
	r.m = nil
	return unix.Munmap(data)
}

// ReadFile returns the picture in a screen file and its sequence, whole if the writer pauses for one of a few tries.
func ReadFile(path string) (*Image, uint64, error) {
	r, err := MapFile(path)
	if err != nil {
		return nil, 0, err
	}
	defer r.Close()
	img := NewImage(r.Size())
	for range 8 {
		if sequence, whole := r.Read(img); whole {
			return img, sequence, nil
		}
	}
	return nil, 0, fmt.Errorf("read screen file %s: it changes faster than it can be read", path)
}

// SPDX-License-Identifier: Apache-2.0

package screen

import (
	"encoding/binary"
	"image"
	"image/color"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestNothingIsSeenBeforeFlush(t *testing.T) {
	m, err := NewMemory(64, 48)
	require.NoError(t, err)
	f, err := OpenFile(filepath.Join(t.TempDir(), "fb"), 64, 48)
	require.NoError(t, err)
	for name, s := range map[string]struct {
		Screen
		front func() *Image
	}{"memory": {m, m.Front}, "file": {f, func() *Image { return f.m.front }}} {
		t.Run(name, func(t *testing.T) {
			s.Image().Fill(image.Rect(10, 10, 30, 30), 0x123456)
			require.Equal(t, color.RGBA{A: 255}, s.front().RGBAAt(15, 15))
			require.NoError(t, s.Flush(image.Rect(12, 12, 20, 20), image.Rect(-5, -5, 500, 11)))
			require.Equal(t, color.RGBA{0x12, 0x34, 0x56, 255}, s.front().RGBAAt(15, 15))
			require.Equal(t, color.RGBA{0x12, 0x34, 0x56, 255}, s.front().RGBAAt(10, 10))
			require.Equal(t, color.RGBA{A: 255}, s.front().RGBAAt(25, 25), "drawn, not flushed")
			require.NoError(t, s.Close())
			require.ErrorIs(t, s.Flush(image.Rect(0, 0, 1, 1)), ErrClosed)
			require.ErrorIs(t, s.Close(), ErrClosed)
		})
	}
	require.Equal(t, NewImage(64, 48), m.Front(), "a closed screen is black")
}

func TestReaderSeesEachFlushOfAnotherMapping(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fb")
	s, err := OpenFile(path, 120, 90)
	require.NoError(t, err)
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	require.EqualValues(t, 4096+120*90*4, info.Size())
	r, err := MapFile(path)
	require.NoError(t, err)
	w, h := r.Size()
	require.Equal(t, []int{120, 90}, []int{w, h})
	before := r.Sequence()
	require.NoError(t, s.Flush())
	require.Equal(t, before, r.Sequence(), "a flush of nothing is none")
	s.Image().Fill(s.Image().Bounds(), 0xff8000)
	require.NoError(t, s.Flush(s.Image().Bounds()))
	img := NewImage(120, 90)
	seq, whole := r.Read(img)
	require.True(t, whole)
	require.Equal(t, before+1, seq)
	require.Equal(t, s.Image().Pix, img.Pix)
	require.NoError(t, s.Close())
	left, _, err := ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, NewImage(120, 90).Pix, left.Pix, "a closed screen leaves black")
	require.NoError(t, r.Close())
}

func TestNextAgentTakesOverTheFileWithoutCuttingItsReaders(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fb")
	first, err := OpenFile(path, 32, 32)
	require.NoError(t, err)
	r, err := MapFile(path)
	require.NoError(t, err)
	seq := r.Sequence()
	second, err := OpenFile(path, 32, 32)
	require.NoError(t, err)
	second.Image().Fill(image.Rect(0, 0, 32, 32), 0xffffff)
	require.NoError(t, second.Flush(image.Rect(0, 0, 32, 32)))
	require.Greater(t, r.Sequence(), seq)
	other, err := OpenFile(path, 16, 64) // the same number of bytes, another screen
	require.NoError(t, err)
	img := NewImage(32, 32)
	_, whole := r.Read(img)
	require.True(t, whole)
	require.Equal(t, color.RGBA{255, 255, 255, 255}, img.RGBAAt(31, 31), "the old file lives on for who maps it")
	for _, s := range []*File{first, second, other} {
		require.NoError(t, s.Close())
	}
}

func TestFileThatIsNoScreenIsRefused(t *testing.T) {
	dir := t.TempDir()
	header := func(w, h, stride uint32, size int) string {
		b := make([]byte, size)
		copy(b, magic)
		binary.LittleEndian.PutUint32(b[8:], w)
		binary.LittleEndian.PutUint32(b[12:], h)
		binary.LittleEndian.PutUint32(b[16:], stride)
		path := filepath.Join(dir, "fb")
		require.NoError(t, os.WriteFile(path, b, 0o600))
		return path
	}
	for name, path := range map[string]string{
		"missing": filepath.Join(dir, "none"), "folder": dir,
	} {
		_, err := MapFile(path)
		require.Error(t, err, name)
	}
	for _, c := range []struct{ w, h, stride, size uint32 }{
		{8, 8, 32, 20}, {8, 8, 32, 4096}, {0, 8, 0, 4096}, {1 << 30, 1 << 30, 0, 4096}, {8, 8, 36, 4096 + 256}, {8, 8, 32, 4096 + 255},
	} {
		_, err := MapFile(header(c.w, c.h, c.stride, int(c.size)))
		require.Error(t, err, "%+v", c)
	}
	_, err := MapFile(header(8, 8, 32, 4096+256))
	require.NoError(t, err)
	require.NoError(t, os.Symlink(filepath.Join(dir, "fb"), filepath.Join(dir, "link")))
	_, err = OpenFile(filepath.Join(dir, "link"), 8, 8)
	require.Error(t, err, "a link leads elsewhere")
	_, err = OpenFile(filepath.Join(dir, "big"), MaxSide+1, 8)
	require.Error(t, err)
}

func TestWholeReadsAreNeverMixed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fb")
	s, err := OpenFile(path, 256, 256)
	require.NoError(t, err)
	r, err := MapFile(path)
	require.NoError(t, err)
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range uint32(400) {
			s.Image().Fill(s.Image().Bounds(), i*0x010101)
			if s.Flush(s.Image().Bounds()) != nil {
				return
			}
		}
	})
	img := NewImage(256, 256)
	for range 400 {
		if _, whole := r.Read(img); whole {
			require.Equal(t, img.RGBAAt(0, 0), img.RGBAAt(255, 255))
		}
	}
	wg.Wait()
	require.NoError(t, s.Close())
	require.NoError(t, r.Close())
}

func TestPointerIsSeenAtOnceInsideItsClipOnly(t *testing.T) {
	m, err := NewMemory(40, 40)
	require.NoError(t, err)
	m.Image().Fill(m.Image().Bounds(), 0x808080)
	require.NoError(t, m.Flush(m.Image().Bounds()))
	clean := NewImage(40, 40)
	clean.Copy(m.Front(), clean.Bounds())
	c, clip := Arrow(1), image.Rect(0, 0, 14, 40)
	require.NoError(t, m.Point(c, image.Pt(10, 10), clip))
	require.Equal(t, color.RGBA{255, 255, 255, 255}, m.Front().RGBAAt(10, 18), "its edge is white")
	require.Equal(t, color.RGBA{0, 0, 0, 255}, m.Front().RGBAAt(12, 18), "its body is black")
	for y := range 40 {
		require.Equal(t, color.RGBA{0x80, 0x80, 0x80, 255}, m.Front().RGBAAt(14, y), "outside the clip")
	}
	require.Equal(t, clean, m.Image(), "the picture has no pointer in it")
	require.NoError(t, m.Flush(m.Image().Bounds()))
	require.Equal(t, color.RGBA{255, 255, 255, 255}, m.Front().RGBAAt(10, 18), "what is drawn goes under it")
	before := m.Flushes()
	require.NoError(t, m.Point(c, image.Pt(10, 10), clip))
	require.Equal(t, before, m.Flushes())
	for _, at := range []image.Point{{12, 11}, {-5, 39}, {39, -20}, {500, 500}} { // over the edges, and away
		require.NoError(t, m.Point(c, at, m.Image().Bounds()))
	}
	require.NoError(t, m.Point(&Cursor{}, image.Pt(9, 9), m.Image().Bounds()))
	require.NoError(t, m.Point(nil, image.Pt(9, 9), clip))
	require.Equal(t, clean, m.Front(), "and leaves no trace")
}

func FuzzHeader(f *testing.F) {
	header := func(w, h, stride uint32) []byte {
		b := append([]byte(magic), make([]byte, offsetBegun)...)
		for i, v := range []uint32{w, h, stride} {
			binary.LittleEndian.PutUint32(b[len(magic)+4*i:], v)
		}
		return b
	}
	f.Add(header(1920, 1080, 7680))
	f.Add(header(1920, 1080, 1))
	f.Add(header(1<<31, 2, 8))
	f.Add(header(0, 0, 0))
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, b []byte) {
		if w, h, err := parseHeader(b); err == nil {
			require.True(t, w > 0 && w <= MaxSide && h > 0 && h <= MaxSide)
		}
	})
}

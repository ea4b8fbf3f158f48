// SPDX-License-Identifier: Apache-2.0

package day

import (
	"bytes"
	"encoding/binary"
	"image"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestPatternIsWhereXwdSeesIt: our X client draws on a real X server, and an independent program reads the same pixels.
func TestPatternIsWhereXwdSeesIt(t *testing.T) {
	dir := t.TempDir()
	cookie := bytes.Repeat([]byte{0x5a}, 16)
	var authority []byte
	authority = binary.BigEndian.AppendUint16(authority, 65535)
	for _, part := range []string{"", "", "MIT-MAGIC-COOKIE-1", string(cookie)} {
		authority = binary.BigEndian.AppendUint16(authority, uint16(len(part)))
		authority = append(authority, part...)
	}
	file := filepath.Join(dir, "Xauthority")
	require.NoError(t, os.WriteFile(file, authority, 0o600))
	r, w, err := os.Pipe()
	require.NoError(t, err)
	server := exec.Command("Xvnc", "-displayfd", "3", "-auth", file, "-geometry", "800x600", "-depth", "24", "-nolisten", "tcp",
		"-rfbport", "-1", "-rfbunixpath", filepath.Join(dir, "rfb"), "-SecurityTypes", "None")
	server.ExtraFiles = []*os.File{w}
	require.NoError(t, server.Start())
	defer func() {
		require.NoError(t, server.Process.Signal(unix.SIGTERM))
		_ = server.Wait()
	}()
	w.Close()
	number := make([]byte, 8)
	n, err := r.Read(number)
	require.NoError(t, err)
	display := strings.TrimSpace(string(number[:n]))

	conn, err := net.Dial("unix", "/tmp/.X11-unix/X"+display)
	require.NoError(t, err)
	p, err := newPainter(conn, authority)
	require.NoError(t, err)
	defer p.Close()
	what, at := newPattern(), image.Pt(100, 50)
	require.NoError(t, p.draw(what, at))
	require.NoError(t, p.sync())

	xwd := exec.Command("xwd", "-root", "-silent", "-display", ":"+display)
	xwd.Env = []string{"XAUTHORITY=" + file}
	dump, err := xwd.Output()
	require.NoError(t, err)
	seen, err := parseXWD(dump)
	require.NoError(t, err)
	require.Equal(t, image.Rect(0, 0, 800, 600), seen.Bounds())
	require.True(t, what.shows(seen, at))
	require.False(t, what.shows(seen, at.Add(image.Pt(1, 0))))
	require.False(t, newPattern().shows(seen, at))
	differ, _ := samePixels(seen, seen, seen.Bounds(), image.Rectangle{})
	require.Zero(t, differ)

	require.NoError(t, p.clear())
	dump, err = exec.Command("env", "XAUTHORITY="+file, "xwd", "-root", "-silent", "-display", ":"+display).Output()
	require.NoError(t, err)
	cleared, err := parseXWD(dump)
	require.NoError(t, err)
	require.False(t, what.shows(cleared, at))
	differ, where := samePixels(cleared, seen, seen.Bounds(), image.Rectangle{})
	require.Greater(t, differ, patternSize*patternSize/2)
	require.Equal(t, image.Rectangle{Min: at, Max: at.Add(image.Pt(patternSize, patternSize))}, where)
}

func FuzzXWD(f *testing.F) {
	f.Add([]byte{})
	f.Add(make([]byte, 200))
	head := make([]byte, 100+8)
	for i, v := range map[int]uint32{0: 100, 1: 7, 2: 2, 4: 1, 5: 2, 11: 32, 12: 4} {
		binary.BigEndian.PutUint32(head[4*i:], v)
	}
	f.Add(head)
	f.Fuzz(func(t *testing.T, dump []byte) {
		if img, err := parseXWD(dump); err == nil {
			require.Len(t, img.Pix, img.Width*img.Height*4)
		}
	})
}

func FuzzXCookie(f *testing.F) {
	f.Add([]byte{0xff, 0xff, 0, 0, 0, 0, 0, 1, 'a', 0, 1, 'b'})
	f.Add([]byte{0xff})
	f.Add([]byte{0xff, 0xff, 0})
	f.Add([]byte{0xff, 0xff, 0, 9, 1})
	f.Fuzz(func(t *testing.T, file []byte) { _, _, _ = xCookie(file) })
}

// server is an X server that says all it will say, whatever it is asked.
type server struct {
	net.Conn
	said *bytes.Reader
}

func (s server) Read(b []byte) (int, error) { return s.said.Read(b) }
func (server) Write(b []byte) (int, error)  { return len(b), nil }

func FuzzXSetup(f *testing.F) {
	cookie := []byte{0xff, 0xff, 0, 0, 0, 0, 0, 1, 'a', 0, 1, 'b'}
	good := make([]byte, 8+32+8+40)
	good[0], good[6] = 1, 20 // accepted, and so many words
	good[8+16] = 3           // of the vendor's name
	good[8+32+4+38] = 24     // depth
	f.Add(good, cookie)
	shallow := bytes.Clone(good)
	shallow[8+32+4+38] = 8
	f.Add(shallow, cookie)
	f.Add(append([]byte{0, 0, 0, 0, 0, 0, 1, 0}, "no.."...), cookie)
	f.Add([]byte{1, 0, 0, 0, 0, 0, 1, 0, 1, 2, 3, 4}, cookie)
	f.Add(append([]byte{1, 0, 0, 0, 0, 0, 8, 0}, bytes.Repeat([]byte{0xff}, 32)...), cookie)
	f.Add([]byte{1, 0}, cookie)
	f.Add([]byte{1, 0, 0, 0, 0, 0, 1, 0}, cookie)
	f.Add(good, cookie[:5])
	f.Fuzz(func(_ *testing.T, said, authority []byte) {
		_, _, _ = xSetup(server{said: bytes.NewReader(said)}, authority)
	})
}

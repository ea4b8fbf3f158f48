// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// ends are PID 1's and an agent's end of the socket between them.
func ends(t testing.TB) (own, theirs *net.UnixConn) {
	t.Helper()
	own, f, err := socketPair()
	require.NoError(t, err)
	theirs, err = packetConn(f)
	require.NoError(t, errors.Join(err, f.Close()))
	t.Cleanup(func() {
		_ = own.Close() // a test may have closed one
		_ = theirs.Close()
	})
	return own, theirs
}

// openFiles counts this process's descriptors.
func openFiles(t testing.TB) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(list)
}

func TestAgentThatBreaksTheFormIsHeardNoMoreAndLeavesNoFileOpen(t *testing.T) {
	null, err := os.Open(os.DevNull)
	require.NoError(t, err)
	defer null.Close()
	fd, err := number(null)
	require.NoError(t, err)
	for name, c := range map[string]struct {
		text   []byte
		rights []byte
	}{
		"too long":        {bytes.Repeat([]byte(" "), maxMessage+1), nil},
		"no JSON":         {[]byte("{"), unix.UnixRights(fd)},
		"another type":    {[]byte(`{"beat":"yes"}`), unix.UnixRights(fd, fd)},
		"too many files":  {[]byte(`{"beat":true}`), unix.UnixRights(fd, fd, fd, fd, fd, fd)},
		"deep":            {[]byte(strings.Repeat("[", maxMessage)), nil},
		"nothing at all":  {[]byte{}, nil},
		"a keep no text":  {[]byte(`{"keep":"%"}`), nil},
		"a number is big": {[]byte(`{"install":{"note":1e999}}`), nil},
	} {
		t.Run(name, func(t *testing.T) {
			own, theirs := ends(t)
			before := openFiles(t)
			_, _, err := theirs.WriteMsgUnix(c.text, c.rights, nil)
			require.NoError(t, err)
			_, err = receive[request](own)
			require.Error(t, err)
			require.Equal(t, before, openFiles(t))
		})
	}
}

func TestClientAndPID1UnderstandOneAnother(t *testing.T) {
	own, theirs := ends(t)
	client := NewClient(theirs)
	require.NoError(t, client.Beat())
	require.NoError(t, client.Keep([]byte("kept")))
	require.NoError(t, client.Keep(nil))
	require.NoError(t, client.Healthy(TunnelUp))
	require.NoError(t, client.Reboot("because"))
	w, err := client.Install([]byte("note"), true)
	require.NoError(t, err)
	_, err = io.WriteString(w, "file")
	require.NoError(t, errors.Join(err, w.Close()))
	var got []request
	for range 6 {
		p, err := receive[request](own)
		require.NoError(t, err)
		got = append(got, p.message)
		if p.message.Install != nil {
			file, err := io.ReadAll(p.files[0])
			require.NoError(t, err)
			require.Equal(t, "file", string(file))
		}
		closeAll(p.files)
	}
	kept, nothing := []byte("kept"), []byte{}
	require.Equal(t, []request{{Beat: true}, {Keep: &kept}, {Keep: &nothing}, {Healthy: TunnelUp}, {Reboot: "because"}, {Install: &install{[]byte("note"), true}}}, got)

	null, err := os.Open(os.DevNull)
	require.NoError(t, err)
	defer null.Close()
	require.NoError(t, send(own, Event{Network: &Network{State: Up}}, null))
	p, err := receive[Event](theirs)
	require.NoError(t, err)
	require.Equal(t, Up, p.message.Network.State)
	require.Len(t, p.files, 1)
	closeAll(p.files)
}

func TestNilClientIsThatOfAProcess(t *testing.T) {
	var c *Client
	require.NoError(t, errors.Join(c.Run(t.Context()), c.Beat(), c.Keep(nil), c.Healthy(Attested), c.Reboot("")))
	require.Nil(t, c.Events())
	_, err := c.Install(nil, false)
	require.Error(t, err)
}

func FuzzRequest(f *testing.F) {
	for _, text := range []string{
		`{"beat":true}`, `{"keep":"aGVsZA=="}`, `{"keep":""}`, `{"keep":null}`, `{"healthy":"tunnel"}`, `{"install":{"note":"AA==","delta":true}}`, `{"reboot":"why"}`,
		`{`, ``, `null`, `[]`, `{"beat":1}`, strings.Repeat(" ", maxMessage) + "{}", `{"beat":true,"beat":false}`,
	} {
		f.Add([]byte(text), 0)
		f.Add([]byte(text), 2)
	}
	f.Add([]byte(`{"beat":true}`), maxFiles+1)
	f.Fuzz(func(t *testing.T, text []byte, files int) {
		own, theirs := ends(t)
		fd, err := number(os.Stderr)
		require.NoError(t, err)
		var fds []int
		for range min(max(files, 0), 8) {
			fds = append(fds, fd)
		}
		var rights []byte
		if len(fds) > 0 {
			rights = unix.UnixRights(fds...)
		}
		if _, _, err := theirs.WriteMsgUnix(text, rights, nil); err != nil {
			return // too long for the socket itself
		}
		before := openFiles(t)
		p, err := receive[request](own)
		require.Equal(t, before+len(p.files), openFiles(t))
		if err == nil {
			require.LessOrEqual(t, len(p.files), maxFiles)
		}
		closeAll(p.files)
	})
}

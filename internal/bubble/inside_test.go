// SPDX-License-Identifier: Apache-2.0

package bubble

import (
	"bytes"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"sdbox/internal/ident"
	"sdbox/internal/seal"

	"github.com/stretchr/testify/require"
)

// TestSocketOfAnotherUserIsNotTheDesktop: the account owns the socket's directory and may put a link to someone else's there.
func TestSocketOfAnotherUserIsNotTheDesktop(t *testing.T) {
	run := t.TempDir()
	d := newDesktop(Account{Name: "amina", UID: uint32(os.Geteuid()) + 1}, run, slog.New(slog.DiscardHandler))
	require.NoError(t, os.Mkdir(d.dir(), 0o700))
	elsewhere := filepath.Join(run, "s")
	l, err := net.Listen("unix", elsewhere)
	require.NoError(t, err)
	defer l.Close()
	require.NoError(t, os.Symlink(elsewhere, d.file(socketFile)))
	_, err = d.dial()
	require.ErrorContains(t, err, "not its own")
	d.account.UID--
	conn, err := d.dial()
	require.NoError(t, err)
	conn.Close()
}

// Programs of the account reach what setxkbmap writes to: it runs as the account too.
func TestOutputHeldOpenHoldsUpNobody(t *testing.T) {
	bin := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(bin, "setxkbmap"), []byte("#!/bin/sh\nsleep 1000 &\necho $! >\"$HOME/holder\"\n"), 0o700))
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	d := newDesktop(Account{Name: "amina", UID: uint32(os.Geteuid()), Home: t.TempDir()}, t.TempDir(), slog.New(slog.DiscardHandler))
	require.NoError(t, d.remember(os.Getpid(), 1))
	require.ErrorIs(t, d.setLayout(t.Context(), "fr"), exec.ErrWaitDelay)
	text, err := os.ReadFile(filepath.Join(d.account.Home, "holder"))
	require.NoError(t, err)
	holder, err := strconv.Atoi(strings.TrimSpace(string(text)))
	require.NoError(t, err)
	require.NoError(t, syscall.Kill(holder, syscall.SIGKILL))
}

// The number of a group is not given to another while one of it lives: what ends the group ends no other person's programs.
func TestNumberOfASessionStaysItsOwn(t *testing.T) {
	cmd := exec.Command("/bin/sh", "-c", "sleep 1000 & exit 0")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	p, err := run(cmd, true)
	require.NoError(t, err)
	defer p.end()
	require.Eventually(t, func() bool {
		_, err := began(p.pid())
		return err != nil
	}, 10*time.Second, 5*time.Millisecond, "the first program has ended")
	require.NoError(t, syscall.Kill(p.pid(), 0))
}

func TestSocketsOfAnotherUserAreRefused(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "sockets")
	require.NoError(t, prepareSockets(dir))
	require.NoError(t, prepareSockets(dir))
	require.NoError(t, os.Chmod(dir, 0o777))
	require.ErrorContains(t, prepareSockets(dir), "sticky")
	link := filepath.Join(t.TempDir(), "link")
	require.NoError(t, os.Symlink(dir, link))
	require.Error(t, prepareSockets(link))
	if os.Geteuid() == 0 {
		require.NoError(t, os.Chmod(dir, os.ModeSticky|0o777))
		require.NoError(t, os.Chown(dir, 20011, 20011))
		require.ErrorContains(t, prepareSockets(dir), "uid 20011")
	}
}

// A member who logs in again and again takes no room from the others of the bubble, and loses the memory of her own oldest only.
func TestSessionsOfOneAccountLeaveRoomForOthers(t *testing.T) {
	l, err := openLedger(t.TempDir())
	require.NoError(t, err)
	now := time.Now()
	spend := func(account string, session ident.ID, number uint64) error {
		now = now.Add(time.Second)
		return l.spend(seal.Header{ID: ident.NewID(), Expires: now}, Claims{Account: account, Session: session, Epoch: number}, now)
	}
	var newest ident.ID
	for range 3 * maxOfOne {
		newest = ident.NewID()
		require.NoError(t, spend("amina", newest, 7))
		require.NoError(t, spend("bruno", ident.ID{1}, 1))
	}
	require.Len(t, l.seen.Epochs, maxOfOne+1)
	require.ErrorIs(t, spend("amina", newest, 6), ErrEpoch)
}

// TestXauthorityIsReadByXauth checks the binary format with the X project's own reader.
func TestXauthorityIsReadByXauth(t *testing.T) {
	path := filepath.Join(t.TempDir(), "Xauthority")
	require.NoError(t, os.WriteFile(path, newXauthority(), 0o600))
	out, err := exec.CommandContext(t.Context(), "xauth", "-f", path, "list").CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Regexp(t, `^\S*\s+MIT-MAGIC-COOKIE-1\s+[0-9a-f]{32}\n$`, string(out))
}

// FuzzFrame reads what the other end says, as a bubble and as a gateway.
func FuzzFrame(f *testing.F) {
	for _, v := range []any{
		request{Kind: kindOpen, Token: []byte("t"), Width: 1, Height: 2, Layout: "fr"},
		reply{Code: 1, Accounts: []string{"durand"}},
	} {
		var good bytes.Buffer
		require.NoError(f, writeFrame(&good, v))
		f.Add(good.Bytes())
		f.Add(good.Bytes()[:good.Len()-1])
	}
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{0, 0, 0, 1, 0xa0})
	f.Add([]byte{0, 0, 0, 3, 0xa1, 0x09, 0x00}) // a field that is none
	f.Fuzz(func(t *testing.T, b []byte) {
		readBack[request](t, b, maxRequest)
		readBack[reply](t, b, maxReply)
	})
}

func readBack[V any](t *testing.T, b []byte, limit uint32) {
	var v, same V
	if readFrame(bytes.NewReader(b), limit, &v) != nil {
		return
	}
	var again bytes.Buffer
	require.NoError(t, writeFrame(&again, v))
	require.NoError(t, readFrame(&again, limit, &same))
	require.Equal(t, v, same)
}

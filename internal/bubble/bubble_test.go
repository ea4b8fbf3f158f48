// SPDX-License-Identifier: Apache-2.0

package bubble_test

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"sdbox/internal/bubble"
	"sdbox/internal/bubble/bubbletest"
	"sdbox/internal/ident"

	"github.com/stretchr/testify/require"
)

// idle is a session command that lasts.
const idle = "exec sleep 1000"

func dial(t *testing.T, h *bubbletest.House) *bubble.Conn {
	c, err := bubble.Dial(t.Context(), h.Address, h.TLS())
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

func open(t *testing.T, h *bubbletest.House, token []byte) (net.Conn, error) {
	conn, err := dial(t, h).Open(t.Context(), token, 640, 480, "us")
	if err == nil {
		t.Cleanup(func() { conn.Close() })
	}
	return conn, err
}

// requireRFB makes sure that a desktop speaks.
func requireRFB(t *testing.T, conn net.Conn) {
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(10*time.Second)))
	b := make([]byte, 12)
	_, err := io.ReadFull(conn, b)
	require.NoError(t, err)
	require.Equal(t, "RFB 003.008\n", string(b))
}

func TestTokensThatAreNotForThisAreRefused(t *testing.T) {
	h := bubbletest.New(t, idle)
	h.Serve(t)
	other := h.CA.Issue(t, "gw2.lab")
	seal := func(life time.Duration, typ, audience string, change func(*bubble.Claims)) []byte {
		c := h.Claims("amina")
		change(&c)
		token, err := h.Signer.Seal(typ, audience, life, c)
		require.NoError(t, err)
		return token
	}
	good := func(*bubble.Claims) {}
	const typ, here, life = bubble.TokenType, bubbletest.Bubble, bubble.TokenLife
	foreign, err := bubble.NewToken(bubbletest.Signer(t, other), here, h.Claims("amina"))
	require.NoError(t, err)
	for name, c := range map[string]struct {
		token []byte
		want  error
	}{
		"foreign account":           {seal(life, typ, here, func(c *bubble.Claims) { c.Account = "root" }), bubble.ErrAccount},
		"no account":                {seal(life, typ, here, func(c *bubble.Claims) { c.Account = "" }), bubble.ErrAccount},
		"expired":                   {seal(time.Nanosecond, typ, here, good), bubble.ErrToken},
		"life too long":             {seal(2*life, typ, here, good), bubble.ErrToken},
		"another bubble":            {seal(life, typ, "econ.bubbles.lab", good), bubble.ErrToken},
		"another type":              {seal(life, "sdbox-grant", here, good), bubble.ErrToken},
		"another purpose":           {seal(life, typ, here, func(c *bubble.Claims) { c.Purpose = "export" }), bubble.ErrToken},
		"no session":                {seal(life, typ, here, func(c *bubble.Claims) { c.Session = ident.ID{} }), bubble.ErrToken},
		"another gateway's":         {seal(life, typ, here, func(c *bubble.Claims) { c.GatewayCertificate = bubble.CertificateHash(other.Leaf) }), bubble.ErrToken},
		"signed by another gateway": {foreign, bubble.ErrToken},
		"no token":                  {nil, bubble.ErrToken},
		"noise":                     {bytes.Repeat([]byte{0xd2}, 400), bubble.ErrToken},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := open(t, h, c.token)
			require.ErrorIs(t, err, c.want)
		})
	}
	up, err := dial(t, h).Running(t.Context())
	require.NoError(t, err)
	require.Empty(t, up, "a refused token starts nothing")
}

func TestTokenIsUsedOnceAndEpochNeverFallsEvenAfterRestart(t *testing.T) {
	h := bubbletest.New(t, idle)
	_, crash := h.Serve(t)
	claims := h.Claims("amina")
	claims.Epoch = 5
	seal := func() []byte {
		token, err := bubble.NewToken(h.Signer, bubbletest.Bubble, claims)
		require.NoError(t, err)
		return token
	}
	used := seal()
	first, err := open(t, h, used)
	require.NoError(t, err)
	requireRFB(t, first)
	claims.Epoch = 4
	stale := seal()
	claims.Epoch = 6
	for range 2 {
		_, err = open(t, h, used)
		require.ErrorIs(t, err, bubble.ErrToken)
		_, err = open(t, h, stale)
		require.ErrorIs(t, err, bubble.ErrEpoch)
		crash()
		h.Serve(t)
	}
	second, err := open(t, h, seal())
	require.NoError(t, err)
	requireRFB(t, second)
	claims.Epoch = 7
	third, err := open(t, h, seal())
	require.NoError(t, err)
	requireRFB(t, third)
	_, err = second.Read(make([]byte, 1))
	require.Error(t, err, "a higher epoch cuts the gateway that owned the session before")
}

func TestDesktopSurvivesDetachAndCrashAndEndsWithTheBubble(t *testing.T) {
	h := bubbletest.New(t, idle)
	_, crash := h.Serve(t)
	conn, err := open(t, h, h.Token(t, "amina"))
	require.NoError(t, err)
	requireRFB(t, conn)
	pid, _ := h.Desktop(t, "amina")
	require.NoError(t, conn.Close())
	conn, err = open(t, h, h.Token(t, "amina"))
	require.NoError(t, err)
	requireRFB(t, conn)
	crash()
	stop, _ := h.Serve(t)
	warm := dial(t, h)
	for range 2 {
		up, err := warm.Running(t.Context())
		require.NoError(t, err)
		require.Equal(t, []string{"amina"}, up)
	}
	conn, err = warm.Open(t.Context(), h.Token(t, "amina"), 800, 600, "fr")
	require.NoError(t, err)
	requireRFB(t, conn)
	again, _ := h.Desktop(t, "amina")
	require.Equal(t, pid, again)
	status, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	require.NoError(t, err)
	require.NoFileExists(t, filepath.Join(h.Config.Run, "amina.log"), "what the server says at each connection fills no folder of root's")
	require.FileExists(t, filepath.Join(h.Config.Accounts[0].Home, ".xvnc-log"))
	require.Regexp(t, `Uid:\s+`+strconv.Itoa(int(h.Config.Accounts[0].UID))+`\s`, string(status), "Xvnc runs as the account")
	stop()
	require.Eventually(t, func() bool { _, err := os.Stat(filepath.Join("/proc", strconv.Itoa(pid), "exe")); return err != nil }, 5*time.Second, 5*time.Millisecond)
}

// The person ends her desktop, whether this program started it or found it; a token to look at it is not one to end it, nor the other
// way round; what does not run ends in peace.
func TestPersonEndsHerDesktop(t *testing.T) {
	h := bubbletest.New(t, idle)
	_, crash := h.Serve(t)
	seal := func(purpose string) []byte {
		claims := h.Claims("amina")
		claims.Purpose = purpose
		token, err := bubble.NewToken(h.Signer, bubbletest.Bubble, claims)
		require.NoError(t, err)
		return token
	}
	require.NoError(t, dial(t, h).End(t.Context(), seal(bubble.PurposeEnd)))
	for _, found := range []bool{true, false} {
		conn, err := open(t, h, h.Token(t, "amina"))
		require.NoError(t, err)
		requireRFB(t, conn)
		_, err = open(t, h, seal(bubble.PurposeEnd))
		require.ErrorIs(t, err, bubble.ErrToken)
		require.ErrorIs(t, dial(t, h).End(t.Context(), seal(bubble.PurposeDesktop)), bubble.ErrToken)
		warm := dial(t, h)
		up, err := warm.Running(t.Context())
		require.NoError(t, err)
		require.Equal(t, []string{"amina"}, up)
		if found {
			crash()
			h.Serve(t)
			warm = dial(t, h)
		}
		require.NoError(t, warm.End(t.Context(), seal(bubble.PurposeEnd)))
		up, err = warm.Running(t.Context())
		require.NoError(t, err)
		require.Empty(t, up)
	}
}

func TestDesktopEndsWithItsSessionAndStartsAnew(t *testing.T) {
	h := bubbletest.New(t, `cat "$HOME/wait" & exec sleep 0.1`)
	h.Serve(t)
	home := h.Config.Accounts[0].Home
	require.NoError(t, os.MkdirAll(home, 0o755))
	require.NoError(t, syscall.Mkfifo(filepath.Join(home, "wait"), 0o644))
	conn, err := open(t, h, h.Token(t, "amina"))
	require.NoError(t, err)
	requireRFB(t, conn)
	wait, err := os.OpenFile(filepath.Join(home, "wait"), os.O_WRONLY, 0) // returns when the background cat reads it
	require.NoError(t, err)
	up, err := dial(t, h).Running(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"amina"}, up)
	require.NoError(t, wait.Close())
	_, err = io.Copy(io.Discard, conn)
	_ = err // cut or closed: either way the desktop is over
	warm := dial(t, h)
	require.Eventually(t, func() bool {
		up, err := warm.Running(t.Context())
		return err == nil && len(up) == 0
	}, 10*time.Second, 5*time.Millisecond)
	conn, err = open(t, h, h.Token(t, "amina"))
	require.NoError(t, err)
	requireRFB(t, conn)
}

func TestEachAccountHasItsOwnDesktop(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Log("only root starts desktops of several accounts")
		return
	}
	h := bubbletest.New(t, idle)
	h.Serve(t)
	for _, account := range []string{"amina", "bruno"} {
		conn, err := open(t, h, h.Token(t, account))
		require.NoError(t, err)
		requireRFB(t, conn)
	}
	one, _ := h.Desktop(t, "amina")
	two, _ := h.Desktop(t, "bruno")
	require.NotEqual(t, one, two)
	info, err := os.Stat(filepath.Join(h.Config.Run, "bruno"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), info.Mode().Perm())
}

// TestOnlyGatewaysOfTheHouseConnect: a bubble's certificate, another house's, and none.
func TestOnlyGatewaysOfTheHouseConnect(t *testing.T) {
	h := bubbletest.New(t, idle)
	h.Serve(t)
	stranger := bubbletest.NewCA(t)
	for name, own := range map[string]tls.Certificate{
		"another bubble": h.CA.Issue(t, "econ.bubbles.lab"), "another domain": h.CA.Issue(t, "gw1.other"),
		"another house": stranger.Issue(t, bubbletest.Gateway), "nobody": {},
	} {
		c, err := bubble.Dial(t.Context(), h.Address, bubble.ClientTLS(own, h.CA.Roots(), bubbletest.Bubble))
		if err == nil { // in TLS 1.3 the server's refusal of our certificate arrives after our end is done
			_, err = c.Running(t.Context())
			c.Close()
		}
		require.Error(t, err, name)
	}
	_, err := bubble.Dial(t.Context(), h.Address, bubble.ClientTLS(h.Own, h.CA.Roots(), "econ.bubbles.lab"))
	require.Error(t, err, "a bubble that is not the one asked for")
	_, err = bubble.Dial(t.Context(), h.Address, bubble.ClientTLS(h.Own, stranger.Roots(), bubbletest.Bubble))
	require.Error(t, err, "a bubble of another house")
}

// TestHostileGatewayIsCutOff: what is no request is answered with ErrRequest's number, or nothing, and the connection ends.
func TestHostileGatewayIsCutOff(t *testing.T) {
	h := bubbletest.New(t, idle)
	h.Serve(t)
	for name, b := range map[string][]byte{
		"endless frame":  {0xff, 0xff, 0xff, 0xff},
		"not CBOR":       {0, 0, 0, 2, 0xff, 0xff},
		"unknown kind":   {0, 0, 0, 3, 0xa1, 1, 9},
		"unknown field":  {0, 0, 0, 5, 0xa2, 1, 1, 0x18, 9},
		"doubled field":  {0, 0, 0, 5, 0xa2, 1, 1, 1, 1},
		"bytes after it": {0, 0, 0, 4, 0xa1, 1, 1, 0},
		"no size":        {0, 0, 0, 3, 0xa1, 1, 2},
	} {
		conn, err := (&tls.Dialer{Config: h.TLS()}).DialContext(t.Context(), "tcp", h.Address)
		require.NoError(t, err, name)
		require.NoError(t, conn.SetDeadline(time.Now().Add(5*time.Second)))
		_, err = conn.Write(b)
		require.NoError(t, err, name)
		answer, err := io.ReadAll(conn)
		require.NoError(t, err, name)
		require.Equal(t, append(binary.BigEndian.AppendUint32(nil, 3), 0xa1, 1, 1), answer, name)
		require.NoError(t, conn.Close())
	}
	warm := dial(t, h)
	_, err := warm.Open(t.Context(), h.Token(t, "amina"), 640, 480, "xx; reboot")
	require.ErrorIs(t, err, bubble.ErrRequest)
	_, err = dial(t, h).Open(t.Context(), h.Token(t, "amina"), 70000, 480, "us")
	require.ErrorIs(t, err, bubble.ErrRequest)
	_, err = dial(t, h).Open(t.Context(), h.Token(t, "amina"), 8000, 8000, "us")
	require.ErrorIs(t, err, bubble.ErrRequest)
}

func TestConfigThatCannotWorkIsRefused(t *testing.T) {
	h := bubbletest.New(t, idle)
	for name, change := range map[string]func(*bubble.Config){
		"system account":   func(c *bubble.Config) { c.Accounts[0].UID = 999 },
		"system group":     func(c *bubble.Config) { c.Accounts[0].GID = 4 },
		"relative home":    func(c *bubble.Config) { c.Accounts[0].Home = "home" },
		"no session":       func(c *bubble.Config) { c.Accounts[0].Session = " " },
		"name with a path": func(c *bubble.Config) { c.Accounts[0].Name = "../x" },
		"no accounts":      func(c *bubble.Config) { c.Accounts = nil },
		"name twice":       func(c *bubble.Config) { c.Accounts = append(c.Accounts, c.Accounts[0]) },
		"layout":           func(c *bubble.Config) { c.Layouts = []string{"-I/etc"} },
		"relative run":     func(c *bubble.Config) { c.Run = "run" },
		"bubble name":      func(c *bubble.Config) { c.Name = "E P I" },
	} {
		c := h.Config
		c.Accounts = append([]bubble.Account(nil), h.Config.Accounts...)
		change(&c)
		require.Error(t, bubble.Check(c), name)
	}
	require.NoError(t, bubble.Check(h.Config))
	require.NoError(t, os.MkdirAll(h.Config.State, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(h.Config.State, "tokens.cbor"), []byte("?"), 0o600))
	_, err := bubble.New(h.Config)
	require.ErrorContains(t, err, "token ledger")
}

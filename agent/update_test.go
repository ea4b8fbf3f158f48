// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"math/big"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"sdbox/agent/boot"
	"sdbox/agent/kiosk"
	"sdbox/firmware/reference"
	"sdbox/firmware/release"
	"sdbox/internal/refusal"
	"sdbox/internal/wire"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// asked is what PID 1 hears, in its own bytes.
type asked struct {
	Healthy string `json:"healthy"`
	Reboot  string `json:"reboot"`
	Install *struct {
		Note  []byte `json:"note"`
		Delta bool   `json:"delta"`
	} `json:"install"`
	file *os.File
}

// machine is an agent whose loop the test is, with the test as its PID 1 and its gateway.
type machine struct {
	*Agent
	t      *testing.T
	pid1   *net.UnixConn
	secret string
	cert   tls.Certificate

	full, delta []byte

	mu    sync.Mutex
	cut   int            // guarded by mu: the gateway hangs up after so many bytes, once
	asks  []int64        // guarded by mu: the offsets that were asked for
	reply wire.Fetched   // guarded by mu; 0 = the file
	calls sync.WaitGroup // of the gateway
}

func newUpdating(t *testing.T) *machine {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	require.NoError(t, err)
	var ends [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "boot")
		conn, err := net.FileConn(f)
		require.NoError(t, err)
		require.NoError(t, f.Close())
		ends[i] = conn.(*net.UnixConn)
	}
	m := &machine{Agent: still(t), t: t, pid1: ends[1], full: random(300_000), delta: random(200_000)}
	m.cfg.Boot, m.cfg.Cards = boot.NewClient(ends[0]), &reader{}
	var public string
	m.secret, public, err = reference.GenerateKey("release-1.lab")
	require.NoError(t, err)
	m.cfg.Releases, err = reference.NewTrust(1, public)
	require.NoError(t, err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"gw1.lab"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	m.cert = tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.cfg.Boot.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
		require.NoError(t, m.workers.Wait())
		m.calls.Wait()
		require.NoError(t, m.pid1.Close())
	})
	m.state = Ready
	m.onSystem(boot.System{Model: "qemu", Version: "2026.11.20"})
	return m
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// note signs the release that the machine is offered.
func (m *machine) note(change func(*release.Release)) []byte {
	file := func(b []byte) release.Digest { return release.Digest{SHA256: sha256.Sum256(b), Size: int64(len(b))} }
	image := release.Digest{SHA256: [32]byte{7}, Size: 512}
	r := release.Release{Model: "qemu", Version: "2026.11.24", Minimum: "2026.11.20", Expires: time.Now().Add(time.Hour).Truncate(time.Second), Image: image, UKI: image,
		Full: file(m.full), Deltas: []release.Delta{{From: "2026.11.20", Base: image, File: file(m.delta)}}, PCRs: []reference.PCR{{Index: 4}}}
	if change != nil {
		change(&r)
	}
	note, err := release.Sign(r, m.secret)
	require.NoError(m.t, err)
	return note
}

func (m *machine) offered(note []byte) { m.onRelease(&offer{note: note, dial: m.dial}) }

// dial is the gateway: it serves both files, and hangs up or refuses as it is told.
func (m *machine) dial(ctx context.Context, certified bool) (*tls.Conn, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	m.calls.Go(func() {
		defer listener.Close()
		far, err := listener.Accept()
		if err != nil {
			return
		}
		defer far.Close()
		conn := tls.Server(far, &tls.Config{Certificates: []tls.Certificate{m.cert}, NextProtos: []string{wire.ReleaseProtocol}})
		var ask wire.Fetch
		if _, err := io.ReadFull(conn, ask[:]); err != nil {
			return
		}
		m.mu.Lock()
		reply, cut := m.reply, m.cut
		m.asks, m.cut = append(m.asks, ask.Offset()), 0
		m.mu.Unlock()
		file := m.full
		if ask.SHA256() == sha256.Sum256(m.delta) {
			file = m.delta
		}
		file = file[ask.Offset():]
		if cut > 0 {
			file = file[:cut]
		}
		if reply == 0 {
			reply = wire.FetchedFile
		} else {
			file = nil
		}
		_, _ = conn.Write(append([]byte{byte(reply)}, file...)) // the box may have gone
		_ = conn.Close()
	})
	near, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	conn := tls.Client(near, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{wire.ReleaseProtocol}})
	return conn, conn.HandshakeContext(ctx)
}

// hears is the next thing the agent asks of PID 1, parts of the health gate aside.
func (m *machine) hears() asked {
	m.t.Helper()
	require.NoError(m.t, m.pid1.SetReadDeadline(time.Now().Add(20*time.Second)))
	for {
		text, rights := make([]byte, 65536), make([]byte, 64)
		n, rn, _, _, err := m.pid1.ReadMsgUnix(text, rights)
		require.NoError(m.t, err)
		var a asked
		require.NoError(m.t, json.Unmarshal(text[:n], &a))
		if rn > 0 {
			messages, err := unix.ParseSocketControlMessage(rights[:rn])
			require.NoError(m.t, err)
			fds, err := unix.ParseUnixRights(&messages[0])
			require.NoError(m.t, err)
			a.file = os.NewFile(uintptr(fds[0]), "file")
		}
		if a.Healthy == "" {
			return a
		}
	}
}

// takes is PID 1 taking a file.
func (m *machine) takes(delta bool) []byte {
	m.t.Helper()
	a := m.hears()
	require.NotNil(m.t, a.Install)
	require.Equal(m.t, delta, a.Install.Delta)
	got, err := io.ReadAll(a.file)
	require.NoError(m.t, err)
	require.NoError(m.t, a.file.Close())
	return got
}

// says has PID 1 tell how far it is, and the agent hear it.
func (m *machine) says(u boot.Update) {
	m.t.Helper()
	text, err := json.Marshal(boot.Event{Update: &u})
	require.NoError(m.t, err)
	_, err = m.pid1.Write(text)
	require.NoError(m.t, err)
	require.NoError(m.t, m.onMachine(<-m.cfg.Boot.Events()))
}

// step is a second of the loop.
func (m *machine) step() { require.NoError(m.t, m.stepUpdate(m.t.Context(), time.Now())) }

func (m *machine) fetched() {
	m.t.Helper()
	require.Eventually(m.t, func() bool { m.step(); return m.update.job.fetched }, 20*time.Second, time.Millisecond)
}

func (m *machine) shows() refusal.Code {
	view, is := m.face.view.(kiosk.Message)
	if !is {
		return ""
	}
	return view.Refusal.Code
}

func TestBoxFetchesItsReleaseHandsItOverAndStartsAgain(t *testing.T) {
	m := newUpdating(t)
	m.cut = 70_000
	note := m.note(nil)
	m.offered(note)
	m.step()
	require.Equal(t, refusal.Updating, m.shows())
	require.Equal(t, m.delta, m.takes(true), "the delta of what runs")
	m.fetched()
	require.Equal(t, []int64{0, 70_000}, m.asks, "it goes on where the line broke")

	m.says(boot.Update{Done: 50, Total: 100})
	require.NoError(t, m.stepUpdate(t.Context(), m.update.job.begun.Add(90*time.Second)))
	view := m.face.view.(kiosk.Message)
	require.InDelta(t, 0.75, view.Share, 0.001)
	require.Equal(t, "Updating (35 s)...", view.Refusal.Words(refusal.English).Title)
	require.Equal(t, "Mise à jour (35 s)...", view.Refusal.Words(refusal.French).Title)
	m.says(boot.Update{Installed: true})
	m.reader = "reader" // somebody came meanwhile: the machine starts again when she has gone
	m.state = List
	m.step()
	m.reader, m.state = "", Ready
	m.step()
	require.Equal(t, "update to 2026.11.24", m.hears().Reboot)
	require.Empty(t, m.owed, "nothing to report")
}

func TestWorkGoesBeforeAnUpdate(t *testing.T) {
	m := newUpdating(t)
	m.reader, m.state = "reader", List
	m.offered(m.note(nil))
	m.step()
	require.True(t, m.update.job == nil, "somebody is at work")
	m.reader, m.state = "", Ready
	m.reply = wire.FetchedLater // and the gateway is busy
	m.step()
	m.reader, m.state = "reader", Reading
	m.step()
	require.Less(t, len(m.takes(true)), len(m.delta), "a file that ends early is given up")
	m.says(boot.Update{Error: "ends early"})
	require.Empty(t, m.owed, "no failure")
	require.True(t, m.update.job == nil)
	m.mu.Lock()
	m.reply = 0
	m.mu.Unlock()
	m.step()
	require.True(t, m.update.job == nil)
	m.reader, m.state = "", Ready
	m.step()
	require.Equal(t, m.delta, m.takes(true))
}

func TestBoxThatIsRefusedUpdatesWithACardIn(t *testing.T) {
	m := newUpdating(t)
	m.reader, m.state, m.said = "reader", Closed, refusal.New(refusal.NotIntact)
	note := m.note(func(r *release.Release) { r.Deltas = nil })
	m.offered(note)
	m.step()
	require.Equal(t, m.full, m.takes(false))
	m.fetched()
	require.Equal(t, refusal.Updating, m.shows())
	m.says(boot.Update{Error: "the slot does not hold what was written to it"})
	require.Equal(t, refusal.NotIntact, m.shows(), "what was there before")
	require.Len(t, m.owed, 1)
	require.Equal(t, refusal.NotUpdated, m.owed[0].Code)
	m.step()
	require.True(t, m.update.job == nil, "not at once")
	for range maxFailures - 1 {
		m.update.after = time.Time{}
		m.step()
		m.takes(false)
		m.says(boot.Update{Error: "again"})
	}
	m.offered(note)
	m.update.after = time.Time{}
	m.step()
	require.True(t, m.update.job == nil, "a release that failed three times is left alone")
	m.offered(m.note(nil))
	m.step()
	require.True(t, m.update.job != nil, "another one is not")
	m.takes(true)
}

func TestDeltaThatDoesNotApplyIsFollowedByTheFullFile(t *testing.T) {
	m := newUpdating(t)
	m.offered(m.note(nil))
	m.step()
	m.takes(true)
	m.fetched()
	m.says(boot.Update{Error: "another image", Full: true})
	require.Empty(t, m.owed)
	m.step()
	require.Equal(t, m.full, m.takes(false))
	m.fetched()
}

func TestReleaseThatIsNotForThisBoxIsReportedAndLeftAlone(t *testing.T) {
	stranger, _, err := reference.GenerateKey("release-1.lab")
	require.NoError(t, err)
	for name, c := range map[string]struct {
		system boot.System
		change func(*release.Release)
		code   refusal.Code
	}{
		"the same":         {boot.System{Model: "qemu", Version: "2026.11.24"}, nil, ""},
		"another model":    {boot.System{Model: "intel", Version: "2026.11.20"}, nil, refusal.NotUpdated},
		"expired":          {boot.System{Model: "qemu", Version: "2026.11.20"}, func(r *release.Release) { r.Expires = time.Now().Add(-time.Hour).Truncate(time.Second) }, refusal.NotUpdated},
		"tried too often":  {boot.System{Model: "qemu", Version: "2026.11.20", Tried: hex.EncodeToString(append([]byte{7}, make([]byte, 31)...)), Tries: release.MaxTries}, nil, refusal.NotUpdated},
		"signed by others": {boot.System{Model: "qemu", Version: "2026.11.20"}, func(*release.Release) {}, refusal.NotUpdated},
	} {
		m := newUpdating(t)
		m.onSystem(c.system)
		if strings.HasPrefix(name, "signed") {
			m.secret = stranger
		}
		note := m.note(c.change)
		for range 3 {
			m.offered(note)
			m.step()
			m.update.after = time.Time{}
		}
		require.True(t, m.update.job == nil, name)
		if c.code == "" {
			require.Empty(t, m.owed, name)
			continue
		}
		require.Len(t, m.owed, 1, name)
		require.Equal(t, c.code, m.owed[0].Code, name)
	}
}

func TestFetchEndsWhenThereIsNothingToFetchOrNobodyToTakeIt(t *testing.T) {
	m := newUpdating(t)
	m.reply = wire.FetchedNone
	fetch := func(ctx context.Context, to io.WriteCloser) error {
		j := &job{file: release.Digest{SHA256: sha256.Sum256(m.full), Size: int64(len(m.full))}, offer: &offer{dial: m.dial}}
		return j.fetch(ctx, to)
	}
	_, to := io.Pipe()
	require.ErrorIs(t, fetch(t.Context(), to), errNoFile)
	m.reply = 0
	from, to := io.Pipe()
	require.NoError(t, from.Close())
	require.ErrorIs(t, fetch(t.Context(), to), errTaken)
	ctx, cancel := context.WithCancel(t.Context())
	m.reply = wire.FetchedLater
	cancel()
	_, to = io.Pipe()
	require.ErrorIs(t, fetch(ctx, to), context.Canceled)

	// A certificate that lets nobody in is left out; what comes is what was asked for, and no more of it.
	m.reply = 0
	var tried []bool
	j := &job{file: release.Digest{SHA256: sha256.Sum256(m.full), Size: 100}, offer: &offer{dial: func(ctx context.Context, certified bool) (*tls.Conn, error) {
		if tried = append(tried, certified); certified {
			return nil, errors.New("bad certificate")
		}
		return m.dial(ctx, certified)
	}}}
	from, to = io.Pipe()
	got := make(chan []byte, 1)
	go func() { b, _ := io.ReadAll(from); got <- b }()
	require.NoError(t, j.fetch(t.Context(), to))
	require.True(t, bytes.Equal(m.full[:100], <-got))
	require.Equal(t, []bool{true, false}, tried)
}

func TestHealthIsToldOnce(t *testing.T) {
	m := newUpdating(t)
	m.step()
	m.step()
	lineUp(m.Agent)
	m.step()
	m.step()
	require.NoError(t, m.pid1.SetReadDeadline(time.Now().Add(20*time.Second)))
	var heard []string
	for range 4 {
		text := make([]byte, 65536)
		n, err := m.pid1.Read(text)
		require.NoError(t, err)
		var a asked
		require.NoError(t, json.Unmarshal(text[:n], &a))
		heard = append(heard, a.Healthy)
	}
	require.ElementsMatch(t, []string{"attested", "reader", "screen", "tunnel"}, heard)
	require.ElementsMatch(t, []string{"reader", "screen"}, heard[:2], "before the line")
}

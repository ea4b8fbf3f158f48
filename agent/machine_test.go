// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	"sdbox/agent/boot"
	"sdbox/agent/kiosk"
	"sdbox/agent/screen"
	"sdbox/internal/refusal"
	"sdbox/internal/tpm"
	"sdbox/internal/wire"

	"github.com/stretchr/testify/require"
)

// still is an agent whose loop does not run: the test is its owner.
func still(t *testing.T) *Agent {
	s, err := screen.NewMemory(width, height)
	require.NoError(t, err)
	a, err := New(Config{Gateways: []string{"gw1.lab:443"}, Language: refusal.English, Screen: s, Keys: &silent{}, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	require.NoError(t, err)
	require.NoError(t, a.face.show(kiosk.Boot{}))
	return a
}

// network is an event of PID 1.
func network(s boot.NetworkState) boot.Event { return boot.Event{Network: &boot.Network{State: s}} }

// reads is the code on the screen of a box that waits for its centre.
func reads(t *testing.T, a *Agent) refusal.Code {
	view, is := a.face.view.(kiosk.Boot)
	require.True(t, is, "%T", a.face.view)
	if view.Refusal == nil {
		return ""
	}
	return view.Refusal.Code
}

// lineUp gives the agent a line that nobody reads.
func lineUp(a *Agent) *uplink {
	a.up = &uplink{out: make(chan wire.Message, outboxSize)}
	return a.up
}

func TestScreenSaysWhatTheNetworkLacks(t *testing.T) {
	a := still(t)
	silent := errors.New("connect: network is unreachable")
	var read []refusal.Refusal
	for _, step := range []struct {
		event *boot.Event
		err   error // of the link
		want  refusal.Code
	}{
		{ptr(network(boot.Starting)), nil, ""},
		{nil, silent, ""},
		{ptr(network(boot.NoAdapter)), nil, refusal.NoAdapter},
		{ptr(network(boot.NoCable)), nil, refusal.NoCable},
		{nil, silent, refusal.NoCable},
		{ptr(network(boot.NoCable)), nil, refusal.NoCable},
		{ptr(network(boot.Asking)), nil, ""},
		{nil, silent, ""},
		{ptr(network(boot.NoAddress)), nil, refusal.NoAddress},
		{ptr(network(boot.Up)), nil, ""},
		{nil, silent, refusal.CentreSilent},
		{ptr(network(boot.Up)), nil, refusal.CentreSilent},
	} {
		if step.event != nil {
			require.NoError(t, a.onMachine(*step.event))
		} else {
			require.NoError(t, a.onLink(t.Context(), linkEvent{err: step.err}))
		}
		require.Equal(t, step.want, reads(t, a))
		if step.want != "" && (len(read) == 0 || read[len(read)-1].Error() != a.said.Error()) {
			read = append(read, a.said)
		}
	}
	require.Len(t, a.route.free, 1, "the link tries again at once")
	require.Len(t, read, 4, "one suffix for one outage")
	up := lineUp(a)
	require.NoError(t, a.payOwed())
	for _, r := range read {
		require.Equal(t, &wire.Event{Refusal: r}, <-up.out, "the centre learns what stood on the screen")
	}
	require.NoError(t, a.fire(LineUp))
	require.NoError(t, a.onMachine(network(boot.NoCable)))
	require.Equal(t, Ready, a.state, "with a line, the line says what is wrong")
}

func TestChipThatFailsIsNamedNotTheCentre(t *testing.T) {
	a := still(t)
	require.NoError(t, a.onMachine(network(boot.Up)))
	require.NoError(t, a.onLink(t.Context(), linkEvent{err: fmt.Errorf("gateway 1: %w: make device key: failure", errChip)}))
	require.Equal(t, refusal.NoChip, reads(t, a))
}

func ptr[T any](v T) *T { return &v }

// visited is how a visit to this address ends.
func visited(t *testing.T, f *frontDoor, address string) error {
	l, err := newLink(Config{GatewayName: gatewayName, Root: f.root, Log: slog.New(slog.DiscardHandler)}, nil, newRoute())
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, err = l.visit(ctx, address, nil)
	require.Error(t, err)
	return err
}

func TestWhoAnswersInPlaceOfTheCentreIsNamed(t *testing.T) {
	ours, theirs := newFrontDoor(t), newFrontDoor(t)
	go func() { // a proxy that opens every connection, with a certificate of its own
		if c, err := theirs.listener.Accept(); err == nil {
			_, _ = io.Copy(io.Discard, c)
			_ = c.Close()
		}
	}()
	portal, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	go func() {
		if c, err := portal.Accept(); err == nil {
			_, _ = io.ReadFull(c, make([]byte, 1))
			_, _ = io.WriteString(c, "HTTP/1.1 302 Found\r\nLocation: http://portal.example/\r\n\r\n")
			_, _ = io.Copy(io.Discard, c)
			_ = c.Close()
		}
	}()
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, gone.Close())
	a := still(t)
	for want, address := range map[refusal.Code]string{
		refusal.Impostor: theirs.listener.Addr().String(), refusal.SignIn: portal.Addr().String(), refusal.CentreSilent: gone.Addr().String(),
		refusal.NoName: "no..name:443", // no resolver is asked for what can be no name
	} {
		err := visited(t, ours, address)
		require.NoError(t, a.onLink(t.Context(), linkEvent{err: errors.Join(err, tpm.ErrNoCertificate)}))
		require.Equal(t, want, reads(t, a), "%v", err)
	}
	require.NoError(t, portal.Close())
}

func TestRefusedDeviceIsSaidUntilItIsOut(t *testing.T) {
	a := still(t)
	pixels := func() []byte { return bytes.Clone(a.cfg.Screen.Image().Pix) }
	before := pixels()
	stick, reader := refusal.New(refusal.DeviceRefused), refusal.New(refusal.ReaderUnknown)
	require.NoError(t, a.onMachine(boot.Event{Trouble: &boot.Trouble{Refusal: stick}}))
	said := pixels()
	require.NotEqual(t, before, said)
	require.NoError(t, a.onMachine(boot.Event{Trouble: &boot.Trouble{Refusal: reader}}))
	require.Equal(t, said, pixels(), "one after the other")
	up := lineUp(a)
	require.NoError(t, a.payOwed())
	for _, r := range []refusal.Refusal{stick, reader} {
		require.Equal(t, &wire.Event{Refusal: r}, <-up.out)
	}
	require.NoError(t, a.fire(LineUp))
	require.NoError(t, a.face.tick(a.face.around.Now.Add(time.Hour), 0))
	require.Len(t, a.face.notes, 2, "it stands over every screen, for as long as it is in")
	require.NoError(t, a.face.tell(note{Note: kiosk.Note{Text: "a word of the centre"}, life: messageLife}))
	require.Equal(t, "a word of the centre", a.face.notes[0].Text, "what ends by itself goes first")
	require.NoError(t, a.face.dismiss())
	for _, r := range []refusal.Refusal{stick, reader, reader} {
		require.NoError(t, a.onMachine(boot.Event{Trouble: &boot.Trouble{Refusal: r, Over: true}}))
	}
	require.Empty(t, a.face.notes)
}

// noReaders is a machine whose readers come and go.
type noReaders struct {
	Cards
	here int
}

func (n *noReaders) Readers() int { return n.here }

func TestMissingReaderIsSaidUntilThereIsOne(t *testing.T) {
	a := still(t)
	cards := &noReaders{}
	a.cfg.Cards = cards
	now := time.Now()
	after := func(d time.Duration, want int) {
		now = now.Add(d)
		require.NoError(t, a.noteReader(now))
		require.Len(t, a.face.notes, want)
	}
	after(0, 0)
	after(readerPatience-time.Second, 0)
	cards.here = 1
	after(time.Second, 0)
	cards.here = 0
	after(time.Hour, 0)
	after(readerPatience, 1)
	after(time.Hour, 1)
	up := lineUp(a)
	require.NoError(t, a.payOwed())
	require.Equal(t, refusal.ReaderLost, (<-up.out).(*wire.Event).Refusal.Code)
	cards.here = 2
	after(time.Second, 0)
}

func TestHintsOfTheSiteAreTakenAsHints(t *testing.T) {
	a := still(t)
	site := boot.Event{Site: &boot.Site{Gateways: []string{"gw9.lab:443", "gw1.lab:443"}, Layout: "fr", Language: refusal.French}}
	require.NoError(t, a.onMachine(site))
	require.Equal(t, []string{"gw9.lab:443", "gw1.lab:443", "gw2.lab:443"}, a.route.doors([]string{"gw1.lab:443", "gw2.lab:443"}))
	require.Equal(t, "fr", a.cfg.Layout)
	require.Equal(t, refusal.French, a.face.around.Language)
	lineUp(a)
	a.face.greet(&wire.Hello{Language: refusal.English})
	require.NoError(t, a.onMachine(site))
	require.Equal(t, refusal.English, a.face.site, "the centre knows better")
}

// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"bytes"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sdbox/firmware/slot"

	"github.com/stretchr/testify/require"
)

// partitioned is a machine with this disk: partition names and what they hold.
func partitioned(t *testing.T, parts map[string][]byte) *netSeat {
	s := &netSeat{log: slog.New(slog.NewTextHandler(t.Output(), nil)), sys: t.TempDir(), dev: t.TempDir(), resolv: filepath.Join(t.TempDir(), "resolv.conf")}
	loaded := make(chan struct{})
	close(loaded)
	s.loaded = loaded
	for name, b := range parts {
		dir := filepath.Join(s.sys, "class/block", "vd-"+name)
		require.NoError(t, os.MkdirAll(dir, 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "uevent"), []byte("MAJOR=254\nDEVTYPE=partition\nPARTN=3\nPARTNAME="+name+"\n"), 0o644))
		require.NoError(t, os.WriteFile(filepath.Join(s.dev, "vd-"+name), b, 0o644))
	}
	return s
}

func TestSlotsGoToTheRoleAndItsReportsCome(t *testing.T) {
	disk := bytes.Repeat([]byte{7}, slot.Count*slot.Size+512) // what is behind the two slots is none of the role's business
	s := partitioned(t, map[string][]byte{"sdbox-a": {1}, configPartition: disk})
	var events []Event
	s.tell = func(e Event) { events = append(events, e) }
	slots, feed, err := os.Pipe()
	require.NoError(t, err)
	reports, say, err := os.Pipe()
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- s.serve(t.Context(), reports, feed) }()
	got, err := io.ReadAll(slots)
	require.NoError(t, err)
	require.Equal(t, disk[:slot.Count*slot.Size], got)
	_, err = io.WriteString(say, `{"site":{"gateways":["gw1.lab:443"],"language":"fr"}}
{"network":{"state":"no cable"}}
not json
{"network":{"state":"up","adapter":"eth0","address":"192.0.2.9/24","resolvers":["192.0.2.53","2001:db8::53"]}}
`)
	require.NoError(t, err)
	require.NoError(t, say.Close())
	require.NoError(t, <-served)
	require.NoError(t, slots.Close())
	require.Equal(t, []Event{
		{Site: &Site{Gateways: []string{"gw1.lab:443"}, Language: "fr"}}, {Network: &Network{State: NoCable}},
		{Network: &Network{State: Up, Address: "192.0.2.9/24", Resolver: "192.0.2.53"}},
	}, events)
	text, err := os.ReadFile(s.resolv)
	require.NoError(t, err)
	require.Equal(t, "nameserver 192.0.2.53\nnameserver 2001:db8::53\noptions timeout:2 attempts:2\n", string(text))
}

func TestReportThatIsTooLongEndsTheConversation(t *testing.T) {
	s := partitioned(t, nil)
	s.tell = func(Event) { t.Error("an event") }
	require.ErrorContains(t, s.hear(strings.NewReader(strings.Repeat("x", maxReport+1))), "too long")
}

func FuzzReport(f *testing.F) {
	for _, line := range []string{
		`{"network":{"state":"up","adapter":"eth0","address":"192.0.2.9/24","resolvers":["192.0.2.53"]}}`, `{"network":{"state":"no address","adapter":"eth0"}}`,
		`{"site":{"gateways":["gw1.lab:443"],"layout":"fr","language":"fr"}}`, `{"site":{"gateways":["gw1.lab"]}}`, `{"site":{"layout":"../x"}}`,
		`{"network":{"state":"up"}}`, `{"network":{"state":"no cable","address":"192.0.2.9/24"}}`, `{"network":{"state":"down"}}`, `{}`, `{"x":1}`, ``,
		`{"network":{"state":"up","address":"192.0.2.9/24","resolvers":["127.0.0.1"]}}`, `{"network":{"state":"up","address":"192.0.2.9/24","resolvers":["::ffff:192.0.2.53"]}}`,
		`{"network":{"state":"up","address":"192.0.2.9/24","resolvers":["1.1.1.1","1.1.1.2","1.1.1.3","1.1.1.4"]}}`, `{"network":{"state":"up"},"site":{}}`,
		`{"network":{"state":"up","address":"2001:db8::9/64","resolvers":["fe80::1%eth0\nnameserver 9.9.9.9"]}}`,
	} {
		f.Add([]byte(line))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		e, resolvers, err := parseReport(line)
		if err != nil {
			return
		}
		require.True(t, (e.Network == nil) != (e.Site == nil))
		path := filepath.Join(t.TempDir(), "resolv.conf")
		require.NoError(t, writeResolvers(path, resolvers))
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, len(resolvers)+1, bytes.Count(text, []byte("\n")), "one line each: %s", text)
	})
}

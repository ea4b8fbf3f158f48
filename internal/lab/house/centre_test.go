// SPDX-License-Identifier: Apache-2.0

package house

import (
	"context"
	"net"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestBubbleCannotAskTheGateway: the gateway reaches a port of the bubble; from the bubble, even as root with a route of its own
// making, no port of the gateway answers, on any of its addresses.
func TestBubbleCannotAskTheGateway(t *testing.T) {
	dir, err := os.MkdirTemp("", "house")
	require.NoError(t, err)
	defer os.RemoveAll(dir)
	h, err := Open(dir, "")
	require.NoError(t, err)
	defer h.Close()
	gateway, err := h.NewPlace("gw1")
	require.NoError(t, err)
	bubble, err := h.NewPlace("epi")
	require.NoError(t, err)
	require.NoError(t, gateway.configure("addr", "add", GatewayAddress+"/32", "dev", "lo"))
	require.NoError(t, gateway.shutOut("bub"))
	require.NoError(t, h.Wire(End{Place: gateway, Interface: "bub1", Address: "10.72.1.1/24"}, End{Place: bubble, Interface: "eth0", Address: "10.72.1.2/24"}))
	require.NoError(t, bubble.configure("route", "add", "default", "via", "10.72.1.1"))
	listen := func(p *Place) net.Listener {
		var l net.Listener
		require.NoError(t, p.inNetwork(func() (err error) { l, err = net.Listen("tcp4", ":7443"); return err }))
		return l
	}
	defer listen(gateway).Close()
	defer listen(bubble).Close()

	dial := func(from *Place, to string) error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		conn, err := from.Dial(ctx, "tcp", to)
		if err == nil {
			conn.Close()
		}
		return err
	}
	require.NoError(t, dial(gateway, "10.72.1.2:7443"))
	require.NoError(t, dial(gateway, GatewayAddress+":7443"), "the port is open")
	require.Error(t, dial(bubble, "10.72.1.1:7443"))
	require.Error(t, dial(bubble, GatewayAddress+":7443"))
}

func TestEndOfJuneIsInThePast(t *testing.T) {
	for now, want := range map[string]string{"2026-11-24": "2026-06-30", "2026-06-30": "2025-06-30", "2026-07-01": "2026-06-30", "2027-01-01": "2026-06-30"} {
		at, err := time.Parse(time.DateOnly, now)
		require.NoError(t, err)
		require.Equal(t, want, lastEndOfJune(at).Format(time.DateOnly))
	}
}

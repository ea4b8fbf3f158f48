// SPDX-License-Identifier: Apache-2.0

package notify_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"

	"sdbox/internal/notify"

	"github.com/stretchr/testify/require"
)

func TestSupervisorHearsOnceThatTheProgramIsReady(t *testing.T) {
	for _, address := range []string{filepath.Join(t.TempDir(), "notify"), fmt.Sprintf("@sdbox-notify-%d", os.Getpid())} {
		supervisor, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: address, Net: "unixgram"})
		require.NoError(t, err)
		defer supervisor.Close()
		t.Setenv("NOTIFY_SOCKET", address)
		require.NoError(t, notify.Ready())
		buf := make([]byte, 64)
		n, err := supervisor.Read(buf)
		require.NoError(t, err)
		require.Equal(t, "READY=1", string(buf[:n]))
		require.Empty(t, os.Getenv("NOTIFY_SOCKET"), "programs started later do not speak for this one")
	}
	require.NoError(t, notify.Ready(), "nobody asked")
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "nobody"))
	require.ErrorContains(t, notify.Ready(), "tell the supervisor")
}

// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sdbox/internal/lab/vm"
	"sdbox/internal/tpm/tpmsim"

	"github.com/stretchr/testify/require"
)

// machineLine is one line of the log of PID 1 or a role.
type machineLine struct {
	Msg, Step, Role, How string
	MS                   int
	Done                 *[]string
	Err                  string
}

// follow awaits a line of the log after those it has seen.
func follow(ctx context.Context, t *testing.T, log *vm.Log, from *int, right func(machineLine) bool) machineLine {
	t.Helper()
	var found machineLine
	_, next, err := log.Await(ctx, *from, func(text string) bool {
		found = machineLine{}
		return json.Unmarshal([]byte(text), &found) == nil && right(found)
	})
	if err != nil {
		t.Log(strings.Join(log.Lines(), "\n"))
	}
	require.NoError(t, err)
	*from = next
	return found
}

// One machine, Secure Boot on, its firmware with the key of the form dev: what runs is the box's own system.
func TestBoxIsClosedAndComesBackByItself(t *testing.T) {
	folder := site(t)
	s, err := spec(folder)
	require.NoError(t, err)
	s.Form = Dev
	s.Site.Events = "port:" + vm.EventsPort
	b, err := Build(t.Context(), s, t.TempDir())
	require.NoError(t, err)
	m := newMachine(t, b.UKI, filepath.Join(folder, "keys"))
	require.NoError(t, vm.MakeVariables(m.cfg.Firmware.Variables, filepath.Join(folder, "keys"), "db-dev"))
	m.cfg.NoNetwork, m.cfg.TPM = false, &tpmsim.Config{Dir: filepath.Join(m.dir, "tpm")}
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	v, err := vm.Start(ctx, m.cfg)
	require.NoError(t, err)
	defer func() { require.NoError(t, v.Close()) }()
	from := 0
	step := func(name string) func(machineLine) bool {
		return func(l machineLine) bool { return l.Msg == "step" && l.Step == name }
	}
	drill := func(line string) {
		_, err := fmt.Fprintln(v.Drills(), line)
		require.NoError(t, err)
	}

	closed := follow(ctx, t, v.Events, &from, step("hardened"))
	t.Logf("closed %d ms after the kernel's start", closed.MS)
	for _, line := range v.Events.Lines() {
		require.NotContains(t, line, "no execution policy")
		require.NotContains(t, line, "audit:", "a role was denied what it needs")
	}
	drill("try")
	tried := follow(ctx, t, v.Events, &from, func(l machineLine) bool { return l.Msg == "tried" })
	require.Nil(t, tried.Done, "what PID 1 itself could still do")

	for _, role := range []string{"agent", "card", "network"} {
		drill("kill " + role)
		require.Equal(t, "killed by SIGKILL", follow(ctx, t, v.Events, &from, func(l machineLine) bool { return l.Msg == "ended" && l.Role == role }).How)
		follow(ctx, t, v.Events, &from, step("started "+role))
	}
	drill("panic")
	select {
	case <-v.Done(): // it started anew, which EndOnReboot makes its end
	case <-ctx.Done():
		require.Fail(t, "a machine without PID 1 goes on")
	}
}

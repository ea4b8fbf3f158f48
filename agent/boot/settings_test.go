// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const goodSettings = `profile = "qemu"
form = "dev"
domain = "lab"
version = "2026.11.24"
model = "qemu"
built = 2026-11-24T00:00:00Z
events = "port:org.sdbox.events"
language = "fr"
[usb]
hubs = false
[watchdog]
seconds = 30
[release]
minimum = "2026.11.24"
`

func FuzzSettings(f *testing.F) {
	f.Add([]byte(goodSettings))
	for old, changed := range map[string]string{
		`"dev"`: `"production"`, `"lab"`: `"sd.example.org"`, `"port:org.sdbox.events"`: `"console"`, `port:org`: `file:org`, `"2026.11.24"`: `""`, `seconds = 30`: `seconds = -1`,
		`[usb]`: `[usb`, `hubs`: `holes`, `built = 2026-11-24T00:00:00Z`: ``, `form = "dev"`: `form = "test"`, `"qemu"`: `1`, `domain = "lab"`: `domain = "A B"`, `port:org.sdbox.events`: `port:`,
	} {
		f.Add([]byte(strings.Replace(goodSettings, old, changed, 1)))
	}
	f.Add([]byte(strings.Replace(strings.Replace(goodSettings, `"port:org.sdbox.events"`, `"console"`, 1), `"dev"`, `"production"`, 1)))
	f.Add(make([]byte, maxSettings+1))
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := parseSettings(text)
		if err != nil {
			return
		}
		require.True(t, s.Form == Dev || s.Form == Production)
		require.False(t, s.Built.IsZero())
		require.False(t, s.Events == eventsConsole && s.Form == Production, "a production image with a console")
		require.False(t, strings.HasPrefix(s.Events, portPrefix) && s.Domain != "lab", "a port outside the lab")
	})
}

func TestModulesAreLoadedInTheOrderOfTheList(t *testing.T) {
	list, err := parseModules([]byte("usb_common.ko\nusbcore.ko authorized_default=0\n\ne1000e.ko\n"))
	require.NoError(t, err)
	require.Equal(t, []module{{"usb_common.ko", ""}, {"usbcore.ko", "authorized_default=0"}, {"e1000e.ko", ""}}, list)
	for _, odd := range []string{"../../etc/passwd", "a/b.ko", "usbcore", "/x.ko", "."} {
		_, err := parseModules([]byte(odd))
		require.Error(t, err, odd)
	}
}

func TestKernelsErrorsAndDeniedCallsAreTold(t *testing.T) {
	for record, want := range map[string]string{
		"5,1,100,-;audit: type=1326 audit(1:2): uid=901 syscall=59\n": "audit: type=1326 audit(1:2): uid=901 syscall=59",
		"3,2,100,-;usb 1-1: it broke\n SUBSYSTEM=usb\n":               "usb 1-1: it broke",
		"6,3,100,-;all is well\n":                                     "",
		"11,3,100,-;another facility's error\n":                       "",
		"no record":                                                   "", ";": "", "-1,2;x": "", "99999999999999999999,1;x": "",
	} {
		message, worth := parseKernelRecord(record)
		require.Equal(t, want != "", worth, record)
		if worth {
			require.Equal(t, want, message)
		}
	}
}

func TestEverySettingOfTheTableIsWrittenAndWhatAKernelLacksIsNamed(t *testing.T) {
	root := t.TempDir()
	for _, s := range Sysctls()[1:] {
		path := filepath.Join(root, strings.ReplaceAll(s.Name, ".", "/"))
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, nil, 0o644))
	}
	missing, err := applyAll(Sysctls(), root)
	require.NoError(t, err)
	require.Equal(t, []string{Sysctls()[0].Name}, missing)
	seen := map[string]bool{}
	for _, s := range Sysctls()[1:] {
		text, err := os.ReadFile(filepath.Join(root, strings.ReplaceAll(s.Name, ".", "/")))
		require.NoError(t, err)
		require.Equal(t, s.Value+"\n", string(text))
		require.False(t, seen[s.Name], "%s stands there twice", s.Name)
		require.NotEmpty(t, s.Why)
		seen[s.Name] = true
	}
	require.Equal(t, modulesDisabled, Sysctls()[len(Sysctls())-1].Name, "after it nothing can be loaded")
}

func TestTooManyEndsInATimeStartTheMachineAgain(t *testing.T) {
	row := rule{role: RoleAgent, wait: time.Second, most: 3, within: time.Minute}
	var r record
	at := time.Unix(1, 0)
	for i, step := range []struct {
		after  time.Duration
		asked  bool
		reboot bool
	}{{0, false, false}, {time.Second, false, false}, {time.Second, true, false}, {59 * time.Second, false, false}, {time.Second, false, false}, {time.Second, false, true}} {
		at = at.Add(step.after)
		wait, reboot := r.ended(row, at, step.asked)
		require.Equal(t, step.reboot, reboot, "end %d", i)
		if !step.asked {
			require.Equal(t, row.wait, wait)
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package hardening

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// whole is a system that has everything the tables refer to.
func whole() System {
	s := System{Release: "6.12.0-test"}
	config, words := "CONFIG_X86_64=y\n", []string{}
	for _, row := range rows(optionsText) {
		fields := strings.SplitN(row, " ", 4)
		if fields[2] != "n" {
			config += "CONFIG_" + fields[1] + "=\"" + fields[2] + "\"\n"
		}
		if answer := strings.Join(fields[3:], ""); strings.HasPrefix(answer, "sysctl:") {
			s.Settings = append(s.Settings, Setting{answer[len("sysctl:"):], "1", "R9", "because of " + fields[1]})
		}
	}
	for _, row := range rows(wordsText) {
		words = append(words, strings.Fields(row)[0])
	}
	s.Config, s.CommandLine = []byte(config), strings.Join(words, " ")
	return s
}

func TestKernelWithAllThatIsAskedLeavesNothing(t *testing.T) {
	text, err := Text(whole())
	require.NoError(t, err)
	for n := 15; n <= 23; n++ {
		require.Contains(t, text, "| **yes** | kernel, below |\n")
	}
	require.NotContains(t, text, "| **part** | kernel, below |\n")
	require.NotContains(t, text, "kernel |  |")
	require.Contains(t, text, "no KEXEC")
	require.Contains(t, text, "DEFAULT_MMAP_MIN_ADDR=65536")
	require.Equal(t, 80, strings.Count(text, "\n| R")-strings.Count(text[strings.Index(text, "Configuration of"):], "\n| R"))
}

// What another answer stands on is looked up: taken away, there is no table.
func TestAnswerThatIsNotThereIsAnError(t *testing.T) {
	for says, change := range map[string]func(*System){
		"no configuration":       func(s *System) { s.Config = nil },
		"no reason for quiet-er": func(s *System) { s.CommandLine += " quiet-er" },
		"MODULE_SIG_FORCE: the command line": func(s *System) {
			s.Config = append(s.Config, "CONFIG_MODULES=y\n"...)
			s.unset("MODULE_SIG_FORCE")
			s.CommandLine = "quiet"
		},
		"KEXEC: PID 1 does not write": func(s *System) { s.Config = append(s.Config, "CONFIG_KEXEC=y\n"...); s.Settings = nil },
	} {
		s := whole()
		change(&s)
		_, err := Text(s)
		require.ErrorContains(t, err, says)
	}
	s := whole()
	s.unset("DEBUG_SG")
	s.unset("VMAP_STACK")
	s.unset("STRICT_DEVMEM")
	s.unset("STRICT_MODULE_RWX")
	text, err := Text(s)
	require.NoError(t, err)
	require.Contains(t, text, "| R16 | kernel options: data structures | **part** |")
	require.Contains(t, text, "DEBUG_SG is n: likewise")
	require.Contains(t, text, "STRICT_MODULE_RWX by there being no modules, STRICT_DEVMEM by there being no /dev/mem | VMAP_STACK is n |")
}

func (s *System) unset(option string) {
	s.Config = []byte(strings.Replace(string(s.Config), "CONFIG_"+option+"=\"y\"\n", "# CONFIG_"+option+" is not set\n", 1))
}

func TestReasonStandsOnceForWhatItIsSaidOf(t *testing.T) {
	s := whole()
	s.Settings = append(s.Settings, Setting{"a", "1", "R1", "why"}, Setting{"b", "2", "R1", "the same"}, Setting{"c", "3", "R2", "the same"})
	text, err := Text(s)
	require.NoError(t, err)
	require.Contains(t, text, "| `a=1` `b=2` | R1 | why |\n| `c=3` | R2 | the same |\n")
}

// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Sysctl is one kernel setting of a running box, and the recommendation it answers.
type Sysctl struct {
	Name, Value string
	ANSSI       string // number in ANSSI-BP-028 v2.0, "" where it has none
	Why         string
}

// Sysctls returns the kernel settings of a box. The last of them, kernel.modules_disabled, is written when every module is in.
func Sysctls() []Sysctl {
	return []Sysctl{
		{"kernel.kexec_load_disabled", "1", "", "no other kernel may be started from this one"},
		{"kernel.sysrq", "0", "R9", "no keyboard reaches the kernel's own commands"},
		{"kernel.dmesg_restrict", "1", "R9", "the kernel's log holds addresses"},
		{"kernel.kptr_restrict", "2", "R9", "nobody is told kernel addresses"},
		{"kernel.pid_max", "65536", "R9", "process numbers are not soon used again"},
		{"kernel.perf_event_paranoid", "3", "R9", "no performance counters, which leak"},
		{"kernel.perf_event_max_sample_rate", "1", "R9", "the same"},
		{"kernel.perf_cpu_time_max_percent", "1", "R9", "the same"},
		{"kernel.randomize_va_space", "2", "R9", "addresses of every process are drawn"},
		{"kernel.unprivileged_bpf_disabled", "1", "R9", "no program of a user runs in the kernel"},
		{"kernel.panic_on_oops", "1", "R9", "a kernel in doubt starts again"},
		{"kernel.panic", "-1", "", "and at once"},
		{"kernel.yama.ptrace_scope", "3", "R11", "no process looks into another"},
		{"kernel.io_uring_disabled", "2", "", "a way around seccomp"},
		{"kernel.core_pattern", "", "", "no memory of a process is written anywhere"},
		{"kernel.core_uses_pid", "0", "", "with an empty pattern this, too, would name a file"},
		{"user.max_user_namespaces", "0", "", "nobody becomes root of a world of his own"},
		{"vm.unprivileged_userfaultfd", "0", "", "no user halts the kernel at a page of his choice"},
		{"vm.panic_on_oom", "0", "", "when memory ends, the agent goes first, and comes back"},
		{"vm.mmap_min_addr", "65536", "", "a null pointer leads nowhere"},
		{"fs.protected_fifos", "2", "R14", "other users' files in shared folders are left alone"},
		{"fs.protected_regular", "2", "R14", "the same"},
		{"fs.protected_symlinks", "1", "R14", "the same"},
		{"fs.protected_hardlinks", "1", "R14", "the same"},
		{"fs.suid_dumpable", "0", "R14", "no core of a program that changed its user"},
		{"dev.tty.ldisc_autoload", "0", "", "no terminal driver is loaded by a user"},
		{"net.core.bpf_jit_harden", "2", "R12", "constants in the kernel's compiled programs are blinded"},
		{"net.mptcp.enabled", "0", "", "Landlock does not see its connections"},
		{"net.ipv4.ip_forward", "0", "R12", "a box carries nobody else's packets"},
		{"net.ipv4.conf.all.rp_filter", "1", "R12", "a packet comes in where its answer goes out"},
		{"net.ipv4.conf.default.rp_filter", "1", "R12", "the same"},
		{"net.ipv4.conf.all.accept_redirects", "0", "R12", "nobody in the office changes the way"},
		{"net.ipv4.conf.default.accept_redirects", "0", "R12", "the same"},
		{"net.ipv4.conf.all.secure_redirects", "0", "R12", "the same"},
		{"net.ipv4.conf.default.secure_redirects", "0", "R12", "the same"},
		{"net.ipv4.conf.all.send_redirects", "0", "R12", "and the box changes nobody's"},
		{"net.ipv4.conf.default.send_redirects", "0", "R12", "the same"},
		{"net.ipv4.conf.all.accept_source_route", "0", "R12", "a sender does not choose the way"},
		{"net.ipv4.conf.default.accept_source_route", "0", "R12", "the same"},
		{"net.ipv4.conf.all.arp_filter", "1", "R12", "an address is answered for where it is"},
		{"net.ipv4.conf.all.arp_ignore", "2", "R12", "the same"},
		{"net.ipv4.icmp_ignore_bogus_error_responses", "1", "R12", "noise is not logged"},
		{"net.ipv4.icmp_echo_ignore_broadcasts", "1", "R12", "no answer to everybody at once"},
		{"net.ipv4.tcp_rfc1337", "1", "R12", "a closed connection stays closed"},
		{"net.ipv4.tcp_syncookies", "1", "R12", "floods cost nothing"},
		{"net.ipv4.ip_local_port_range", "32768 65535", "R12", "many ports to draw from"},
		{"net.ipv6.conf.all.accept_redirects", "0", "R13", "as for IPv4"},
		{"net.ipv6.conf.default.accept_redirects", "0", "R13", "as for IPv4"},
		{"net.ipv6.conf.all.accept_source_route", "0", "R13", "as for IPv4"},
		{"net.ipv6.conf.default.accept_source_route", "0", "R13", "as for IPv4"},
		{"net.ipv6.conf.all.forwarding", "0", "R13", "as for IPv4"},
		{modulesDisabled, "1", "R10", "no code enters the kernel any more"},
	}
}

const modulesDisabled = "kernel.modules_disabled"

// apply writes one setting under root, normally /proc/sys.
func (s Sysctl) apply(root string) error {
	path := filepath.Join(root, strings.ReplaceAll(s.Name, ".", "/"))
	f, err := os.OpenFile(path, os.O_WRONLY, 0) // not made: a kernel that lacks it says so
	if err == nil {
		_, err = f.WriteString(s.Value + "\n")
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return fmt.Errorf("kernel setting %s: %w", s.Name, err)
	}
	return nil
}

// applyAll writes the whole table. It tells of what this kernel does not have and goes on: the table is the same for all of them.
func applyAll(table []Sysctl, root string) (missing []string, err error) {
	for _, s := range table {
		switch e := s.apply(root); {
		case e == nil:
		case errors.Is(e, os.ErrNotExist):
			missing = append(missing, s.Name)
		default:
			err = errors.Join(err, e)
		}
	}
	return missing, err
}

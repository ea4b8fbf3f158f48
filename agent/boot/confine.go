// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"syscall"

	seccomp "github.com/elastic/go-seccomp-bpf"
	"github.com/landlock-lsm/go-landlock/landlock"
	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
)

const pcscd = "/usr/sbin/pcscd"

// RunCard turns this process into pcscd, confined to what a card reader needs. It returns only when that fails.
func RunCard() error {
	if err := Confine(RoleCard); err != nil {
		return err
	}
	if err := syscall.Exec(pcscd, []string{"pcscd", "--foreground"}, os.Environ()); err != nil {
		return fmt.Errorf("start pcscd: %w", err)
	}
	return nil
}

// Descriptors of the role network.
const (
	slotsFile   = 3 // brings the configuration slots
	reportsFile = 4 // takes reports
)

// RunNetworkRole is the role network of PID 1, confined to sockets and what it was given.
func RunNetworkRole(ctx context.Context, log *slog.Logger) error {
	if err := Confine(RoleNetwork); err != nil {
		return err
	}
	slots, reports := os.NewFile(slotsFile, "slots"), os.NewFile(reportsFile, "reports")
	defer slots.Close()
	defer reports.Close()
	return RunNetwork(ctx, slots, reports, log)
}

// Confine gives up, for this whole process and for good, every file, port and system call that a role does not need. It comes before
// the role reads a byte of anybody's.
func Confine(role Role) error {
	c, known := confinements()[role]
	if !known {
		return fmt.Errorf("confine: no role %q", role)
	}
	if err := c.landlock(); err != nil {
		return fmt.Errorf("confine %s: files: %w", role, err)
	}
	// Every thread may gain no privilege any more: Landlock saw to it.
	err := seccomp.LoadFilter(seccomp.Filter{
		NoNewPrivs: true, Flag: seccomp.FilterFlagTSync | seccomp.FilterFlagLog,
		Policy: seccomp.Policy{
			DefaultAction: seccomp.ActionErrno, // EPERM, and a line in the kernel's log
			Syscalls:      []seccomp.SyscallGroup{{Names: c.allowed(), Action: seccomp.ActionAllow}},
		},
	})
	if err != nil {
		return fmt.Errorf("confine %s: %w", role, err)
	}
	return nil
}

// confinement is what a role may do. The folders hold for what appears in them later, too.
type confinement struct {
	programs []string // folders it may read and execute from
	read     []string // folders it may read
	write    []string // folders it may change files in
	devices  []string // folders of devices it may use, if they are its own: PID 1 decides by their owners
	tcp      bool     // it may connect, to anywhere: sites choose ports and proxies
	calls    string   // system calls beside those of every role
}

func confinements() map[Role]confinement {
	return map[Role]confinement{
		RoleAgent: {
			read:    []string{"/etc", "/proc", "/sys", "/run/net"},
			devices: []string{"/dev"},
			tcp:     true,
		},
		RoleCard: {
			programs: []string{"/usr/sbin", "/lib", "/lib64", "/usr/lib"},
			read:     []string{"/etc", "/sys"},
			write:    []string{"/run/pcscd"},
			devices:  []string{"/dev"},
			calls: "execve listen accept access chdir chmod fchmod statfs fstatfs umask unlink unlinkat mkdir stat lstat open select pselect6 " +
				"timerfd_create timerfd_settime timerfd_gettime flock readlink getdents kill pipe alarm setitimer",
		},
		RoleNetwork: {
			read: []string{"/etc", "/proc", "/sys"},
		},
	}
}

// allowed lists the system calls of a role: what the runtimes of Go and C need, files, sockets and devices that are open already or may
// be opened, and the role's own. None of them starts a program, makes a namespace, looks into another process or waits at a TCP port.
func (c confinement) allowed() []string {
	const every = `
read write readv writev pread64 pwrite64 close fstat newfstatat statx lseek openat readlinkat getdents64 faccessat faccessat2 fcntl dup3 dup ftruncate
ioctl pipe2 poll ppoll epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2 eventfd2 inotify_init1 inotify_add_watch inotify_rm_watch
socket socketpair connect bind getsockname getpeername setsockopt getsockopt sendto recvfrom sendmsg recvmsg sendmmsg recvmmsg shutdown accept4
mmap munmap mprotect mremap madvise mincore brk membarrier futex futex_waitv set_robust_list get_robust_list rseq set_tid_address arch_prctl
clone clone3 exit exit_group gettid getpid getppid getuid geteuid getgid getegid getgroups tgkill sched_yield sched_getaffinity sched_setaffinity
rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigtimedwait sigaltstack restart_syscall
nanosleep clock_nanosleep clock_gettime clock_getres gettimeofday time timer_create timer_settime timer_delete getrandom
getcwd uname sysinfo getrusage prlimit64 getrlimit prctl`
	return strings.Fields(every + " " + c.calls)
}

// landlock confines files, TCP, signals and the sockets without a file. A kernel that cannot is an error: an image has one kernel.
func (c confinement) landlock() error {
	const read = ll.AccessFSReadFile | ll.AccessFSReadDir
	const change = ll.AccessFSWriteFile | ll.AccessFSTruncate | ll.AccessFSMakeReg | ll.AccessFSMakeSock | ll.AccessFSRemoveFile
	config := landlock.V6
	if c.tcp {
		config.HandledAccessNet = ll.AccessNetBindTCP
	}
	var rules []landlock.Rule
	for _, r := range []struct {
		folders []string
		rights  landlock.AccessFSSet
	}{{c.programs, ll.AccessFSExecute | read}, {c.read, read}, {c.write, read | change}, {c.devices, read | ll.AccessFSWriteFile | ll.AccessFSIoctlDev}} {
		if len(r.folders) > 0 {
			rules = append(rules, landlock.PathAccess(r.rights, r.folders...).IgnoreIfMissing())
		}
	}
	return config.Restrict(rules...)
}

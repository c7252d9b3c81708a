package sentry

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/internal/seccomp"
)

// fileCapabilities are what serving files of other users takes. Without them, a root Sentry could not read its own guest's files.
const fileCapabilities = 1<<unix.CAP_CHOWN | 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_DAC_READ_SEARCH | 1<<unix.CAP_FOWNER | 1<<unix.CAP_FSETID

// Confine shuts the whole host process in: Landlock (the root and the mounts, nothing else), no_new_privs, no capability that serving
// files does not need, and a system-call filter on all threads. It cannot be undone. Missing says which of these this kernel does
// not have; the caller decides whether to go on without and must tell its user.
func (s *Sandbox) Confine() (missing []string, err error) {
	paths, err := reachable(&s.spec)
	if err != nil {
		return nil, err
	}
	filter, err := seccomp.Compile(s.rules())
	if err != nil {
		return nil, err
	}
	err = landlock(paths, s.spec.Net != NetNone)
	if errors.Is(err, errNoLandlock) {
		missing = append(missing, err.Error())
	} else if err != nil {
		return nil, err
	}
	if errno := keepCapabilities(fileCapabilities); errno != 0 {
		return nil, fmt.Errorf("dropping capabilities: %w", errno)
	}
	if err := seccomp.Install(filter); err != nil {
		return nil, err
	}
	return missing, nil
}

// rules are the system calls that the process may still make.
func (s *Sandbox) rules() []seccomp.Rule {
	pid := []uint32{uint32(os.Getpid())}
	rules := []seccomp.Rule{
		{Nr: unix.SYS_IOCTL, When: append(s.backend.ioctls(), terminalIoctls...)},
		{Nr: unix.SYS_TGKILL, When: [][]seccomp.Arg{{{N: 0, Values: pid}}}},
		{Nr: unix.SYS_CLONE, When: [][]seccomp.Arg{{{N: 0, Values: []uint32{threadFlags}}}}},
		{Nr: unix.SYS_KCMP, When: [][]seccomp.Arg{{{N: 0, Values: pid}, {N: 1, Values: pid}, {N: 2, Values: []uint32{0}}}}},
		{Nr: unix.SYS_PRCTL, When: [][]seccomp.Arg{{{N: 0, Values: []uint32{unix.PR_SET_VMA}}}}},
		// Never memory that can be run: the guest's code is mapped into the guest only.
		{Nr: unix.SYS_MMAP, When: [][]seccomp.Arg{{{N: 2, Mask: unix.PROT_EXEC, Values: []uint32{0}}}}},
		{Nr: unix.SYS_MPROTECT, When: [][]seccomp.Arg{{{N: 2, Mask: unix.PROT_EXEC, Values: []uint32{0}}}}},
	}
	for nr, dirs := range pathCalls {
		// A path only below an open directory: never AT_FDCWD.
		var open []seccomp.Arg
		for _, n := range dirs {
			open = append(open, seccomp.Arg{N: n, Mask: 0xffffffff80000000, Values: []uint32{0}})
		}
		rules = append(rules, seccomp.Rule{Nr: nr, When: [][]seccomp.Arg{open}})
	}
	rules = append(rules, seccomp.Allow(plainCalls...)...)
	if s.spec.Net != NetNone {
		rules = append(rules,
			seccomp.Rule{Nr: unix.SYS_SOCKET, When: [][]seccomp.Arg{{{N: 0, Values: []uint32{unix.AF_INET, unix.AF_INET6}}}}})
		rules = append(rules, seccomp.Allow(netCalls...)...)
	}
	return append(rules, s.backend.rules()...)
}

// threadFlags are those with which the Go runtime makes threads.
const threadFlags = unix.CLONE_VM | unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_SIGHAND | unix.CLONE_SYSVSEM | unix.CLONE_THREAD | unix.CLONE_SETTLS

// terminalIoctls are requests on the guest's standard files.
var terminalIoctls = [][]seccomp.Arg{{{N: 1, Values: []uint32{
	unix.TIOCINQ, unix.TCGETS, unix.TCSETS, unix.TCSETSW, unix.TCSETSF, unix.TCGETS2, unix.TCSETS2, unix.TCSETSW2, unix.TCSETSF2,
	unix.TIOCGWINSZ, unix.TIOCSWINSZ,
}}}}

// pathCalls take directories and names below them: the arguments that are directories.
var pathCalls = map[int][]int{
	unix.SYS_OPENAT: {0}, unix.SYS_STATX: {0}, unix.SYS_NEWFSTATAT: {0}, unix.SYS_READLINKAT: {0}, unix.SYS_UNLINKAT: {0}, unix.SYS_MKDIRAT: {0},
	unix.SYS_MKNODAT: {0}, unix.SYS_SYMLINKAT: {1}, unix.SYS_LINKAT: {0, 2}, unix.SYS_RENAMEAT: {0, 2}, unix.SYS_RENAMEAT2: {0, 2},
	unix.SYS_FCHMODAT: {0}, unix.SYS_FCHOWNAT: {0}, unix.SYS_UTIMENSAT: {0},
}

// plainCalls are those of the Go runtime and of the Sentry on open files, memory and itself.
var plainCalls = []int{
	// The Go runtime.
	unix.SYS_FUTEX, unix.SYS_NANOSLEEP, unix.SYS_CLOCK_NANOSLEEP, unix.SYS_CLOCK_GETTIME, unix.SYS_GETTIMEOFDAY, unix.SYS_SCHED_YIELD,
	unix.SYS_EPOLL_CREATE1, unix.SYS_EPOLL_CTL, unix.SYS_EPOLL_PWAIT, unix.SYS_EPOLL_WAIT, unix.SYS_EVENTFD2, unix.SYS_PIPE2,
	unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGRETURN, unix.SYS_SIGALTSTACK, unix.SYS_RESTART_SYSCALL,
	unix.SYS_GETTID, unix.SYS_GETPID, unix.SYS_EXIT, unix.SYS_EXIT_GROUP, unix.SYS_GETRANDOM, unix.SYS_SCHED_GETAFFINITY, unix.SYS_GETCPU,
	unix.SYS_SETITIMER, unix.SYS_TIMER_CREATE, unix.SYS_TIMER_SETTIME, unix.SYS_TIMER_DELETE, unix.SYS_GETRUSAGE, unix.SYS_MEMBARRIER,
	unix.SYS_SET_ROBUST_LIST, unix.SYS_RSEQ,
	// Memory.
	unix.SYS_MUNMAP, unix.SYS_MADVISE, unix.SYS_MINCORE, unix.SYS_MLOCK, unix.SYS_MUNLOCK, unix.SYS_MREMAP, unix.SYS_MEMFD_CREATE,
	// Open files.
	unix.SYS_READ, unix.SYS_WRITE, unix.SYS_READV, unix.SYS_WRITEV, unix.SYS_PREAD64, unix.SYS_PWRITE64, unix.SYS_PREADV, unix.SYS_PWRITEV,
	unix.SYS_PREADV2, unix.SYS_PWRITEV2, unix.SYS_LSEEK, unix.SYS_CLOSE, unix.SYS_DUP, unix.SYS_DUP3, unix.SYS_FCNTL, unix.SYS_FSTAT, unix.SYS_FSTATFS,
	unix.SYS_FSYNC, unix.SYS_FDATASYNC, unix.SYS_SYNC_FILE_RANGE, unix.SYS_FTRUNCATE, unix.SYS_FALLOCATE, unix.SYS_FCHMOD, unix.SYS_FCHOWN,
	unix.SYS_GETDENTS64, unix.SYS_FGETXATTR, unix.SYS_FSETXATTR, unix.SYS_FLISTXATTR, unix.SYS_FREMOVEXATTR, unix.SYS_POLL, unix.SYS_PPOLL,
	unix.SYS_FADVISE64,
	// By path, as the file server asks for what it has open without the right to read it: symbolic links first of all.
	unix.SYS_OPENAT2, unix.SYS_LGETXATTR, unix.SYS_LLISTXATTR,
	// Open sockets: passed files, the file server's connection, a control socket.
	unix.SYS_ACCEPT4, unix.SYS_SENDMSG, unix.SYS_RECVMSG, unix.SYS_SENDMMSG, unix.SYS_RECVMMSG, unix.SYS_SHUTDOWN, unix.SYS_GETSOCKOPT,
	unix.SYS_GETSOCKNAME, unix.SYS_GETPEERNAME, unix.SYS_SENDTO, unix.SYS_RECVFROM,
}

// netCalls are added for a guest with a network.
var netCalls = []int{unix.SYS_CONNECT, unix.SYS_BIND, unix.SYS_SETSOCKOPT}

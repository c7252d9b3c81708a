package sentry

import (
	"strings"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
)

// Audit says which system calls of the guest's programs are told, and to whom.
type Audit struct {
	Every  uint64     // beside those that matter to security, each that many-th of the others; 1: all; 0: none
	Record func(Call) // is called in the program's place, when the call has returned; must not keep Call's memory
}

// Call is a system call that has returned.
type Call struct {
	Name     string
	PID, TID int32 // inside
	UID      uint32
	Number   uint64
	Args     [6]uint64
	Paths    [2]string // what the call names, if it names files, as the program wrote it; at most 4095 bytes each
	Result   int64     // of the call, or a negative errno
}

// auditor is the kernel.Stracer of system calls that are audited. There is one for each table, as the table is one for all kernels.
type auditor struct {
	names map[uintptr]string
	next  kernel.Stracer // of --strace; nil: none
}

// audits has what each kernel is to tell: *kernel.Kernel to *audit.
var audits sync.Map

type audit struct {
	Audit
	others atomic.Uint64 // calls that do not matter to security
}

// watch begins to tell the kernel's system calls.
func (a *Audit) watch(k *kernel.Kernel) {
	audits.Store(k, &audit{Audit: *a})
	for _, table := range kernel.SyscallTables() {
		names, wanted := map[uintptr]string{}, map[uintptr]bool{}
		for nr, call := range table.Table {
			names[nr] = call.Name
			wanted[nr] = securityCalls[call.Name]
		}
		if _, ok := table.Stracer.(*auditor); !ok {
			table.Stracer = &auditor{names: names, next: table.Stracer}
		}
		if a.Every > 0 {
			table.FeatureEnable.EnableAll(kernel.StraceEnableEvent)
		} else {
			table.FeatureEnable.Enable(kernel.StraceEnableEvent, wanted, false)
		}
	}
}

// entered is a call on its way: what its end does not tell.
type entered struct {
	a     *audit // nil: it is not told
	call  Call
	trace any // of auditor.next
	next  bool
}

var calls = sync.Pool{New: func() any { return new(entered) }}

// SyscallEnter implements kernel.Stracer.
func (s *auditor) SyscallEnter(t *kernel.Task, nr uintptr, args arch.SyscallArguments, flags uint32) any {
	e := calls.Get().(*entered)
	*e = entered{}
	if s.next != nil && flags&kernel.StraceEnableLog != 0 {
		e.trace, e.next = s.next.SyscallEnter(t, nr, args, kernel.StraceEnableLog), true
	}
	v, ok := audits.Load(t.Kernel())
	if !ok || flags&kernel.StraceEnableEvent == 0 {
		return e
	}
	a := v.(*audit)
	name := s.names[nr]
	if !securityCalls[name] && (a.Every == 0 || a.others.Add(1)%a.Every != 0) {
		return e
	}
	if name == "" {
		name = "unknown"
	}
	e.a, e.call.Name, e.call.Number = a, name, uint64(nr)
	for i := range e.call.Args {
		e.call.Args[i] = args[i].Uint64()
	}
	// Now: execve's are gone at its end.
	for i, arg := range pathArgs[name] {
		if p, err := t.CopyInString(args[arg].Pointer(), maxPath); err == nil {
			e.call.Paths[i] = strings.ToValidUTF8(p, "\uFFFD")
		}
	}
	return e
}

// maxPath is PATH_MAX.
const maxPath = 4096

// SyscallExit implements kernel.Stracer.
func (s *auditor) SyscallExit(context any, t *kernel.Task, nr, rval uintptr, err error) {
	e := context.(*entered)
	if e.next {
		s.next.SyscallExit(e.trace, t, nr, rval, err)
	}
	if e.a != nil {
		e.call.PID, e.call.TID = int32(t.ThreadGroup().ID()), int32(t.ThreadID())
		e.call.UID = uint32(t.Credentials().EffectiveKUID)
		if e.call.Result = int64(rval); err != nil {
			e.call.Result = -int64(kernel.ExtractErrno(err, int(nr)))
		}
		e.a.Record(e.call)
	}
	calls.Put(e)
}

// securityCalls are those that make and end programs, open and change files, reach others, and change who may do what.
var securityCalls = setOf(`
	execve execveat fork vfork clone clone3 exit_group
	open openat openat2 creat truncate
	unlink unlinkat rename renameat renameat2 link linkat symlink symlinkat mkdir mkdirat rmdir mknod mknodat
	chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat setxattr lsetxattr fsetxattr removexattr lremovexattr fremovexattr
	mount umount2 pivot_root chroot fsopen fsmount move_mount open_tree mount_setattr swapon swapoff quotactl
	socket connect bind listen accept accept4
	kill tkill tgkill rt_sigqueueinfo rt_tgsigqueueinfo pidfd_send_signal pidfd_getfd ptrace process_vm_readv process_vm_writev
	setuid setgid setreuid setregid setresuid setresgid setfsuid setfsgid setgroups capset
	unshare setns prctl seccomp personality keyctl add_key request_key
	memfd_create io_uring_setup bpf perf_event_open userfaultfd init_module finit_module delete_module kexec_load kexec_file_load
	reboot sethostname setdomainname settimeofday clock_settime adjtimex clock_adjtime iopl ioperm acct syslog`)

func setOf(text string) map[string]bool {
	set := map[string]bool{}
	for _, name := range strings.Fields(text) {
		set[name] = true
	}
	return set
}

// pathArgs says which arguments of a call are paths.
var pathArgs = map[string][]int{
	"execve": {0}, "execveat": {1}, "open": {0}, "openat": {1}, "openat2": {1}, "creat": {0}, "truncate": {0},
	"unlink": {0}, "unlinkat": {1}, "rename": {0, 1}, "renameat": {1, 3}, "renameat2": {1, 3}, "link": {0, 1}, "linkat": {1, 3},
	"symlink": {0, 1}, "symlinkat": {0, 2}, "mkdir": {0}, "mkdirat": {1}, "rmdir": {0}, "mknod": {0}, "mknodat": {1},
	"chmod": {0}, "fchmodat": {1}, "fchmodat2": {1}, "chown": {0}, "lchown": {0}, "fchownat": {1},
	"setxattr": {0}, "lsetxattr": {0}, "removexattr": {0}, "lremovexattr": {0},
	"mount": {0, 1}, "umount2": {0}, "pivot_root": {0, 1}, "chroot": {0},
}

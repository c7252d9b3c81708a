package sentry

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	gerrors "gvisor.dev/gvisor/pkg/errors"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/user"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/limits"
)

// containerCapabilities is what root has in a container when nothing else is said.
const containerCapabilities = 1<<linux.CAP_CHOWN | 1<<linux.CAP_DAC_OVERRIDE | 1<<linux.CAP_FSETID |
	1<<linux.CAP_FOWNER | 1<<linux.CAP_MKNOD | 1<<linux.CAP_NET_RAW | 1<<linux.CAP_SETGID |
	1<<linux.CAP_SETUID | 1<<linux.CAP_SETFCAP | 1<<linux.CAP_SETPCAP | 1<<linux.CAP_NET_BIND_SERVICE |
	1<<linux.CAP_SYS_CHROOT | 1<<linux.CAP_KILL | 1<<linux.CAP_AUDIT_WRITE

// credentials of a program. Without capabilities given, root has those of a container and everybody else none.
func credentials(uid, gid uint32, groups []uint32, c *Capabilities, ns *auth.UserNamespace) *auth.Credentials {
	if c == nil {
		c = &Capabilities{Bounding: containerCapabilities}
		if uid == 0 {
			c.Effective, c.Permitted = containerCapabilities, containerCapabilities
		}
	}
	extra := make([]auth.KGID, len(groups))
	for i, g := range groups {
		extra[i] = auth.KGID(g)
	}
	return auth.NewUserCredentials(auth.KUID(uid), auth.KGID(gid), extra, &auth.TaskCapabilities{
		PermittedCaps:   auth.CapabilitySet(c.Permitted),
		InheritableCaps: auth.CapabilitySet(c.Inheritable),
		EffectiveCaps:   auth.CapabilitySet(c.Effective),
		BoundingCaps:    auth.CapabilitySet(c.Bounding),
	}, ns)
}

// hostLimits are the host process's limits of open files and file size. They are read once: a confined process cannot ask.
var hostLimits = sync.OnceValues(func() (l [2]limits.Limit, err error) {
	for i, res := range []int{unix.RLIMIT_NOFILE, unix.RLIMIT_FSIZE} {
		var host unix.Rlimit
		if err := unix.Getrlimit(res, &host); err != nil {
			return l, fmt.Errorf("reading the host's limit %d: %w", res, err)
		}
		l[i] = limits.Limit{Cur: limits.FromLinux(host.Cur), Max: limits.FromLinux(host.Max)}
	}
	return l, nil
})

// limitSet are the limits of a program: those of a container, with files and file size as the host process has them.
func limitSet(given []Rlimit) (*limits.LimitSet, error) {
	ls := limits.NewLimitSet()
	unlimited := limits.Limit{Cur: limits.Infinity, Max: limits.Infinity}
	for _, t := range []limits.LimitType{limits.AS, limits.Core, limits.CPU, limits.Data, limits.FileSize, limits.Locks,
		limits.ProcessCount, limits.Rss, limits.Rttime} {
		ls.SetUnchecked(t, unlimited)
	}
	ls.SetUnchecked(limits.MemoryLocked, limits.Limit{Cur: 64 << 10, Max: 64 << 10})
	ls.SetUnchecked(limits.MessageQueueBytes, limits.Limit{Cur: 819200, Max: 819200})
	ls.SetUnchecked(limits.Stack, limits.Limit{Cur: 8 << 20, Max: limits.Infinity})
	host, err := hostLimits()
	if err != nil {
		return nil, err
	}
	ls.SetUnchecked(limits.NumberOfFiles, host[0])
	ls.SetUnchecked(limits.FileSize, host[1])
	for _, r := range given {
		t, ok := limits.FromLinuxResource[r.Type]
		if !ok {
			return nil, fmt.Errorf("no resource limit has the number %d", r.Type)
		}
		if r.Soft > r.Hard {
			return nil, fmt.Errorf("resource limit %d: soft limit %d is above the hard limit %d", r.Type, r.Soft, r.Hard)
		}
		ls.SetUnchecked(t, limits.Limit{Cur: limits.FromLinux(r.Soft), Max: limits.FromLinux(r.Hard)})
	}
	return ls, nil
}

// program is one process that the host side started, with what it was given.
type program struct {
	*stdio
	tg  *kernel.ThreadGroup
	pid kernel.ThreadID
}

// create makes the process of args with the files; nothing of it runs yet.
func (s *Sandbox) create(args kernel.CreateProcessArgs, files [3]*os.File, tty bool) (*program, error) {
	ctx := args.NewContext(s.k)
	fds := s.k.NewFDTable()
	defer fds.DecRef(ctx)
	io, err := importFiles(ctx, s.k, fds, files, &args, tty)
	if err != nil {
		return nil, err
	}
	p := &program{stdio: io}
	args.FDTable = fds
	if p.tty != nil {
		args.TTY = p.tty.TTY()
	}
	if args.Filename, err = user.ResolveExecutablePath(ctx, &args); err != nil {
		p.giveBack(ctx)
		return nil, newStartError(args.Argv[0], err)
	}
	args.MountNamespace.IncRef() // for the process
	if p.tg, p.pid, err = s.k.CreateProcess(args); err != nil {
		p.giveBack(ctx)
		return nil, newStartError(args.Filename, err)
	}
	return p, nil
}

// StartError says that a program could not be started at all.
type StartError struct {
	Program string
	Errno   syscall.Errno // what execve(2) would give; 0 if that is not known. errors.Is finds it too
	Err     error
}

// startErrnos are those by which an execve(2) fails for the program's sake.
var startErrnos = []*gerrors.Error{
	linuxerr.ENOENT, linuxerr.EACCES, linuxerr.ENOEXEC, linuxerr.ENOTDIR, linuxerr.EISDIR, linuxerr.EPERM, linuxerr.ELOOP, linuxerr.ENAMETOOLONG,
	linuxerr.E2BIG, linuxerr.ENOMEM, linuxerr.EIO, linuxerr.EINVAL, linuxerr.ELIBBAD, linuxerr.ETXTBSY,
}

// newStartError makes a StartError. The Sentry gives its errors of a start as texts that end in the message of the error number.
func newStartError(program string, err error) *StartError {
	e := &StartError{Program: program, Err: err}
	for _, known := range startErrnos {
		if strings.HasSuffix(err.Error(), known.Error()) {
			e.Errno = syscall.Errno(known.Errno())
			break
		}
	}
	return e
}

// Error implements error.
func (e *StartError) Error() string { return fmt.Sprintf("starting %s: %v", e.Program, e.Err) }

// Unwrap gives the cause and its error number.
func (e *StartError) Unwrap() []error {
	if e.Errno == 0 {
		return []error{e.Err}
	}
	return []error{e.Err, e.Errno}
}

package sentry

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/fd"
	"gvisor.dev/gvisor/pkg/sentry/fdimport"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/host"
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
	for res, t := range map[int]limits.LimitType{unix.RLIMIT_NOFILE: limits.NumberOfFiles, unix.RLIMIT_FSIZE: limits.FileSize} {
		var host unix.Rlimit
		if err := unix.Getrlimit(res, &host); err != nil {
			return nil, fmt.Errorf("reading the host's limit %d: %w", res, err)
		}
		ls.SetUnchecked(t, limits.Limit{Cur: limits.FromLinux(host.Cur), Max: limits.FromLinux(host.Max)})
	}
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
	tg    *kernel.ThreadGroup
	pid   kernel.ThreadID
	tty   *host.TTYFileDescription // nil without a terminal
	files [3]sharedFile
}

// sharedFile is a file that the guest got from the host. The Sentry makes open files non-blocking, and others
// may share them: a shell, for one, its terminal. restore undoes that.
type sharedFile struct {
	fd    int // a duplicate of our own; -1: none
	flags int
}

// restore gives the file the flags it came with.
func (s *sharedFile) restore() {
	if s.fd < 0 {
		return
	}
	unix.FcntlInt(uintptr(s.fd), unix.F_SETFL, s.flags)
	unix.Close(s.fd)
	s.fd = -1
}

// restoreFiles gives the files of p back as they came.
func (p *program) restoreFiles() {
	for i := range p.files {
		p.files[i].restore()
	}
}

// dupFiles makes two duplicates of each file: one the Sentry will own, one to give the flags back with.
func dupFiles(files [3]*os.File) (own map[int]*fd.FD, shared [3]sharedFile, err error) {
	own = map[int]*fd.FD{}
	for i := range shared {
		shared[i].fd = -1
	}
	for i, f := range files {
		n := int(f.Fd()) // sets blocking mode, which is what a standard file has anyway
		var flags, a, b int
		if flags, err = unix.FcntlInt(uintptr(n), unix.F_GETFL, 0); err == nil {
			if a, err = unix.FcntlInt(uintptr(n), unix.F_DUPFD_CLOEXEC, 3); err == nil {
				shared[i] = sharedFile{a, flags}
				// The guest's descriptor takes its close-on-exec flag from this one.
				b, err = unix.FcntlInt(uintptr(n), unix.F_DUPFD, 3)
			}
		}
		if err != nil {
			closeAll(own)
			for i := range shared {
				shared[i].restore()
			}
			return nil, shared, fmt.Errorf("duplicating file %d of the guest: %w", i, err)
		}
		own[i] = fd.New(b)
	}
	return own, shared, nil
}

// closeAll closes what the Sentry did not take.
func closeAll(own map[int]*fd.FD) {
	for _, f := range own {
		f.Close()
	}
}

// create makes the process of args with the files; nothing of it runs yet.
func (s *Sandbox) create(args kernel.CreateProcessArgs, files [3]*os.File, tty bool) (*program, error) {
	ctx := args.NewContext(s.k)
	own, shared, err := dupFiles(files)
	if err != nil {
		return nil, err
	}
	defer closeAll(own)
	p := &program{files: shared}
	fds := s.k.NewFDTable()
	defer fds.DecRef(ctx)
	p.tty, err = fdimport.Import(ctx, fds, own, fdimport.ImportOptions{
		Console:       tty,
		Restorable:    args.Origin != kernel.OriginExec,
		UID:           args.Credentials.RealKUID,
		GID:           args.Credentials.RealKGID,
		ContainerName: containerID,
		SupportTTYs:   true,
	})
	if err != nil {
		p.restoreFiles()
		return nil, fmt.Errorf("passing standard files to the guest: %w", err)
	}
	args.FDTable = fds
	if p.tty != nil {
		args.TTY = p.tty.TTY()
	}
	if args.Filename, err = user.ResolveExecutablePath(ctx, &args); err != nil {
		p.restoreFiles()
		return nil, &StartError{Program: args.Argv[0], Err: err}
	}
	args.MountNamespace.IncRef() // for the process
	if p.tg, p.pid, err = s.k.CreateProcess(args); err != nil {
		p.restoreFiles()
		return nil, &StartError{Program: args.Filename, Err: err}
	}
	return p, nil
}

// StartError says that a program could not be started at all.
type StartError struct {
	Program string
	Err     error
}

// Error implements error.
func (e *StartError) Error() string { return fmt.Sprintf("starting %s: %v", e.Program, e.Err) }

// Unwrap gives the cause.
func (e *StartError) Unwrap() error { return e.Err }

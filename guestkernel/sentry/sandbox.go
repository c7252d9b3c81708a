package sentry

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"sync"
	"sync/atomic"
	"syscall"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"github.com/qenex/qenex-kernel/usernet"
)

// Errors of requests that come at the wrong time.
var (
	ErrNotStarted = errors.New("the sandbox has not been started")
	ErrStarted    = errors.New("the sandbox has already been started")
	ErrNoProcess  = errors.New("no such process in the sandbox")
)

// Sandbox is one guest. Its methods may be called from any goroutine.
type Sandbox struct {
	spec    Spec
	backend *backend
	k       *kernel.Kernel
	mns     *vfs.MountNamespace // one reference is ours
	args    kernel.CreateProcessArgs
	files   *fileServer
	gateway *usernet.Gateway // nil without a network
	null    *os.File         // /dev/null, for programs without files

	mu       sync.Mutex
	restored *program         // the first program of a saved sandbox
	first    *program         // set by Start
	execs    map[int]*program // by PID, until they have been waited for
	paused   bool
	closed   bool
	ended    bool // the first program has been waited for

	outOfMemory atomic.Bool
}

// New builds a sandbox: nothing of the guest has run, and the process is not yet confined.
func New(spec Spec) (*Sandbox, error) {
	if err := spec.check(); err != nil {
		return nil, err
	}
	if err := setLog(&spec); err != nil {
		return nil, err
	}
	s := &Sandbox{spec: spec, execs: map[int]*program{}}
	if spec.VM != nil {
		s.backend = spec.VM.b
	} else {
		s.backend = startBackend(spec.Device, spec.Mode)
	}
	if err := s.build(); err != nil {
		s.backend.release()
		return nil, err
	}
	if spec.Audit != nil {
		spec.Audit.watch(s.k)
	}
	return s, nil
}

// check refuses a spec that cannot work.
func (spec *Spec) check() error {
	if len(spec.Args) == 0 && spec.Restore == nil {
		return errors.New("no program to run")
	}
	if spec.RootWritable && spec.RootReadonly {
		return errors.New("a root cannot be writable and read-only")
	}
	if spec.CPUs < 0 {
		return fmt.Errorf("%d CPUs are too few", spec.CPUs)
	}
	for _, m := range spec.Mounts {
		if !path.IsAbs(m.Target) {
			return fmt.Errorf("mount point %q is not an absolute path", m.Target)
		}
	}
	for i, def := range [3]*os.File{os.Stdin, os.Stdout, os.Stderr} {
		if spec.Files[i] == nil {
			spec.Files[i] = def
		}
	}
	return nil
}

// root is the host directory that the guest sees as its root.
func (spec *Spec) root() string {
	if spec.Root == "" {
		return "/"
	}
	return spec.Root
}

// build makes the kernel and the tree of mounts.
func (s *Sandbox) build() error {
	var err error
	if s.files, err = newFileServer(); err != nil {
		return err
	}
	if s.null, err = os.OpenFile(os.DevNull, os.O_RDWR, 0); err != nil {
		return fmt.Errorf("opening the empty file: %w", err)
	}
	if s.spec.Restore != nil {
		return s.restore()
	}
	if s.k, s.gateway, err = newKernel(&s.spec, s.backend); err != nil {
		return err
	}
	if s.args, err = s.processArgs(); err != nil {
		return err
	}
	root := s.args
	root.Credentials = auth.NewRootCredentials(s.k.RootUserNamespace())
	m := &mounter{spec: &s.spec, v: s.k.VFS(), k: s.k, files: s.files, creds: root.Credentials, ctx: root.NewContext(s.k)}
	if s.mns, err = m.mountAll(); err != nil {
		return err
	}
	s.args.MountNamespace = s.mns
	return s.backend.wait()
}

// processArgs is what the first program is made with; Exec changes some of it.
func (s *Sandbox) processArgs() (kernel.CreateProcessArgs, error) {
	limits, err := limitSet(s.spec.Rlimits)
	if err != nil {
		return kernel.CreateProcessArgs{}, err
	}
	umask := uint(0o022)
	if s.spec.Umask != nil {
		umask = uint(*s.spec.Umask) & 0o777
	}
	dir := s.spec.Dir
	if dir == "" {
		dir = "/"
	}
	return kernel.CreateProcessArgs{
		Argv:                 s.spec.Args,
		Envv:                 s.spec.Env,
		WorkingDirectory:     dir,
		Credentials:          credentials(s.spec.UID, s.spec.GID, s.spec.Groups, s.spec.Capabilities, s.k.RootUserNamespace()),
		NoNewPrivs:           s.spec.NoNewPrivs,
		Umask:                umask,
		Limits:               limits,
		MaxSymlinkTraversals: linux.MaxSymlinkTraversals,
		UTSNamespace:         s.k.RootUTSNamespace(),
		IPCNamespace:         s.k.RootIPCNamespace(),
		PIDNamespace:         s.k.RootPIDNamespace(),
		ContainerID:          containerID,
	}, nil
}

// Start lets the first program run.
func (s *Sandbox) Start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.first != nil {
		return ErrStarted
	}
	p := s.restored
	if p == nil {
		var err error
		if p, err = s.create(s.args, s.spec.Files, s.spec.TTY); err != nil {
			return err
		}
	}
	if err := s.k.Start(); err != nil {
		p.giveBack(s.k.SupervisorContext())
		return fmt.Errorf("starting the Sentry kernel: %w", err)
	}
	s.first = p
	if s.spec.Memory != 0 {
		ended := make(chan struct{})
		go func() {
			p.tg.WaitExited()
			close(ended)
		}()
		go s.guardMemory(ended)
	}
	return nil
}

// started gives the first program.
func (s *Sandbox) started() (*program, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.first == nil {
		return nil, ErrNotStarted
	}
	return s.first, nil
}

// PID is the process ID of the first program inside, usually 1.
func (s *Sandbox) PID() int {
	p, err := s.started()
	if err != nil {
		return 0
	}
	return int(p.pid)
}

// Wait blocks until the first program has ended; all that it wrote has then reached its files.
func (s *Sandbox) Wait() (Status, error) {
	p, err := s.started()
	if err != nil {
		return Status{}, err
	}
	return s.wait(p), nil
}

// wait blocks until p has ended and gives its files back as they came.
func (s *Sandbox) wait(p *program) Status {
	p.tg.WaitExited()
	s.mu.Lock()
	p.giveBack(s.k.SupervisorContext())
	s.ended = s.ended || p == s.first
	s.mu.Unlock()
	ws := p.tg.ExitStatus()
	if ws.Signaled() {
		return Status{Signal: syscall.Signal(ws.TerminationSignal())}
	}
	return Status{Code: int(ws.ExitStatus())}
}

// Close ends every program and frees what the sandbox held. A process that is about to exit need not call it.
func (s *Sandbox) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	first := s.first
	s.mu.Unlock()
	ctx := s.k.SupervisorContext()
	if first != nil {
		if s.k.IsPaused() {
			s.k.Unpause()
		}
		s.k.Kill(linux.WaitStatusTerminationSignal(linux.SIGKILL))
		s.k.WaitExited()
		s.wait(first)
	}
	audits.Delete(s.k)
	s.mns.DecRef(ctx)
	s.k.Release()
	if s.gateway != nil {
		s.gateway.Close()
	}
	s.null.Close()
	s.backend.release()
	return nil
}

var _ io.Closer = (*Sandbox)(nil)

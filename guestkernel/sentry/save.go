package sentry

import (
	stdcontext "context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/sentry/checkpoint"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/host"
	"gvisor.dev/gvisor/pkg/sentry/inet"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/socket/netfilter"
	"gvisor.dev/gvisor/pkg/sentry/socket/netstack"
	sentrytime "gvisor.dev/gvisor/pkg/sentry/time"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/state"
	"gvisor.dev/gvisor/pkg/state/statefile"

	"github.com/qenex/qenex-kernel/guestkernel/sentry/internal/early"
	"github.com/qenex/qenex-kernel/usernet"
)

// saveFormat names what Save writes; Restore refuses anything else. The state of a Sentry can only be read by the very same Sentry.
const (
	saveFormatKey = "qenex-format"
	saveFormat    = "1 gvisor 20260905035102-160fafc42237"
)

// Save writes the whole sandbox, memory included, to w, which stays open. The programs stand still meanwhile; with stop they are ended
// afterwards. Network connections beyond loopback do not survive a restore.
func (s *Sandbox) Save(w *os.File, stop bool) error {
	if _, err := s.started(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.execs) != 0 {
		return fmt.Errorf("saving the sandbox: %d programs of Exec are running", len(s.execs))
	}
	if !s.paused {
		s.k.Pause()
		defer s.k.Unpause()
	}
	s.k.ReceiveTaskStates()
	sw, err := statefile.NewWriter(w, nil, map[string]string{saveFormatKey: saveFormat})
	if err != nil {
		return fmt.Errorf("writing the saved state: %w", err)
	}
	ctx := s.k.SupervisorContext()
	if err := s.k.SaveTo(ctx, sw, nil, nil, false, !stop); err != nil {
		s.k.BeforeResume(ctx)
		return fmt.Errorf("saving the sandbox: %w", err)
	}
	if stop {
		s.k.Kill(linux.WaitStatusExit(0))
	} else {
		s.k.BeforeResume(ctx)
	}
	return nil
}

// restore builds the kernel from spec.Restore. Start lets it run on.
func (s *Sandbox) restore() error {
	r, meta, err := statefile.NewReader(io.NopCloser(s.spec.Restore), nil)
	if err != nil {
		return fmt.Errorf("reading the saved state: %w", err)
	}
	defer r.Close()
	if got := meta[saveFormatKey]; got != saveFormat {
		return fmt.Errorf("the saved state has format %q, this program reads %q", got, saveFormat)
	}
	if err := processOnce(); err != nil {
		return err
	}
	early.CPU()
	if err := s.backend.wait(); err != nil {
		return err
	}
	s.k = &kernel.Kernel{Platform: s.backend}
	mf, err := newMemory()
	if err != nil {
		return err
	}
	s.k.SetMemoryFile(mf)
	s.backend.memory = mf
	fds, err := s.restoreFiles()
	if err != nil {
		return err
	}
	ctx := context.WithValue(s.k.SupervisorContext(), vfs.CtxRestoreFilesystemFDMap, fds)
	net := &restoredNetwork{spec: &s.spec}
	if err := s.k.LoadFrom(ctx, r, nil, nil, net, sentrytime.NewCalibratedClocks(false), &vfs.CompleteRestoreOptions{}, nil); err != nil {
		return fmt.Errorf("restoring the sandbox (root, mounts and files must be what they were when it was saved): %w", err)
	}
	s.gateway = net.gateway
	init := s.k.GlobalInit()
	if init == nil {
		return errors.New("restoring the sandbox: it has no first process")
	}
	pid := s.k.RootPIDNamespace().IDOfThreadGroup(init)
	s.restored = &program{stdio: &stdio{}, tg: init, pid: pid}
	s.mns = init.Leader().MountNamespace()
	s.mns.IncRef()
	if s.args, err = s.processArgs(); err != nil {
		return err
	}
	s.args.MountNamespace = s.mns
	return nil
}

// restoreFiles are the host files that a saved kernel asks for: connections to the file server, and the standard files.
func (s *Sandbox) restoreFiles() (map[checkpoint.ResourceID]int, error) {
	fds := map[checkpoint.ResourceID]int{}
	add := func(dir, target string, readonly bool) error {
		fd, err := s.files.connect(dir, readonly)
		if err == nil {
			fds[checkpoint.ResourceID{ContainerName: containerID, Path: target}] = fd
		}
		return err
	}
	err := add(s.spec.root(), "/", !s.spec.RootWritable)
	for _, m := range s.spec.Mounts {
		if err == nil && m.Type == MountBind {
			err = add(m.Source, path.Clean(m.Target), m.ReadOnly)
		}
	}
	for i, f := range s.spec.Files {
		if err != nil {
			break
		}
		var fd int
		if fd, err = unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3); err == nil {
			fds[host.MakeResourceID(containerID, i)] = fd
		}
	}
	if err != nil {
		for _, fd := range fds {
			unix.Close(fd)
		}
		return nil, fmt.Errorf("opening what the saved sandbox had open: %w", err)
	}
	return fds, nil
}

// restoredNetwork gives a restored stack its interfaces again.
type restoredNetwork struct {
	spec    *Spec
	gateway *usernet.Gateway
}

// ConfigureNetwork implements inet.NetworkArgs.
func (n *restoredNetwork) ConfigureNetwork(s inet.Stack) error {
	st, ok := s.(*netstack.Stack)
	if !ok {
		return fmt.Errorf("the saved network stack is a %T", s)
	}
	if st.Stack.IPTables() == nil { // they are not saved
		st.Stack.SetIPTables(netfilter.DefaultLinuxTables(st.Stack.Clock(), st.Stack.InsecureRNG()))
	}
	if err := configureLoopback(st); err != nil || n.spec.Net == NetNone {
		return err
	}
	var err error
	n.gateway, err = plug(st.Stack, n.spec.Net == NetHostLoopback)
	return err
}

// The rest is what the Sentry's state package needs to know of stackMaker.

// StateTypeName implements state.Type.
func (m *stackMaker) StateTypeName() string { return "qenex/guestkernel/sentry.stackMaker" }

// StateFields implements state.Type.
func (m *stackMaker) StateFields() []string { return []string{"clock", "ids"} }

// StateSave implements state.SaverLoader.
func (m *stackMaker) StateSave(sink state.Sink) {
	sink.Save(0, &m.clock)
	sink.Save(1, &m.ids)
}

// StateLoad implements state.SaverLoader.
func (m *stackMaker) StateLoad(_ stdcontext.Context, source state.Source) {
	source.Load(0, &m.clock)
	source.Load(1, &m.ids)
}

var _ state.SaverLoader = (*stackMaker)(nil)

func init() { state.Register((*stackMaker)(nil)) }

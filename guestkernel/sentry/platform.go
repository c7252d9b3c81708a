package sentry

import (
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/sentry/pgalloc"
	"gvisor.dev/gvisor/pkg/sentry/platform"

	"github.com/qenex/qenex-kernel/guestkernel"
	qplatform "github.com/qenex/qenex-kernel/guestkernel/sentry/platform"
	"github.com/qenex/qenex-kernel/internal/seccomp"
)

// backend is what runs guest code, with what the Sentry's own interface does not tell of it.
type backend struct {
	*qplatform.Platform                       // nil until wait has returned
	platform.NoCPUNumbers                     // asked for earlier than that
	wait                  func() error        // until the VM is made; the same answer each time
	spaces                atomic.Int64        // address spaces made
	memory                *pgalloc.MemoryFile // the guest's; set before its first thread
	mostAtExit            atomic.Uint64       // bytes: the most guest memory in use when a thread ended
}

// VM is an empty virtual machine, or one that is being made: what a sandbox needs first, and whose making goes on beside other work.
type VM struct{ b *backend }

// StartVM begins to make a VM and does not wait for it: New does, and gives the error if there is one. The VM is for one sandbox.
// Device and mode are as in Spec.
func StartVM(device string, mode guestkernel.Mode) *VM { return &VM{startBackend(device, mode)} }

// startBackend begins to make the VM that the guest runs in. That takes milliseconds, in which a kernel can be built.
func startBackend(device string, mode guestkernel.Mode) *backend {
	b, options := &backend{}, guestkernel.Options{KVM: device, Mode: mode}
	b.wait = sync.OnceValue(func() (err error) {
		b.Platform, err = qplatform.New(options)
		return err
	})
	go b.wait()
	return b
}

// NewAddressSpace implements platform.Platform.
func (b *backend) NewAddressSpace() (platform.AddressSpace, error) {
	b.spaces.Add(1)
	return b.Platform.NewAddressSpace()
}

// NewContext implements platform.Platform.
func (b *backend) NewContext(ctx context.Context) platform.Context {
	return thread{b.Platform.NewContext(ctx), b}
}

// thread is a context that looks at the guest's memory before it ends: afterwards it is gone.
type thread struct {
	platform.Context
	b *backend
}

// PrepareExit implements platform.Context.
func (t thread) PrepareExit() {
	if n, err := t.b.memory.TotalUsage(); err == nil {
		for was := t.b.mostAtExit.Load(); n > was && !t.b.mostAtExit.CompareAndSwap(was, n); {
			was = t.b.mostAtExit.Load()
		}
	}
	t.Context.PrepareExit()
}

// count fills in the counters of the VM.
func (b *backend) count(st *Stats) {
	c := b.Platform.Stats()
	st.Syscalls, st.Exitless, st.Exits, st.Faults = c.Syscalls, c.Exitless, c.Exits, c.Faults
	st.Kicks, st.ModeChanges, st.VCPUs = c.Kicks, c.ModeChanges, int(c.VCPUs)
	st.Spaces = int(b.spaces.Load())
}

// release frees the VM, if there is one.
func (b *backend) release() {
	if b.wait() == nil {
		b.Close()
	}
}

// ioctls are the requests that the VM makes.
func (b *backend) ioctls() [][]seccomp.Arg { return [][]seccomp.Arg{{{N: 1, Values: b.Ioctls()}}} }

// rules are the system calls, beside those of any sandbox, that the VM makes.
func (b *backend) rules() []seccomp.Rule {
	known := map[int]bool{unix.SYS_IOCTL: true, unix.SYS_TGKILL: true, unix.SYS_MMAP: true}
	for _, nr := range plainCalls {
		known[nr] = true
	}
	var more []int
	for _, nr := range b.Calls() {
		if !known[nr] {
			known[nr] = true
			more = append(more, nr)
		}
	}
	return seccomp.Allow(more...)
}

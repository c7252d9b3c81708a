package sentry

import (
	"sync/atomic"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/sentry/platform"

	"github.com/qenex/qenex-kernel/guestkernel"
	qplatform "github.com/qenex/qenex-kernel/guestkernel/sentry/platform"
	"github.com/qenex/qenex-kernel/internal/seccomp"
)

// backend is what runs guest code, with what the Sentry's own interface does not tell of it.
type backend struct {
	*qplatform.Platform
	spaces atomic.Int64 // address spaces made
}

// newBackend makes the VM that the guest runs in.
func newBackend(spec *Spec) (*backend, error) {
	p, err := qplatform.New(guestkernel.Options{KVM: spec.Device})
	if err != nil {
		return nil, err
	}
	return &backend{Platform: p}, nil
}

// NewAddressSpace implements platform.Platform.
func (b *backend) NewAddressSpace() (platform.AddressSpace, error) {
	b.spaces.Add(1)
	return b.Platform.NewAddressSpace()
}

// count fills in the counters of the VM.
func (b *backend) count(st *Stats) {
	c := b.Platform.Stats()
	st.Syscalls, st.Exitless, st.Exits, st.Faults = c.Syscalls, c.Exitless, c.Exits, c.Faults
	st.Kicks, st.ModeChanges, st.VCPUs = c.Kicks, c.ModeChanges, int(c.VCPUs)
	st.Spaces = int(b.spaces.Load())
}

// release frees the VM; b may be nil.
func (b *backend) release() {
	if b != nil {
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

package platform

import (
	"fmt"
	"math"
	"sync"

	"golang.org/x/sys/unix"

	pkgcontext "gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/pkg/seccomp"
	"gvisor.dev/gvisor/pkg/seccomp/precompiledseccomp"
	"gvisor.dev/gvisor/pkg/sentry/platform"

	"github.com/qenex/qenex-kernel/guestkernel"
	"github.com/qenex/qenex-kernel/kvm"
)

var (
	_ platform.Platform     = (*Platform)(nil)
	_ platform.AddressSpace = (*addressSpace)(nil)
	_ platform.Context      = (*context)(nil)
)

// Platform runs a sandbox's tasks in one VM.
type Platform struct {
	platform.NoCPUPreemptionDetection
	platform.NoCPUNumbers

	machine *guestkernel.Machine

	barrier func() error // registers the process for membarrier once
}

// New makes the VM. The caller closes it when no task runs any more; or exits.
func New(o guestkernel.Options) (*Platform, error) {
	m, err := guestkernel.New(o)
	if err != nil {
		return nil, err
	}
	return &Platform{machine: m, barrier: sync.OnceValue(func() error { return membarrier(registerPrivateExpedited) })}, nil
}

// Close frees the VM.
func (p *Platform) Close() error { return p.machine.Close() }

// Stats returns what happened in the VM so far.
func (p *Platform) Stats() guestkernel.Stats { return p.machine.Stats() }

// SupportsAddressSpaceIO implements platform.Platform: the Sentry reads and writes its own mappings of guest memory.
func (*Platform) SupportsAddressSpaceIO() bool { return false }

// mapUnit is how much is mapped around a fault, if it is there: an entry costs nanoseconds, a fault tens of microseconds.
const mapUnit = 2 << 20

// MapUnit implements platform.Platform.
func (*Platform) MapUnit() uint64 { return mapUnit }

// MinUserAddress implements platform.Platform.
func (*Platform) MinUserAddress() hostarch.Addr { return hostarch.PageSize }

// MaxUserAddress implements platform.Platform: what Linux gives programs with four-level page tables.
func (*Platform) MaxUserAddress() hostarch.Addr { return 1<<47 - hostarch.PageSize }

// NewAddressSpace implements platform.Platform.
func (p *Platform) NewAddressSpace() (platform.AddressSpace, error) {
	as, err := p.machine.NewAddressSpace()
	if err != nil {
		log.Warningf("New address space: %v", err)
		return nil, linuxerr.ENOMEM // the Sentry takes errors for system calls only
	}
	return &addressSpace{inner: as}, nil
}

// NewContext implements platform.Platform.
func (p *Platform) NewContext(pkgcontext.Context) platform.Context {
	return &context{inner: p.machine.NewContext(), changed: true}
}

// Commands of membarrier(2).
const (
	privateExpedited         = 1 << 3
	registerPrivateExpedited = 1 << 4
)

func membarrier(cmd uintptr) error {
	if _, _, e := unix.Syscall(unix.SYS_MEMBARRIER, cmd, 0, 0); e != 0 {
		return fmt.Errorf("membarrier %#x: %w", cmd, e)
	}
	return nil
}

// HaveGlobalMemoryBarrier implements platform.Platform: programs run on threads of this process.
func (p *Platform) HaveGlobalMemoryBarrier() bool { return true }

// GlobalMemoryBarrier implements platform.Platform.
func (p *Platform) GlobalMemoryBarrier() error {
	if err := p.barrier(); err != nil {
		return err
	}
	return membarrier(privateExpedited)
}

// ConcurrencyCount implements platform.Platform.
func (*Platform) ConcurrencyCount() int { return math.MaxInt }

// Ioctls returns the requests that a running VM makes, for the process's system-call filter.
func (*Platform) Ioctls() []uint32 {
	return []uint32{
		kvm.RequestRun, kvm.RequestCreateVCPU, kvm.RequestSetMemory, kvm.RequestGetSregs, kvm.RequestSetSregs, kvm.RequestSetMSRs,
		kvm.RequestSetCPUID, kvm.RequestGetXSave, kvm.RequestSetXSave, kvm.RequestSetXCRs, kvm.RequestSetDeviceAttr,
	}
}

// Calls returns the other system calls that a running VM makes.
func (*Platform) Calls() []int {
	return []int{
		unix.SYS_IOCTL, unix.SYS_MMAP, unix.SYS_MUNMAP, unix.SYS_MADVISE, unix.SYS_FUTEX, unix.SYS_TGKILL, unix.SYS_GETTID, unix.SYS_GETPID,
		unix.SYS_FCNTL, unix.SYS_MEMBARRIER,
	}
}

// SeccompInfo implements platform.Platform, for users of gVisor's own filters.
func (p *Platform) SeccompInfo() platform.SeccompInfo { return seccompInfo{p} }

type seccompInfo struct{ p *Platform }

// Variables implements platform.SeccompInfo.
func (seccompInfo) Variables() precompiledseccomp.Values { return nil }

// ConfigKey implements platform.SeccompInfo.
func (seccompInfo) ConfigKey() string { return "qenex" }

// SyscallFilters implements platform.SeccompInfo.
func (s seccompInfo) SyscallFilters(precompiledseccomp.Values) seccomp.SyscallRules {
	rules := make(map[uintptr]seccomp.SyscallRule)
	for _, nr := range s.p.Calls() {
		rules[uintptr(nr)] = seccomp.MatchAll{}
	}
	var requests seccomp.Or
	for _, r := range s.p.Ioctls() {
		requests = append(requests, seccomp.PerArg{seccomp.AnyValue{}, seccomp.EqualTo(r)})
	}
	rules[unix.SYS_IOCTL] = requests
	return seccomp.MakeSyscallRules(rules)
}

// HottestSyscalls implements platform.SeccompInfo.
func (seccompInfo) HottestSyscalls() []uintptr {
	return []uintptr{unix.SYS_IOCTL, unix.SYS_FUTEX, unix.SYS_MADVISE}
}

package platform

import (
	"errors"

	"gvisor.dev/gvisor/pkg/abi/linux"
	pkgcontext "gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/platform"

	"github.com/qenex/qenex-kernel/guestkernel"
	"github.com/qenex/qenex-kernel/guestkernel/ring0"
)

// context is a task's thread.
type context struct {
	platform.NoCPUNumbers
	inner   *guestkernel.Context
	changed bool // the Sentry has the full state, and it is newer than what inner has
}

// Switch implements platform.Context.
func (c *context) Switch(_ pkgcontext.Context, mm platform.MemoryManager, ac *arch.Context64, _ int32) (*linux.SignalInfo, hostarch.AccessType, error) {
	as := mm.AddressSpace().(*addressSpace).inner
	if c.changed {
		c.inner.SetFP(*ac.FloatingPointData())
		c.changed = false
	}
	var r ring0.Regs
	load(&r, &ac.Regs)
	t := c.inner.Run(as, &r)
	switch t.Kind {
	case guestkernel.Syscall:
		store(&ac.Regs, &r)
		ac.Regs.Orig_rax = r.RAX
		return nil, hostarch.NoAccess, nil
	case guestkernel.Exception:
		store(&ac.Regs, &r)
		ac.Regs.Orig_rax = ^uint64(0)
		info, at := c.signal(&t, &r)
		return info, at, platform.ErrContextSignal
	case guestkernel.Interrupted:
		store(&ac.Regs, &r)
		ac.Regs.Orig_rax = ^uint64(0)
		return nil, hostarch.NoAccess, platform.ErrContextInterrupt
	}
	if errors.Is(t.Err, guestkernel.ErrHostMemory) {
		store(&ac.Regs, &r)
		return signalAt(linux.SIGBUS, busAdrErr, r.RIP), hostarch.NoAccess, platform.ErrContextSignal
	}
	return nil, hostarch.NoAccess, t.Err
}

// load takes the Sentry's registers.
func load(r *ring0.Regs, s *arch.Registers) {
	*r = ring0.Regs{
		RAX: s.Rax, RBX: s.Rbx, RCX: s.Rcx, RDX: s.Rdx, RSI: s.Rsi, RDI: s.Rdi, RBP: s.Rbp, RSP: s.Rsp,
		R8: s.R8, R9: s.R9, R10: s.R10, R11: s.R11, R12: s.R12, R13: s.R13, R14: s.R14, R15: s.R15,
		RIP: s.Rip, RFLAGS: s.Eflags, FSBase: s.Fs_base, GSBase: s.Gs_base,
	}
}

// store gives the Sentry registers.
func store(s *arch.Registers, r *ring0.Regs) {
	s.Rax, s.Rbx, s.Rcx, s.Rdx, s.Rsi, s.Rdi, s.Rbp, s.Rsp = r.RAX, r.RBX, r.RCX, r.RDX, r.RSI, r.RDI, r.RBP, r.RSP
	s.R8, s.R9, s.R10, s.R11, s.R12, s.R13, s.R14, s.R15 = r.R8, r.R9, r.R10, r.R11, r.R12, r.R13, r.R14, r.R15
	s.Rip, s.Eflags, s.Fs_base, s.Gs_base = r.RIP, r.RFLAGS, r.FSBase, r.GSBase
	s.Cs, s.Ss = ring0.UserCS, ring0.UserSS
}

// PullFullState implements platform.Context. General registers are always there.
func (c *context) PullFullState(_ platform.AddressSpace, ac *arch.Context64) error {
	if c.changed {
		return nil
	}
	return c.inner.FP(*ac.FloatingPointData())
}

// FullStateChanged implements platform.Context.
func (c *context) FullStateChanged() { c.changed = true }

// Interrupt implements platform.Context.
func (c *context) Interrupt() { c.inner.Interrupt() }

// Preempt implements platform.Context: contexts do not wait for each other.
func (*context) Preempt() {}

// Release implements platform.Context.
func (c *context) Release() { c.inner.Release() }

// PrepareSleep implements platform.Context.
func (c *context) PrepareSleep() { c.inner.Sleep() }

// PrepareUninterruptibleSleep implements platform.Context. It comes around every access to a host file: too short a sleep to let the
// vCPU go.
func (*context) PrepareUninterruptibleSleep() {}

// PrepareStop implements platform.Context.
func (c *context) PrepareStop() { c.inner.Sleep() }

// PrepareExecve implements platform.Context.
func (c *context) PrepareExecve() { c.inner.Leave() }

// PrepareExit implements platform.Context.
func (c *context) PrepareExit() { c.inner.Leave() }

package guestkernel

import (
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/guestkernel/ring0"
	"github.com/qenex/qenex-kernel/kvm"
)

// vcpu is one vCPU and the thread that runs it: its runner, or for a direct one the thread that first used it (a change of thread
// costs a vCPU a grace period on kernels before 6.13).
//
// Its fields belong to the context that holds it, handed over under Machine.mu.
type vcpu struct {
	m     *Machine
	n     int
	cpu   *kvm.VCPU
	sync  *kvm.SyncArea
	area  []byte
	sregs kvm.Sregs // as loaded for every program, but for CR3, FS and GS

	space  *AddressSpace           // that is loaded
	slot   *ring0.Slot             // this vCPU's, in space
	last   atomic.Pointer[Context] // that ran here last; nil if it is gone
	inStub bool                    // stopped in the syscall stub, at its exit: a resumption needs no registers loaded
	fp     *Context                // whose FP state may be here; see Context.fpCPU
	user   *Context                // of a direct vCPU: the context that holds it; protected by Machine.mu

	tid      atomic.Int64 // of its thread
	exitless *exitless    // nil for a direct vCPU
}

// newVCPU makes a vCPU. The caller holds m.mu.
func (m *Machine) newVCPU() (_ *vcpu, err error) {
	n := len(m.cpus)
	if n == ring0.MaxVCPUs {
		return nil, fmt.Errorf("%d vCPUs are the most", n)
	}
	v := &vcpu{m: m, n: n}
	if v.cpu, err = m.vm.CreateVCPU(n); err != nil {
		return nil, err
	}
	m.cpus = append(m.cpus, v) // Close closes it, whatever follows
	m.stats.vcpus.Add(1)
	v.sync, v.area = v.cpu.Sync(), v.cpu.RunArea()
	v.sync.Valid = kvm.SyncRegs | kvm.SyncSregs
	if err := v.cpu.SetCPUID(m.cpuid); err != nil {
		return nil, err
	}
	if v.sregs, err = v.cpu.Sregs(); err != nil {
		return nil, err
	}
	v.setSregs()
	if err := v.cpu.SetSregs(&v.sregs); err != nil {
		return nil, fmt.Errorf("%w: long mode with FSGSBASE and OSXSAVE: %w", ErrUnsupported, err)
	}
	x := kvm.XCRs{NrXRCS: 1}
	x.Registers[0].Value = m.xcr0
	if err := v.cpu.SetXCRs(&x); err != nil {
		return nil, fmt.Errorf("%w: XCR0 %#x: %w", ErrUnsupported, m.xcr0, err)
	}
	if err := v.cpu.SetTSCOffset(0); err != nil && !errors.Is(err, unix.ENXIO) && !errors.Is(err, unix.EINVAL) {
		return nil, err // kernels before 5.16 have no such attribute: programs see a TSC of their own
	}
	if m.stub != nil {
		if err := v.setStub(); err != nil {
			return nil, err
		}
	}
	return v, nil
}

// Control register and EFER bits (SDM vol. 3, 2.5 and 2.2.1).
const (
	cr0  = 1<<31 | 1<<18 | 1<<16 | 1<<5 | 1<<4 | 1<<1 | 1<<0 // PG AM WP NE ET MP PE
	cr4  = 1<<18 | 1<<16 | 1<<10 | 1<<9 | 1<<5               // OSXSAVE FSGSBASE OSXMMEXCPT OSFXSR PAE
	efer = 1<<11 | 1<<10 | 1<<8 | 1<<0                       // NXE LMA LME SCE
)

// setSregs prepares the registers that all programs share: long mode at CPL 3, the core's tables.
func (v *vcpu) setSregs() {
	s := &v.sregs
	s.CR0, s.CR4, s.EFER = cr0, cr4, efer
	s.CR3 = v.m.probe.tree.Root
	s.CS = kvm.Segment{Limit: 0xFFFFFFFF, Selector: ring0.UserCS, Typ: 11, Present: 1, DPL: 3, S: 1, L: 1, G: 1}
	s.SS = kvm.Segment{Limit: 0xFFFFFFFF, Selector: ring0.UserSS, Typ: 3, Present: 1, DPL: 3, DB: 1, S: 1, G: 1}
	data := s.SS
	data.Selector = 0
	s.DS, s.ES, s.FS, s.GS = data, data, data, data
	s.GDT.Base, s.GDT.Limit = ring0.GDTBase, ring0.GDTLimit
	s.IDT.Base, s.IDT.Limit = ring0.IDTBase, ring0.IDTLimit
	s.TR = kvm.Segment{Base: ring0.TSSBase(v.n), Limit: ring0.TSSLimit, Selector: ring0.TSSSel, Typ: 11, Present: 1}
}

// setStub writes the vCPU's part of the core and points SYSCALL to it.
func (v *vcpu) setStub() error {
	ring0.WriteVCPU(v.m.core, v.n, v.m.stub)
	return v.setMSRs(ring0.LSTAR(v.n))
}

func (v *vcpu) setMSRs(lstar uint64) error {
	refused, err := v.cpu.SetMSRs([]kvm.MSREntry{
		{Index: kvm.MSRSTAR, Data: ring0.STAR}, {Index: kvm.MSRLSTAR, Data: lstar}, {Index: kvm.MSRSFMASK, Data: ring0.SyscallMask},
	})
	if err == nil && len(refused) > 0 {
		err = fmt.Errorf("%w: it refuses the MSRs %#x", ErrUnsupported, refused)
	}
	return err
}

// load makes the next run start the program with all its registers.
func (v *vcpu) load(as *AddressSpace, r *ring0.Regs) error {
	if v.space != as {
		slot, err := as.slot(v.n)
		if err != nil {
			return err
		}
		v.space, v.slot = as, slot
	}
	storeState(v.slot, ring0.SlotIdle)
	v.sync.Regs = kvm.Regs{
		RAX: r.RAX, RBX: r.RBX, RCX: r.RCX, RDX: r.RDX, RSI: r.RSI, RDI: r.RDI, RBP: r.RBP, RSP: r.RSP,
		R8: r.R8, R9: r.R9, R10: r.R10, R11: r.R11, R12: r.R12, R13: r.R13, R14: r.R14, R15: r.R15,
		RIP: r.RIP, RFLAGS: r.RFLAGS&userFlags | fixedFlags,
	}
	s := &v.sync.Sregs
	*s = v.sregs
	s.CR3 = as.tree.Root
	s.FS.Base, s.GS.Base = r.FSBase, r.GSBase
	v.sync.Events = kvm.VCPUEvents{} // an exception that was on its way when the vCPU was kicked is not for this program, or comes again
	v.sync.Dirty = syncAll
	v.inStub = false
	return nil
}

// RFLAGS bits that a program may set, and those that it always has: bit 1 and IF.
const (
	userFlags  = 1<<0 | 1<<2 | 1<<4 | 1<<6 | 1<<7 | 1<<8 | 1<<10 | 1<<11 | 1<<14 | 1<<16 | 1<<18 | 1<<21
	fixedFlags = 1<<1 | 1<<9
	flagTF     = 1 << 8
)

// settle finishes the instruction that the last exit was in the middle of. Only the vCPU's thread, or whoever holds a
// stopped vCPU, may call it.
func (v *vcpu) settle() error {
	v.cpu.RequestExit()
	defer v.cpu.ClearExitRequest()
	if err := v.cpu.Run(); err != nil && !errors.Is(err, unix.EINTR) {
		return err
	}
	return nil
}

// kick makes the vCPU leave the VM, now or when it next enters.
func (v *vcpu) kick() {
	v.m.stats.kicks.Add(1)
	v.cpu.RequestExit()
	_ = unix.Tgkill(unix.Getpid(), int(v.tid.Load()), unix.SIGURG) // a thread that is gone needs no signal
}

// pauseSample is how many PAUSE instructions are timed at the start.
const pauseSample = 200

// exitlessPays is what an exit must cost for exit-less system calls to be worth a spinning CPU.
const exitlessPays = 4 * time.Microsecond

// find makes the first vCPU and the address space that new vCPUs start in, asks the KVM how SYSCALL arrives, and measures an exit.
// An answer that is neither of the two is an error: the wrong stub would run programs at CPL 0.
func (m *Machine) find() (err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	m.mapCore(ring0.EntryCPL0) // nothing of it open to programs
	if m.probe, err = m.NewAddressSpace(); err != nil {
		return err
	}
	code, err := m.mem.NewTable()
	if err != nil {
		return err
	}
	const at = 0x1000
	copy(m.arena.mem[code:], []byte{0x0F, 0x05, 0xEB, 0xFE}) // SYSCALL; JMP to itself
	if err := m.probe.tree.Map(at, code, 1, pageBits(ring0.Page{User: true, Execute: true}), nil); err != nil {
		return err
	}
	m.mu.Lock()
	v, err := m.newVCPU()
	m.mu.Unlock()
	if err != nil {
		return err
	}
	v.tid.Store(int64(unix.Gettid()))
	m.byTID[unix.Gettid()] = v
	ring0.WriteVCPU(m.core, v.n, &ring0.Stub{})
	if err := v.setMSRs(ring0.ProbeEntry); err != nil {
		return err
	}
	best := time.Duration(1<<63 - 1)
	for range 3 {
		if err := v.load(m.probe, &ring0.Regs{RIP: at}); err != nil {
			return err
		}
		begin := time.Now()
		if err := v.run(); err != nil {
			return err
		}
		best = min(best, time.Since(begin))
		rip, cs := v.sync.Regs.RIP, v.sync.Sregs.CS
		vector, fault := ring0.FaultVector(rip)
		frame := m.core[ring0.FrameOffset(v.n, VectorPF):]
		switch {
		case ring0.AtProbe(rip) && cs.Selector == ring0.KernelCS && v.sync.Sregs.SS.DPL == 0:
			m.entry = ring0.EntryCPL0
		case fault && vector == VectorPF && frame[16]&3 == 3 && v.sync.Sregs.CR2 == ring0.ProbeEntry:
			m.entry = ring0.EntryCPL3
		default:
			return fmt.Errorf("%w: SYSCALL arrives neither at CPL 0 nor at CPL 3: rip %#x, CS %#x, address %#x", ErrUnsupported, rip, cs.Selector, v.sync.Sregs.CR2)
		}
	}
	m.exitCost = best
	begin := time.Now()
	pause(pauseSample)
	m.pauseCost = max(1, time.Since(begin)/pauseSample)
	if m.stub, err = ring0.NewStub(m.entry); err != nil {
		return err
	}
	m.mapCore(m.entry) // opens pages at most: nothing to flush
	return v.setStub()
}

// run enters the VM on the calling thread until an exit, for the start, when nobody interrupts.
func (v *vcpu) run() error {
	for {
		err := v.cpu.Run()
		if !errors.Is(err, unix.EINTR) {
			return err
		}
		v.cpu.ClearExitRequest()
	}
}

package vcpu

import (
	"encoding/binary"
	"fmt"

	"github.com/qenex/qenex-kernel/kvm"
	"github.com/qenex/qenex-kernel/memmap"
)

// WatchKind is what a hardware breakpoint stops at, as in DR7 (SDM vol. 3, 17.2.4).
type WatchKind uint8

// Kinds of hardware breakpoints.
const (
	WatchExecute WatchKind = 0 // Size must be 1
	WatchWrite   WatchKind = 1
	WatchAccess  WatchKind = 3 // reads and writes
)

// Watch is a hardware breakpoint, in one of the four debug registers.
type Watch struct {
	Addr uint64 // linear; a multiple of Size
	Size int    // 1, 2, 4 or 8 bytes
	Kind WatchKind
}

// MaxWatches is how many hardware breakpoints there are.
const MaxWatches = 4

// Debug is what a debugger wants of a vCPU. It must not be changed once it is given to SetDebug.
type Debug struct {
	Step    bool    // stop after one instruction, without taking interrupts if this KVM can keep them back
	Watches []Watch // at most MaxWatches
	// Owns says whether the INT3 at a linear address is the debugger's; the guest gets any other. It is called on the vCPU's thread. Nil: none is.
	Owns func(addr uint64) bool
	// Stopped is called on the vCPU's thread when it stops for the debugger: it will be Paused in a moment. It must not block.
	Stopped func(*VCPU)
}

// DebugStop says why a vCPU was paused for the debugger.
type DebugStop struct {
	Breakpoint bool // an INT3 that is the debugger's, to which RIP points
	Step       bool
	Watch      int // the hardware breakpoint, an index into Watches; -1: none
}

// Bits of DR6 and DR7, and one of KVM_SET_GUEST_DEBUG (Linux 5.15) that keeps interrupts back during a step.
const (
	dr6Step       = 1 << 14
	dr7Exact      = 1<<8 | 1<<9 | 1<<10 // LE, GE, and a bit that is always one
	debugBlockIRQ = 1 << 20
	vectorBP      = 3
)

// SetDebug makes a vCPU that is paused, faulted or created stop for a debugger, or with nil never again. An error says that this KVM cannot
// do it; then nothing is changed.
func (v *VCPU) SetDebug(d *Debug) error {
	if err := v.quiet("debugging"); err != nil {
		return err
	}
	var g kvm.GuestDebug
	if d != nil {
		g.Control = kvm.DebugEnable
		if d.Owns != nil {
			g.Control |= kvm.DebugUseSWBP
		}
		if d.Step {
			g.Control |= kvm.DebugSingleStep
		}
		if len(d.Watches) > 0 {
			g.Control |= kvm.DebugUseHWBP
			if err := debugRegisters(&g, d.Watches); err != nil {
				return fmt.Errorf("debug vCPU %d: %w", v.ID(), err)
			}
		}
	}
	var err error
	if d != nil && d.Step {
		quiet := g
		quiet.Control |= debugBlockIRQ
		if err = v.kvm.SetGuestDebug(&quiet); err == nil {
			v.debug.Store(d)
			return nil
		}
	}
	if err = v.kvm.SetGuestDebug(&g); err != nil {
		return fmt.Errorf("debug vCPU %d: %w", v.ID(), err)
	}
	v.debug.Store(d)
	return nil
}

// debugRegisters fills DR0 to DR3 and DR7.
func debugRegisters(g *kvm.GuestDebug, watches []Watch) error {
	if len(watches) > MaxWatches {
		return fmt.Errorf("%d hardware breakpoints: there are %d", len(watches), MaxWatches)
	}
	g.Regs[7] = dr7Exact
	for i, w := range watches {
		size, ok := map[int]uint64{1: 0, 2: 1, 8: 2, 4: 3}[w.Size]
		if !ok || w.Addr%uint64(w.Size) != 0 || w.Kind == WatchExecute && w.Size != 1 {
			return fmt.Errorf("a hardware breakpoint for %d bytes at %#x", w.Size, w.Addr)
		}
		g.Regs[i] = w.Addr
		g.Regs[7] |= 2<<(2*i) | (uint64(w.Kind)|size<<2)<<(16+4*i)
	}
	return nil
}

// DebugStop returns why the vCPU was paused, if for the debugger and it was not resumed since; else nil.
func (v *VCPU) DebugStop() *DebugStop {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.stop
}

// debugExit answers KVM_EXIT_DEBUG.
func (v *VCPU) debugExit(x Exit) *Fault {
	d := v.debug.Load()
	if x.Exception == vectorBP {
		if d == nil || d.Owns == nil || !d.Owns(x.PC) {
			if err := v.injectBreakpoint(); err != nil {
				return v.newFault(FaultInternal, x, err)
			}
			return nil
		}
		v.stopForDebugger(d, DebugStop{Breakpoint: true, Watch: -1})
		return nil
	}
	if d == nil {
		return nil // it was on its way when debugging ended
	}
	s := DebugStop{Step: x.DR6&dr6Step != 0, Watch: -1}
	for i := range d.Watches {
		if x.DR6&(1<<i) != 0 {
			s.Watch = i
		}
	}
	v.stopForDebugger(d, s)
	return nil
}

// emulatedBreakpoint takes an INT3 of the debugger's that a KVM without the instruction could not emulate.
func (v *VCPU) emulatedBreakpoint(x Exit) bool {
	d := v.debug.Load()
	if d == nil || d.Owns == nil || len(x.Insn) > 0 && x.Insn[0] != 0xcc {
		return false
	}
	r, err := v.kvm.Regs()
	if err != nil {
		return false
	}
	s, err := v.kvm.Sregs()
	if err != nil || !d.Owns(s.CS.Base+r.RIP) {
		return false
	}
	v.stopForDebugger(d, DebugStop{Breakpoint: true, Watch: -1})
	return true
}

// stopForDebugger makes the run loop pause the vCPU before it enters the guest again. Whoever wants it to end still has it end.
func (v *VCPU) stopForDebugger(d *Debug, s DebugStop) {
	v.mu.Lock()
	if v.want == Stopped {
		v.mu.Unlock()
		return
	}
	v.stop = &s
	v.setLocked(v.state, Paused)
	v.mu.Unlock()
	v.request.Store(1)
	d.Stopped(v)
}

// injectBreakpoint gives the guest the #BP of its own INT3, at which RIP is.
func (v *VCPU) injectBreakpoint() error {
	e, err := v.kvm.Events()
	if err != nil {
		return err
	}
	e.E.Inject, e.E.Nr, e.E.HadErrorCode = 1, vectorBP, 0
	e.Flags = 0
	return v.kvm.SetEvents(&e)
}

// Vector returns the x87, SSE and AVX registers of a quiet vCPU, as XSAVE stores them.
func (v *VCPU) Vector() (*kvm.XSave, error) {
	if err := v.quiet("read vector registers"); err != nil {
		return nil, err
	}
	return v.kvm.XSave()
}

// SetRegisters changes the general and special registers of a quiet vCPU.
func (v *VCPU) SetRegisters(r *kvm.Regs, s *kvm.Sregs) error {
	if err := v.quiet("write registers"); err != nil {
		return err
	}
	return firstError(func() error { return v.kvm.SetSregs(s) }, func() error { return v.kvm.SetRegs(r) })
}

// xsaveHeader is where the XSAVE area says which parts it holds (SDM vol. 1, 13.4.2).
const xsaveHeader = 512

// SetVector changes the x87, SSE and AVX registers of a quiet vCPU.
func (v *VCPU) SetVector(x *kvm.XSave) error {
	if err := v.quiet("write vector registers"); err != nil {
		return err
	}
	held := x.Region[xsaveHeader:]
	binary.LittleEndian.PutUint64(held, binary.LittleEndian.Uint64(held)|3) // x87 and SSE
	return v.kvm.SetXSave(x)
}

// ReadLinear copies guest memory at a linear address into p, through the page tables of the quiet vCPU and without regard to access
// rights, and returns how many bytes there were before the first that is not mapped to memory.
func (v *VCPU) ReadLinear(addr uint64, p []byte) (int, error) {
	return v.eachLinear(addr, p, v.cfg.Memory.Read)
}

// WriteLinear is ReadLinear's counterpart: it writes what the guest could not, too.
func (v *VCPU) WriteLinear(addr uint64, p []byte) (int, error) {
	return v.eachLinear(addr, p, v.cfg.Memory.Write)
}

// Translate returns the guest-physical address of a linear one, by the page tables of the quiet vCPU and without regard to access rights.
func (v *VCPU) Translate(addr uint64) (uint64, error) {
	if err := v.quiet("translate an address"); err != nil {
		return 0, err
	}
	t, err := v.kvm.Translate(addr)
	if err == nil && t.Valid == 0 {
		err = errUnmapped
	}
	if err != nil {
		return 0, fmt.Errorf("linear address %#x: %w", addr, err)
	}
	return t.PhysicalAddress, nil
}

func (v *VCPU) eachLinear(addr uint64, p []byte, do func(gpa uint64, p []byte) error) (done int, err error) {
	for done < len(p) {
		va := addr + uint64(done)
		gpa, err := v.Translate(va)
		if err != nil {
			return done, err
		}
		n := int(min(uint64(len(p)-done), memmap.PageSize-va%memmap.PageSize))
		if err := do(gpa, p[done:done+n]); err != nil {
			return done, fmt.Errorf("linear address %#x: %w", va, err)
		}
		done += n
	}
	return done, nil
}

package vcpu

import (
	"encoding/binary"
	"fmt"

	"github.com/qenex/qenex-kernel/kvm"
	"github.com/qenex/qenex-kernel/vcpu/complete"
)

// complete finishes the instruction that KVM could not emulate and leaves the vCPU ready to go on behind it.
func (v *VCPU) complete(x Exit) *Fault {
	if !v.cfg.Complete {
		return v.newFault(FaultEmulation, x, fmt.Errorf("completion of instructions is switched off; with healing on it could be finished"))
	}
	m, err := v.loadMachine()
	if err != nil {
		return v.newFault(FaultInternal, x, err)
	}
	before := *m
	code := x.Insn
	if len(code) == 0 {
		code = fetchCode(m.linear, m.sregs.CS.Base+m.regs.RIP)
	}
	engine := complete.Engine{MXCSR: complete.MXCSRMask(m.xsave.Region[:])}
	cpu := m.cpu
	out, err := engine.Complete(&cpu, m.linear, code)
	if err != nil {
		return v.newFault(FaultEmulation, x, err)
	}
	m.cpu = cpu
	if err := v.storeMachine(m, &before, out); err != nil {
		return v.newFault(FaultInternal, x, fmt.Errorf("complete %s: %w", out.Op, err))
	}
	v.counts.complete(out.Op)
	return nil
}

// machine is a vCPU's state as the completion engine sees it, and the KVM structures it came from.
type machine struct {
	cpu    complete.CPU
	regs   kvm.Regs
	sregs  kvm.Sregs
	xsave  *kvm.XSave
	xcrs   kvm.XCRs
	linear *linear
}

// loadMachine reads the vCPU, which is outside the guest.
func (v *VCPU) loadMachine() (*machine, error) {
	m := new(machine)
	k := v.kvm
	err := firstError(
		func() (err error) { m.regs, err = k.Regs(); return },
		func() (err error) { m.sregs, err = k.Sregs(); return },
		func() (err error) { m.xsave, err = k.XSave(); return },
	)
	if err != nil {
		return nil, err
	}
	// A KVM without XSAVE refuses these; XCR0 then is what a processor resets it to.
	xcr0 := uint64(1)
	if m.xcrs, err = k.XCRs(); err == nil {
		for _, r := range m.xcrs.Registers[:min(m.xcrs.NrXRCS, uint32(len(m.xcrs.Registers)))] {
			if r.XRC == 0 {
				xcr0 = r.Value
			}
		}
	}
	r, s := &m.regs, &m.sregs
	m.cpu = complete.CPU{
		GPR:    [16]uint64{r.RAX, r.RCX, r.RDX, r.RBX, r.RSP, r.RBP, r.RSI, r.RDI, r.R8, r.R9, r.R10, r.R11, r.R12, r.R13, r.R14, r.R15},
		RIP:    r.RIP,
		RFLAGS: r.RFLAGS,
		CPL:    s.SS.DPL & 3,
		Long:   s.EFER&eferLMA != 0 && s.CS.L != 0,
		Big:    s.CS.DB != 0,
		Seg:    [6]complete.Segment{segment(&s.ES), segment(&s.CS), segment(&s.SS), segment(&s.DS), segment(&s.FS), segment(&s.GS)},
		GDT:    complete.Table{Base: s.GDT.Base, Limit: uint32(s.GDT.Limit)},
		LDT:    complete.Table{Base: s.LDT.Base, Limit: s.LDT.Limit},
		IDT:    complete.Table{Base: s.IDT.Base, Limit: uint32(s.IDT.Limit)},
		CR0:    s.CR0,
		CR4:    s.CR4,
		EFER:   s.EFER,
		XCR0:   xcr0,
		TSC:    func() uint64 { return v.readMSR(kvm.MSRTSC) },
		TSCAux: uint32(v.readMSR(kvm.MSRTSCAux)),
	}
	m.cpu.FPU.Load(m.xsave.Region[:]) // KVM_GET_FPU would do, but leaves MXCSR out
	if s.LDT.Unusable != 0 {
		m.cpu.LDT = complete.Table{}
	}
	m.linear = &linear{mem: v.cfg.Memory, vcpu: k, sregs: s, rflags: r.RFLAGS, cpl: m.cpu.CPL}
	return m, nil
}

func segment(s *kvm.Segment) complete.Segment {
	return complete.Segment{Base: s.Base, Limit: s.Limit, Type: s.Typ, Unusable: s.Unusable != 0}
}

// readMSR returns an MSR's value, or 0 when this KVM has no such MSR.
func (v *VCPU) readMSR(index uint32) uint64 {
	e, err := v.kvm.MSRs([]uint32{index})
	if err != nil || len(e) == 0 {
		return 0
	}
	return e[0].Data
}

// storeMachine writes back what the instruction changed and queues the event it raised.
func (v *VCPU) storeMachine(m, before *machine, out complete.Outcome) error {
	c, k := &m.cpu, v.kvm
	g := &c.GPR
	m.regs = kvm.Regs{
		RAX: g[complete.RAX], RCX: g[complete.RCX], RDX: g[complete.RDX], RBX: g[complete.RBX],
		RSP: g[complete.RSP], RBP: g[complete.RBP], RSI: g[complete.RSI], RDI: g[complete.RDI],
		R8: g[complete.R8], R9: g[complete.R9], R10: g[complete.R10], R11: g[complete.R11],
		R12: g[complete.R12], R13: g[complete.R13], R14: g[complete.R14], R15: g[complete.R15],
		RIP: c.RIP, RFLAGS: c.RFLAGS,
	}
	if c.FPU != before.cpu.FPU {
		c.FPU.Store(m.xsave.Region[:])
		setXSTATEBV(m.xsave)
		if err := k.SetXSave(m.xsave); err != nil {
			return err
		}
	}
	if c.XCR0 != before.cpu.XCR0 {
		m.xcrs.NrXRCS = 1
		m.xcrs.Registers[0].XRC, m.xcrs.Registers[0].Value = 0, c.XCR0
		if err := k.SetXCRs(&m.xcrs); err != nil {
			return err
		}
	}
	if err := v.storeSystem(m, out); err != nil {
		return err
	}
	if err := k.SetRegs(&m.regs); err != nil {
		return err
	}
	return v.inject(out.Inject)
}

const cr4PGE = 1 << 7

// storeSystem writes the segment bases that WRFSBASE and its like change, CR2 for a page fault, and
// drops all translations when the guest asked for it.
func (v *VCPU) storeSystem(m *machine, out complete.Outcome) error {
	s := m.sregs
	s.FS.Base, s.GS.Base = m.cpu.Seg[complete.FS].Base, m.cpu.Seg[complete.GS].Base
	if out.Inject != nil && out.Inject.Vector == complete.VectorPF {
		s.CR2 = out.Inject.Payload
	}
	if out.FlushTLB {
		// A change of CR4.PGE makes KVM drop every translation of the vCPU.
		s.CR4 ^= cr4PGE
		if err := v.kvm.SetSregs(&s); err != nil {
			return err
		}
		s.CR4 ^= cr4PGE
	} else if s == m.sregs {
		return nil
	}
	return v.kvm.SetSregs(&s)
}

// inject queues an exception or a software interrupt for the next entry. It comes after SetRegs, which
// drops pending exceptions.
func (v *VCPU) inject(x *complete.Exception) error {
	if x == nil {
		return nil
	}
	k := v.kvm
	if x.Vector == complete.VectorDB {
		d, err := k.DebugRegs()
		if err != nil {
			return err
		}
		d.DR6 |= x.Payload
		if err := k.SetDebugRegs(&d); err != nil {
			return err
		}
	}
	e, err := k.Events()
	if err != nil {
		return err
	}
	e.Flags = 0
	if x.Kind == complete.KindSoftInterrupt {
		e.I.Inject, e.I.Nr, e.I.Soft = 1, x.Vector, 1
	} else {
		e.E.Inject, e.E.Nr, e.E.ErrorCode = 1, x.Vector, x.Code
		e.E.HadErrorCode = 0
		if x.HasCode {
			e.E.HadErrorCode = 1
		}
	}
	return k.SetEvents(&e)
}

// setXSTATEBV marks x87 and SSE state in an XSAVE area as present (SDM vol. 1, 13.4.2).
func setXSTATEBV(x *kvm.XSave) {
	const at, x87SSE = 512, 3
	bv := x.Region[at:]
	binary.LittleEndian.PutUint64(bv, binary.LittleEndian.Uint64(bv)|x87SSE)
}

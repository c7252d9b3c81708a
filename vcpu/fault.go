package vcpu

import (
	"fmt"
	"strings"

	"github.com/qenex/qenex-kernel/kvm"
)

// FaultKind says why a vCPU cannot go on.
type FaultKind int

// Kinds of fault.
const (
	FaultTripleFault FaultKind = iota + 1 // the guest faulted while handling a double fault
	FaultEmulation                        // KVM cannot emulate an instruction and it could not be completed
	FaultEntry                            // the processor refuses the guest's state
	FaultInternal                         // KVM says it failed, or the exit makes no sense
)

var faultNames = map[FaultKind]string{
	FaultTripleFault: "triple fault",
	FaultEmulation:   "instruction that KVM cannot emulate",
	FaultEntry:       "guest state that the processor refuses",
	FaultInternal:    "KVM error",
}

func (k FaultKind) String() string { return faultNames[k] }

// Fault is a vCPU that cannot go on: what happened, where, and the registers then.
type Fault struct {
	VCPU int
	Kind FaultKind
	Exit Exit // Data and Insn are copies
	Err  error
	Regs kvm.Regs
	CR2  uint64
	CR3  uint64
	CPL  uint8
	Code []byte // the bytes at RIP, when they could be read
}

func (f *Fault) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "vCPU %d: %v at rip %#x (CPL %d, rsp %#x, cr2 %#x, cr3 %#x)", f.VCPU, f.Kind, f.Regs.RIP, f.CPL, f.Regs.RSP, f.CR2, f.CR3)
	if len(f.Code) > 0 {
		fmt.Fprintf(&b, ", code % x", f.Code)
	}
	if f.Exit.Reason == kvm.ExitInternalError {
		fmt.Fprintf(&b, ", KVM suberror %d", f.Exit.Suberror)
	}
	if f.Exit.Reason == kvm.ExitFailEntry {
		fmt.Fprintf(&b, ", hardware reason %#x", f.Exit.Entry)
	}
	if f.Err != nil {
		fmt.Fprintf(&b, ": %v", f.Err)
	}
	return b.String()
}

func (f *Fault) Unwrap() error { return f.Err }

// newFault records the registers of the vCPU, which must not be in KVM_RUN.
func (v *VCPU) newFault(kind FaultKind, x Exit, err error) *Fault {
	f := &Fault{VCPU: v.kvm.ID(), Kind: kind, Exit: x, Err: err}
	f.Exit.Data = append([]byte(nil), x.Data...)
	f.Exit.Insn = append([]byte(nil), x.Insn...)
	if r, err := v.kvm.Regs(); err == nil {
		f.Regs = r
	}
	s, err := v.kvm.Sregs()
	if err != nil {
		return f
	}
	f.CR2, f.CR3, f.CPL = s.CR2, s.CR3, s.SS.DPL
	f.Code = f.Exit.Insn
	if len(f.Code) == 0 {
		f.Code = fetchCode(&linear{mem: v.cfg.Memory, vcpu: v.kvm, sregs: &s, cpl: f.CPL}, s.CS.Base+f.Regs.RIP)
	}
	return f
}

package probe

import (
	"errors"

	"github.com/qenex/qenex-kernel/kvm"
)

// DebugResult is what a debugger can have of this KVM.
type DebugResult struct {
	Step       bool // one instruction at a time
	Breakpoint bool // an INT3 in a kernel stops the vCPU, by KVM_EXIT_DEBUG or because KVM cannot emulate it
	User       bool // an INT3 in a user program does
	Execute    bool // a debug register stops a kernel at an instruction
	Data       bool // a debug register stops a kernel that has written to memory
}

// Debug runs small guests under KVM_SET_GUEST_DEBUG. It takes some milliseconds.
func Debug(sys *kvm.System) (r DebugResult, err error) {
	cpuid, err := sys.SupportedCPUID()
	if err != nil {
		return r, err
	}
	execute := kvm.GuestDebug{Control: kvm.DebugEnable | kvm.DebugUseHWBP}
	execute.Regs[0], execute.Regs[7] = codeGPA+2, 1<<10|2
	data := execute
	data.Regs[0], data.Regs[7] = stackTop-8, 1<<10|2|1<<16|2<<18
	step := kvm.GuestDebug{Control: kvm.DebugEnable | kvm.DebugSingleStep}
	software := kvm.GuestDebug{Control: kvm.DebugEnable | kvm.DebugUseSWBP}
	pushes := []byte{0x50, 0x90, 0x90, 0xE6, reportPort, 0xEB, 0xFC} // push rax; nop; nop; out reportPort, al; jmp back
	breaks := []byte{0xCC, 0xE6, reportPort, 0xEB, 0xFC}             // int3; out reportPort, al; jmp back
	for _, try := range []struct {
		works *bool
		level ring
		debug kvm.GuestDebug
		code  []byte
	}{
		{&r.Step, ring0, step, pushes},
		{&r.Breakpoint, ring0, software, breaks},
		{&r.User, ring3, software, breaks},
		{&r.Execute, ring0, execute, pushes},
		{&r.Data, ring0, data, pushes},
	} {
		// A machine each: what one leaves behind, such as an exception on its way, is not the next one's.
		err = onMachine(sys, cpuid, func(m *machine) error {
			if err := m.start(try.level, kvm.Regs{}, try.code...); err != nil {
				return err
			}
			if m.cpu.SetGuestDebug(&try.debug) != nil {
				return nil // it says itself that it cannot
			}
			end, err := m.runFor(patience)
			if errors.Is(err, errTime) {
				return nil
			}
			*try.works = end.reason == kvm.ExitDebug || try.code[0] == 0xCC && end.reason == kvm.ExitInternalError
			return err
		})
		if err != nil {
			return r, err
		}
	}
	return r, nil
}

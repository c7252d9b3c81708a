package probe

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/qenex/qenex-kernel/kvm"
)

// patience is how long a guest of a few instructions may take, on the slowest of machines.
const patience = 2 * time.Second

// quick holds the process's answer: a host has one KVM.
var quick struct {
	mu    sync.Mutex
	known bool // protected by mu
	QuickResult
}

// Quick returns what every VM start needs to know, from one tiny VM the first time and from memory after that.
// When the SYSCALL probe cannot decide, Syscall is Undecided, the error says why, and the next call tries
// again.
func Quick(sys *kvm.System) (QuickResult, error) {
	quick.mu.Lock()
	defer quick.mu.Unlock()
	if quick.known {
		return quick.QuickResult, nil
	}
	r, err := probeQuick(sys)
	if err == nil {
		quick.QuickResult, quick.known = r, true
	}
	return r, err
}

func probeQuick(sys *kvm.System) (QuickResult, error) {
	r := QuickResult{
		Syscall:   Undecided,
		MSRFilter: sys.Has(kvm.Capability(188)) && sys.Has(kvm.Capability(189)), // KVM_CAP_X86_USER_SPACE_MSR, KVM_CAP_X86_MSR_FILTER
	}
	cpuid, err := sys.SupportedCPUID()
	if err != nil {
		return r, err
	}
	err = onMachine(sys, cpuid, func(m *machine) error {
		if r.Syscall, err = m.syscallEntry(); err != nil {
			return err
		}
		if r.Syscall == ArrivesAtCPL3 {
			r.SoftwareKVM = true // no CPU does that
			return nil
		}
		r.SoftwareKVM, err = m.emulatesCPL0()
		return err
	})
	if err != nil {
		return r, fmt.Errorf("probe the KVM with a small guest: %w", err)
	}
	return r, nil
}

// syscallEntry runs SYSCALL at CPL 3. Its target, which both levels may execute, reports CS.
func (m *machine) syscallEntry() (SyscallEntry, error) {
	refused, err := m.cpu.SetMSRs(syscallMSRs)
	if err != nil {
		return Undecided, err
	}
	if len(refused) > 0 {
		return Undecided, fmt.Errorf("KVM refuses to set the SYSCALL MSRs %#x", refused)
	}
	copy(m.mem[entryGPA:], []byte{0x8C, 0xC8, 0xE6, reportPort}) // mov eax, cs; out reportPort, al
	if err := m.start(ring3, kvm.Regs{}, 0x0F, 0x05); err != nil {
		return Undecided, err
	}
	cs, err := m.runTo(patience)
	if err != nil {
		return Undecided, err
	}
	s, err := m.cpu.Sregs()
	if err != nil {
		return Undecided, err
	}
	switch {
	case cs == kernelCS && s.SS.DPL == 0 && s.CS.Selector == kernelCS:
		return Architectural, nil
	case cs&3 == 3 && s.SS.DPL == 3:
		return ArrivesAtCPL3, nil
	}
	return Undecided, fmt.Errorf("SYSCALL arrives with CS %#x (KVM says %#x) and SS at DPL %d", cs, s.CS.Selector, s.SS.DPL)
}

const (
	// quickIterations of a loop at CPL 0 take a microsecond where it runs natively, some 20 us where a
	// machine emulator translates it, and more than 2 ms where KVM emulates each instruction.
	quickIterations = 2000
	// emulatedNS is the time of one iteration from which CPL 0 counts as emulated.
	emulatedNS = 200
	// quickTries: a slow run may have been disturbed; a fast one cannot have been.
	quickTries = 3
)

// emulatesCPL0 says whether a short loop at CPL 0 is always too slow for a CPU.
func (m *machine) emulatesCPL0() (bool, error) {
	for range quickTries {
		took, err := m.timeLoop(ring0, quickIterations)
		if err != nil {
			return false, err
		}
		if took < quickIterations*emulatedNS*time.Nanosecond {
			return false, nil
		}
	}
	return true, nil
}

// timeLoop times n iterations of dec; jnz at a level. The exit before and the one behind are not in
// it, the re-entry is.
func (m *machine) timeLoop(level ring, n uint64) (time.Duration, error) {
	err := m.start(level, kvm.Regs{RCX: n},
		0xE6, reportPort, // out: the guest is warm
		0x48, 0xFF, 0xC9, // dec rcx
		0x75, 0xFB, // jnz
		0xE6, reportPort)
	if err != nil {
		return 0, err
	}
	if _, err := m.runTo(patience); err != nil {
		return 0, err
	}
	begin := time.Now()
	_, err = m.runTo(time.Duration(n)*10*time.Microsecond + patience)
	took := time.Since(begin)
	if errors.Is(err, errTime) {
		err = fmt.Errorf("loop of %d iterations at CPL %d: %w", n, level, err)
	}
	return took, err
}

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
		MSRFilter: sys.Has(kvm.CapX86UserSpaceMSR) && sys.Has(kvm.CapX86MSRFilter),
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
	// quickIterations of a loop take a microsecond on a CPU, and 2 to 5 ms where KVM emulates each instruction.
	quickIterations = 2000
	// nativeNS is the time of one iteration below which CPL 0 cannot be emulated.
	nativeNS = 50
	// emulatedRatio is how much slower than CPL 3 an emulated CPL 0 is at least, exits included. On a machine that is
	// emulated as a whole both are slow, and KVM is none the worse for it.
	emulatedRatio = 8
	// quickTries: a slow run may have been disturbed, so the best counts.
	quickTries = 3
)

// emulatesCPL0 says whether a short loop is far slower at CPL 0 than at CPL 3.
func (m *machine) emulatesCPL0() (bool, error) {
	best := [4]time.Duration{ring0: patience, ring3: patience}
	for range quickTries {
		for _, level := range []ring{ring0, ring3} {
			took, err := m.timeLoop(level, quickIterations)
			if err != nil {
				return false, err
			}
			best[level] = min(best[level], took)
			if best[ring0] < quickIterations*nativeNS*time.Nanosecond {
				return false, nil
			}
		}
	}
	return best[ring0] > emulatedRatio*best[ring3], nil
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

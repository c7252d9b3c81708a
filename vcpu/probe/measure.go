package probe

import (
	"context"
	"fmt"

	"github.com/qenex/qenex-kernel/kvm"
)

// Measure finds out everything in Result. It takes well under a second, most of it in timed loops, and stops
// between two measurements when ctx ends.
func Measure(ctx context.Context, sys *kvm.System) (Result, error) {
	var r Result
	var err error
	if r.QuickResult, err = Quick(sys); err != nil {
		return r, err
	}
	table, err := sys.SupportedCPUID()
	if err != nil {
		return r, err
	}
	flags, err := cpuFlags()
	if err != nil {
		return r, fmt.Errorf("read the CPU's features: %w", err)
	}
	if r.CreateNS, err = createNS(sys); err != nil {
		return r, err
	}
	err = onMachine(sys, table, func(m *machine) error { return r.fill(ctx, m, flags) })
	if err != nil {
		return r, fmt.Errorf("measure the KVM with small guests: %w", err)
	}
	err = onMachine(sys, maskCPUID(table), func(m *machine) error {
		r.CPUIDLeaks, err = m.cpuidLeaks()
		return err
	})
	if err != nil {
		return r, fmt.Errorf("check CPUID masking with a small guest: %w", err)
	}
	return r, nil
}

// fill does what one machine can do.
func (r *Result) fill(ctx context.Context, m *machine, flags map[string]bool) error {
	if _, err := m.cpu.SetMSRs(syscallMSRs); err != nil {
		return err
	}
	outLoop := []byte{0xE6, reportPort, 0xEB, 0xFC} // out; jmp back
	storeLoop := []byte{0x88, 0x07, 0xEB, 0xFC}     // mov [rdi], al; jmp back
	for _, step := range []struct {
		to      *float64
		measure func() (float64, error)
	}{
		{&r.CPL0LoopNS, func() (float64, error) { return m.loopNS(ring0) }},
		{&r.CPL3LoopNS, func() (float64, error) { return m.loopNS(ring3) }},
		{&r.PortExitCPL0NS, func() (float64, error) { return m.exitNS(ring0, kvm.ExitIO, outLoop...) }},
		{&r.PortExitCPL3NS, func() (float64, error) { return m.exitNS(ring3, kvm.ExitIO, outLoop...) }},
		{&r.MMIOExitNS, func() (float64, error) { return m.exitNS(ring0, kvm.ExitMMIO, storeLoop...) }},
		{&r.SyscallNS, func() (float64, error) { return m.syscallNS(r.Syscall) }},
	} {
		if err := ctx.Err(); err != nil {
			return err
		}
		var err error
		if *step.to, err = step.measure(); err != nil {
			return err
		}
	}
	m.tryOSXSAVE(flags)
	for i := range trials {
		if err := ctx.Err(); err != nil {
			return err
		}
		tried, err := m.try(&trials[i], flags)
		if err != nil {
			return err
		}
		r.Instructions = append(r.Instructions, tried)
	}
	var err error
	r.Hypercall, err = m.hypercall(flags["vendor:AuthenticAMD"] || flags["vendor:HygonGenuine"])
	return err
}

// tryOSXSAVE turns CR4.OSXSAVE on for later starts, which the XSAVE family needs, where KVM lets it.
func (m *machine) tryOSXSAVE(flags map[string]bool) {
	if !flags["xsave"] {
		return
	}
	s := sregs(m.reset, ring0, m.cr4|cr4OSXSAVE)
	if m.cpu.SetSregs(&s) == nil {
		m.cr4 |= cr4OSXSAVE
	}
}

package vcpu

import (
	"errors"
	"fmt"

	"github.com/qenex/qenex-kernel/kvm"
)

// Saved is a vCPU's whole architectural state: every KVM_GET/SET pair that a snapshot
// needs. It is plain data and may be encoded.
type Saved struct {
	CPUID     []kvm.CPUIDEntry
	MPState   uint32
	Regs      kvm.Regs
	Sregs     kvm.Sregs
	XSave     kvm.XSave
	XCRs      kvm.XCRs
	HasXCRs   bool
	DebugRegs kvm.DebugRegs
	LAPIC     kvm.LAPICState
	MSRs      []kvm.MSREntry
	Events    kvm.VCPUEvents
	TSCKHz    int
}

// ErrNotPaused says that state was asked of, or given to, a vCPU that may be in the guest.
var ErrNotPaused = errors.New("vCPU is neither paused nor faulted nor created")

func (v *VCPU) quiet(what string) error {
	if s := v.State(); s != Paused && s != Created && s != Faulted {
		return fmt.Errorf("%s of vCPU %d (%v): %w", what, v.ID(), s, ErrNotPaused)
	}
	return nil
}

// Save reads the whole state. msrs is the host's list (kvm.System.MSRIndexList). The vCPU must be
// paused, faulted or created.
func (v *VCPU) Save(msrs []uint32) (*Saved, error) {
	if err := v.quiet("save state"); err != nil {
		return nil, err
	}
	s := new(Saved)
	var xsave *kvm.XSave
	var lapic *kvm.LAPICState
	k := v.kvm
	err := firstError(
		// The multiprocessing state first: reading it makes KVM take a pending INIT or SIPI.
		func() (err error) { s.MPState, err = k.MPState(); return },
		func() (err error) { s.CPUID, err = k.CPUID(); return },
		func() (err error) { s.Regs, err = k.Regs(); return },
		func() (err error) { s.Sregs, err = k.Sregs(); return },
		func() (err error) { xsave, err = k.XSave(); return },
		func() (err error) { s.DebugRegs, err = k.DebugRegs(); return },
		func() (err error) { lapic, err = k.LAPIC(); return },
		func() (err error) { s.MSRs, err = k.MSRs(msrs); return },
		func() (err error) { s.Events, err = k.Events(); return },
		func() (err error) { s.TSCKHz, err = k.TSCKHz(); return },
	)
	if err != nil {
		return nil, fmt.Errorf("save state of vCPU %d: %w", v.ID(), err)
	}
	s.XSave, s.LAPIC = *xsave, *lapic
	// A KVM without XSAVE has no XCRs to read.
	if s.XCRs, err = k.XCRs(); err == nil && s.XCRs.NrXRCS > 0 {
		s.HasXCRs = true
	}
	return s, nil
}

// Load writes a whole state into a vCPU that is paused, faulted or created. CPUID can only be given
// to a vCPU that has not run; to another it must be what it has. MSRs that this
// KVM refuses are returned.
func (v *VCPU) Load(s *Saved) (refused []uint32, err error) {
	if err := v.quiet("load state"); err != nil {
		return nil, err
	}
	k := v.kvm
	events := s.Events
	events.Flags |= kvm.EventNMIPending | kvm.EventSIPIVector | kvm.EventShadow
	events.Flags &^= kvm.EventPayload | kvm.EventTripleFault
	err = firstError(
		func() error {
			if v.State() != Created {
				return nil
			}
			return k.SetCPUID(s.CPUID)
		},
		func() error { return k.SetMPState(s.MPState) },
		func() error { return k.SetRegs(&s.Regs) },
		func() error { return k.SetSregs(&s.Sregs) },
		func() error { return k.SetXSave(&s.XSave) },
		func() error {
			if !s.HasXCRs {
				return nil
			}
			return k.SetXCRs(&s.XCRs)
		},
		func() error { return k.SetDebugRegs(&s.DebugRegs) },
		func() error { return k.SetLAPIC(&s.LAPIC) },
		// The TSC deadline needs the APIC's timer mode, so the MSRs come behind it.
		func() (err error) { refused, err = k.SetMSRs(s.MSRs); return },
		func() error { return k.SetEvents(&events) },
	)
	if err != nil {
		return refused, fmt.Errorf("load state of vCPU %d: %w", v.ID(), err)
	}
	return refused, nil
}

// Registers returns the general and special registers of a paused or faulted vCPU.
func (v *VCPU) Registers() (kvm.Regs, kvm.Sregs, error) {
	if err := v.quiet("read registers"); err != nil {
		return kvm.Regs{}, kvm.Sregs{}, err
	}
	r, err := v.kvm.Regs()
	if err != nil {
		return r, kvm.Sregs{}, err
	}
	s, err := v.kvm.Sregs()
	return r, s, err
}

// Restart gives a vCPU new general and special registers, from Config.OnFault or in a quiet state, so that it can go on after any
// fault. After a triple fault KVM on SVM has thrown away the VMCB with its root of the nested page tables, and sets
// that again only when paging changes (seen on Linux 6.1): so a paging bit is turned over and back.
func (v *VCPU) Restart(r *kvm.Regs, s *kvm.Sregs) error {
	turned := *s
	turned.CR4 ^= cr4PGE
	for _, sregs := range []*kvm.Sregs{&turned, s} {
		if err := v.kvm.SetSregs(sregs); err != nil {
			return fmt.Errorf("restart vCPU %d: %w", v.ID(), err)
		}
	}
	if err := v.kvm.SetRegs(r); err != nil {
		return fmt.Errorf("restart vCPU %d: %w", v.ID(), err)
	}
	return nil
}

func firstError(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

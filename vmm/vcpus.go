package vmm

import (
	"encoding/binary"
	"fmt"

	"github.com/qenex/qenex-kernel/kvm"
	"github.com/qenex/qenex-kernel/vcpu"
	"github.com/qenex/qenex-kernel/vcpu/cpuid"
	"github.com/qenex/qenex-kernel/vmm/boot"
)

// addVCPUs makes the vCPUs; the first is ready to enter the kernel, the others wait for INIT and SIPI.
func (m *Machine) addVCPUs() error {
	supported, err := m.sys.SupportedCPUID()
	if err != nil {
		return err
	}
	for id := range m.cfg.CPUs {
		k, err := m.vm.CreateVCPU(id)
		if err != nil {
			return err
		}
		m.vcpus = append(m.vcpus, vcpu.New(k, vcpu.Config{
			Ports: m.Ports, MMIO: m.MMIO, Memory: m.mem,
			Complete: m.cfg.Heal, Shim: m.shim, OnFault: m.onFault,
		}))
		khz, err := k.TSCKHz()
		if err != nil {
			khz = 0 // this KVM does not tell; the guest calibrates by itself
		}
		leaves, err := cpuid.Build(m.cfg.CPU, supported, cpuid.Params{
			ID: id, Count: m.cfg.CPUs,
			SoftwareKVM: m.host.SoftwareKVM,
			TSCDeadline: m.sys.Has(kvm.CapTSCDeadlineTimer),
			TSCkHz:      khz,
		})
		if err != nil {
			return fmt.Errorf("%w: %w", ErrConfig, err)
		}
		if err := k.SetCPUID(leaves); err != nil {
			return err
		}
		if err := setResetState(k); err != nil {
			return fmt.Errorf("vCPU %d: %w", id, err)
		}
		if id == 0 {
			if err := setEntry(k, m.entry); err != nil {
				return err
			}
		}
	}
	return nil
}

// MSRs and local APIC registers that firmware would have set.
const (
	msrMTRRDefType  = 0x2FF
	mtrrWriteBack   = 0x806 // enabled, default type write-back
	miscFastStrings = 1

	apicLVT0      = 0x350
	apicLVT1      = 0x360
	lvtModeExtINT = 7 << 8
	lvtModeNMI    = 4 << 8
	lvtModeMask   = 7 << 8
	lvtMaskedFlag = 1 << 16
)

// setResetState does what firmware does on every processor: write-back memory, fast strings, and LINT0
// and LINT1 wired to the PIC and to NMI.
func setResetState(k *kvm.VCPU) error {
	// A KVM that refuses one of these does without.
	if _, err := k.SetMSRs([]kvm.MSREntry{
		{Index: kvm.MSRMiscEnable, Data: miscFastStrings},
		{Index: msrMTRRDefType, Data: mtrrWriteBack},
	}); err != nil {
		return err
	}
	lapic, err := k.LAPIC()
	if err != nil {
		return err
	}
	for reg, mode := range map[int]uint32{apicLVT0: lvtModeExtINT, apicLVT1: lvtModeNMI} {
		b := lapic.Regs[reg : reg+4]
		v := binary.LittleEndian.Uint32(b)
		binary.LittleEndian.PutUint32(b, v&^(lvtModeMask|lvtMaskedFlag)|mode)
	}
	return k.SetLAPIC(lapic)
}

// setEntry puts the first vCPU at the kernel's entry.
func setEntry(k *kvm.VCPU, e *boot.Entry) error {
	s, err := k.Sregs()
	if err != nil {
		return err
	}
	s.CS = segment(e.Code)
	data := segment(e.Data)
	s.DS, s.ES, s.FS, s.GS, s.SS = data, data, data, data, data
	s.TR = segment(e.Task)
	s.GDT = kvm.Descriptor{Base: e.GDT.Base, Limit: e.GDT.Limit}
	s.IDT = kvm.Descriptor{}
	s.CR0, s.CR3, s.CR4, s.EFER = e.CR0, e.CR3, e.CR4, e.EFER
	if err := k.SetSregs(&s); err != nil {
		return err
	}
	return k.SetRegs(&kvm.Regs{RIP: e.RIP, RSI: e.RSI, RBX: e.RBX, RFLAGS: e.RFLAGS})
}

func segment(s boot.Segment) kvm.Segment {
	bit := func(b bool) uint8 {
		if b {
			return 1
		}
		return 0
	}
	return kvm.Segment{
		Base: s.Base, Limit: s.Limit, Selector: s.Selector, Typ: s.Type,
		Present: bit(s.Present), DPL: s.DPL, DB: bit(s.DB), S: bit(s.S), L: bit(s.L), G: bit(s.G),
	}
}

package vmm

import (
	"errors"
	"fmt"

	"github.com/qenex/qenex-kernel/device"
	"github.com/qenex/qenex-kernel/kvm"
	"github.com/qenex/qenex-kernel/vcpu"
)

// Saved is the whole state of a paused machine but for its RAM: plain data that may be encoded.
type Saved struct {
	VCPUs  []*vcpu.Saved
	Chips  [3]kvm.IRQChip // master PIC, slave PIC, IOAPIC
	PIT    kvm.PITState2
	Clock  uint64 // kvmclock in nanoseconds
	Serial device.SerialState
	RTC    device.RTCState
	I8042  device.I8042State
	PortA  byte
	Reset  byte // reset control register 0xcf9
	Shim   vcpu.ShimState
}

// ErrShape says that a state belongs to a machine of another make.
var ErrShape = errors.New("saved state does not fit this machine")

// Save reads the machine's state. The machine must be paused, or not yet started. One with virtio devices cannot be saved: their
// state would be missing.
func (m *Machine) Save() (*Saved, error) {
	if len(m.cfg.Virtio) > 0 {
		return nil, fmt.Errorf("%w: it has %d virtio devices, whose state is not part of it", ErrShape, len(m.cfg.Virtio))
	}
	if m.tpm != nil {
		return nil, fmt.Errorf("%w: it has a TPM, whose state is not part of it", ErrShape)
	}
	msrs, err := m.sys.MSRIndexList()
	if err != nil {
		return nil, err
	}
	s := new(Saved)
	for _, v := range m.vcpus {
		state, err := v.Save(msrs)
		if err != nil {
			return nil, err
		}
		s.VCPUs = append(s.VCPUs, state)
	}
	for id := range s.Chips {
		if s.Chips[id], err = m.vm.IRQChip(uint32(id)); err != nil {
			return nil, err
		}
	}
	if s.PIT, err = m.vm.PIT2(); err != nil {
		return nil, err
	}
	clock, err := m.vm.Clock()
	if err != nil {
		return nil, err
	}
	s.Clock = clock.Clock
	s.Serial, s.RTC, s.I8042 = m.serial.Save(), m.rtc.Save(), m.i8042.Save()
	s.PortA, s.Reset = m.portA.Save(), m.resetControl.Save()
	if m.shim != nil {
		s.Shim = m.shim.Save()
	}
	return s, nil
}

// Load writes a state into a machine of the same configuration that is paused or not yet started. Its RAM
// must be what it was at Save. MSRs that this KVM refuses are returned.
func (m *Machine) Load(s *Saved) (refused []uint32, err error) {
	if len(s.VCPUs) != len(m.vcpus) {
		return nil, fmt.Errorf("%w: it has %d vCPUs, the machine %d", ErrShape, len(s.VCPUs), len(m.vcpus))
	}
	if s.Shim.LSTAR != 0 && m.shim == nil {
		return nil, fmt.Errorf("%w: its kernel runs through the SYSCALL shim, which is not armed here", ErrShape)
	}
	// The clock goes first: loading a vCPU's kvmclock MSR makes KVM write the guest's clock page.
	if err := m.vm.SetClock(&kvm.ClockData{Clock: s.Clock}); err != nil {
		return nil, err
	}
	for i, v := range m.vcpus {
		r, err := v.Load(s.VCPUs[i])
		if err != nil {
			return nil, err
		}
		refused = append(refused, r...)
	}
	for id := range s.Chips {
		if s.Chips[id].ChipID != uint32(id) {
			return nil, fmt.Errorf("%w: interrupt chip %d stands where %d belongs", ErrShape, s.Chips[id].ChipID, id)
		}
		if err := m.vm.SetIRQChip(&s.Chips[id]); err != nil {
			return nil, err
		}
	}
	if err := m.vm.SetPIT2(&s.PIT); err != nil {
		return nil, err
	}
	if err := m.serial.Load(s.Serial); err != nil {
		return nil, err
	}
	if err := m.rtc.Load(s.RTC); err != nil {
		return nil, err
	}
	m.i8042.Load(s.I8042)
	m.portA.Load(s.PortA)
	m.resetControl.Load(s.Reset)
	if m.shim != nil {
		m.shim.Load(s.Shim)
	}
	return refused, nil
}

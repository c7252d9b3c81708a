package kvm

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// VM is one virtual machine's descriptor. Its methods may be called from any
// goroutine; the memory given to SetMemory must stay mapped until the slot is
// removed or the VM and all its vCPUs are closed.
type VM struct {
	fd      *fd
	runSize int
}

// Close drops the VM's descriptor. The kernel frees the VM when its vCPUs are closed too.
func (v *VM) Close() error { return v.fd.close() }

// Check is System.Check for this VM, where the answer may differ.
func (v *VM) Check(c Capability) (int, error) {
	return v.fd.ioctlArg("KVM_CHECK_EXTENSION", 0x03, uintptr(c))
}

// EnableCap turns on a VM capability with up to four arguments (KVM_ENABLE_CAP).
func (v *VM) EnableCap(c Capability, args ...uint64) error {
	return enableCap(v.fd, c, args)
}

type enableCapArg struct {
	Cap   uint32
	Flags uint32
	Args  [4]uint64
	_     [64]uint8
}

func enableCap(f *fd, c Capability, args []uint64) error {
	a := enableCapArg{Cap: uint32(c)}
	if copy(a.Args[:], args) < len(args) {
		return fmt.Errorf("KVM_ENABLE_CAP %v: %d arguments, at most 4", c, len(args))
	}
	if err := set(f, "KVM_ENABLE_CAP", 0xA3, &a); err != nil {
		return fmt.Errorf("enable capability %v: %w", c, err)
	}
	return nil
}

// SetMemory makes host memory visible to the guest at gpa in the given slot. Both gpa
// and the memory must be page-aligned. A nil mem removes the slot.
func (v *VM) SetMemory(slot, flags uint32, gpa uint64, mem []byte) error {
	r := MemoryRegion{Slot: slot, Flags: flags, GuestPhysAddr: gpa, Size: uint64(len(mem)), UserspaceAddr: addressOf(mem)}
	if err := set(v.fd, "KVM_SET_USER_MEMORY_REGION", 0x46, &r); err != nil {
		return fmt.Errorf("slot %d, %#x bytes at gpa %#x: %w", slot, len(mem), gpa, err)
	}
	return nil
}

// SetTSSAddr names the gpa of three pages that Intel's real-mode emulation uses.
func (v *VM) SetTSSAddr(gpa uint32) error {
	_, err := v.fd.ioctlArg("KVM_SET_TSS_ADDR", 0x47, uintptr(gpa))
	return err
}

// SetIdentityMapAddr names the gpa of one page that Intel's real-mode emulation uses.
func (v *VM) SetIdentityMapAddr(gpa uint64) error {
	return set(v.fd, "KVM_SET_IDENTITY_MAP_ADDR", 0x48, &gpa)
}

// CreateIRQChip makes the in-kernel PICs and IOAPIC, and a local APIC for each later vCPU.
func (v *VM) CreateIRQChip() error {
	_, err := v.fd.ioctlArg("KVM_CREATE_IRQCHIP", 0x60, 0)
	return err
}

// CreatePIT2 makes the in-kernel i8254; with speaker, port 0x61 is served in the kernel too.
func (v *VM) CreatePIT2(speaker bool) error {
	var cfg struct {
		Flags uint32
		_     [15]uint32
	}
	if speaker {
		cfg.Flags = 1
	}
	return set(v.fd, "KVM_CREATE_PIT2", 0x77, &cfg)
}

// IRQLine sets a GSI's level (KVM_IRQ_LINE).
func (v *VM) IRQLine(gsi uint32, high bool) error {
	arg := struct{ IRQ, Level uint32 }{IRQ: gsi}
	if high {
		arg.Level = 1
	}
	return set(v.fd, "KVM_IRQ_LINE", 0x61, &arg)
}

// SignalMSI delivers a message-signalled interrupt.
func (v *VM) SignalMSI(m MSI) error { return set(v.fd, "KVM_SIGNAL_MSI", 0xA5, &m) }

// SetGSIRouting replaces the whole GSI routing table.
func (v *VM) SetGSIRouting(entries []RoutingEntry) error {
	const entrySize = 48
	buf := make([]byte, 8+len(entries)*entrySize)
	binary.LittleEndian.PutUint32(buf, uint32(len(entries)))
	for i := range entries {
		copy(buf[8+i*entrySize:], bytesOf(&entries[i]))
	}
	_, err := v.fd.ioctlBuffer("KVM_SET_GSI_ROUTING", dirWrite, 0x6A, 8, buf)
	return err
}

// Flags of IRQFD.
const (
	IRQFDDeassign = 1 << 0
	IRQFDResample = 1 << 1
)

// IRQFD ties an eventfd to a GSI: a write to it raises the interrupt without a
// system call of the VMM's. resample is used with IRQFDResample only.
func (v *VM) IRQFD(eventfd int, gsi, flags uint32, resample int) error {
	arg := struct {
		FD, GSI, Flags, Resample uint32
		_                        [16]uint8
	}{FD: uint32(eventfd), GSI: gsi, Flags: flags, Resample: uint32(resample)}
	return set(v.fd, "KVM_IRQFD", 0x76, &arg)
}

// Flags of IOEventFD.
const (
	IOEventFDDataMatch = 1 << 0
	IOEventFDPIO       = 1 << 1
	IOEventFDDeassign  = 1 << 2
)

// IOEventFD makes a guest write of length bytes (0 = any, or 1, 2, 4, 8) at addr signal an eventfd
// instead of exiting.
func (v *VM) IOEventFD(eventfd int, addr uint64, length, flags uint32, match uint64) error {
	arg := struct {
		Match, Addr uint64
		Len         uint32
		FD          int32
		Flags       uint32
		_           [36]uint8
	}{Match: match, Addr: addr, Len: length, FD: int32(eventfd), Flags: flags}
	return set(v.fd, "KVM_IOEVENTFD", 0x79, &arg)
}

// IRQChip reads the state of one in-kernel chip: ChipPICMaster, ChipPICSlave or ChipIOAPIC.
func (v *VM) IRQChip(id uint32) (IRQChip, error) {
	c := IRQChip{ChipID: id}
	err := exchange(v.fd, "KVM_GET_IRQCHIP", 0x62, &c)
	return c, err
}

// SetIRQChip loads what IRQChip saved. (The ioctl's number says "read"; it is a write.)
func (v *VM) SetIRQChip(c *IRQChip) error { return get(v.fd, "KVM_SET_IRQCHIP", 0x63, c) }

// PIT2 reads the in-kernel PIT's state.
func (v *VM) PIT2() (s PITState2, err error) {
	err = get(v.fd, "KVM_GET_PIT2", 0x9F, &s)
	return s, err
}

// SetPIT2 loads what PIT2 saved.
func (v *VM) SetPIT2(s *PITState2) error { return set(v.fd, "KVM_SET_PIT2", 0xA0, s) }

// Clock reads kvmclock.
func (v *VM) Clock() (c ClockData, err error) {
	err = get(v.fd, "KVM_GET_CLOCK", 0x7C, &c)
	return c, err
}

// SetClock sets kvmclock. Flags must be 0, or ask for what the kernel supports.
func (v *VM) SetClock(c *ClockData) error { return set(v.fd, "KVM_SET_CLOCK", 0x7B, c) }

// DirtyLog reads and clears a slot's dirty bitmap into bitmap, one bit a page from
// the slot's start; bitmap needs ceil(pages/64)*8 bytes.
func (v *VM) DirtyLog(slot uint32, bitmap []byte) error {
	arg := struct {
		Slot, _ uint32
		Bitmap  uint64
	}{Slot: slot}
	return v.dirtyLog(&arg.Bitmap, bitmap, func() error { return set(v.fd, "KVM_GET_DIRTY_LOG", 0x42, &arg) })
}

// SetMSRFilter installs an MSR filter that denies what the ranges' bitmaps leave 0 and allows all else.
// Denied accesses exit to user space when CapX86UserSpaceMSR is enabled with MSRExitFilter.
func (v *VM) SetMSRFilter(ranges []MSRRange) error {
	return v.setMSRFilter(ranges)
}

// CreateVCPU makes a vCPU with its kvm_run area mapped. id is the APIC id. The caller closes it.
func (v *VM) CreateVCPU(id int) (*VCPU, error) {
	n, err := v.fd.ioctlArg("KVM_CREATE_VCPU", 0x41, uintptr(id))
	if err != nil {
		return nil, fmt.Errorf("vCPU %d: %w", id, err)
	}
	unix.CloseOnExec(n)
	f := newFD(n, fmt.Sprintf("vCPU %d", id))
	run, err := unix.Mmap(n, 0, v.runSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		f.close()
		return nil, fmt.Errorf("map kvm_run of vCPU %d (%d bytes): %w", id, v.runSize, err)
	}
	return &VCPU{fd: f, id: id, run: run}, nil
}

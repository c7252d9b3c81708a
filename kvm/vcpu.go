package kvm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// VCPU is one vCPU's descriptor and its kvm_run mapping. Run must be called from the
// thread that owns the vCPU; state ioctls block while another thread is in Run.
type VCPU struct {
	fd  *fd
	id  int
	run []byte // mmap of struct kvm_run and what follows it; nil after Close
}

// ID returns the APIC id given to CreateVCPU.
func (c *VCPU) ID() int { return c.id }

// Close unmaps kvm_run and drops the descriptor. No other method may run meanwhile.
func (c *VCPU) Close() error {
	var unmap error
	if c.run != nil {
		if err := unix.Munmap(c.run); err != nil {
			unmap = fmt.Errorf("unmap kvm_run of vCPU %d: %w", c.id, err)
		}
		c.run = nil
	}
	return errors.Join(unmap, c.fd.close())
}

// EnableCap turns on a vCPU capability with up to four arguments.
func (c *VCPU) EnableCap(cp Capability, args ...uint64) error { return enableCap(c.fd, cp, args) }

// Regs reads the general registers.
func (c *VCPU) Regs() (r Regs, err error) {
	err = get(c.fd, "KVM_GET_REGS", 0x81, &r)
	return r, err
}

// SetRegs writes the general registers.
func (c *VCPU) SetRegs(r *Regs) error { return set(c.fd, "KVM_SET_REGS", 0x82, r) }

// Sregs reads segment, table and control registers.
func (c *VCPU) Sregs() (s Sregs, err error) {
	err = get(c.fd, "KVM_GET_SREGS", 0x83, &s)
	return s, err
}

// SetSregs writes segment, table and control registers.
func (c *VCPU) SetSregs(s *Sregs) error { return set(c.fd, "KVM_SET_SREGS", 0x84, s) }

// FPU reads x87 and SSE state.
func (c *VCPU) FPU() (f FPU, err error) {
	err = get(c.fd, "KVM_GET_FPU", 0x8C, &f)
	return f, err
}

// SetFPU writes x87 and SSE state.
func (c *VCPU) SetFPU(f *FPU) error { return set(c.fd, "KVM_SET_FPU", 0x8D, f) }

// XSave reads the XSAVE area.
func (c *VCPU) XSave() (*XSave, error) {
	x := new(XSave)
	err := get(c.fd, "KVM_GET_XSAVE", 0xA4, x)
	return x, err
}

// SetXSave writes the XSAVE area.
func (c *VCPU) SetXSave(x *XSave) error { return set(c.fd, "KVM_SET_XSAVE", 0xA5, x) }

// XCRs reads the extended control registers.
func (c *VCPU) XCRs() (x XCRs, err error) {
	err = get(c.fd, "KVM_GET_XCRS", 0xA6, &x)
	return x, err
}

// SetXCRs writes the extended control registers.
func (c *VCPU) SetXCRs(x *XCRs) error { return set(c.fd, "KVM_SET_XCRS", 0xA7, x) }

// DebugRegs reads DR0-3, DR6 and DR7.
func (c *VCPU) DebugRegs() (d DebugRegs, err error) {
	err = get(c.fd, "KVM_GET_DEBUGREGS", 0xA1, &d)
	return d, err
}

// SetDebugRegs writes DR0-3, DR6 and DR7.
func (c *VCPU) SetDebugRegs(d *DebugRegs) error { return set(c.fd, "KVM_SET_DEBUGREGS", 0xA2, d) }

// LAPIC reads the in-kernel local APIC's registers.
func (c *VCPU) LAPIC() (*LAPICState, error) {
	l := new(LAPICState)
	err := get(c.fd, "KVM_GET_LAPIC", 0x8E, l)
	return l, err
}

// SetLAPIC writes the in-kernel local APIC's registers.
func (c *VCPU) SetLAPIC(l *LAPICState) error { return set(c.fd, "KVM_SET_LAPIC", 0x8F, l) }

// MPState reads the multiprocessing state (MPStateRunnable and so on).
func (c *VCPU) MPState() (s uint32, err error) {
	err = get(c.fd, "KVM_GET_MP_STATE", 0x98, &s)
	return s, err
}

// SetMPState writes the multiprocessing state.
func (c *VCPU) SetMPState(s uint32) error { return set(c.fd, "KVM_SET_MP_STATE", 0x99, &s) }

// Events reads pending exceptions, interrupts and NMIs.
func (c *VCPU) Events() (e VCPUEvents, err error) {
	err = get(c.fd, "KVM_GET_VCPU_EVENTS", 0x9F, &e)
	return e, err
}

// SetEvents writes pending exceptions, interrupts and NMIs.
func (c *VCPU) SetEvents(e *VCPUEvents) error { return set(c.fd, "KVM_SET_VCPU_EVENTS", 0xA0, e) }

// SetCPUID gives the guest these CPUID leaves. Before the first Run only.
func (c *VCPU) SetCPUID(entries []CPUIDEntry) error {
	_, err := c.fd.ioctlBuffer("KVM_SET_CPUID2", dirWrite, 0x90, 8, encodeCPUID(entries))
	return err
}

// CPUID reads the guest's CPUID leaves.
func (c *VCPU) CPUID() ([]CPUIDEntry, error) {
	buf := cpuidBuffer(maxCPUIDEntries)
	// Older kernels write the entries but not their number (seen with 6.1): what is still all ones is none.
	for i := range buf {
		buf[i] = 0xFF
	}
	binary.LittleEndian.PutUint64(buf, maxCPUIDEntries)
	if _, err := c.fd.ioctlBuffer("KVM_GET_CPUID2", dirRead|dirWrite, 0x91, 8, buf); err != nil {
		return nil, err
	}
	entries, err := decodeCPUID(buf)
	if err != nil {
		return nil, err
	}
	if n := slices.IndexFunc(entries, func(e CPUIDEntry) bool { return e.Function == ^uint32(0) }); n >= 0 {
		entries = entries[:n]
	}
	return entries, nil
}

// TSCKHz returns the guest's TSC frequency in kHz.
func (c *VCPU) TSCKHz() (int, error) { return c.fd.ioctlArg("KVM_GET_TSC_KHZ", 0xA3, 0) }

// SetTSCKHz sets the guest's TSC frequency in kHz.
func (c *VCPU) SetTSCKHz(khz int) error {
	_, err := c.fd.ioctlArg("KVM_SET_TSC_KHZ", 0xA2, uintptr(khz))
	return err
}

// msrBatch is the most MSRs one ioctl takes: fewer than MAX_IO_MSRS, 256, in the kernel.
const msrBatch = 255

// MSRs reads the values of the given MSRs. MSRs that KVM refuses to read are left out.
func (c *VCPU) MSRs(index []uint32) ([]MSREntry, error) {
	want := make([]MSREntry, len(index))
	for i, n := range index {
		want[i].Index = n
	}
	out := make([]MSREntry, 0, len(index))
	err := c.msrs("KVM_GET_MSRS", dirRead|dirWrite, 0x88, want, func(done []MSREntry) { out = append(out, done...) }, nil)
	return out, err
}

// SetMSRs writes MSRs in order and returns the indices of those that KVM refused.
func (c *VCPU) SetMSRs(entries []MSREntry) (refused []uint32, err error) {
	err = c.msrs("KVM_SET_MSRS", dirWrite, 0x89, entries, nil, func(e MSREntry) { refused = append(refused, e.Index) })
	return refused, err
}

// msrs runs a list of MSRs through an ioctl that stops at the first one it refuses,
// and goes on behind that one.
func (c *VCPU) msrs(name string, dir, nr uintptr, entries []MSREntry, done func([]MSREntry), refused func(MSREntry)) error {
	const size = 16
	for len(entries) > 0 {
		n := min(len(entries), msrBatch)
		buf := make([]byte, 8+n*size)
		binary.LittleEndian.PutUint32(buf, uint32(n))
		for i := range n {
			copy(buf[8+i*size:], bytesOf(&entries[i]))
		}
		k, err := c.fd.ioctlBuffer(name, dir, nr, 8, buf)
		if err != nil {
			return err
		}
		if k > n {
			return fmt.Errorf("%s on vCPU %d: kernel says %d of %d done", name, c.id, k, n)
		}
		if done != nil {
			got := make([]MSREntry, k)
			for i := range got {
				copy(bytesOf(&got[i]), buf[8+i*size:])
			}
			done(got)
		}
		if k < n {
			if refused != nil {
				refused(entries[k])
			}
			k++
		}
		entries = entries[k:]
	}
	return nil
}

// Translate asks KVM for the guest-physical address of a linear address.
func (c *VCPU) Translate(linear uint64) (Translation, error) {
	t := Translation{LinearAddress: linear}
	err := exchange(c.fd, "KVM_TRANSLATE", 0x85, &t)
	return t, err
}

// SetGuestDebug arms single-stepping and breakpoints.
func (c *VCPU) SetGuestDebug(d *GuestDebug) error { return set(c.fd, "KVM_SET_GUEST_DEBUG", 0x9B, d) }

// NMI queues a non-maskable interrupt.
func (c *VCPU) NMI() error {
	_, err := c.fd.ioctlArg("KVM_NMI", 0x9A, 0)
	return err
}

// ClockCtrl tells the guest that it was stopped, so that its watchdogs forgive it.
func (c *VCPU) ClockCtrl() error {
	_, err := c.fd.ioctlArg("KVM_KVMCLOCK_CTRL", 0xAD, 0)
	return err
}

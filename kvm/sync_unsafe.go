package kvm

import "unsafe"

// SyncArea is the part of kvm_run that exchanges registers with the kernel without a second ioctl (KVM_CAP_SYNC_REGS).
// What Valid names, the kernel stores there at each exit; what Dirty names, it loads at the next Run, which
// clears Dirty. It belongs to the thread that calls Run.
type SyncArea struct {
	Valid  uint64 // SyncRegs | SyncSregs | SyncEvents
	Dirty  uint64
	Regs   Regs
	Sregs  Sregs
	Events VCPUEvents
}

// Sets of registers in a SyncArea.
const (
	SyncRegs   = 1 << 0
	SyncSregs  = 1 << 1
	SyncEvents = 1 << 2
)

// CapSyncRegs answers with the sets a SyncArea can hold.
const CapSyncRegs Capability = 74

// runSync is the offset of kvm_valid_regs in struct kvm_run.
const runSync = 288

// Sync returns the vCPU's SyncArea. It lies in the mapping of kvm_run and is gone after Close.
func (c *VCPU) Sync() *SyncArea { return (*SyncArea)(unsafe.Pointer(&c.run[runSync])) }

// SetTSCOffset sets what KVM adds to the host's TSC for this vCPU (KVM_VCPU_TSC_OFFSET).
func (c *VCPU) SetTSCOffset(offset uint64) error {
	arg := struct {
		Flags, Group uint32
		Attr         uint64
		Addr         *uint64
	}{Addr: &offset} // KVM_VCPU_TSC_CTRL and KVM_VCPU_TSC_OFFSET are both 0
	return set(c.fd, "KVM_SET_DEVICE_ATTR", 0xE1, &arg)
}

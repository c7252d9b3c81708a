package kvm

import (
	"testing"
	"unsafe"
)

// TestABISizes compares each structure with sizeof the kernel's own in <linux/kvm.h>
// (x86_64). The size is part of the ioctl number: a wrong one is refused at run time.
func TestABISizes(t *testing.T) {
	for _, c := range []struct {
		name      string
		got, want uintptr
	}{
		{"kvm_regs", unsafe.Sizeof(Regs{}), 144},
		{"kvm_sregs", unsafe.Sizeof(Sregs{}), 312},
		{"kvm_segment", unsafe.Sizeof(Segment{}), 24},
		{"kvm_dtable", unsafe.Sizeof(Descriptor{}), 16},
		{"kvm_debugregs", unsafe.Sizeof(DebugRegs{}), 128},
		{"kvm_xcrs", unsafe.Sizeof(XCRs{}), 392},
		{"kvm_vcpu_events", unsafe.Sizeof(VCPUEvents{}), 64},
		{"kvm_lapic_state", unsafe.Sizeof(LAPICState{}), 1024},
		{"kvm_pit_state2", unsafe.Sizeof(PITState2{}), 112},
		{"kvm_irqchip", unsafe.Sizeof(IRQChip{}), 520},
		{"kvm_clock_data", unsafe.Sizeof(ClockData{}), 48},
		{"kvm_cpuid_entry2", unsafe.Sizeof(CPUIDEntry{}), cpuidEntrySize},
		{"kvm_msr_entry", unsafe.Sizeof(MSREntry{}), 16},
		{"kvm_fpu", unsafe.Sizeof(FPU{}), 416},
		{"kvm_xsave", unsafe.Sizeof(XSave{}), 4096},
		{"kvm_userspace_memory_region", unsafe.Sizeof(MemoryRegion{}), 32},
		{"kvm_guest_debug", unsafe.Sizeof(GuestDebug{}), 72},
		{"kvm_translation", unsafe.Sizeof(Translation{}), 24},
		{"kvm_irq_routing_entry", unsafe.Sizeof(RoutingEntry{}), 48},
		{"kvm_msi", unsafe.Sizeof(MSI{}), 32},
		{"kvm_enable_cap", unsafe.Sizeof(enableCapArg{}), 104},
		{"kvm_msr_filter_range", unsafe.Sizeof(msrFilterRange{}), 24},
	} {
		if c.got != c.want {
			t.Errorf("struct %s is %d bytes, the kernel's is %d", c.name, c.got, c.want)
		}
	}
}

// TestABIOffsets pins the fields that other rooms, or the kernel, find by offset.
func TestABIOffsets(t *testing.T) {
	for _, c := range []struct {
		name      string
		got, want uintptr
	}{
		{"kvm_regs.rip", unsafe.Offsetof(Regs{}.RIP), 128},
		{"kvm_sregs.cr0", unsafe.Offsetof(Sregs{}.CR0), 224},
		{"kvm_sregs.efer", unsafe.Offsetof(Sregs{}.EFER), 264},
		{"kvm_fpu.xmm", unsafe.Offsetof(FPU{}.XMM), 152},
		{"kvm_fpu.mxcsr", unsafe.Offsetof(FPU{}.MXCSR), 408},
		{"kvm_fpu.last_ip", unsafe.Offsetof(FPU{}.LastIP), 136},
		{"kvm_vcpu_events.flags", unsafe.Offsetof(VCPUEvents{}.Flags), 20},
		{"kvm_vcpu_events.triple_fault", unsafe.Offsetof(VCPUEvents{}.TripleFault), 28},
		{"kvm_vcpu_events.exception_payload", unsafe.Offsetof(VCPUEvents{}.ExceptionPayload), 56},
		{"kvm_irq_routing_entry.u", unsafe.Offsetof(RoutingEntry{}.U), 16},
		{"kvm_clock_data.host_tsc", unsafe.Offsetof(ClockData{}.HostTSC), 24},
	} {
		if c.got != c.want {
			t.Errorf("%s is at %d, the kernel's at %d", c.name, c.got, c.want)
		}
	}
}

// TestRequestNumbers compares composed ioctl numbers with the kernel's.
func TestRequestNumbers(t *testing.T) {
	for _, c := range []struct {
		name      string
		got, want uintptr
	}{
		{"KVM_RUN", request(dirNone, 0x80, 0), 0xAE80},
		{"KVM_GET_CLOCK", request(dirRead, 0x7C, 48), 0x8030AE7C},
		{"KVM_GET_IRQCHIP", request(dirRead|dirWrite, 0x62, 520), 0xC208AE62},
		{"KVM_X86_SET_MSR_FILTER", request(dirWrite, 0xC6, 392), 0x4188AEC6},
	} {
		if c.got != c.want {
			t.Errorf("%s is %#x, the kernel's is %#x", c.name, c.got, c.want)
		}
	}
}

func TestDecodeCPUIDRefusesMoreEntriesThanFit(t *testing.T) {
	buf := cpuidBuffer(2)
	buf[0] = 3
	if got, err := decodeCPUID(buf); err == nil {
		t.Errorf("3 entries decoded from room for 2: %v", got)
	}
}

func TestCPUIDCodec(t *testing.T) {
	want := []CPUIDEntry{
		{Function: 1, Eax: 2, Ebx: 3, Ecx: 4, Edx: 5},
		{Function: 7, Index: 1, Flags: CPUIDFlagSignificantIndex, Eax: 6},
	}
	got, err := decodeCPUID(encodeCPUID(want))
	if err != nil || len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
}

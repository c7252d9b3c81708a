package cpuid

import (
	"strings"

	"github.com/qenex/qenex-kernel/kvm"
)

// baselineFeatures is x86-64-v2 and what KVM itself provides on every host. Nothing in it
// needs XSAVE, and speculation controls, which differ by vendor and microcode, are not in it.
const baselineFeatures = "fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2" +
	" pni ssse3 cx16 sse4_1 sse4_2 x2apic popcnt tsc_deadline_timer hypervisor arat" +
	" lahf_lm syscall nx lm" +
	" kvm_clock kvm_nop_io_delay kvm_clock2 kvm_steal_time kvm_pv_eoi kvm_pv_unhalt kvm_pv_tlb_flush kvm_pv_send_ipi kvm_pv_sched_yield kvm_clock_stable"

// Signatures (leaf 1 EAX) of early processors with the baseline's features.
const (
	intelSignature = 0x206C1  // Westmere
	amdSignature   = 0x700F01 // Jaguar
)

// baselinePhysBits is the width of guest-physical addresses: enough for 1 TiB, and what
// server processors of that age have.
const baselinePhysBits = 40

// baselineOf returns the baseline as far as supported goes. Between hosts of one vendor the
// result differs only in features that a host lacks; between vendors also in leaf 0, in
// the signature and in the leaves that describe topology in the vendor's own way.
func baselineOf(supported *set) *set {
	amd := supported.amd()
	s := &set{}
	vendor := func(leaf, most uint32) kvm.CPUIDEntry {
		e := kvm.CPUIDEntry{Function: leaf, Eax: most}
		if old := supported.entry(0, 0); old != nil && (leaf == 0 || amd) {
			e.Ebx, e.Ecx, e.Edx = old.Ebx, old.Ecx, old.Edx
		}
		return e
	}
	signature := uint32(intelSignature)
	if amd {
		signature = amdSignature
	}
	ext := kvm.CPUIDEntry{Function: 0x80000001}
	if amd {
		ext.Eax = signature
	}
	width := min(supported.get(place{0x80000008, 0, eax})&0xFF, baselinePhysBits)
	if width == 0 {
		width = 36 // the leaf is absent: the width of every x86-64 processor (SDM vol. 2A, CPUID)
	}
	s.entries = append(s.entries,
		vendor(0, 0xD),
		kvm.CPUIDEntry{Function: 1, Eax: signature, Ebx: 8 << 8}, // CLFLUSH lines of 8*8 bytes
		kvm.CPUIDEntry{Function: 6},
		vendor(0x80000000, 0x80000008),
		ext,
		kvm.CPUIDEntry{Function: 0x80000008, Eax: 48<<8 | width},
	)
	s.entries = append(s.entries, brand("QENEX baseline x86-64-v2")...)
	if e := supported.entry(0x40000000, 0); e != nil {
		s.entries = append(s.entries, *e, kvm.CPUIDEntry{Function: 0x40000001})
	}
	for _, name := range strings.Fields(baselineFeatures) {
		if f := features[name]; supported.has(f) {
			s.setFeature(f, true)
		}
	}
	return s
}

// brand returns leaves 0x80000002 to 0x80000004, which spell at most 47 characters.
func brand(name string) []kvm.CPUIDEntry {
	var text [48]byte
	copy(text[:47], name)
	var list []kvm.CPUIDEntry
	for i := range uint32(3) {
		e := kvm.CPUIDEntry{Function: 0x80000002 + i}
		for r := range reg(4) {
			b := text[16*i+4*uint32(r):]
			*register(&e, r) = uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24
		}
		list = append(list, e)
	}
	return list
}

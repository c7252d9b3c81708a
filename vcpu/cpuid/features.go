package cpuid

import "strings"

// feature is one bit of one register.
type feature struct {
	place
	bit uint
}

// words names the feature bits of a register, bit 0 first; "-" is a bit without a name
// here: reserved, a copy of another leaf's bit, or one that a guest cannot use.
var words = []struct {
	place
	names string
}{
	{place{1, 0, ecx}, "pni pclmulqdq dtes64 monitor ds_cpl vmx smx est tm2 ssse3 cid sdbg fma cx16 xtpr pdcm" +
		" - pcid dca sse4_1 sse4_2 x2apic movbe popcnt tsc_deadline_timer aes xsave - avx f16c rdrand hypervisor"},
	{place{1, 0, edx}, "fpu vme de pse tsc msr pae mce cx8 apic - sep mtrr pge mca cmov" +
		" pat pse36 pn clflush - dts acpi mmx fxsr sse sse2 ss ht tm ia64 pbe"},
	{place{6, 0, eax}, "- - arat"},
	{place{7, 0, ebx}, "fsgsbase tsc_adjust sgx bmi1 hle avx2 - smep bmi2 erms invpcid rtm cqm - mpx rdt_a" +
		" avx512f avx512dq rdseed adx smap avx512ifma - clflushopt clwb intel_pt avx512pf avx512er avx512cd sha_ni avx512bw avx512vl"},
	{place{7, 0, ecx}, "- avx512vbmi umip pku - waitpkg avx512_vbmi2 - gfni vaes vpclmulqdq avx512_vnni avx512_bitalg tme avx512_vpopcntdq -" +
		" la57 - - - - - rdpid - bus_lock_detect cldemote - movdiri movdir64b enqcmd sgx_lc -"},
	{place{7, 0, edx}, "- - avx512_4vnniw avx512_4fmaps fsrm - - - avx512_vp2intersect - md_clear - - - serialize hybrid_cpu" +
		" tsxldtrk - pconfig arch_lbr ibt - amx_bf16 avx512_fp16 amx_tile amx_int8 spec_ctrl intel_stibp flush_l1d arch_capabilities core_capabilities ssbd"},
	{place{7, 1, eax}, "- - - - avx_vnni avx512_bf16 - - - - fzrm fsrs fsrc - - - - - - - - amx_fp16 - avx_ifma - - lam"},
	{place{0xD, 1, eax}, "xsaveopt xsavec xgetbv1 xsaves"},
	{place{0x80000001, 0, ecx}, "lahf_lm cmp_legacy svm extapic cr8_legacy abm sse4a misalignsse 3dnowprefetch osvw ibs xop skinit wdt - lwp" +
		" fma4 tce - nodeid_msr - tbm topoext perfctr_core perfctr_nb - bpext ptsc perfctr_llc mwaitx"},
	{place{0x80000001, 0, edx}, "- - - - - - - - - - - syscall - - - - - - - mp nx - mmxext - - fxsr_opt pdpe1gb rdtscp - lm 3dnowext 3dnow"},
	{place{0x80000007, 0, edx}, "- - - - - - - - nonstop_tsc"},
	{place{0x80000008, 0, ebx}, "clzero irperf xsaveerptr - rdpru - - - - wbnoinvd - - ibpb - ibrs stibp" +
		" - stibp_always_on - - - - - - amd_ssbd virt_ssbd amd_ssb_no - amd_psfd"},
	{place{0x40000001, 0, eax}, "kvm_clock kvm_nop_io_delay - kvm_clock2 kvm_async_pf kvm_steal_time kvm_pv_eoi kvm_pv_unhalt" +
		" - kvm_pv_tlb_flush kvm_async_pf_vmexit kvm_pv_send_ipi kvm_poll_control kvm_pv_sched_yield kvm_async_pf_int kvm_msi_ext_dest_id" +
		" kvm_hc_map_gpa_range kvm_migration_control - - - - - - kvm_clock_stable"},
}

var features = func() map[string]feature {
	m := make(map[string]feature)
	for _, w := range words {
		for bit, name := range strings.Fields(w.names) {
			if name != "-" {
				m[name] = feature{w.place, uint(bit)}
			}
		}
	}
	return m
}()

// needs lists, for a feature, those that mean nothing without it. Features that hang on
// a dependent follow by repetition.
var needs = []struct{ base, dependents string }{
	{"xsave", "avx mpx pku amx_tile xsaveopt xsavec xgetbv1 xsaves"},
	{"avx", "avx2 fma f16c xop fma4 vaes vpclmulqdq avx_vnni avx_ifma"},
	{"avx2", "avx512f"},
	{"avx512f", "avx512dq avx512ifma avx512pf avx512er avx512cd avx512bw avx512vl avx512vbmi avx512_vbmi2 avx512_vnni avx512_bitalg" +
		" avx512_vpopcntdq avx512_4vnniw avx512_4fmaps avx512_vp2intersect avx512_fp16 avx512_bf16"},
	{"amx_tile", "amx_bf16 amx_int8 amx_fp16"},
	{"lm", "la57 lahf_lm syscall"},
}

// closeNeeds turns off every feature whose base is off.
func (s *set) closeNeeds() {
	for changed := true; changed; {
		changed = false
		for _, n := range needs {
			if s.has(features[n.base]) {
				continue
			}
			for _, name := range strings.Fields(n.dependents) {
				if f := features[name]; s.has(f) {
					s.setFeature(f, false)
					changed = true
				}
			}
		}
	}
}

// xstates says which bits of XCR0 and IA32_XSS (the components of leaf 0xD) belong to which
// feature. A component without a line here, x87 and SSE first of all, hangs on xsave alone.
var xstates = []struct {
	name string
	bits uint64
}{
	{"avx", 1 << 2},
	{"mpx", 1<<3 | 1<<4},
	{"avx512f", 1<<5 | 1<<6 | 1<<7},
	{"pku", 1 << 9},
	{"amx_tile", 1<<17 | 1<<18},
}

// closeXState makes leaf 0xD agree with the features: no component of a feature that is off,
// and sizes to match. KVM itself fills in EBX, the size of what the guest has enabled.
func (s *set) closeXState() {
	if !s.has(features["xsave"]) {
		s.blank(0xD)
		return
	}
	var off uint64
	for _, x := range xstates {
		if !s.has(features[x.name]) {
			off |= x.bits
		}
	}
	s.update(place{0xD, 0, eax}, ^uint32(off), 0)
	s.update(place{0xD, 0, edx}, ^uint32(off>>32), 0)
	size := uint32(512 + 64) // legacy region and header (SDM vol. 1, 13.4)
	kept := s.entries[:0]
	for _, e := range s.entries {
		if e.Function == 0xD && 2 <= e.Index && e.Index < 64 {
			if off>>e.Index&1 != 0 {
				continue
			}
			if supervisor := e.Ecx&1 != 0; !supervisor {
				size = max(size, e.Eax+e.Ebx)
			}
		}
		kept = append(kept, e)
	}
	s.entries = kept
	s.update(place{0xD, 0, ecx}, 0, size)
}

package cpuid

import (
	"math/bits"

	"github.com/qenex/qenex-kernel/kvm"
)

// topology describes one socket of count cores with one thread each; id is the APIC id.
func (s *set) topology(id, count uint32) {
	shift := uint32(bits.Len32(count - 1)) // APIC id bits that number the core
	s.update(place{1, 0, ebx}, 0xFFFF, id<<24|min(count, 255)<<16)
	s.setFeature(features["ht"], count > 1)

	amd := s.amd()
	s.caches(count, shift, amd)
	s.raiseMax(0xB)
	s.extended(0xB, id, count, shift)
	if s.get(place{reg: eax}) >= 0x1F {
		s.extended(0x1F, id, count, shift)
	} else {
		s.drop(0x1F)
	}
	if !amd {
		return
	}
	s.setFeature(features["cmp_legacy"], count > 1)
	s.update(place{0x80000008, 0, ecx}, ^uint32(0xF0FF), shift<<12|(count-1))
	if s.has(features["topoext"]) {
		// One thread a core, one node a socket (APM vol. 3, E.4.17).
		s.put(kvm.CPUIDEntry{Function: 0x8000001E, Eax: id, Ebx: id & 0xFF})
	} else {
		s.blank(0x8000001D)
		s.blank(0x8000001E)
	}
}

// caches makes the cache leaf agree: caches of level 3 and up are the socket's, others
// the core's. In both leaves EAX has the type in bits 4:0, the level in 7:5 and the number
// of APIC ids that share the cache, less one, in 25:14.
func (s *set) caches(count, shift uint32, amd bool) {
	leaf, shared, cores := uint32(4), uint32(1)<<shift-1, uint32(0)
	if amd {
		leaf, shared = 0x8000001D, count-1
	} else {
		cores = min(shared, 63) << 26 // ids for cores in the package, less one
	}
	for i := range s.entries {
		e := &s.entries[i]
		if e.Function != leaf || e.Eax&0x1F == 0 {
			continue
		}
		e.Eax &^= 0xFFF << 14
		if e.Eax>>5&7 >= 3 {
			e.Eax |= shared << 14
		}
		if !amd {
			e.Eax = e.Eax&^(0x3F<<26) | cores
		}
	}
}

// extended writes the extended topology leaf 0xB or 0x1F: the thread level, the core level
// and the level that ends the list (SDM vol. 2A, CPUID).
func (s *set) extended(leaf, id, count, shift uint32) {
	const thread, core = 1 << 8, 2 << 8 // level types, in ECX bits 15:8
	s.drop(leaf)
	for i, e := range []kvm.CPUIDEntry{
		{Eax: 0, Ebx: 1, Ecx: thread},
		{Eax: shift, Ebx: count, Ecx: core},
		{},
	} {
		e.Function, e.Index, e.Flags = leaf, uint32(i), kvm.CPUIDFlagSignificantIndex
		e.Ecx |= uint32(i)
		e.Edx = id
		s.entries = append(s.entries, e)
	}
}

// apicBusHz is the frequency of the timer in KVM's in-kernel local APIC.
const apicBusHz = 1e9

// clock tells an Intel guest its TSC frequency (leaf 0x15) and nominal speed (0x16), which
// spares it the calibration; other vendors have no such leaves. The crystal is the APIC's
// clock, because Linux takes one for the other. With khz 0 the host's leaves stay.
func (s *set) clock(khz uint32) {
	if khz == 0 || !s.intel() {
		return
	}
	s.raiseMax(0x16)
	mhz := min((khz+500)/1000, 0xFFFF)
	s.put(kvm.CPUIDEntry{Function: 0x15, Eax: apicBusHz / 1000, Ebx: khz, Ecx: apicBusHz})
	s.put(kvm.CPUIDEntry{Function: 0x16, Eax: mhz, Ebx: mhz, Ecx: 100})
}

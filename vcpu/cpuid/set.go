package cpuid

import (
	"fmt"
	"slices"

	"github.com/qenex/qenex-kernel/kvm"
)

// reg is one of the four registers that CPUID fills.
type reg uint8

const (
	eax reg = iota
	ebx
	ecx
	edx
)

func (r reg) String() string { return [...]string{"EAX", "EBX", "ECX", "EDX"}[r] }

// place is one register of one leaf.
type place struct {
	leaf, index uint32
	reg         reg
}

func (p place) String() string {
	return fmt.Sprintf("leaf %#x index %d %v", p.leaf, p.index, p.reg)
}

// set is a list of CPUID entries that is edited in place.
type set struct{ entries []kvm.CPUIDEntry }

// entry returns the entry of a leaf, nil when there is none.
func (s *set) entry(leaf, index uint32) *kvm.CPUIDEntry {
	for i := range s.entries {
		if e := &s.entries[i]; e.Function == leaf && e.Index == index {
			return e
		}
	}
	return nil
}

func register(e *kvm.CPUIDEntry, r reg) *uint32 {
	return [...]*uint32{&e.Eax, &e.Ebx, &e.Ecx, &e.Edx}[r]
}

// get returns a register, 0 when its leaf is absent.
func (s *set) get(p place) uint32 {
	e := s.entry(p.leaf, p.index)
	if e == nil {
		return 0
	}
	return *register(e, p.reg)
}

// update keeps the bits of a register under keep and sets those of bits. A leaf that
// is absent stays so: all its registers read 0.
func (s *set) update(p place, keep, bits uint32) {
	if e := s.entry(p.leaf, p.index); e != nil {
		r := register(e, p.reg)
		*r = *r&keep | bits
	}
}

func (s *set) has(f feature) bool { return s.get(f.place)>>f.bit&1 != 0 }

func (s *set) setFeature(f feature, on bool) {
	mask := uint32(1) << f.bit
	if on {
		s.update(f.place, ^mask, mask)
	} else {
		s.update(f.place, ^mask, 0)
	}
}

// put replaces or adds the entry of a leaf.
func (s *set) put(e kvm.CPUIDEntry) {
	if old := s.entry(e.Function, e.Index); old != nil {
		*old = e
		return
	}
	s.entries = append(s.entries, e)
}

// drop removes every entry of a leaf.
func (s *set) drop(leaf uint32) {
	s.entries = slices.DeleteFunc(s.entries, func(e kvm.CPUIDEntry) bool { return e.Function == leaf })
}

// blank makes a leaf read 0 in all registers. It stays in the list: a KVM that passes the
// processor's own CPUID through where it was told nothing is thus told.
func (s *set) blank(leaf uint32) {
	if old := s.entry(leaf, 0); old != nil {
		e := kvm.CPUIDEntry{Function: leaf, Flags: old.Flags}
		s.drop(leaf)
		s.entries = append(s.entries, e)
	}
}

// raiseMax makes leaf the highest basic leaf at least.
func (s *set) raiseMax(leaf uint32) {
	if p := (place{reg: eax}); s.get(p) < leaf {
		s.update(p, 0, leaf)
	}
}

// amd says whether the guest sees a processor that speaks AMD's leaves (Hygon does).
func (s *set) amd() bool {
	b := s.get(place{reg: ebx})
	return b == 0x68747541 || b == 0x6F677948 // "Auth"enticAMD, "Hygo"nGenuine
}

// intel says whether the guest sees an Intel processor.
func (s *set) intel() bool { return s.get(place{reg: ebx}) == 0x756E6547 } // "Genu"ineIntel

package cpuid

import (
	"fmt"
	"math/bits"
	"slices"

	"github.com/qenex/qenex-kernel/kvm"
)

// MaxCount is the largest number of vCPUs: xAPIC ids have 8 bits and 255 is the broadcast.
const MaxCount = 255

// Params is what one vCPU's leaves depend on besides the model.
type Params struct {
	ID    int // the vCPU's number and APIC id, 0 to Count-1
	Count int // vCPUs of the VM, 1 to MaxCount

	// SoftwareKVM hides what a KVM without VMX or SVM cannot run: CMPXCHG16B and the
	// paravirtual features that make the guest execute a hypercall.
	SoftwareKVM bool

	// TSCDeadline says that KVM has KVM_CAP_TSC_DEADLINE_TIMER. Older kernels leave the
	// feature out of their supported set although they have it.
	TSCDeadline bool

	TSCkHz int // frequency of the guest's TSC in kHz, 0 when not known
}

// pmu is the name of all performance-monitoring features together.
const pmu = "pmu"

// hidden features need +name to show, even where KVM supports them.
var hidden = []string{"vmx", "svm", "monitor", "mwaitx"}

// hypercalling features make the guest execute VMCALL or VMMCALL.
var hypercalling = []string{"kvm_pv_unhalt", "kvm_pv_send_ipi", "kvm_pv_sched_yield", "kvm_hc_map_gpa_range"}

// identity are registers whose bits spell a name or a number rather than features: a model
// file may set them freely.
var identity = []place{
	{1, 0, eax}, {0x80000001, 0, eax},
	{0x80000002, 0, eax}, {0x80000002, 0, ebx}, {0x80000002, 0, ecx}, {0x80000002, 0, edx},
	{0x80000003, 0, eax}, {0x80000003, 0, ebx}, {0x80000003, 0, ecx}, {0x80000003, 0, edx},
	{0x80000004, 0, eax}, {0x80000004, 0, ebx}, {0x80000004, 0, ecx}, {0x80000004, 0, edx},
}

// Build returns the leaves of one vCPU for KVM_SET_CPUID2: the model, made from supported
// (KVM_GET_SUPPORTED_CPUID, left untouched), with the vCPU's identity, topology (one socket,
// Count cores, one thread each) and clock written over it. It fails with ErrUnsupported when
// the model asks for a feature that the host lacks.
func Build(model Model, supported []kvm.CPUIDEntry, p Params) ([]kvm.CPUIDEntry, error) {
	if p.Count < 1 || p.Count > MaxCount || p.ID < 0 || p.ID >= p.Count {
		return nil, fmt.Errorf("CPUID of vCPU %d of %d: need 0 <= id < count <= %d", p.ID, p.Count, MaxCount)
	}
	if p.TSCkHz < 0 || uint64(p.TSCkHz) > 1<<32-1 {
		return nil, fmt.Errorf("CPUID of vCPU %d: TSC frequency %d kHz is out of range", p.ID, p.TSCkHz)
	}
	can := &set{slices.Clone(supported)}
	if can.entry(0, 0) == nil || can.entry(1, 0) == nil || can.entry(0x80000001, 0) == nil {
		return nil, fmt.Errorf("CPUID of vCPU %d: KVM names no leaf 0, 1 or 0x80000001", p.ID)
	}
	ceiling(can, p)

	s := &set{slices.Clone(can.entries)}
	if model.baseline {
		s = baselineOf(can)
	}
	for _, name := range hidden {
		s.setFeature(features[name], false)
	}
	if err := model.change(s, can); err != nil {
		return nil, fmt.Errorf("CPU model %v: %w", model, err)
	}
	s.closeNeeds()
	if err := model.verify(s); err != nil {
		return nil, fmt.Errorf("CPU model %v: %w", model, err)
	}
	s.closeXState()
	if on, _ := model.tweaked(pmu); !on {
		s.hidePMU()
	} else if s.get(place{0xA, 0, eax}) == 0 && !s.has(features["perfctr_core"]) {
		return nil, fmt.Errorf("CPU model %v: %w: pmu", model, ErrUnsupported)
	}
	if !s.has(features["monitor"]) {
		s.blank(5)
	}
	if !s.has(features["svm"]) {
		s.blank(0x8000000A)
	}
	s.topology(uint32(p.ID), uint32(p.Count))
	s.clock(uint32(p.TSCkHz))
	return s.entries, nil
}

// ceiling turns the supported set into all that a guest may have here.
func ceiling(s *set, p Params) {
	s.setFeature(features["hypervisor"], true)
	if p.TSCDeadline {
		s.setFeature(features["tsc_deadline_timer"], true)
	}
	s.update(place{1, 0, ecx}, ^uint32(1<<27), 0) // OSXSAVE: KVM follows CR4
	s.setFeature(features["hybrid_cpu"], false)   // vCPUs move between kinds of core
	s.blank(0x1A)                                 // the kind of core
	if e := s.entry(0x40000000, 0); e != nil {    // old kernels report 0 here
		e.Eax = max(e.Eax, 0x40000001)
	}
	if p.SoftwareKVM {
		s.setFeature(features["cx16"], false)
		for _, name := range hypercalling {
			s.setFeature(features[name], false)
		}
	}
}

// change applies the model's file and named features to s; can is the ceiling.
func (m Model) change(s, can *set) error {
	for _, p := range m.patches {
		if lacking := p.set &^ can.get(p.place); lacking != 0 && !slices.Contains(identity, p.place) {
			return fmt.Errorf("%w: %v bit %d", ErrUnsupported, p.place, bits.TrailingZeros32(lacking))
		}
		s.update(p.place, ^p.clear, p.set)
	}
	for _, t := range m.tweaks {
		if t.name == pmu {
			continue
		}
		f := features[t.name]
		if t.on && !can.has(f) {
			return fmt.Errorf("%w: %s (%v bit %d)", ErrUnsupported, t.name, f.place, f.bit)
		}
		if t.on && s.entry(f.leaf, f.index) == nil {
			e := *can.entry(f.leaf, f.index)
			e.Eax, e.Ebx, e.Ecx, e.Edx = 0, 0, 0, 0
			s.put(e)
		}
		s.setFeature(f, t.on)
	}
	return nil
}

// verify finds a feature that was added and fell with another that it needs.
func (m Model) verify(s *set) error {
	for _, t := range m.tweaks {
		if on, _ := m.tweaked(t.name); on && t.name != pmu && !s.has(features[t.name]) {
			return fmt.Errorf("%w: %s needs a feature that this model has not", ErrUnsupported, t.name)
		}
	}
	return nil
}

// hidePMU removes performance monitoring of both vendors.
func (s *set) hidePMU() {
	s.blank(0xA)
	s.blank(0x80000022)
	for _, name := range []string{"pdcm", "dts", "dtes64", "perfctr_core", "perfctr_nb", "perfctr_llc"} {
		s.setFeature(features[name], false)
	}
}

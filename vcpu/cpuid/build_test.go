package cpuid

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/qenex/qenex-kernel/internal/kvmtest"
	"github.com/qenex/qenex-kernel/kvm"
)

func entry(leaf, index, a, b, c, d uint32) kvm.CPUIDEntry {
	return kvm.CPUIDEntry{Function: leaf, Index: index, Eax: a, Ebx: b, Ecx: c, Edx: d}
}

func bitsOf(names string) map[place]uint32 {
	m := make(map[place]uint32)
	for _, n := range strings.Fields(names) {
		f, ok := features[n]
		if !ok {
			panic("test names unknown feature " + n)
		}
		m[f.place] |= 1 << f.bit
	}
	return m
}

// with turns on named features in a synthetic supported set.
func with(s *set, names string) []kvm.CPUIDEntry {
	for p, b := range bitsOf(names) {
		if s.entry(p.leaf, p.index) == nil {
			s.put(entry(p.leaf, p.index, 0, 0, 0, 0))
		}
		s.update(p, ^uint32(0), b)
	}
	return s.entries
}

const v2 = "fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2" +
	" pni ssse3 cx16 sse4_1 sse4_2 x2apic popcnt arat lahf_lm syscall nx lm kvm_clock kvm_nop_io_delay kvm_clock2" +
	" kvm_steal_time kvm_pv_eoi kvm_pv_unhalt kvm_pv_tlb_flush kvm_pv_send_ipi kvm_pv_sched_yield kvm_clock_stable"

// intelHost is a server with AVX-512, a hybrid bit and 16 threads a package.
func intelHost() []kvm.CPUIDEntry {
	return with(&set{[]kvm.CPUIDEntry{
		entry(0, 0, 0x1F, 0x756E6547, 0x6C65746E, 0x49656E69),
		entry(1, 0, 0x606A6, 0x11100842, 1<<27, 0),
		entry(4, 0, 7<<26|1<<14|1<<5|1, 0x2C0003F, 63, 0),
		entry(4, 1, 7<<26|15<<14|3<<5|3, 0x3C0003F, 0x7FFF, 4),
		entry(4, 2, 0, 0, 0, 0),
		entry(5, 0, 64, 64, 3, 0x20),
		entry(0xA, 0, 0x08300805, 0, 0, 0x603),
		entry(0xB, 0, 1, 2, 0x100, 0x11),
		entry(0xB, 1, 4, 16, 0x201, 0x11),
		entry(0xD, 0, 0x2E7, 0x340, 0xA88, 0),
		entry(0xD, 2, 256, 576, 0, 0),
		entry(0xD, 5, 64, 1088, 0, 0),
		entry(0xD, 6, 512, 1152, 0, 0),
		entry(0xD, 7, 1024, 1664, 0, 0),
		entry(0xD, 9, 8, 2688, 0, 0),
		entry(0xD, 11, 16, 0, 1, 0),
		entry(0x15, 0, 2, 216, 0, 0),
		entry(0x1A, 0, 0x40000001, 0, 0, 0),
		entry(0x1F, 0, 1, 2, 0x100, 0x11),
		entry(0x80000000, 0, 0x80000008, 0, 0, 0),
		entry(0x80000008, 0, 0x392E, 0, 0, 0),
		entry(0x40000000, 0, 0x40000001, 0x4b4d564b, 0x564b4d56, 0x4d),
	}}, v2+" vmx monitor pdcm hybrid_cpu xsave avx avx2 fma f16c pku bmi2 xsaveopt xgetbv1"+
		" avx512f avx512dq avx512bw avx512_vnni spec_ctrl nonstop_tsc rdtscp")
}

// amdHost is a server with 8 threads a package.
func amdHost() []kvm.CPUIDEntry {
	return with(&set{[]kvm.CPUIDEntry{
		entry(0, 0, 0x10, 0x68747541, 0x444d4163, 0x69746e65),
		entry(1, 0, 0xA00F11, 0x05080800, 0, 0),
		entry(0xD, 0, 7, 0x340, 0x340, 0),
		entry(0xD, 2, 256, 576, 0, 0),
		entry(0x80000000, 0, 0x80000021, 0x68747541, 0x444d4163, 0x69746e65),
		entry(0x80000008, 0, 0x3030, 0, 0x7007, 0),
		entry(0x8000000A, 0, 1, 8, 0, 0xFF),
		entry(0x8000001D, 0, 1<<14|0x121, 0x1C0003F, 63, 0),
		entry(0x8000001D, 3, 7<<14|0x163, 0x3C0003F, 0x7FFF, 1),
		entry(0x8000001E, 0, 5, 0x102, 0, 0),
		entry(0x80000022, 0, 1, 6, 0, 0),
		entry(0x40000000, 0, 0, 0x4b4d564b, 0x564b4d56, 0x4d),
	}}, v2+" svm topoext perfctr_core xsave avx avx2 tsc_deadline_timer rdtscp ibpb nonstop_tsc kvm_hc_map_gpa_range")
}

func build(t *testing.T, spec string, supported []kvm.CPUIDEntry, p Params) *set {
	t.Helper()
	m, err := Parse(spec)
	if err != nil {
		t.Fatal(err)
	}
	e, err := Build(m, supported, p)
	if err != nil {
		t.Fatal(err)
	}
	return &set{e}
}

func TestFeatureTable(t *testing.T) {
	for _, w := range words {
		if n := len(strings.Fields(w.names)); n > 32 {
			t.Errorf("%v has %d names", w.place, n)
		}
	}
	named := 0
	for _, w := range words {
		for _, n := range strings.Fields(w.names) {
			if n != "-" {
				named++
			}
		}
	}
	if named != len(features) {
		t.Errorf("%d names, %d features: a name comes twice", named, len(features))
	}
	for name, want := range map[string]feature{ // from the SDM and the APM
		"hypervisor": {place{1, 0, ecx}, 31}, "sse2": {place{1, 0, edx}, 26}, "pbe": {place{1, 0, edx}, 31},
		"avx512vl": {place{7, 0, ebx}, 31}, "smap": {place{7, 0, ebx}, 20}, "rdpid": {place{7, 0, ecx}, 22},
		"ssbd": {place{7, 0, edx}, 31}, "amx_tile": {place{7, 0, edx}, 24}, "avx_ifma": {place{7, 1, eax}, 23},
		"topoext": {place{0x80000001, 0, ecx}, 22}, "mwaitx": {place{0x80000001, 0, ecx}, 29},
		"lm": {place{0x80000001, 0, edx}, 29}, "rdtscp": {place{0x80000001, 0, edx}, 27},
		"ibpb": {place{0x80000008, 0, ebx}, 12}, "amd_ssbd": {place{0x80000008, 0, ebx}, 24},
		"kvm_clock_stable": {place{0x40000001, 0, eax}, 24}, "kvm_pv_sched_yield": {place{0x40000001, 0, eax}, 13},
	} {
		if features[name] != want {
			t.Errorf("%s is %v, want %v", name, features[name], want)
		}
	}
	for _, n := range needs {
		for _, name := range append(strings.Fields(n.dependents), n.base) {
			if _, ok := features[name]; !ok {
				t.Errorf("needs: unknown feature %s", name)
			}
		}
	}
	for _, name := range append(append(strings.Fields(baselineFeatures), hidden...), hypercalling...) {
		if _, ok := features[name]; !ok {
			t.Errorf("unknown feature %s", name)
		}
	}
	for _, x := range xstates {
		if _, ok := features[x.name]; !ok {
			t.Errorf("xstates: unknown feature %s", x.name)
		}
	}
}

func TestRegisters(t *testing.T) {
	one := Params{Count: 1}
	four := Params{ID: 2, Count: 4}
	six := Params{ID: 5, Count: 6, TSCDeadline: true, TSCkHz: 2400000}
	type want struct {
		at    place
		mask  uint32
		value uint32
	}
	all := ^uint32(0)
	for _, c := range []struct {
		name string
		spec string
		host []kvm.CPUIDEntry
		p    Params
		want []want
	}{
		{"intel host, 6 CPUs", "host", intelHost(), six, []want{
			{place{1, 0, ebx}, all, 5<<24 | 6<<16 | 0x0842},
			{place{1, 0, edx}, 1 << 28, 1 << 28},
			{place{1, 0, ecx}, 1<<31 | 1<<24 | 1<<21, 1<<31 | 1<<24 | 1<<21},
			{place{1, 0, ecx}, 1<<3 | 1<<5 | 1<<15 | 1<<27, 0},
			{place{4, 0, eax}, all, 7<<26 | 1<<5 | 1},
			{place{4, 1, eax}, all, 7<<26 | 7<<14 | 3<<5 | 3},
			{place{4, 2, eax}, all, 0},
			{place{5, 0, eax}, all, 0},
			{place{7, 0, edx}, 1 << 15, 0},
			{place{0xA, 0, eax}, all, 0},
			{place{0xB, 0, eax}, all, 0},
			{place{0xB, 0, ebx}, all, 1},
			{place{0xB, 0, ecx}, all, 0x100},
			{place{0xB, 1, eax}, all, 3},
			{place{0xB, 1, ebx}, all, 6},
			{place{0xB, 1, ecx}, all, 0x201},
			{place{0xB, 1, edx}, all, 5},
			{place{0xB, 2, ecx}, all, 2},
			{place{0xD, 0, eax}, all, 0x2E7},
			{place{0xD, 0, ecx}, all, 2696},
			{place{0x15, 0, ebx}, all, 2400000},
			{place{0x16, 0, eax}, all, 2400},
			{place{0x1A, 0, eax}, all, 0},
			{place{0x1F, 1, edx}, all, 5},
			{place{0x80000008, 0, ecx}, all, 0},
			{place{0x40000000, 0, ebx}, all, 0x4b4d564b},
		}},
		{"intel host, 1 CPU, TSC not known", "host", intelHost(), one, []want{
			{place{1, 0, ebx}, all, 1<<16 | 0x0842},
			{place{1, 0, edx}, 1 << 28, 0},
			{place{1, 0, ecx}, 1 << 24, 0},
			{place{4, 1, eax}, 0xFFF << 14, 0},
			{place{0xB, 1, eax}, all, 0},
			{place{0x15, 0, ebx}, all, 216},
		}},
		{"asked for", "host,+vmx,+pmu,+monitor", intelHost(), one, []want{
			{place{1, 0, ecx}, 1<<3 | 1<<5 | 1<<15, 1<<3 | 1<<5 | 1<<15},
			{place{5, 0, eax}, all, 64},
			{place{0xA, 0, eax}, all, 0x08300805},
		}},
		{"without avx512", "host,-avx512f", intelHost(), one, []want{
			{place{7, 0, ebx}, 1<<5 | 1<<16 | 1<<17 | 1<<30, 1 << 5},
			{place{7, 0, ecx}, 1 << 11, 0},
			{place{0xD, 0, eax}, all, 0x207},
			{place{0xD, 0, ecx}, all, 2696}, // PKU lies behind AVX-512 in the standard format
			{place{0xD, 6, eax}, all, 0},
		}},
		{"without avx and pku", "host,-avx,-pku", intelHost(), one, []want{
			{place{1, 0, ecx}, 1<<12 | 1<<28 | 1<<29 | 1<<26, 1 << 26},
			{place{7, 0, ebx}, 1<<5 | 1<<16 | 1<<8, 1 << 8},
			{place{0xD, 0, eax}, all, 3},
			{place{0xD, 0, ecx}, all, 576},
			{place{0xD, 11, eax}, all, 16},
		}},
		{"without xsave", "host,-xsave", intelHost(), one, []want{
			{place{1, 0, ecx}, 1<<26 | 1<<28, 0},
			{place{0xD, 0, eax}, all, 0},
			{place{0xD, 1, eax}, all, 0},
		}},
		{"amd host, 4 CPUs", "host", amdHost(), four, []want{
			{place{0, 0, eax}, all, 0x10},
			{place{1, 0, ebx}, all, 2<<24 | 4<<16 | 0x0800},
			{place{0xB, 1, ebx}, all, 4},
			{place{0x15, 0, eax}, all, 0},
			{place{0x80000001, 0, ecx}, 1<<1 | 1<<2 | 1<<22 | 1<<23, 1<<1 | 1<<22},
			{place{0x80000008, 0, eax}, all, 0x3030},
			{place{0x80000008, 0, ecx}, all, 2<<12 | 3},
			{place{0x8000000A, 0, eax}, all, 0},
			{place{0x8000001D, 0, eax}, all, 0x121},
			{place{0x8000001D, 3, eax}, all, 3<<14 | 0x163},
			{place{0x8000001E, 0, eax}, all, 2},
			{place{0x8000001E, 0, ebx}, all, 2},
			{place{0x80000022, 0, eax}, all, 0},
			{place{0x40000000, 0, eax}, all, 0x40000001},
			{place{0x40000001, 0, eax}, 1<<7 | 1<<11 | 1<<13 | 1<<16, 1<<7 | 1<<11 | 1<<13 | 1<<16},
		}},
		{"amd host, svm asked for", "host,+svm", amdHost(), one, []want{
			{place{0x80000001, 0, ecx}, 1<<1 | 1<<2, 1 << 2},
			{place{0x8000000A, 0, ebx}, all, 8},
		}},
		{"amd host without topoext", "host,-topoext", amdHost(), four, []want{
			{place{0x8000001D, 3, eax}, all, 0},
			{place{0x8000001E, 0, ebx}, all, 0},
		}},
		{"amd host, software KVM", "host", amdHost(), Params{Count: 2, SoftwareKVM: true}, []want{
			{place{1, 0, ecx}, 1 << 13, 0},
			{place{0x40000001, 0, eax}, 1<<7 | 1<<11 | 1<<13 | 1<<16, 0},
			{place{0x40000001, 0, eax}, 1<<0 | 1<<3 | 1<<24, 1<<0 | 1<<3 | 1<<24},
		}},
		{"baseline and more", "baseline,+rdtscp,+nonstop_tsc", amdHost(), one, []want{
			{place{0x80000001, 0, edx}, 1 << 27, 1 << 27},
			{place{0x80000007, 0, edx}, all, 1 << 8},
			{place{1, 0, eax}, all, amdSignature},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := slices.Clone(c.host)
			got := build(t, c.spec, c.host, c.p)
			for _, w := range c.want {
				if v := got.get(w.at) & w.mask; v != w.value {
					t.Errorf("%v: %#x under %#x, want %#x", w.at, v, w.mask, w.value)
				}
			}
			if !slices.Equal(before, c.host) {
				t.Error("the supported set was changed")
			}
			seen := make(map[[2]uint32]bool)
			for _, e := range got.entries {
				if k := [2]uint32{e.Function, e.Index}; seen[k] {
					t.Errorf("leaf %#x index %d comes twice", e.Function, e.Index)
				} else {
					seen[k] = true
				}
			}
		})
	}
}

// The features of the baseline are the same on hosts of both vendors, and all of its leaves
// are the same on two hosts of one vendor.
func TestBaselineStable(t *testing.T) {
	p := Params{ID: 1, Count: 4, TSCDeadline: true, TSCkHz: 2000000}
	intel, amd := build(t, "baseline", intelHost(), p), build(t, "baseline", amdHost(), p)
	own := []string{"cmp_legacy"} // AMD's word for several cores
	for name, f := range features {
		if i, a := intel.has(f), amd.has(f); i != a && !slices.Contains(own, name) {
			t.Errorf("%s: %v on Intel, %v on AMD", name, i, a)
		}
	}
	for name := range strings.FieldsSeq(baselineFeatures) {
		if !intel.has(features[name]) {
			t.Errorf("%s is missing", name)
		}
	}
	other := (&set{amdHost()})
	other.update(place{1, 0, eax}, 0, 0x800F12)
	other.update(place{0, 0, eax}, 0, 0xD)
	if got := build(t, "baseline", other.entries, p); !slices.Equal(got.entries, amd.entries) {
		t.Errorf("differs between AMD hosts:\n%v\n%v", got.entries, amd.entries)
	}
}

func TestUnsupported(t *testing.T) {
	file := func(text string) Model {
		m, err := ParseFile([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	spec := func(s string) Model {
		m, err := Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	for _, c := range []struct {
		m    Model
		host []kvm.CPUIDEntry
		says string
	}{
		{spec("host,+amx_tile"), intelHost(), "amx_tile (leaf 0x7 index 0 EDX bit 24)"},
		{spec("host,+svm"), intelHost(), "svm"},
		{spec("host,+pmu"), (&set{amdHost()}).without("perfctr_core"), "pmu"},
		{spec("host,-avx,+avx2"), intelHost(), "avx2 needs"},
		{file(`[{"leaf":7,"edx":{"set":[24]}}]`), intelHost(), "leaf 0x7 index 0 EDX bit 24"},
		{file(`[{"leaf":"0x80000001","ecx":{"set":[2]}}]`), intelHost(), "leaf 0x80000001 index 0 ECX bit 2"},
		{file(`[{"leaf":99,"eax":{"set":[0]}}]`), intelHost(), "leaf 0x63 index 0 EAX bit 0"},
	} {
		_, err := Build(c.m, c.host, Params{Count: 1})
		if !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%v: error %v, want one that says %q", c.m, err, c.says)
		}
	}
}

func (s *set) without(name string) []kvm.CPUIDEntry {
	s.setFeature(features[name], false)
	return s.entries
}

func TestParamsRefused(t *testing.T) {
	for _, p := range []Params{{}, {Count: -1}, {Count: 256}, {ID: 1, Count: 1}, {ID: -1, Count: 1}, {Count: 1, TSCkHz: -1}, {Count: 1, TSCkHz: 1 << 32}} {
		if _, err := Build(Model{}, intelHost(), p); err == nil {
			t.Errorf("%+v was accepted", p)
		}
	}
	if _, err := Build(Model{}, nil, Params{Count: 1}); err == nil {
		t.Error("an empty supported set was accepted")
	}
}

// Every model is taken by the machine's own KVM and comes back as it was given.
func TestRealKVM(t *testing.T) {
	kvmtest.NoLeaks(t)
	sys := kvmtest.Open(t)
	supported, err := sys.SupportedCPUID()
	if err != nil {
		t.Fatal(err)
	}
	for _, spec := range []string{"host", "baseline", "host,-sse2"} {
		t.Run(spec, func(t *testing.T) {
			vm, err := sys.CreateVM()
			if err != nil {
				t.Fatal(err)
			}
			defer vm.Close()
			if err := vm.CreateIRQChip(); err != nil {
				t.Fatal(err)
			}
			for id := range 3 {
				c, err := vm.CreateVCPU(id)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				want := build(t, spec, supported, Params{ID: id, Count: 3, SoftwareKVM: true})
				if err := c.SetCPUID(want.entries); err != nil {
					t.Fatalf("vCPU %d: %v", id, err)
				}
				got, err := c.CPUID()
				if err != nil {
					t.Fatal(err)
				}
				back := &set{got}
				for _, at := range []place{{1, 0, ebx}, {0xB, 1, ebx}, {0xB, 1, edx}, {0x40000001, 0, eax}, {0x80000001, 0, edx}} {
					if back.get(at) != want.get(at) {
						t.Errorf("vCPU %d %v: set %#x, got %#x", id, at, want.get(at), back.get(at))
					}
				}
			}
		})
	}
}

package probe

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/qenex/qenex-kernel/internal/kvmtest"
	"github.com/qenex/qenex-kernel/kvm"
)

func TestMeasure(t *testing.T) {
	kvmtest.NoLeaks(t)
	sys := kvmtest.Open(t)
	begin := time.Now()
	r, err := Measure(t.Context(), sys)
	took := time.Since(begin)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("in %v: %s", took, text)
	for name, ns := range map[string]float64{
		"create": r.CreateNS, "CPL 0 loop": r.CPL0LoopNS, "CPL 3 loop": r.CPL3LoopNS, "port exit at CPL 0": r.PortExitCPL0NS,
		"port exit at CPL 3": r.PortExitCPL3NS, "MMIO exit": r.MMIOExitNS, "syscall": r.SyscallNS,
	} {
		if ns <= 0 || ns > 1e9 {
			t.Errorf("%s: %v ns", name, ns)
		}
	}
	if len(r.Instructions) != len(trials) {
		t.Errorf("%d instructions tried of %d", len(r.Instructions), len(trials))
	}
	outcomes := map[string]Outcome{}
	for _, i := range r.Instructions {
		outcomes[i.Name] = i.Outcome
	}
	if !softwareModule() {
		if missing := r.Missing(); len(missing) > 0 {
			t.Errorf("a hardware KVM lacks %v", missing)
		}
		if r.Hypercall.Outcome != Works || !r.CPUIDLeaks.Honoured() {
			t.Errorf("hypercall %v, CPUID leaks %+v", r.Hypercall, r.CPUIDLeaks)
		}
		return
	}
	if r.CPL0LoopNS < 20*r.CPL3LoopNS {
		t.Errorf("CPL 0 loop %.1f ns, CPL 3 loop %.1f ns: this KVM emulates CPL 0", r.CPL0LoopNS, r.CPL3LoopNS)
	}
	for name, want := range map[string]Outcome{
		"cmpxchg16b": Fails, "int3": Fails, "fwait": Fails, "fxsave": Works, "swapgs": Works, "fninit": Works,
	} {
		if outcomes[name] != want {
			t.Errorf("%s %s, known to be %q here", name, outcomes[name], want)
		}
	}
	if r.Hypercall.Outcome != Loops || r.CPUIDLeaks.Honoured() {
		t.Errorf("hypercall %v, CPUID leaks %+v: known to loop and to leak here", r.Hypercall, r.CPUIDLeaks)
	}
}

func TestMeasureStopsWithItsContext(t *testing.T) {
	kvmtest.NoLeaks(t)
	sys := kvmtest.Open(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Measure(ctx, sys); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
}

func TestJudge(t *testing.T) {
	plain := trial{checks: true, rax: 8}
	trap := trial{vector: 3}
	hlt := stop{reason: kvm.ExitHLT}
	vector := func(v byte) stop { return stop{reason: kvm.ExitIO, port: exceptionPort, al: v} }
	for _, c := range []struct {
		name string
		tr   trial
		end  stop
		eax  uint32
		want Outcome
	}{
		{"right result", plain, hlt, 8, Works},
		{"wrong result", plain, hlt, 9, Wrong},
		{"emulation failure", plain, stop{reason: kvm.ExitInternalError}, 8, Fails},
		{"undefined opcode", plain, vector(6), 8, Refused},
		{"vector 0 is no expectation", plain, vector(0), 8, Refused},
		{"triple fault", plain, stop{reason: kvm.ExitShutdown}, 8, Refused},
		{"another exit", plain, stop{reason: kvm.ExitMMIO}, 8, Refused},
		{"trap taken", trap, vector(3), 0, Works},
		{"other trap taken", trap, vector(13), 0, Refused},
		{"trap not taken", trap, hlt, 0, Wrong},
	} {
		if got, _ := c.tr.judge(c.end, c.eax); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func TestParseCPUInfo(t *testing.T) {
	f := parseCPUInfo("processor\t: 0\nvendor_id\t: AuthenticAMD\nflags\t\t: fpu sse4_2 abm\n\nprocessor\t: 1\nflags\t\t: avx\n")
	if !f["vendor:AuthenticAMD"] || !f["abm"] || !f["fpu"] || f["avx"] {
		t.Errorf("got %v", f)
	}
	if f := parseCPUInfo(strings.Repeat("garbage\n", 3)); len(f) != 0 {
		t.Errorf("got %v from garbage", f)
	}
}

func TestMaskCPUIDLeavesItsInputAlone(t *testing.T) {
	in := []kvm.CPUIDEntry{{Function: 1, Ecx: 5, Edx: 6}, {Function: 7, Ebx: 7}, {Function: 7, Index: 1, Ebx: 8}}
	out := maskCPUID(in)
	if out[0].Ecx != 0 || out[0].Edx != 6 || out[1].Ebx != 0 || out[2].Ebx != 8 || in[0].Ecx != 5 {
		t.Errorf("masked %+v to %+v", in, out)
	}
}

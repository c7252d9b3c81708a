package vcpu

import (
	"strings"
	"sync/atomic"
	"testing"

	"github.com/qenex/qenex-kernel/vcpu/probe"
)

// popcounter is: mov cx, 0xF0F1; popcnt ax, cx; out 0x10, al; jmp .
var popcounter = []byte{0xB9, 0xF1, 0xF0, 0xF3, 0x0F, 0xB8, 0xC1, 0xE6, 0x10, 0xEB, 0xFE}

// TestCompletionInAGuest runs an instruction that a software KVM does not know: the guest sees the right answer either way,
// and only there it is counted.
func TestCompletionInAGuest(t *testing.T) {
	var answer atomic.Int32
	v := newTestVM(t, popcounter, Config{Complete: true, Ports: busFunc(func(_ uint64, p []byte, _ bool) { answer.Store(int32(p[0])) })})
	if err := v.cpu.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the answer", func(uint64) bool { return answer.Load() != 0 }, 0)
	if n := answer.Load(); n != 9 {
		t.Errorf("popcnt(0xf0f1) = %d, want 9", n)
	}
	host, err := probe.Quick(v.sys)
	if err != nil {
		t.Fatal(err)
	}
	want := uint64(0)
	if host.SoftwareKVM {
		want = 1
	}
	if n := v.cpu.Stats().Completions["popcnt"]; n != want {
		t.Errorf("%d completions of popcnt, want %d (software KVM: %v)", n, want, host.SoftwareKVM)
	}
}

// TestCompletionOff wants a diagnosis that names the instruction's bytes.
func TestCompletionOff(t *testing.T) {
	var answer atomic.Int32
	v := newTestVM(t, popcounter, Config{Ports: busFunc(func(uint64, []byte, bool) { answer.Store(1) })})
	host, err := probe.Quick(v.sys)
	if err != nil {
		t.Fatal(err)
	}
	if err := v.cpu.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the end", func(uint64) bool { return v.cpu.State() == Faulted || answer.Load() == 1 }, 0)
	if !host.SoftwareKVM {
		if f := v.cpu.Fault(); f != nil {
			t.Errorf("on a hardware KVM: %v", f)
		}
		return
	}
	f := v.cpu.Fault()
	if f == nil || f.Kind != FaultEmulation || !strings.Contains(f.Error(), "f3 0f b8 c1") || !strings.Contains(f.Error(), "switched off") {
		t.Errorf("fault %v", f)
	}
}

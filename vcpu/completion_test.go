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

// TestMXCSRThroughCompletion loads and stores MXCSR, which a software KVM does by completion: the vCPU's MXCSR must
// change, not only a copy.
func TestMXCSRThroughCompletion(t *testing.T) {
	code := []byte{
		0x0F, 0xAE, 0x16, 0x00, 0x20, // ldmxcsr [0x2000]
		0x0F, 0xAE, 0x1E, 0x04, 0x20, // stmxcsr [0x2004]
		0xA1, 0x04, 0x20, // mov ax, [0x2004]
		0xE7, 0x10, // out 0x10, ax
		0xEB, 0xFE,
	}
	var answer atomic.Int32
	v := newTestVM(t, code, Config{Complete: true, Ports: busFunc(func(_ uint64, p []byte, _ bool) { answer.Store(int32(p[0]) | int32(p[1])<<8) })})
	s, err := v.cpu.kvm.Sregs()
	if err != nil {
		t.Fatal(err)
	}
	s.DS.Base, s.DS.Selector = 0, 0
	s.CR4 |= 3 << 9 // OSFXSR, OSXMMEXCPT
	if err := v.cpu.kvm.SetSregs(&s); err != nil {
		t.Fatal(err)
	}
	const want = 0x7F80 // round toward zero, all exceptions masked
	if err := v.mem.PutUint32(0x2000, want); err != nil {
		t.Fatal(err)
	}
	if err := v.cpu.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the answer", func(uint64) bool { return answer.Load() != 0 || v.cpu.State() == Faulted }, 0)
	if f := v.cpu.Fault(); f != nil {
		t.Fatal(f)
	}
	if n := answer.Load(); n != want {
		t.Errorf("mxcsr read back as %#x, want %#x", n, want)
	}
}

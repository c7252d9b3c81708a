package vcpu

import (
	"errors"
	"sync/atomic"
	"testing"

	"github.com/qenex/qenex-kernel/kvm"
	"github.com/qenex/qenex-kernel/vcpu/probe"
)

// counting is a 64-bit guest: inc rax; mov [0x2000], eax; nop, where a test may put an INT3; out 0x10, al; jmp back.
var counting = []byte{0x48, 0xFF, 0xC0, 0x89, 0x04, 0x25, 0x00, 0x20, 0x00, 0x00, 0x90, 0xE6, 0x10, 0xEB, 0xF1}

// Where counting's instructions are.
const (
	atStore = codeGPA + 3
	atNop   = codeGPA + 10
	atOut   = codeGPA + 11
	atJump  = codeGPA + 13
)

// ownHandler is the guest's own handler of #BP.
const ownHandler = 0x3000

// rounds is a bus on which the counting guest says that it went round often.
type rounds struct {
	left  atomic.Int32
	often chan struct{}
}

func newRounds() *rounds {
	r := &rounds{often: make(chan struct{}, 1)}
	r.left.Store(100)
	return r
}

func (r *rounds) Read(uint64, []byte) {}

func (r *rounds) Write(uint64, []byte) {
	if r.left.Add(-1) == 0 {
		r.often <- struct{}{}
	}
}

// can says what of debugging this KVM has.
func can(t testing.TB, v *testVM) probe.DebugResult {
	t.Helper()
	r, err := probe.Debug(v.sys)
	must(t, err)
	return r
}

// stops has the guest run until it stops for the debugger, and returns why. Nil: it went round often and did not.
func stops(t testing.TB, v *VCPU, d *Debug) *DebugStop {
	t.Helper()
	stopped := make(chan struct{}, 1)
	d.Stopped = func(*VCPU) { stopped <- struct{}{} }
	must(t, v.SetDebug(d))
	if v.State() == Created {
		must(t, v.Start())
	} else {
		must(t, v.Resume())
	}
	select {
	case <-stopped:
		must(t, v.Pause(soon(t)))
		s := v.DebugStop()
		if s == nil {
			t.Fatal("stopped for the debugger, and does not say why")
		}
		return s
	case <-v.cfg.Ports.(*rounds).often:
		must(t, v.Pause(soon(t)))
		return nil
	}
}

func (v *testVM) rip(t testing.TB) uint64 {
	t.Helper()
	r, _, err := v.cpu.Registers()
	must(t, err)
	return r.RIP
}

func TestDebugStep(t *testing.T) {
	v := newTestVM(t, counting, Config{Ports: newRounds()})
	v.long(t)
	for _, want := range []uint64{atStore, atNop, atOut} {
		s := stops(t, v.cpu, &Debug{Step: true})
		if s == nil || !s.Step || v.rip(t) != want {
			t.Fatalf("%+v at %#x, want a step to %#x", s, v.rip(t), want)
		}
	}
	// KVM may take the instruction behind one that left the guest along with it.
	if s := stops(t, v.cpu, &Debug{Step: true}); s == nil || !s.Step || v.rip(t) != atJump && v.rip(t) != codeGPA {
		t.Errorf("%+v at %#x, want a step to %#x", s, v.rip(t), atJump)
	}
	must(t, v.cpu.SetDebug(nil))
	must(t, v.cpu.Resume())
	waitInGuest(t, v.cpu)
	if err := v.cpu.SetDebug(nil); !errors.Is(err, ErrNotPaused) {
		t.Errorf("debugging a vCPU in the guest: %v", err)
	}
}

func TestDebugBreakpoint(t *testing.T) {
	v := newTestVM(t, counting, Config{Complete: true, Ports: newRounds()})
	v.long(t)
	if !can(t, v).Breakpoint {
		t.Skip("NOT TESTED: on this KVM no INT3 stops a vCPU (QEMU's emulation of SVM does not intercept it)")
	}
	must(t, v.mem.Write(atNop, []byte{0xcc}))
	d := &Debug{Owns: func(addr uint64) bool { return addr == atNop }}
	for range 3 {
		s := stops(t, v.cpu, d)
		if s == nil || !s.Breakpoint || v.rip(t) != atNop {
			t.Fatalf("%+v at %#x, want a breakpoint at %#x", s, v.rip(t), atNop)
		}
		must(t, v.mem.Write(atNop, []byte{0x90}))
		if s := stops(t, v.cpu, &Debug{Step: true, Owns: d.Owns}); s == nil || !s.Step || v.rip(t) != atOut {
			t.Fatalf("%+v at %#x, want a step to %#x", s, v.rip(t), atOut)
		}
		must(t, v.mem.Write(atNop, []byte{0xcc}))
	}
	// The guest gets the INT3 that is its own.
	if s := stops(t, v.cpu, &Debug{Owns: func(uint64) bool { return false }}); s != nil {
		t.Fatalf("stops at %#x: %+v", v.rip(t), s)
	}
	if r := v.rip(t); r != ownHandler && r != ownHandler+2 {
		t.Errorf("rip %#x, want the guest's own handler at %#x", r, ownHandler)
	}
	if pushed, err := v.mem.Uint64(0x8000 - 40); err != nil || pushed != atOut {
		t.Errorf("the handler was to return to %#x, %v; want %#x", pushed, err, atOut)
	}
}

// TestDebugWatch tries the debug registers, which a software KVM may lack: then nothing must happen that should not.
func TestDebugWatch(t *testing.T) {
	for _, c := range []struct {
		name string
		w    Watch
		rip  uint64
	}{
		{"execute", Watch{Addr: atNop, Size: 1, Kind: WatchExecute}, atNop},
		{"write", Watch{Addr: 0x2000, Size: 4, Kind: WatchWrite}, atNop},
		{"access", Watch{Addr: 0x2000, Size: 4, Kind: WatchAccess}, atNop},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := newTestVM(t, counting, Config{Ports: newRounds()})
			v.long(t)
			d := &Debug{Watches: []Watch{{Addr: 0x9000, Size: 8, Kind: WatchWrite}, c.w}}
			works := can(t, v).Data
			if c.w.Kind == WatchExecute {
				works = can(t, v).Execute
			}
			s := stops(t, v.cpu, d)
			if s == nil && !works {
				t.Skip("NOT TESTED: this KVM has no such debug register; nothing stopped that should not")
			}
			if s == nil || s.Watch != 1 || v.rip(t) != c.rip {
				t.Errorf("%+v at %#x", s, v.rip(t))
			}
		})
	}
	v := newTestVM(t, counting, Config{})
	for _, w := range [][]Watch{{{Addr: 1, Size: 2, Kind: WatchWrite}}, {{Addr: 0, Size: 3, Kind: WatchWrite}}, {{Size: 4, Kind: WatchExecute}}, make([]Watch, 5)} {
		if err := v.cpu.SetDebug(&Debug{Watches: w}); err == nil {
			t.Errorf("%+v: no error", w)
		}
	}
}

func TestLinearMemory(t *testing.T) {
	v := newTestVM(t, counting, Config{})
	if n, err := v.cpu.WriteLinear(0x2ffe, []byte("crossing")); n != 8 || err != nil {
		t.Fatal(n, err)
	}
	p := make([]byte, 8)
	if n, err := v.cpu.ReadLinear(0x2ffe, p); n != 8 || err != nil || string(p) != "crossing" {
		t.Errorf("%q, %d, %v", p, n, err)
	}
	if n, err := v.cpu.ReadLinear(v.mem.Size()-4, p); n != 4 || err == nil {
		t.Errorf("past the end of memory: %d bytes, %v", n, err)
	}
}

// long puts the guest into 64-bit mode at CPL 0 with its memory mapped one to one, and gives it a handler of #BP.
func (v *testVM) long(t testing.TB) {
	t.Helper()
	const tables, gdt, idt = 0x10000, 0x4000, 0x5000
	for gpa, x := range map[uint64]uint64{
		tables: tables + 0x1000 | 3, tables + 0x1000: tables + 0x2000 | 3, tables + 0x2000: 0x83,
		gdt + 8: 0x00af9b000000ffff, gdt + 16: 0x00cf93000000ffff,
		idt + 16*3: ownHandler | 8<<16 | 0x8e00<<32,
	} {
		must(t, v.mem.PutUint64(gpa, x))
	}
	must(t, v.mem.Write(ownHandler, []byte{0xE6, 0x10, 0xEB, 0xFC})) // out 0x10, al; jmp back
	s, err := v.cpu.kvm.Sregs()
	must(t, err)
	s.CS = kvm.Segment{Selector: 8, Limit: 0xffffffff, Typ: 11, Present: 1, S: 1, L: 1, G: 1}
	data := kvm.Segment{Selector: 16, Limit: 0xffffffff, Typ: 3, Present: 1, S: 1, DB: 1, G: 1}
	s.DS, s.ES, s.FS, s.GS, s.SS = data, data, data, data, data
	s.GDT.Base, s.GDT.Limit, s.IDT.Base, s.IDT.Limit = gdt, 23, idt, 16*4-1
	s.CR0, s.CR3, s.CR4, s.EFER = 0x80000011, tables, 1<<5, 1<<8|1<<10
	must(t, v.cpu.kvm.SetSregs(&s))
	must(t, v.cpu.kvm.SetRegs(&kvm.Regs{RIP: codeGPA, RFLAGS: 2, RSP: 0x8000}))
}

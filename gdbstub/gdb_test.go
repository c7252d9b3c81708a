package gdbstub

import (
	"context"
	"errors"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/qenex/qenex-kernel/internal/kvmtest"
	"github.com/qenex/qenex-kernel/kvm"
	"github.com/qenex/qenex-kernel/memmap"
	"github.com/qenex/qenex-kernel/vcpu"
	"github.com/qenex/qenex-kernel/vcpu/probe"
)

// The guest: inc rax; mov [0x2000], eax; nop; nop; jmp back. Its memory is mapped one to one, and at pageOffset once more.
var guest = []byte{0x48, 0xFF, 0xC0, 0x89, 0x04, 0x25, 0x00, 0x20, 0x00, 0x00, 0x90, 0x90, 0xEB, 0xF2}

const (
	code       = 0x1000
	pageOffset = 0x40000000
)

type nothing struct{}

func (nothing) Read(uint64, []byte)  {}
func (nothing) Write(uint64, []byte) {}

// testMachine is a Target of vCPUs that all run the guest.
type testMachine struct {
	mem   *memmap.Memory
	vcpus []*vcpu.VCPU
}

func (m *testMachine) VCPUs() []*vcpu.VCPU    { return m.vcpus }
func (m *testMachine) Memory() *memmap.Memory { return m.mem }
func (m *testMachine) each(f func(v *vcpu.VCPU) error) error {
	var errs []error
	for _, v := range m.vcpus {
		errs = append(errs, f(v))
	}
	return errors.Join(errs...)
}
func (m *testMachine) Start() error  { return m.each((*vcpu.VCPU).Start) }
func (m *testMachine) Resume() error { return m.each((*vcpu.VCPU).Resume) }
func (m *testMachine) Pause(ctx context.Context) error {
	return m.each(func(v *vcpu.VCPU) error { return v.Pause(ctx) })
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newMachine(t *testing.T, cpus int) (*testMachine, *kvm.System) {
	t.Helper()
	kvmtest.NoLeaks(t)
	sys := kvmtest.Open(t)
	vm, err := sys.CreateVM()
	must(t, err)
	t.Cleanup(func() { must(t, vm.Close()) })
	m := &testMachine{}
	m.mem, err = memmap.New(memmap.MinSize)
	must(t, err)
	t.Cleanup(func() { must(t, m.mem.Close()) })
	must(t, m.mem.Slots(vm, 0))
	must(t, m.mem.Write(code, guest))
	const tables, gdt = 0x10000, 0x4000
	for gpa, x := range map[uint64]uint64{
		tables: tables + 0x1000 | 3, tables + 0x1000: tables + 0x2000 | 3, tables + 0x1008: tables + 0x2000 | 3, tables + 0x2000: 0x83,
		gdt + 8: 0x00af9b000000ffff, gdt + 16: 0x00cf93000000ffff,
	} {
		must(t, m.mem.PutUint64(gpa, x))
	}
	cpuid, err := sys.SupportedCPUID()
	must(t, err)
	for i := range cpus {
		k, err := vm.CreateVCPU(i)
		must(t, err)
		must(t, k.SetCPUID(cpuid))
		s, err := k.Sregs()
		must(t, err)
		s.CS = kvm.Segment{Selector: 8, Limit: 0xffffffff, Typ: 11, Present: 1, S: 1, L: 1, G: 1}
		data := kvm.Segment{Selector: 16, Limit: 0xffffffff, Typ: 3, Present: 1, S: 1, DB: 1, G: 1}
		s.DS, s.ES, s.FS, s.GS, s.SS = data, data, data, data, data
		s.GDT.Base, s.GDT.Limit = gdt, 23
		s.CR0, s.CR3, s.CR4, s.EFER = 0x80000011, tables, 3<<9|1<<5, 1<<8|1<<10
		must(t, k.SetSregs(&s))
		must(t, k.SetRegs(&kvm.Regs{RIP: code, RFLAGS: 2, RSP: 0x8000}))
		v := vcpu.New(k, vcpu.Config{Ports: nothing{}, MMIO: nothing{}, Memory: m.mem, Complete: true})
		t.Cleanup(func() { must(t, v.Close()) })
		m.vcpus = append(m.vcpus, v)
	}
	return m, sys
}

// gdb runs commands of gdb's on a machine and returns what it prints.
func gdb(t *testing.T, m *testMachine, commands ...string) string {
	t.Helper()
	program, err := exec.LookPath("gdb")
	if err != nil {
		t.Skipf("NOT TESTED: %v; install the package gdb", err)
	}
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "gdb"))
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() {
		served <- Serve(ctx, l, m, func(err error) { t.Errorf("session: %v", err) })
	}()
	args := []string{"-nx", "-batch", "-ex", "set architecture i386:x86-64", "-ex", "set tcp auto-retry off", "-ex", "target remote " + l.Addr().String()}
	for _, c := range commands {
		args = append(args, "-ex", c)
	}
	out, err := exec.CommandContext(t.Context(), program, args...).CombinedOutput()
	cancel()
	must(t, <-served)
	if err != nil {
		t.Fatalf("gdb: %v\n%s", err, out)
	}
	return string(out)
}

func contains(t *testing.T, out string, wants ...string) {
	t.Helper()
	for _, want := range wants {
		if !strings.Contains(out, want) {
			t.Errorf("gdb does not say %q:\n%s", want, out)
			return
		}
	}
}

// TestGDB has the real gdb look at a machine that was not started, step it, and let it run.
func TestGDB(t *testing.T) {
	m, _ := newMachine(t, 2)
	out := gdb(t, m,
		"info threads", "p/x $rip", "x/2i $pc", "p/x $cr3", "p/x $cs", "p/x $efer", "p $xmm1.uint128", "p $st0", "info registers fctrl",
		"stepi", "p/x $rip", "p $rax", "stepi", "p *(int*)0x2000", "p *(int*)0x40002000",
		"set $rax = 41", "set $rip = 0x1000", "stepi", "p $rax", "set $xmm3.uint128 = 77", "p $xmm3.uint128", "set $fs_base = 4096", "p $fs_base",
		"set *(int*)0x40003000 = 1234", "p *(int*)0x3000", "x/1x 0x123456789000", "monitor what", "thread 2", "p/x $rip", "detach",
	)
	contains(t, out, "vCPU 0", "vCPU 1", "$1 = 0x1000", "inc    %rax", "$2 = 0x10000", "$3 = 0x8", "$4 = 0x500", "$5 = 0\n", "fctrl          0x37f",
		"$7 = 0x1003", "$8 = 1\n", "$9 = 1\n", "$10 = 1\n", "$11 = 42\n", "$12 = 77\n", "$13 = 4096\n", "$14 = 1234\n",
		"Cannot access memory at address 0x123456789000", "What this KVM can do: step: yes", "$15 = 0x10")
	for _, v := range m.vcpus {
		if s := v.State(); s != vcpu.Running {
			t.Errorf("after detach a vCPU is %v", s)
		}
	}
}

// TestGDBBreakpoints sets breakpoints of all kinds that the KVM has; those it has not must be refused.
func TestGDBBreakpoints(t *testing.T) {
	m, sys := newMachine(t, 2)
	can, err := probe.Debug(sys)
	must(t, err)
	must(t, m.Start())
	var commands, wants []string
	try := func(works bool, what string, then []string, want []string, refusal string) {
		commands = append(commands, what)
		if works {
			commands, wants = append(commands, then...), append(wants, want...)
		} else {
			commands, wants = append(commands, "echo --\\n", "continue"), append(wants, refusal)
		}
		commands = append(commands, "delete")
	}
	try(can.Breakpoint || can.Execute, "break *0x100a", []string{"continue", "x/1i $pc", "p/x *(unsigned char*)0x100a", "continue", "info breakpoints", "stepi", "p/x $rip"},
		[]string{"Breakpoint 1, 0x000000000000100a", "=> 0x100a:\tnop", "= 0x90\n", "already hit 2 times", "= 0x100b\n"}, "Cannot insert breakpoint")
	try(can.Execute, "hbreak *0x100b", []string{"continue", "p/x $rip"}, []string{"= 0x100b\n"}, "Cannot insert hardware breakpoint")
	try(can.Data, "watch *(int*)0x2000", []string{"continue", "p/x $rip"}, []string{"Hardware watchpoint", "= 0x100a\n"}, "insert hardware watchpoint")
	commands = append(commands, "detach")
	contains(t, gdb(t, m, commands...), wants...)
	var b [14]byte
	must(t, m.mem.Read(code, b[:]))
	if string(b[:]) != string(guest) {
		t.Errorf("the guest's code is % x, was % x", b, guest)
	}
}

// TestCtrlC lets a real machine run, interrupts it, lets it run again and end.
func TestCtrlC(t *testing.T) {
	m, _ := newMachine(t, 2)
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "gdb"))
	must(t, err)
	served := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { served <- Serve(ctx, l, m, func(err error) { t.Errorf("session: %v", err) }) }()
	c, err := net.Dial("unix", l.Addr().String())
	must(t, err)
	defer c.Close()
	write(t, c, "+$QStartNoAckMode#b0")
	expect(t, c, "+$OK#9a")
	for range 20 {
		write(t, c, "$c#63\x03")
		expect(t, c, "$T02thread:1;#d4")
		write(t, c, "$vCont;s:2#24")
		expect(t, c, "$T05thread:2;#d8")
		write(t, c, "$Hg1#e0")
		expect(t, c, "$OK#9a")
	}
	write(t, c, "$c#63")
	for _, v := range m.vcpus {
		must(t, v.Stop(t.Context()))
	}
	expect(t, c, "$W00#b7")
	cancel()
	must(t, <-served)
}

package kvm_test

import (
	"encoding/binary"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/internal/kvmtest"
	"github.com/qenex/qenex-kernel/kvm"
)

// codeGPA is where load puts a guest's code.
const codeGPA = 0x1000

// machine is a VM with one vCPU and 64 KiB of RAM from gpa 0, all closed with the test,
// which runs on a locked thread.
type machine struct {
	*kvm.VM
	sys *kvm.System
	cpu *kvm.VCPU
	mem []byte
}

func newMachine(t testing.TB, before ...func(*kvm.VM)) *machine {
	t.Helper()
	kvmtest.NoLeaks(t)
	m := &machine{sys: kvmtest.Open(t)}
	runtime.LockOSThread()
	t.Cleanup(runtime.UnlockOSThread)
	var err error
	if m.mem, err = unix.Mmap(-1, 0, 64<<10, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ok(t, unix.Munmap(m.mem)) })
	if m.VM, err = m.sys.CreateVM(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ok(t, m.VM.Close()) })
	ok(t, m.SetTSSAddr(0xFFFBD000))
	ok(t, m.SetIdentityMapAddr(0xFFFBC000))
	ok(t, m.SetMemory(0, 0, 0, m.mem))
	for _, f := range before {
		f(m.VM)
	}
	if m.cpu, err = m.CreateVCPU(0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ok(t, m.cpu.Close()) })
	return m
}

// load puts 16-bit real-mode code at codeGPA and points the vCPU at it.
func (m *machine) load(t testing.TB, code ...byte) {
	t.Helper()
	copy(m.mem[codeGPA:], code)
	s, err := m.cpu.Sregs()
	ok(t, err)
	s.CS.Base, s.CS.Selector = 0, 0
	ok(t, m.cpu.SetSregs(&s))
	ok(t, m.cpu.SetRegs(&kvm.Regs{RIP: codeGPA, RSP: 0x8000, RFLAGS: 2}))
}

// run runs until an exit and returns its reason. Kicks by the Go runtime's own signals
// are run through.
func (m *machine) run(t testing.TB) uint32 {
	t.Helper()
	for {
		err := m.cpu.Run()
		if err == unix.EINTR {
			continue
		}
		ok(t, err)
		return binary.LittleEndian.Uint32(m.cpu.RunArea()[kvm.RunExitReason:])
	}
}

// union is the exit's own data in kvm_run.
func (m *machine) union() []byte { return m.cpu.RunArea()[kvm.RunUnion:] }

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

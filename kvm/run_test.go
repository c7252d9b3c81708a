package kvm_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/kvm"
)

// spin is 16-bit code that never ends: jmp $.
var spin = []byte{0xEB, 0xFE}

func TestExitIO(t *testing.T) {
	m := newMachine(t)
	m.load(t, 0xB0, 'Q', 0xE6, 0x42, 0xF4) // mov al, 'Q'; out 0x42, al; hlt
	if r := m.run(t); r != kvm.ExitIO {
		t.Fatalf("exit %d, want IO", r)
	}
	u := m.union()
	direction, size, port := u[0], u[1], binary.LittleEndian.Uint16(u[2:])
	data := m.cpu.RunArea()[binary.LittleEndian.Uint64(u[8:])]
	if direction != 1 || size != 1 || port != 0x42 || data != 'Q' {
		t.Errorf("direction %d, size %d, port %#x, data %q", direction, size, port, data)
	}
	if r := m.run(t); r != kvm.ExitHLT {
		t.Errorf("exit %d, want HLT", r)
	}
}

func TestExitMMIO(t *testing.T) {
	m := newMachine(t)
	m.load(t,
		0xB8, 0x00, 0x20, // mov ax, 0x2000
		0x8E, 0xD8, // mov ds, ax
		0xA0, 0x34, 0x00, // mov al, [0x34]
		0xF4)
	if r := m.run(t); r != kvm.ExitMMIO {
		t.Fatalf("exit %d, want MMIO", r)
	}
	u := m.union()
	addr, length, write := binary.LittleEndian.Uint64(u), binary.LittleEndian.Uint32(u[16:]), u[20]
	if addr != 0x20034 || length != 1 || write != 0 {
		t.Errorf("addr %#x, %d bytes, write %d", addr, length, write)
	}
	u[8] = 0x99
	if r := m.run(t); r != kvm.ExitHLT {
		t.Fatalf("exit %d, want HLT", r)
	}
	regs, err := m.cpu.Regs()
	ok(t, err)
	if byte(regs.RAX) != 0x99 {
		t.Errorf("al is %#x, the device answered 0x99", byte(regs.RAX))
	}
}

func TestDirtyLog(t *testing.T) {
	m := newMachine(t)
	ok(t, m.SetMemory(0, kvm.MemLogDirtyPages, 0, m.mem))
	m.load(t,
		0xA2, 0x10, 0x30, // mov [0x3010], al
		0xA2, 0x00, 0x50, // mov [0x5000], al
		0xF4)
	if r := m.run(t); r != kvm.ExitHLT {
		t.Fatalf("exit %d, want HLT", r)
	}
	bitmap := make([]byte, 8)
	ok(t, m.DirtyLog(0, bitmap))
	// KVM may count a page that it mapped writable for a read: that of the code.
	const written, code = 1<<3 | 1<<5, 1 << (codeGPA >> 12)
	if got := binary.LittleEndian.Uint64(bitmap); got&written != written || got&^(written|code) != 0 {
		t.Errorf("dirty pages %#b, want 3 and 5", got)
	}
	ok(t, m.DirtyLog(0, bitmap))
	if !bytes.Equal(bitmap, make([]byte, 8)) {
		t.Errorf("still dirty after being read: % x", bitmap)
	}
	if err := m.DirtyLog(0, nil); err == nil {
		t.Error("empty bitmap accepted")
	}
	if err := m.DirtyLog(3, bitmap); err == nil {
		t.Error("dirty log of an empty slot read")
	}
}

func TestMSRFilter(t *testing.T) {
	m := newMachine(t)
	need(t, m, 189, "KVM_CAP_X86_MSR_FILTER")
	ok(t, m.EnableCap(188, kvm.MSRExitFilter))
	// Deny writing STAR, allow LSTAR behind it.
	ok(t, m.SetMSRFilter([]kvm.MSRRange{{Flags: kvm.MSRFilterWrite, Base: kvm.MSRSTAR, Bitmap: []byte{0xFE}}}))
	m.load(t,
		0x66, 0xB9, 0x82, 0x00, 0x00, 0xC0, // mov ecx, LSTAR
		0x66, 0xB8, 0x11, 0x11, 0x00, 0x00, // mov eax, 0x1111
		0x66, 0x31, 0xD2, // xor edx, edx
		0x0F, 0x30, // wrmsr: allowed
		0x66, 0x49, // dec ecx: STAR
		0x66, 0x42, // inc edx
		0x0F, 0x30, // wrmsr: exits
		0xF4)
	if r := m.run(t); r != kvm.ExitWRMSR {
		t.Fatalf("exit %d, want WRMSR", r)
	}
	u := m.union()
	reason, index, data := binary.LittleEndian.Uint32(u[8:]), binary.LittleEndian.Uint32(u[12:]), binary.LittleEndian.Uint64(u[16:])
	if reason != kvm.MSRExitFilter || index != kvm.MSRSTAR || data != 0x1_0000_1111 {
		t.Errorf("reason %d, MSR %#x, data %#x", reason, index, data)
	}
	u[0] = 0 // no #GP: carry on
	if r := m.run(t); r != kvm.ExitHLT {
		t.Fatalf("exit %d, want HLT", r)
	}
	got, err := m.cpu.MSRs([]uint32{kvm.MSRLSTAR, kvm.MSRSTAR})
	ok(t, err)
	if len(got) != 2 || got[0].Data != 0x1111 || got[1].Data != 0 {
		t.Errorf("LSTAR, STAR = %+v; want 0x1111 and untouched", got)
	}
	ok(t, m.SetMSRFilter(nil))

	if err := m.SetMSRFilter(make([]kvm.MSRRange, 17)); err == nil {
		t.Error("17 ranges accepted")
	}
	if err := m.SetMSRFilter([]kvm.MSRRange{{Flags: kvm.MSRFilterWrite}}); err == nil {
		t.Error("range without a bitmap accepted")
	}
}

func TestRequestExitBeforeRun(t *testing.T) {
	m := newMachine(t)
	m.load(t, spin...)
	for range 100 {
		m.cpu.RequestExit()
		if err := m.cpu.Run(); err != unix.EINTR {
			t.Fatalf("Run with an exit requested: %v, want EINTR", err)
		}
	}
	m.cpu.ClearExitRequest()
	m.load(t, 0xF4)
	if r := m.run(t); r != kvm.ExitHLT {
		t.Errorf("exit %d after the request was cleared, want HLT", r)
	}
}

// TestKickRunningGuest: a request and a signal get a spinning vCPU out, whatever the moment.
func TestKickRunningGuest(t *testing.T) {
	m := newMachine(t)
	const counter = 0x3000
	m.load(t, 0xFF, 0x06, 0x00, 0x30, 0xEB, 0xFA) // inc word [0x3000]; jmp back
	pid, tid := unix.Getpid(), unix.Gettid()
	for i := range 50 {
		before := m.mem[counter]
		var done atomic.Bool
		var kicker sync.WaitGroup
		kicker.Go(func() {
			if i%2 == 1 { // certainly inside the guest
				until(t, "the guest counts", func() bool { return m.mem[counter] != before })
			}
			m.cpu.RequestExit()
			for !done.Load() {
				if err := unix.Tgkill(pid, tid, unix.SIGURG); err != nil {
					t.Error(err)
					return
				}
				time.Sleep(time.Millisecond)
			}
		})
		err := m.cpu.Run()
		done.Store(true)
		kicker.Wait()
		if err != unix.EINTR {
			t.Fatalf("round %d: %v, want EINTR", i, err)
		}
		m.cpu.ClearExitRequest()
	}
}

// TestSignalStorm: under a storm of the Go runtime's preemption signal no ioctl but KVM_RUN
// fails, and a requested exit still ends Run with EINTR every time.
func TestSignalStorm(t *testing.T) {
	m := newMachine(t, irqchip(t))
	m.load(t, spin...)
	stop := make(chan struct{})
	var storm sync.WaitGroup
	pid, tid := unix.Getpid(), unix.Gettid()
	var sent atomic.Int64
	storm.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if err := unix.Tgkill(pid, tid, unix.SIGURG); err != nil {
				t.Error(err)
				return
			}
			sent.Add(1)
		}
	})
	defer func() {
		close(stop)
		storm.Wait()
	}()
	until(t, "the storm blows", func() bool { return sent.Load() > 10 })
	for i := range 50 {
		if err := underStorm(m); err != nil {
			t.Fatalf("round %d: %v", i, err)
		}
	}
}

func underStorm(m *machine) error {
	// No request: a signal ends Run, and Run says so instead of trying again.
	if err := m.cpu.Run(); err != unix.EINTR {
		return fmt.Errorf("Run in the storm: %v, want EINTR", err)
	}
	m.cpu.RequestExit()
	if err := m.cpu.Run(); err != unix.EINTR {
		return fmt.Errorf("Run with an exit requested: %v, want EINTR", err)
	}
	m.cpu.ClearExitRequest()
	vm, err := m.sys.CreateVM()
	if err != nil {
		return err
	}
	cpu, err := vm.CreateVCPU(0)
	if err != nil {
		return errors.Join(err, vm.Close())
	}
	_, err1 := cpu.Sregs()
	_, err2 := m.cpu.LAPIC()
	_, err3 := m.cpu.MSRs([]uint32{kvm.MSRLSTAR})
	_, err4 := m.sys.SupportedCPUID()
	return errors.Join(err1, err2, err3, err4, cpu.Close(), vm.Close())
}

// until waits for a condition, at most ten seconds.
func until(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !holds(); time.Sleep(100 * time.Microsecond) {
		if time.Now().After(end) {
			t.Errorf("waited 10 s in vain until %s", what)
			return
		}
	}
}

func BenchmarkPortExit(b *testing.B) {
	m := newMachine(b)
	m.load(b, 0xE6, 0x42, 0xEB, 0xFC) // out 0x42, al; jmp back
	for b.Loop() {
		if r := m.run(b); r != kvm.ExitIO {
			b.Fatalf("exit %d, want IO", r)
		}
	}
}

func BenchmarkCreateVM(b *testing.B) {
	m := newMachine(b)
	for b.Loop() {
		vm, err := m.sys.CreateVM()
		ok(b, err)
		cpu, err := vm.CreateVCPU(0)
		ok(b, err)
		ok(b, cpu.Close())
		ok(b, vm.Close())
	}
}

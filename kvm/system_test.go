package kvm_test

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/internal/kvmtest"
	"github.com/qenex/qenex-kernel/kvm"
)

func TestOpenPathErrors(t *testing.T) {
	kvmtest.NoLeaks(t)
	dir := t.TempDir()
	// Others may look into the directory: only the forbidden file itself is closed to them.
	ok(t, os.Chmod(filepath.Dir(dir), 0o755))
	ok(t, os.Chmod(dir, 0o755))
	regular := filepath.Join(dir, "regular")
	forbidden := filepath.Join(dir, "forbidden")
	ok(t, os.WriteFile(regular, []byte("not a device"), 0o644))
	ok(t, os.WriteFile(forbidden, nil, 0o000))
	for _, c := range []struct {
		path string
		want error
		say  string
	}{
		{filepath.Join(dir, "absent"), kvm.ErrNoDevice, "load kvm_amd or kvm_intel"},
		{forbidden, kvm.ErrPermission, "kvm group"},
		{regular, kvm.ErrNotKVM, "/dev/kvm"},
		{dir, kvm.ErrNotKVM, "/dev/kvm"},
		{filepath.Join(regular, "below"), kvm.ErrNotKVM, "/dev/kvm"},
		{"/dev/null", kvm.ErrNotKVM, "/dev/kvm"},
	} {
		open := func() (*kvm.System, error) { return kvm.OpenPath(c.path) }
		if c.want == kvm.ErrPermission {
			open = func() (*kvm.System, error) {
				return asNobody(func() (*kvm.System, error) { return kvm.OpenPath(c.path) })
			}
		}
		s, err := open()
		if !errors.Is(err, c.want) || s != nil {
			t.Errorf("%s: got %v, want %v", c.path, err, c.want)
			continue
		}
		for _, part := range []string{c.path, c.say} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %q does not name %q", c.path, err, part)
			}
		}
	}
}

// asNobody runs f on a thread whose file accesses are those of an unprivileged user.
// The thread ends with it.
func asNobody(f func() (*kvm.System, error)) (s *kvm.System, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		if os.Getuid() == 0 {
			runtime.LockOSThread() // never unlocked: the runtime ends the thread
			if _, err = unix.SetfsuidRetUid(65534); err != nil {
				return
			}
		}
		s, err = f()
	}()
	<-done
	return s, err
}

func TestCheck(t *testing.T) {
	s := kvmtest.Open(t)
	if n, err := s.Check(kvm.Capability(3)); err != nil || n < 1 { // KVM_CAP_USER_MEMORY: every KVM has it
		t.Errorf("KVM_CAP_USER_MEMORY: %d, %v", n, err)
	}
	if !s.Has(kvm.Capability(3)) {
		t.Error("KVM_CAP_USER_MEMORY missing")
	}
	if s.Has(kvm.Capability(254)) {
		t.Error("an unknown capability is there")
	}
}

func TestLists(t *testing.T) {
	s := kvmtest.Open(t)
	msrs, err := s.MSRIndexList()
	ok(t, err)
	found := map[uint32]bool{}
	for _, m := range msrs {
		found[m] = true
	}
	for _, m := range []uint32{kvm.MSRSTAR, kvm.MSRTSC} {
		if !found[m] {
			t.Errorf("MSR %#x is not in the state list of %d", m, len(msrs))
		}
	}
	if _, err := s.MSRFeatureIndexList(); err != nil {
		t.Error(err)
	}
	leaves, err := s.SupportedCPUID()
	ok(t, err)
	var top uint32
	for _, l := range leaves {
		if l.Function == 0 {
			top = l.Eax
		}
	}
	if top < 1 {
		t.Errorf("supported CPUID has highest leaf %d in %d entries", top, len(leaves))
	}
	if _, err := s.EmulatedCPUID(); err != nil {
		t.Error(err)
	}
}

func TestCloseIsIdempotent(t *testing.T) {
	kvmtest.NoLeaks(t)
	s := kvmtest.Open(t)
	before := kvm.OpenFDs()
	vm, err := s.CreateVM()
	ok(t, err)
	cpu, err := vm.CreateVCPU(0)
	ok(t, err)
	if n := kvm.OpenFDs() - before; n != 2 {
		t.Errorf("%d descriptors for a VM and a vCPU", n)
	}
	for range 3 {
		ok(t, cpu.Close())
		ok(t, vm.Close())
		ok(t, s.Close())
	}
	if n := kvm.OpenFDs() - before; n != -1 {
		t.Errorf("descriptor count is off by %d after closing", n+1)
	}
}

func TestUseAfterClose(t *testing.T) {
	kvmtest.NoLeaks(t)
	s := kvmtest.Open(t)
	vm, err := s.CreateVM()
	ok(t, err)
	cpu, err := vm.CreateVCPU(0)
	ok(t, err)
	ok(t, cpu.Close())
	ok(t, vm.Close())
	ok(t, s.Close())
	// New files take the old descriptors' numbers: a stale use must not reach them.
	for range 3 {
		f, err := os.Open("/dev/null")
		ok(t, err)
		defer f.Close()
	}
	for name, f := range map[string]func() error{
		"System.CreateVM":       func() error { _, err := s.CreateVM(); return err },
		"System.Check":          func() error { _, err := s.Check(0); return err },
		"System.SupportedCPUID": func() error { _, err := s.SupportedCPUID(); return err },
		"VM.CreateVCPU":         func() error { _, err := vm.CreateVCPU(1); return err },
		"VM.SetMemory":          func() error { return vm.SetMemory(0, 0, 0, nil) },
		"VM.EnableCap":          func() error { return vm.EnableCap(0) },
		"VCPU.Run":              cpu.Run,
		"VCPU.Regs":             func() error { _, err := cpu.Regs(); return err },
		"VCPU.SetRegs":          func() error { return cpu.SetRegs(&kvm.Regs{}) },
		"VCPU.MSRs":             func() error { _, err := cpu.MSRs([]uint32{kvm.MSRTSC}); return err },
		"VCPU.SetCPUID":         func() error { return cpu.SetCPUID(nil) },
	} {
		if err := f(); !errors.Is(err, kvm.ErrClosed) {
			t.Errorf("%s after Close: %v, want ErrClosed", name, err)
		}
	}
	if s.Has(kvm.Capability(3)) {
		t.Error("a closed System has a capability")
	}
	if cpu.RunArea() != nil {
		t.Error("RunArea is not nil after Close")
	}
}

// TestVMOutlivesSystem: the VM and its vCPU stay usable when the device is closed.
func TestVMOutlivesSystem(t *testing.T) {
	m := newMachine(t)
	ok(t, m.sys.Close())
	m.load(t, 0xF4) // hlt
	if r := m.run(t); r != kvm.ExitHLT {
		t.Errorf("exit %d, want HLT", r)
	}
}

func TestEnableCapRefuses(t *testing.T) {
	m := newMachine(t)
	if err := m.EnableCap(kvm.Capability(254)); !errors.Is(err, unix.EINVAL) {
		t.Errorf("unknown capability: %v", err)
	}
	if err := m.EnableCap(0, 1, 2, 3, 4, 5); err == nil {
		t.Error("five arguments accepted")
	}
}

func TestSetMemoryRefuses(t *testing.T) {
	m := newMachine(t)
	for name, err := range map[string]error{
		"unaligned gpa":  m.SetMemory(1, 0, 0x100800, m.mem[:4096]),
		"unaligned size": m.SetMemory(1, 0, 0x100000, m.mem[:4095]),
		"overlap":        m.SetMemory(1, 0, 0x8000, m.mem[:4096]),
	} {
		if err == nil || !strings.Contains(err.Error(), "slot 1") {
			t.Errorf("%s: %v", name, err)
		}
	}
	ok(t, m.SetMemory(0, 0, 0, nil))
	if err := m.SetMemory(0, 0, 0, nil); err == nil {
		t.Error("a slot removed twice")
	}
}

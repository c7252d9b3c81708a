package kvm_test

import (
	"bytes"
	"encoding/binary"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/qenex/qenex-kernel/kvm"
)

func TestRegsRoundTrip(t *testing.T) {
	m := newMachine(t)
	want := kvm.Regs{
		RAX: 1, RBX: 2, RCX: 3, RDX: 4, RSI: 5, RDI: 6, RSP: 7, RBP: 8,
		R8: 9, R9: 10, R10: 11, R11: 12, R12: 13, R13: 14, R14: 15, R15: 1 << 63,
		RIP: 0x1234, RFLAGS: 0x202,
	}
	ok(t, m.cpu.SetRegs(&want))
	got, err := m.cpu.Regs()
	ok(t, err)
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestSregsRoundTrip(t *testing.T) {
	m := newMachine(t)
	want, err := m.cpu.Sregs()
	ok(t, err)
	want.FS.Base, want.GS.Base = 0x12340, 0x56780
	want.GDT.Base, want.GDT.Limit = 0x500, 0x2F
	want.IDT.Base, want.IDT.Limit = 0x600, 0xFFF
	want.CR2 = 0xABCDE000
	ok(t, m.cpu.SetSregs(&want))
	got, err := m.cpu.Sregs()
	ok(t, err)
	if got != want {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}

func TestFPURoundTrip(t *testing.T) {
	m := newMachine(t)
	want, err := m.cpu.FPU()
	ok(t, err)
	want.FCW, want.FTWX = 0x37F, 0xFF
	for i := range want.XMM {
		want.XMM[i] = [16]byte{byte(i), 0xAA, 15: byte(0xF0 + i)}
	}
	for i := range want.FPR {
		want.FPR[i] = [16]byte{byte(i + 1), 9: 0x3F}
	}
	ok(t, m.cpu.SetFPU(&want))
	got, err := m.cpu.FPU()
	ok(t, err)
	if got.FCW != want.FCW || got.FTWX != want.FTWX || got.XMM != want.XMM || got.FPR != want.FPR {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}

func TestXSaveRoundTrip(t *testing.T) {
	m := newMachine(t)
	need(t, m, 55, "KVM_CAP_XSAVE")
	want, err := m.cpu.XSave()
	ok(t, err)
	const (
		fcw, mxcsr, xmm0 = 0, 24, 160 // FXSAVE image
		xstateBV         = 512        // XSAVE header: x87 and SSE parts valid
	)
	binary.LittleEndian.PutUint16(want.Region[fcw:], 0x27F)
	binary.LittleEndian.PutUint32(want.Region[mxcsr:], 0x1FA0)
	copy(want.Region[xmm0:], "quite recognised")
	want.Region[xstateBV] |= 3
	ok(t, m.cpu.SetXSave(want))
	got, err := m.cpu.XSave()
	ok(t, err)
	if !bytes.Equal(got.Region[:2], want.Region[:2]) || !bytes.Equal(got.Region[mxcsr:mxcsr+4], want.Region[mxcsr:mxcsr+4]) ||
		string(got.Region[xmm0:xmm0+16]) != "quite recognised" {
		t.Errorf("legacy area changed: % x", got.Region[:xmm0+16])
	}
	fpu, err := m.cpu.FPU()
	ok(t, err)
	if fpu.FCW != 0x27F || string(fpu.XMM[0][:]) != "quite recognised" {
		t.Errorf("KVM_GET_FPU says FCW %#x, XMM0 %q", fpu.FCW, fpu.XMM[0])
	}
}

func TestXCRsRoundTrip(t *testing.T) {
	m := newMachine(t)
	need(t, m, 56, "KVM_CAP_XCRS")
	want, err := m.cpu.XCRs()
	ok(t, err)
	if want.NrXRCS < 1 || want.Registers[0].Value&1 == 0 {
		t.Fatalf("reset state %+v: XCR0 must have x87 set", want)
	}
	ok(t, m.cpu.SetXCRs(&want))
	got, err := m.cpu.XCRs()
	ok(t, err)
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	want.Registers[0].Value = 0 // SDM vol. 1, 13.3: bit 0 of XCR0 is always 1
	if err := m.cpu.SetXCRs(&want); err == nil {
		t.Error("XCR0 = 0 accepted")
	}
}

func TestDebugRegsRoundTrip(t *testing.T) {
	m := newMachine(t)
	want, err := m.cpu.DebugRegs()
	ok(t, err)
	want.DB = [4]uint64{0x1000, 0x2000, 0x3000, 0x4000}
	want.DR7 = 0x400
	ok(t, m.cpu.SetDebugRegs(&want))
	got, err := m.cpu.DebugRegs()
	ok(t, err)
	if got.DB != want.DB || got.DR6 != want.DR6 || got.DR7 != want.DR7 {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestLAPICRoundTrip(t *testing.T) {
	m := newMachine(t, irqchip(t))
	want, err := m.cpu.LAPIC()
	ok(t, err)
	const version, taskPriority, lvtLINT0 = 0x30, 0x80, 0x350
	if want.Regs[version] == 0 {
		t.Errorf("version register is 0")
	}
	want.Regs[taskPriority] = 0x40
	binary.LittleEndian.PutUint32(want.Regs[lvtLINT0:], 0x10700) // masked, ExtINT
	ok(t, m.cpu.SetLAPIC(want))
	got, err := m.cpu.LAPIC()
	ok(t, err)
	if got.Regs[taskPriority] != 0x40 || binary.LittleEndian.Uint32(got.Regs[lvtLINT0:]) != 0x10700 {
		t.Errorf("TPR %#x, LINT0 % x", got.Regs[taskPriority], got.Regs[lvtLINT0:lvtLINT0+4])
	}
}

func TestMPStateRoundTrip(t *testing.T) {
	m := newMachine(t, irqchip(t))
	for _, want := range []uint32{kvm.MPStateHalted, kvm.MPStateRunnable} {
		ok(t, m.cpu.SetMPState(want))
		got, err := m.cpu.MPState()
		ok(t, err)
		if got != want {
			t.Errorf("got %d, want %d", got, want)
		}
	}
	if err := m.cpu.SetMPState(9999); err == nil {
		t.Error("state 9999 accepted")
	}
	ap, err := m.CreateVCPU(1)
	ok(t, err)
	defer ap.Close()
	if s, err := ap.MPState(); err != nil || s != kvm.MPStateUninitialized {
		t.Errorf("second vCPU starts in state %d, %v; want uninitialized", s, err)
	}
}

func TestEventsRoundTrip(t *testing.T) {
	m := newMachine(t)
	want, err := m.cpu.Events()
	ok(t, err)
	want.Flags = kvm.EventNMIPending | kvm.EventShadow
	want.N.Pending = 1
	want.N.Masked = 1
	ok(t, m.cpu.SetEvents(&want))
	got, err := m.cpu.Events()
	ok(t, err)
	if got.N.Pending != 1 || got.N.Masked != 1 {
		t.Errorf("got %+v, want a pending and masked NMI", got)
	}
	want.Flags = 1 << 31
	if err := m.cpu.SetEvents(&want); err == nil {
		t.Error("unknown flag accepted")
	}
}

func TestNMIIsQueued(t *testing.T) {
	m := newMachine(t, irqchip(t))
	ok(t, m.cpu.NMI())
	e, err := m.cpu.Events()
	ok(t, err)
	if e.N.Pending == 0 && e.N.Inject == 0 {
		t.Errorf("no NMI in %+v", e)
	}
}

func TestMSRs(t *testing.T) {
	m := newMachine(t)
	write := []kvm.MSREntry{
		{Index: kvm.MSRSTAR, Data: 0x0013_0008_0000_0000},
		{Index: kvm.MSRLSTAR, Data: 0xFFFF_FFFF_8140_0040},
		{Index: kvm.MSRSFMASK, Data: 0x47700},
		{Index: kvm.MSRKernelGSBase, Data: 0xFFFF_8880_0000_0000},
	}
	refused, err := m.cpu.SetMSRs(write)
	ok(t, err)
	if len(refused) != 0 {
		t.Fatalf("refused %#x", refused)
	}
	got, err := m.cpu.MSRs([]uint32{kvm.MSRSTAR, kvm.MSRLSTAR, kvm.MSRSFMASK, kvm.MSRKernelGSBase})
	ok(t, err)
	if !slices.Equal(got, write) {
		t.Errorf("got %+v\nwant %+v", got, write)
	}
}

// TestMSRsRefused: lists longer than one ioctl takes, with refused MSRs first, last and in between.
func TestMSRsRefused(t *testing.T) {
	if v, _ := os.ReadFile("/sys/module/kvm/parameters/ignore_msrs"); strings.HasPrefix(string(v), "Y") {
		t.Skip("kvm.ignore_msrs=1: KVM refuses no MSR")
	}
	m := newMachine(t)
	const bad = 0xDEAD0000
	isBad := func(i int) bool { return i == 0 || i == 254 || i == 255 || i == 256 || i == 300 || i == 599 }
	var read []uint32
	var write []kvm.MSREntry
	var wantRefused []uint32
	for i := range 600 {
		index := uint32(kvm.MSRLSTAR)
		if isBad(i) {
			index = bad + uint32(i)
			wantRefused = append(wantRefused, index)
		}
		read = append(read, index)
		write = append(write, kvm.MSREntry{Index: index, Data: uint64(i)})
	}
	refused, err := m.cpu.SetMSRs(write)
	ok(t, err)
	if !slices.Equal(refused, wantRefused) {
		t.Errorf("refused %#x, want %#x", refused, wantRefused)
	}
	got, err := m.cpu.MSRs(read)
	ok(t, err)
	if len(got) != 600-len(wantRefused) {
		t.Errorf("%d MSRs read, want %d", len(got), 600-len(wantRefused))
	}
	for i, e := range got {
		if e.Index != kvm.MSRLSTAR || e.Data != 598 {
			t.Fatalf("entry %d is %+v, want LSTAR = 598, the last value written", i, e)
		}
	}
	if all, err := m.cpu.MSRs(nil); err != nil || len(all) != 0 {
		t.Errorf("empty list: %v, %v", all, err)
	}
}

func TestStateMSRsRoundTrip(t *testing.T) {
	m := newMachine(t, irqchip(t))
	list, err := m.sys.MSRIndexList()
	ok(t, err)
	saved, err := m.cpu.MSRs(list)
	ok(t, err)
	if len(saved) < 10 {
		t.Errorf("only %d of %d state MSRs can be read", len(saved), len(list))
	}
	var idempotent []kvm.MSREntry
	for _, e := range saved {
		if e.Index != kvm.MSRTSC {
			idempotent = append(idempotent, e)
		}
	}
	if _, err := m.cpu.SetMSRs(idempotent); err != nil {
		t.Error(err)
	}
}

func TestCPUIDRoundTrip(t *testing.T) {
	m := newMachine(t)
	want, err := m.sys.SupportedCPUID()
	ok(t, err)
	ok(t, m.cpu.SetCPUID(want))
	got, err := m.cpu.CPUID()
	ok(t, err)
	if len(got) != len(want) {
		t.Fatalf("%d entries, want %d", len(got), len(want))
	}
	for i := range got {
		// KVM updates bits that follow CR4 and others (OSXSAVE, sizes of leaf 13) itself.
		if got[i].Function != want[i].Function || got[i].Index != want[i].Index {
			t.Errorf("entry %d is leaf %#x.%d, want %#x.%d", i, got[i].Function, got[i].Index, want[i].Function, want[i].Index)
		}
	}
	if got[0] != want[0] {
		t.Errorf("entry 0: %+v, want %+v", got[0], want[0])
	}
}

func TestTSCFrequency(t *testing.T) {
	m := newMachine(t)
	need(t, m, 61, "KVM_CAP_GET_TSC_KHZ")
	khz, err := m.cpu.TSCKHz()
	ok(t, err)
	if khz < 100_000 || khz > 20_000_000 {
		t.Errorf("TSC runs at %d kHz", khz)
	}
	ok(t, m.cpu.SetTSCKHz(khz))
}

func TestTranslate(t *testing.T) {
	m := newMachine(t)
	tr, err := m.cpu.Translate(0x1234)
	ok(t, err)
	if tr.Valid == 0 || tr.PhysicalAddress != 0x1234 {
		t.Errorf("without paging: %+v, want 0x1234 at 0x1234", tr)
	}
}

func TestClockCtrl(t *testing.T) {
	m := newMachine(t)
	// EINVAL says that the guest has no kvmclock; anything else is our fault.
	if err := m.cpu.ClockCtrl(); err == nil || !strings.Contains(err.Error(), "invalid argument") {
		t.Errorf("KVM_KVMCLOCK_CTRL without a kvmclock: %v", err)
	}
	refused, err := m.cpu.SetMSRs([]kvm.MSREntry{{Index: kvm.MSRKVMSystemTime, Data: 0x2000 | 1}})
	ok(t, err)
	if len(refused) > 0 {
		t.Skip("this KVM has no kvmclock MSR")
	}
	ok(t, m.cpu.ClockCtrl())
}

func TestSingleStep(t *testing.T) {
	m := newMachine(t)
	m.load(t, 0x40, 0x40, 0xF4) // inc ax; inc ax; hlt
	ok(t, m.cpu.SetGuestDebug(&kvm.GuestDebug{Control: kvm.DebugEnable | kvm.DebugSingleStep}))
	for step := range uint64(2) {
		if r := m.run(t); r != kvm.ExitDebug {
			t.Fatalf("step %d: exit %d, want DEBUG", step, r)
		}
		regs, err := m.cpu.Regs()
		ok(t, err)
		if regs.RIP != codeGPA+step+1 || regs.RAX != step+1 {
			t.Errorf("step %d: rip %#x, rax %d", step, regs.RIP, regs.RAX)
		}
	}
	ok(t, m.cpu.SetGuestDebug(&kvm.GuestDebug{}))
	if r := m.run(t); r != kvm.ExitHLT {
		t.Errorf("exit %d, want HLT", r)
	}
}

// need skips the test when the KVM lacks a capability.
func need(t testing.TB, m *machine, c kvm.Capability, name string) {
	t.Helper()
	if n, err := m.Check(c); err != nil || n == 0 {
		t.Skipf("NOT TESTED: this KVM has no %s", name)
	}
}

// irqchip is a newMachine option: in-kernel interrupt chips.
func irqchip(t testing.TB) func(*kvm.VM) {
	return func(vm *kvm.VM) {
		t.Helper()
		ok(t, vm.CreateIRQChip())
	}
}

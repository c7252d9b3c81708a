package kvm_test

import (
	"encoding/binary"
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/kvm"
)

func TestIRQChipsRoundTrip(t *testing.T) {
	m := newMachine(t, irqchip(t))
	for _, c := range []struct {
		name   string
		id     uint32
		offset int // of a byte of state that may hold any value
	}{
		{"master PIC", kvm.ChipPICMaster, 2}, // imr
		{"slave PIC", kvm.ChipPICSlave, 2},
		{"IOAPIC", kvm.ChipIOAPIC, 24}, // vector of redirection entry 0
	} {
		want, err := m.IRQChip(c.id)
		ok(t, err)
		want.Chip[c.offset] = 0x5A
		if c.id == kvm.ChipIOAPIC {
			want.Chip[c.offset+2] |= 1 // masked, so that nothing is delivered
		}
		ok(t, m.SetIRQChip(&want))
		got, err := m.IRQChip(c.id)
		ok(t, err)
		if got.ChipID != c.id || got.Chip[c.offset] != 0x5A {
			t.Errorf("%s: chip %d, byte %d is %#x", c.name, got.ChipID, c.offset, got.Chip[c.offset])
		}
	}
	if _, err := m.IRQChip(7); err == nil {
		t.Error("chip 7 read")
	}
}

func TestIRQLineReachesThePIC(t *testing.T) {
	m := newMachine(t, irqchip(t))
	for _, high := range []bool{true, false} {
		ok(t, m.IRQLine(4, high))
		if got := lineHigh(t, m, 4); got != high {
			t.Errorf("line 4 set to %v, PIC sees %v", high, got)
		}
	}
}

// lineHigh says whether the master PIC saw its input (0 to 7) high last.
func lineHigh(t testing.TB, m *machine, irq uint) bool {
	t.Helper()
	pic, err := m.IRQChip(kvm.ChipPICMaster)
	ok(t, err)
	const lastIRR = 0
	return pic.Chip[lastIRR]>>irq&1 == 1
}

func TestPIT2RoundTrip(t *testing.T) {
	m := newMachine(t, irqchip(t), func(vm *kvm.VM) { ok(t, vm.CreatePIT2(true)) })
	want, err := m.PIT2()
	ok(t, err)
	want.Channels[2].Count = 0x4321
	want.Channels[2].Mode = 3
	ok(t, m.SetPIT2(&want))
	got, err := m.PIT2()
	ok(t, err)
	if got.Channels[2].Count != 0x4321 || got.Channels[2].Mode != 3 {
		t.Errorf("channel 2 is %+v", got.Channels[2])
	}
}

func TestClockRoundTrip(t *testing.T) {
	m := newMachine(t)
	const hour = 3600 * 1e9
	ok(t, m.SetClock(&kvm.ClockData{Clock: hour}))
	got, err := m.Clock()
	ok(t, err)
	if got.Clock < hour || got.Clock > hour+60*1e9 {
		t.Errorf("clock set to %d ns reads %d ns", uint64(hour), got.Clock)
	}
	later, err := m.Clock()
	ok(t, err)
	if later.Clock < got.Clock {
		t.Errorf("clock went back from %d to %d", got.Clock, later.Clock)
	}
}

func TestIRQFD(t *testing.T) {
	m := newMachine(t, irqchip(t))
	e := eventfd(t)
	ok(t, m.IRQFD(e, 5, 0, 0))
	if n, err := unix.Write(e, binary.LittleEndian.AppendUint64(nil, 1)); n != 8 || err != nil {
		t.Fatal(n, err)
	}
	latched := func() bool { // an edge: the line itself is low again at once
		pic, err := m.IRQChip(kvm.ChipPICMaster)
		ok(t, err)
		const irr = 1
		return pic.Chip[irr]>>5&1 == 1
	}
	until(t, "the PIC latches IRQ 5", latched)
	if err := m.IRQFD(e, 5, 0, 0); !errors.Is(err, unix.EBUSY) {
		t.Errorf("an eventfd assigned twice: %v, want EBUSY", err)
	}
	ok(t, m.IRQFD(e, 5, kvm.IRQFDDeassign, 0))
	if err := m.IRQFD(-1, 5, 0, 0); err == nil {
		t.Error("descriptor -1 accepted")
	}
}

func TestGSIRouting(t *testing.T) {
	m := newMachine(t, irqchip(t))
	// GSI 20 to the master PIC's pin 3, GSI 21 as an MSI.
	ok(t, m.SetGSIRouting([]kvm.RoutingEntry{
		{GSI: 20, Type: kvm.RouteIRQChip, U: [8]uint32{kvm.ChipPICMaster, 3}},
		{GSI: 21, Type: kvm.RouteMSI, U: [8]uint32{0xFEE00000, 0, 0x41}},
	}))
	ok(t, m.IRQLine(20, true))
	if !lineHigh(t, m, 3) {
		t.Error("GSI 20 does not reach pin 3")
	}
	ok(t, m.IRQLine(20, false))
	if err := m.SetGSIRouting([]kvm.RoutingEntry{{GSI: 0, Type: 99}}); err == nil {
		t.Error("route type 99 accepted")
	}
	ok(t, m.SetGSIRouting(nil))
}

func TestSignalMSI(t *testing.T) {
	m := newMachine(t, irqchip(t))
	l, err := m.cpu.LAPIC()
	ok(t, err)
	const spurious, irr = 0xF0, 0x200
	binary.LittleEndian.PutUint32(l.Regs[spurious:], 0x1FF) // APIC on
	ok(t, m.cpu.SetLAPIC(l))
	ok(t, m.SignalMSI(kvm.MSI{AddressLo: 0xFEE00000, Data: 0x41}))
	l, err = m.cpu.LAPIC()
	ok(t, err)
	if word := binary.LittleEndian.Uint32(l.Regs[irr+0x20:]); word>>1&1 != 1 { // vectors 0x40 to 0x5F
		t.Errorf("vector 0x41 is not pending: IRR word %#x", word)
	}
}

func TestIOEventFD(t *testing.T) {
	m := newMachine(t)
	port, mmio := eventfd(t), eventfd(t)
	ok(t, m.IOEventFD(port, 0x510, 1, kvm.IOEventFDPIO|kvm.IOEventFDDataMatch, 7))
	ok(t, m.IOEventFD(mmio, 0x20000, 2, 0, 0))
	m.load(t,
		0xBA, 0x10, 0x05, // mov dx, 0x510
		0xB0, 0x07, // mov al, 7
		0xEE,             // out dx, al: matches, no exit
		0xB8, 0x00, 0x20, // mov ax, 0x2000
		0x8E, 0xD8, // mov ds, ax
		0xA3, 0x00, 0x00, // mov [0], ax: matches, no exit
		0xB0, 0x08, // mov al, 8
		0xEE, // out dx, al: another value, exits
		0xF4)
	if r := m.run(t); r != kvm.ExitIO {
		t.Fatalf("exit %d, want IO", r)
	}
	for name, e := range map[string]int{"port": port, "MMIO": mmio} {
		buf := make([]byte, 8)
		if n, err := unix.Read(e, buf); n != 8 || err != nil || binary.LittleEndian.Uint64(buf) != 1 {
			t.Errorf("%s eventfd: %d bytes, %v, count %d; want 1", name, n, err, binary.LittleEndian.Uint64(buf))
		}
	}
	ok(t, m.IOEventFD(port, 0x510, 1, kvm.IOEventFDPIO|kvm.IOEventFDDataMatch|kvm.IOEventFDDeassign, 7))
	if err := m.IOEventFD(port, 0x510, 3, kvm.IOEventFDPIO, 0); err == nil {
		t.Error("length 3 accepted")
	}
}

// eventfd makes a non-blocking eventfd that is closed with the test.
func eventfd(t testing.TB) int {
	t.Helper()
	e, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	ok(t, err)
	t.Cleanup(func() { ok(t, unix.Close(e)) })
	return e
}

package vmm

import (
	"encoding/binary"
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/device"
	"github.com/qenex/qenex-kernel/internal/bareguest"
)

// nowhere is a device that counts the accesses that reach it.
type nowhere struct{ reads, writes int }

func (n *nowhere) Read(uint64, []byte)  { n.reads++ }
func (n *nowhere) Write(uint64, []byte) { n.writes++ }

// TestAttach rings a doorbell from the guest and raises the device's interrupt, and sees neither pass the run loop.
func TestAttach(t *testing.T) {
	const base, line = 0xD0000000, 5
	code := []byte{0xBB} // mov ebx, base
	code = binary.LittleEndian.AppendUint32(code, base)
	code = append(code,
		0xC7, 0x43, 0x50, 0x07, 0x00, 0x00, 0x00, // mov dword [rbx+0x50], 7: rings
		0xC7, 0x43, 0x50, 0x08, 0x00, 0x00, 0x00, // mov dword [rbx+0x50], 8: another value, reaches the device
	)
	m := newMachine(t, bareConfig(t, append(code, bareguest.PowerOff...)))
	seven := uint64(7)
	dev := new(nowhere)
	reg := device.Registration{Name: "test device", Base: base, Size: 0x1000, IRQ: line, Handler: dev,
		Doorbells: []device.Doorbell{{Off: 0x50, Len: 4, Match: &seven}}}
	a, err := m.Attach(m.MMIO, reg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Attach(m.MMIO, reg); !errors.Is(err, device.ErrOverlap) {
		t.Errorf("second Attach: %v, want ErrOverlap", err)
	}
	if o := runToEnd(t, m, bootLimit); o.Cause != PowerOff {
		t.Fatalf("outcome %v", o)
	}
	count := make([]byte, 8)
	if _, err := unix.Read(a.Doorbells[0], count); err != nil || count[0] != 1 {
		t.Errorf("doorbell rang % x times, %v; want once", count, err)
	}
	if dev.writes != 1 {
		t.Errorf("%d writes reached the device, want 1", dev.writes)
	}

	// The interrupt arrives at the in-kernel chips by itself.
	if _, err := unix.Write(a.IRQ, []byte{1, 0, 0, 0, 0, 0, 0, 0}); err != nil {
		t.Fatal(err)
	}
	waitIRR := func() bool {
		chip, err := m.vm.IRQChip(0)
		if err != nil {
			t.Fatal(err)
		}
		return chip.Chip[1]&(1<<line) != 0 // struct kvm_pic_state: last_irr, irr, ...
	}
	for i := 0; !waitIRR(); i++ {
		if i == 10000 {
			t.Fatal("the interrupt did not reach the PIC")
		}
	}
	if err := a.Detach(); err != nil {
		t.Error(err)
	}
}

package acpi

import (
	"fmt"
	"slices"

	"github.com/qenex/qenex-kernel/memmap"
	"github.com/qenex/qenex-kernel/vmm/boot"
)

// MP table layout (MP chapter 4).
const (
	mpPointerSize = 16
	mpHeaderSize  = 44
	mpSpec        = 4 // version 1.4
	mpMaxCPUs     = 254

	// mpLowPointer is a second place for the floating pointer. Linux looks through the first
	// kilobyte before it comes to the EBDA, in slow steps of 16 bytes.
	mpLowPointer = 0x10

	// BIOS data area.
	bdaEBDASegment = 0x40e
	bdaBaseMemory  = 0x413 // KiB
)

// WriteMPTable puts an MP table into mem: the floating pointer at boot.EBDABase, the
// configuration table behind it or, if there are too many CPUs, at boot.MPConfBase. It tells the
// processors, the IOAPIC and the ISA interrupts; Config's devices and generation ID have no place
// in it. Errors wrap ErrConfig.
func WriteMPTable(mem *memmap.Memory, c Config) error {
	if err := c.check(); err != nil {
		return err
	}
	if c.CPUs > mpMaxCPUs {
		return fmt.Errorf("%w: %d CPUs; an MP table names at most %d, use ACPI", ErrConfig, c.CPUs, mpMaxCPUs)
	}
	config := mpConfig(c.CPUs)
	at := uint64(boot.EBDABase + mpPointerSize)
	if mpPointerSize+len(config) > boot.EBDASize {
		at = boot.MPConfBase
	}
	pointer := mpPointer(at)
	for _, w := range []struct {
		gpa  uint64
		data []byte
	}{
		{boot.EBDABase, pointer},
		{mpLowPointer, pointer},
		{at, config},
		{bdaEBDASegment, le.AppendUint16(nil, boot.EBDABase>>4)},
		{bdaBaseMemory, le.AppendUint16(nil, boot.EBDABase>>10)},
	} {
		if err := mem.Write(w.gpa, w.data); err != nil {
			return fmt.Errorf("%w: write MP table: %w", ErrConfig, err)
		}
	}
	return nil
}

// mpPointer makes the floating pointer structure (MP 4.1).
func mpPointer(config uint64) []byte {
	b := make([]byte, mpPointerSize)
	copy(b, "_MP_")
	le.PutUint32(b[4:], uint32(config))
	b[8] = mpPointerSize / 16
	b[9] = mpSpec
	b[10] = checksum(b)
	return b
}

// mpConfig makes the configuration table (MP 4.2 and 4.3).
func mpConfig(cpus int) []byte {
	const isa = 0
	ioapic := byte(cpus) // an ID no processor has
	var entries [][]byte
	for i := range cpus {
		flags := byte(1) // usable
		if i == 0 {
			flags |= 2 // boots the machine
		}
		e := []byte{0, byte(i), 0x14, flags}
		e = le.AppendUint32(e, 0x600) // family 6
		e = le.AppendUint32(e, 0x201) // FPU, APIC
		entries = append(entries, append(e, make([]byte, 8)...))
	}
	entries = append(entries,
		append([]byte{1, isa}, "ISA   "...),
		le.AppendUint32([]byte{2, ioapic, 0x11, 1}, ioapicBase))
	// All pins as the bus has them, edge-triggered and active high: those from 16 on, which no ISA
	// bus had, serve platform devices.
	for pin := range byte(ioapicPins) {
		entries = append(entries, []byte{3, 0, 0, 0, isa, pin, ioapic, pin})
	}
	entries = append(entries,
		[]byte{4, 3, 0, 0, isa, 0, 0, 0},    // ExtINT at LINT0 of the boot processor
		[]byte{4, 1, 0, 0, isa, 0, 0xff, 1}) // NMI at LINT1 of all

	b := make([]byte, mpHeaderSize)
	copy(b, "PCMP")
	b[6] = mpSpec
	copy(b[8:], "QENEX   ")
	copy(b[16:], "QENEX VMM   ")
	le.PutUint16(b[34:], uint16(len(entries)))
	le.PutUint32(b[36:], lapicBase)
	b = append(b, slices.Concat(entries...)...)
	le.PutUint16(b[4:], uint16(len(b)))
	b[7] = checksum(b)
	return b
}

package acpi

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
)

var le = binary.LittleEndian

// ACPI Machine Language, as much as the DSDT needs (ACPI 20.2). Each function returns the
// encoding of one term; bodies are made by concatenating terms. Names are four characters long.

// pkg puts the package length before body: the count of its own bytes and body's.
func pkg(body []byte) []byte {
	n := len(body)
	switch {
	case n+1 < 1<<6:
		return append([]byte{byte(n + 1)}, body...)
	case n+2 < 1<<12:
		n += 2
		return append([]byte{1<<6 | byte(n&0xf), byte(n >> 4)}, body...)
	default: // up to 1 MiB; the tables' place is smaller
		n += 3
		return append([]byte{2<<6 | byte(n&0xf), byte(n >> 4), byte(n >> 12)}, body...)
	}
}

func integer(v uint64) []byte {
	switch {
	case v <= 1:
		return []byte{byte(v)} // ZeroOp, OneOp
	case v <= math.MaxUint8:
		return []byte{0x0a, byte(v)}
	case v <= math.MaxUint16:
		return le.AppendUint16([]byte{0x0b}, uint16(v))
	case v <= math.MaxUint32:
		return le.AppendUint32([]byte{0x0c}, uint32(v))
	}
	return le.AppendUint64([]byte{0x0e}, v)
}

func str(s string) []byte { return append(append([]byte{0x0d}, s...), 0) }

// eisaID packs an ID such as "PNP0501" into the number it stands for (ACPI 19.3.4).
func eisaID(s string) []byte {
	hex := func(c byte) uint32 {
		if c >= 'A' {
			return uint32(c-'A') + 10
		}
		return uint32(c - '0')
	}
	letter := func(c byte) uint32 { return uint32(c-'@') & 0x1f }
	v := letter(s[0])<<26 | letter(s[1])<<21 | letter(s[2])<<16 | hex(s[3])<<12 | hex(s[4])<<8 | hex(s[5])<<4 | hex(s[6])
	// Big-endian inside a little-endian DWORD.
	return binary.BigEndian.AppendUint32([]byte{0x0c}, v)
}

func name(n string, value []byte) []byte { return slices.Concat([]byte{0x08}, []byte(n), value) }

func scope(path string, terms ...[]byte) []byte {
	return append([]byte{0x10}, pkg(append([]byte(path), slices.Concat(terms...)...))...)
}

func device(n string, terms ...[]byte) []byte {
	return append([]byte{0x5b, 0x82}, pkg(append([]byte(n), slices.Concat(terms...)...))...)
}

// method makes a method of so many arguments, not serialised.
func method(n string, args byte, terms ...[]byte) []byte {
	return append([]byte{0x14}, pkg(slices.Concat([]byte(n), []byte{args}, slices.Concat(terms...)))...)
}

func notify(object string, value uint64) []byte {
	return slices.Concat([]byte{0x86}, []byte(object), integer(value))
}

// packageOf makes a package of at most 255 elements.
func packageOf(elements ...[]byte) []byte {
	return append([]byte{0x12}, pkg(append([]byte{byte(len(elements))}, slices.Concat(elements...)...))...)
}

// resources makes the buffer that _CRS holds, with the end tag (ACPI 6.4).
func resources(descriptors ...[]byte) []byte {
	b := append(slices.Concat(descriptors...), 0x79, 0) // no checksum
	return append([]byte{0x11}, pkg(append(integer(uint64(len(b))), b...))...)
}

// ioPorts decodes 16 address bits.
func ioPorts(base uint16, n byte) []byte {
	d := []byte{0x47, 1}
	d = le.AppendUint16(d, base)
	d = le.AppendUint16(d, base)
	return append(d, 1, n)
}

func memory32(base, size uint32) []byte {
	d := []byte{0x86, 9, 0, 1} // read-write
	return le.AppendUint32(le.AppendUint32(d, base), size)
}

// interrupt consumes one global interrupt, active high and not shared.
func interrupt(gsi uint32, level bool) []byte {
	flags := byte(1)
	if !level {
		flags |= 1 << 1
	}
	return le.AppendUint32([]byte{0x89, 6, 0, flags, 1}, gsi)
}

// busNumbers gives a bridge the buses from first to last (ACPI 6.4.3.5.3).
func busNumbers(first, last uint16) []byte {
	d := []byte{0x88, 13, 0, 2, 1<<3 | 1<<2, 0, 0, 0} // a producer, both ends fixed
	d = le.AppendUint16(d, first)
	d = le.AppendUint16(d, last)
	return le.AppendUint16(append(d, 0, 0), last-first+1)
}

// memoryWindow gives a bridge addresses to pass on, uncached (ACPI 6.4.3.5.2).
func memoryWindow(base, size uint32) []byte {
	d := []byte{0x87, 23, 0, 0, 1<<3 | 1<<2, 1, 0, 0, 0, 0}
	d = le.AppendUint32(d, base)
	d = le.AppendUint32(d, base+(size-1))
	return le.AppendUint32(append(d, 0, 0, 0, 0), size)
}

// hostBridge describes PCI (ACPI 6.2.13 for _PRT).
func hostBridge(p *PCI) []byte {
	var pins [][]byte
	for slot, irq := range p.Lines {
		if irq != 0 {
			pins = append(pins, packageOf(integer(uint64(slot)<<16|0xffff), integer(0), integer(0), integer(uint64(irq))))
		}
	}
	return device("PCI0",
		name("_HID", eisaID("PNP0A03")),
		name("_UID", integer(0)),
		name("_CRS", resources(busNumbers(0, 0), ioPorts(PCIPort, 8), memoryWindow(p.Base, p.Size))),
		name("_PRT", packageOf(pins...)))
}

// dsdtBody describes what cannot be found by looking.
func dsdtBody(c Config) []byte {
	devices := [][]byte{
		device("COM1",
			name("_HID", eisaID("PNP0501")),
			name("_UID", integer(1)),
			name("_CRS", resources(ioPorts(com1Port, 8), interrupt(com1IRQ, false)))),
		device("RTC_",
			name("_HID", eisaID("PNP0B00")),
			name("_CRS", resources(ioPorts(rtcPort, 2), interrupt(rtcIRQ, false)))),
		device("PEVT",
			name("_HID", str("QEMU0001")),
			name("_STA", integer(0xf)),
			name("_CRS", resources(ioPorts(pvpanicPort, 1)))),
		device("VGEN",
			name("_HID", str("QENX0001")),
			name("_CID", str("VM_Gen_Counter")),
			name("_DDN", str("VM_Gen_Counter")),
			name("ADDR", packageOf(integer(GenerationGPA), integer(0)))),
	}
	if c.GenerationIRQ != 0 {
		// A generic event device (ACPI 5.6.9) with one event.
		devices = append(devices, device("GED_",
			name("_HID", str("ACPI0013")),
			name("_CRS", resources(interrupt(c.GenerationIRQ, false))),
			method("_EVT", 1, notify("VGEN", 0x80))))
	}
	if c.PowerButtonIRQ != 0 {
		devices = append(devices,
			device("PWRB", name("_HID", eisaID("PNP0C0C"))),
			device("GEDP",
				name("_HID", str("ACPI0013")),
				name("_UID", integer(1)),
				name("_CRS", resources(interrupt(c.PowerButtonIRQ, false))),
				method("_EVT", 1, notify("PWRB", 0x80))))
	}
	if c.PCI != nil {
		devices = append(devices, hostBridge(c.PCI))
	}
	if t := c.TPM; t != nil {
		devices = append(devices, device("TPM_",
			name("_HID", str("MSFT0101")),
			name("_STA", integer(0xf)),
			name("_CRS", resources(memory32(t.Base, t.Size)))))
	}
	for i, d := range c.Devices {
		devices = append(devices, device(fmt.Sprintf("D%03X", i),
			name("_HID", str(d.HID)),
			name("_UID", integer(d.UID)),
			name("_CRS", resources(memory32(uint32(d.Base), uint32(d.Size)), interrupt(d.IRQ, d.Level)))))
	}
	return append(
		name("_S5_", packageOf(integer(SleepTypeS5), integer(0), integer(0), integer(0))),
		scope("\\_SB_", devices...)...)
}

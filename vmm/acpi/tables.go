package acpi

import (
	"crypto/rand"
	"fmt"

	"github.com/qenex/qenex-kernel/memmap"
	"github.com/qenex/qenex-kernel/vmm/boot"
)

// Table layouts (ACPI 5.2).
const (
	rsdpSize   = 36
	headerSize = 36
	fadtSize   = 276
	tableAlign = 16

	tablesEnd = GenerationGPA
)

// Write puts the ACPI tables and the generation ID into mem and returns the RSDP's address, which
// is boot.ACPIBase. Errors wrap ErrConfig.
func Write(mem *memmap.Memory, c Config) (rsdp uint64, err error) {
	if err := c.check(); err != nil {
		return 0, err
	}
	id := c.GenerationID
	if id == ([16]byte{}) {
		rand.Read(id[:]) // never fails
	}
	if err := WriteGenerationID(mem, id); err != nil {
		return 0, err
	}
	// One block: the RSDP and the tables behind it, each at a multiple of 16.
	block := make([]byte, rsdpSize, 0x1000)
	place := func(signature string, revision byte, body []byte) uint64 {
		for len(block)%tableAlign != 0 {
			block = append(block, 0)
		}
		at := uint64(boot.ACPIBase + len(block))
		block = append(block, table(signature, revision, body)...)
		return at
	}
	dsdt := place("DSDT", 2, dsdtBody(c))
	fadt := place("FACP", 6, fadtBody(dsdt))
	madt := place("APIC", 5, madtBody(c.CPUs))
	list := le.AppendUint64(le.AppendUint64(nil, fadt), madt)
	if c.TPM != nil {
		list = le.AppendUint64(list, place("TPM2", 4, tpmBody(c.TPM)))
	}
	xsdt := place("XSDT", 1, list)
	if uint64(boot.ACPIBase+len(block)) > tablesEnd {
		return 0, fmt.Errorf("%w: the ACPI tables of %d CPUs and %d devices take %d bytes, and there is room for %d; use fewer", ErrConfig, c.CPUs, len(c.Devices), len(block), tablesEnd-boot.ACPIBase)
	}
	copy(block, rsdpTable(xsdt))
	if err := mem.Write(boot.ACPIBase, block); err != nil {
		return 0, fmt.Errorf("%w: write ACPI tables: %w", ErrConfig, err)
	}
	return boot.ACPIBase, nil
}

// WriteGenerationID sets the VM generation ID. After a restore or fork it must change; then the
// guest wants a pulse on Config.GenerationIRQ.
func WriteGenerationID(mem *memmap.Memory, id [16]byte) error {
	if err := mem.Write(GenerationGPA, id[:]); err != nil {
		return fmt.Errorf("%w: write VM generation ID: %w", ErrConfig, err)
	}
	return nil
}

// checksum is the byte that makes the sum of b and itself zero.
func checksum(b []byte) byte {
	var sum byte
	for _, x := range b {
		sum += x
	}
	return -sum
}

// rsdpTable makes the root pointer (ACPI 5.2.5.3), without an RSDT.
func rsdpTable(xsdt uint64) []byte {
	b := make([]byte, rsdpSize)
	copy(b, "RSD PTR ")
	copy(b[9:], "QENEX ")
	b[15] = 2
	le.PutUint32(b[20:], rsdpSize)
	le.PutUint64(b[24:], xsdt)
	b[8] = checksum(b[:20])
	b[32] = checksum(b)
	return b
}

// table puts the common header (ACPI 5.2.6) before body.
func table(signature string, revision byte, body []byte) []byte {
	b := make([]byte, headerSize, headerSize+len(body))
	copy(b, signature)
	le.PutUint32(b[4:], uint32(headerSize+len(body)))
	b[8] = revision
	copy(b[10:], "QENEX ")
	copy(b[16:], "QENEXVMM")
	le.PutUint32(b[24:], 1)
	copy(b[28:], "QENX")
	le.PutUint32(b[32:], 1)
	b = append(b, body...)
	b[9] = checksum(b)
	return b
}

// FADT fields (ACPI 5.2.9), offsets from the table's start.
const (
	fadtDSDT        = 40
	fadtBootArch    = 109 // IAPC_BOOT_ARCH
	fadtFlags       = 112
	fadtResetReg    = 116
	fadtResetValue  = 128
	fadtMinor       = 131
	fadtXDSDT       = 140
	fadtSleepCtrl   = 244
	fadtSleepStatus = 256
	fadtHypervisor  = 268

	// IAPC_BOOT_ARCH. There are ISA devices and a CMOS RTC. The 8042 is there for resets only, with
	// no keyboard: not named, so that nobody waits for one.
	bootArchLegacy = 1 << 0
	bootArchNoVGA  = 1 << 2

	flagWBINVD         = 1 << 0
	flagPowerButton    = 1 << 4 // no fixed one
	flagSleepButton    = 1 << 5 // no fixed one
	flagFixedRTC       = 1 << 6 // the RTC wakes nobody
	flagResetSupported = 1 << 10
	flagHeadless       = 1 << 12
	flagHWReduced      = 1 << 20
)

// fadtBody makes the fixed description: hardware-reduced, so no PM timer, event or control blocks.
func fadtBody(dsdt uint64) []byte {
	b := make([]byte, fadtSize)
	le.PutUint32(b[fadtDSDT:], uint32(dsdt))
	le.PutUint16(b[fadtBootArch:], bootArchLegacy|bootArchNoVGA)
	le.PutUint32(b[fadtFlags:], flagWBINVD|flagPowerButton|flagSleepButton|flagFixedRTC|flagResetSupported|flagHeadless|flagHWReduced)
	putPort(b[fadtResetReg:], ResetPort)
	b[fadtResetValue] = ResetValue
	b[fadtMinor] = 5
	le.PutUint64(b[fadtXDSDT:], dsdt)
	putPort(b[fadtSleepCtrl:], SleepControlPort)
	putPort(b[fadtSleepStatus:], SleepStatusPort)
	copy(b[fadtHypervisor:], "QENEX")
	return b[headerSize:]
}

// putPort makes the generic address of an 8-bit I/O port (ACPI 5.2.3.2).
func putPort(b []byte, port uint64) {
	b[0], b[1], b[2], b[3] = 1, 8, 0, 1 // system I/O, 8 bits wide from bit 0, byte access
	le.PutUint64(b[4:], port)
}

// madtBody makes the processors and interrupt controllers (ACPI 5.2.12).
func madtBody(cpus int) []byte {
	b := le.AppendUint32(nil, lapicBase)
	b = le.AppendUint32(b, 1) // PCAT_COMPAT: there are 8259s too
	for i := range cpus {
		if i < 255 {
			b = append(b, 0, 8, byte(i), byte(i)) // processor local APIC: UID, ID
			b = le.AppendUint32(b, 1)             // enabled
			continue
		}
		b = append(b, 9, 16, 0, 0) // processor local x2APIC
		b = le.AppendUint32(b, uint32(i))
		b = le.AppendUint32(b, 1)
		b = le.AppendUint32(b, uint32(i))
	}
	b = append(b, 1, 12, 0, 0) // IOAPIC 0
	b = le.AppendUint32(b, ioapicBase)
	b = le.AppendUint32(b, 0)          // its first global interrupt
	b = append(b, 4, 6, 0xff, 0, 0, 1) // NMI at LINT1 of all local APICs
	if cpus > 255 {
		b = append(b, 0xa, 12, 0, 0) // and of the x2APICs
		b = le.AppendUint32(b, 0xffffffff)
		b = append(b, 1, 0, 0, 0)
	}
	return b
}

// startCRB is the start method of a command response buffer (TCG ACPI Specification 1.3, section 8).
const startCRB = 7

// tpmBody makes the TPM2 table of a client platform (TCG ACPI Specification 1.3, section 8), without an event log: there is no firmware
// that had one.
func tpmBody(t *TPM) []byte {
	b := le.AppendUint32(nil, 0) // platform class, reserved
	b = le.AppendUint64(b, uint64(t.Base)+uint64(t.ControlArea))
	b = le.AppendUint32(b, startCRB)
	return append(b, make([]byte, 12+4+8)...) // start method's parameters; the log's size and address
}

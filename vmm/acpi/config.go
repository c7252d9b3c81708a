package acpi

import (
	"errors"
	"fmt"

	"github.com/qenex/qenex-kernel/memmap"
	"github.com/qenex/qenex-kernel/vmm/boot"
)

// ErrConfig says that no tables can describe what was asked for.
var ErrConfig = errors.New("cannot describe the machine to its guest")

// What the tables promise. The devices must be there.
const (
	SleepControlPort = 0x600 // SLEEP_CONTROL_REG, 8 bits: SLP_EN in bit 5, SLP_TYP in bits 2 to 4
	SleepStatusPort  = 0x601 // SLEEP_STATUS_REG, 8 bits: WAK_STS in bit 7
	ResetPort        = 0x602 // RESET_REG, 8 bits
	ResetValue       = 1     // what the guest writes to ResetPort
	SleepTypeS5      = 5     // SLP_TYP of power-off: the guest writes 0x34 to SleepControlPort

	com1Port, com1IRQ = 0x3f8, 4
	rtcPort, rtcIRQ   = 0x70, 8
	pvpanicPort       = 0x505

	lapicBase  = 0xfee00000
	ioapicBase = 0xfec00000
	ioapicPins = 24
)

// GenerationGPA is where the 16 bytes of the VM generation ID lie: alone in their page, behind
// the tables.
const GenerationGPA = boot.ACPIEnd - 0x1000

// Config says what the tables describe beside the fixed devices: COM1, RTC, pvpanic and the
// power registers.
type Config struct {
	CPUs    int      // vCPUs; their APIC IDs are 0 to CPUs-1
	Devices []Device // platform devices (ACPI only)
	// GenerationID is the VM generation ID; a zero one is replaced by a random one (ACPI only).
	GenerationID [16]byte
	// GenerationIRQ is the edge-triggered global interrupt whose pulse tells the guest that the
	// generation ID has changed; 0 for none (ACPI only).
	GenerationIRQ uint32
	// PowerButtonIRQ is the edge-triggered global interrupt whose pulse tells the guest that the power button was pressed; 0
	// for no button (ACPI only).
	PowerButtonIRQ uint32
	// PCI describes the PCI host bridge; nil for none (ACPI only).
	PCI *PCI
	// TPM describes a TPM; nil for none (ACPI only).
	TPM *TPM
}

// TPM is a TPM 2.0 with a command response buffer interface.
type TPM struct {
	Base, Size  uint32 // its MMIO window
	ControlArea uint32 // how far into the window the control area is
}

// PCI is a host bridge with bus 0 only, whose configuration space is behind the ports from PCIPort.
type PCI struct {
	Base, Size uint32   // its memory window
	Lines      []uint32 // by slot, from 0: the global interrupt of pin A, level-triggered; 0 for none
}

// PCIPort is the first of the 8 ports of PCI configuration.
const PCIPort = 0xcf8

// Device is a platform device with one MMIO window and one interrupt.
type Device struct {
	HID  string // ACPI hardware ID, for example "LNRO0005" for virtio-mmio
	UID  uint64 // tells devices of the same HID apart
	Base uint64 // guest-physical address, in the hole below 4 GiB
	Size uint64 // bytes
	IRQ  uint32 // global interrupt, 1 to 23, active high
	// Level says that the interrupt is level-triggered rather than edge-triggered.
	Level bool
}

func (c Config) check() error {
	if c.CPUs < 1 {
		return fmt.Errorf("%w: %d CPUs; at least one is needed", ErrConfig, c.CPUs)
	}
	if c.GenerationIRQ >= ioapicPins {
		return fmt.Errorf("%w: generation ID interrupt %d; the IOAPIC has %d pins", ErrConfig, c.GenerationIRQ, ioapicPins)
	}
	if c.PowerButtonIRQ >= ioapicPins {
		return fmt.Errorf("%w: power button interrupt %d; the IOAPIC has %d pins", ErrConfig, c.PowerButtonIRQ, ioapicPins)
	}
	if c.PCI != nil {
		if c.PCI.Base < memmap.HoleStart || c.PCI.Size == 0 || c.PCI.Size-1 > 0xffffffff-c.PCI.Base || len(c.PCI.Lines) > 32 {
			return fmt.Errorf("%w: PCI has %#x bytes at %#x and %d slots; its window must lie behind %#x, and a bus has 32", ErrConfig, c.PCI.Size, c.PCI.Base, len(c.PCI.Lines), uint64(memmap.HoleStart))
		}
		for slot, irq := range c.PCI.Lines {
			if irq >= ioapicPins {
				return fmt.Errorf("%w: PCI slot %d has interrupt %d; the IOAPIC has %d pins", ErrConfig, slot, irq, ioapicPins)
			}
		}
	}
	if t := c.TPM; t != nil && (t.Base < memmap.HoleStart || t.Size == 0 || t.Size-1 > 0xffffffff-t.Base || t.ControlArea >= t.Size) {
		return fmt.Errorf("%w: the TPM has %#x bytes at %#x and its control area %#x further; its window must lie behind %#x, and the control area in it", ErrConfig, t.Size, t.Base, t.ControlArea, uint64(memmap.HoleStart))
	}
	type key struct {
		hid string
		uid uint64
	}
	seen := map[key]bool{}
	for i, d := range c.Devices {
		switch {
		case !validHID(d.HID):
			return fmt.Errorf("%w: device %d has the hardware ID %q; 7 or 8 capital letters and digits are needed", ErrConfig, i, d.HID)
		case seen[key{d.HID, d.UID}]:
			return fmt.Errorf("%w: device %d repeats hardware ID %s with UID %d", ErrConfig, i, d.HID, d.UID)
		case d.Base < memmap.HoleStart || d.Base >= memmap.HoleEnd || d.Size == 0 || d.Size > memmap.HoleEnd-d.Base:
			return fmt.Errorf("%w: device %s has %#x bytes at %#x; its window must lie in the hole from %#x to %#x", ErrConfig, d.HID, d.Size, d.Base, uint64(memmap.HoleStart), uint64(memmap.HoleEnd))
		case d.IRQ == 0 || d.IRQ >= ioapicPins:
			return fmt.Errorf("%w: device %s has interrupt %d; 1 to %d can be had", ErrConfig, d.HID, d.IRQ, ioapicPins-1)
		}
		seen[key{d.HID, d.UID}] = true
	}
	return nil
}

func validHID(s string) bool {
	if len(s) != 7 && len(s) != 8 {
		return false
	}
	for i := range len(s) {
		if !(s[i] >= 'A' && s[i] <= 'Z' || s[i] >= '0' && s[i] <= '9') {
			return false
		}
	}
	return true
}

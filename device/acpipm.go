package device

// Registers of hardware-reduced ACPI (ACPI 6.5, 4.8.3.7 and 4.8.3.6), as the FADT must
// give them: each is one byte of system I/O space.
const (
	ACPISleepControl = 0x600
	ACPISleepStatus  = 0x601
	ACPIReset        = 0x602

	ACPIResetValue = 0x01 // for the FADT's RESET_VALUE; any value but 0 resets
	ACPISleepS5    = 5    // SLP_TYP of power-off, for the DSDT's \_S5 package
)

const (
	slpTypShift = 2
	slpTypMask  = 7 << slpTypShift
	slpEn       = 0x20
)

// ACPIPM is the sleep and reset registers of a hardware-reduced ACPI machine. Only the
// power-off state is known; a guest that asks for another goes on running.
type ACPIPM struct{ powerOff, reset func() }

// NewACPIPM returns the registers with what they do; nil ignores.
func NewACPIPM(powerOff, reset func()) *ACPIPM { return &ACPIPM{powerOff, reset} }

// Registrations returns the three ports.
func (d *ACPIPM) Registrations() []Registration {
	return []Registration{{Name: "acpi-pm", Base: ACPISleepControl, Size: 3, IRQ: -1, Handler: Bytes{
		// SLP_EN is write-only, WAK_STS is never set, the reset register reads 0.
		In:  func(uint64) byte { return 0 },
		Out: d.out,
	}}}
}

func (d *ACPIPM) out(off uint64, v byte) {
	switch off + ACPISleepControl {
	case ACPISleepControl:
		if v&slpEn != 0 && v&slpTypMask == ACPISleepS5<<slpTypShift && d.powerOff != nil {
			d.powerOff()
		}
	case ACPIReset:
		if v != 0 && d.reset != nil {
			d.reset()
		}
	}
}

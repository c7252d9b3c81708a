package vmm

import (
	"errors"
	"fmt"
)

// powerButtonIRQ is an edge.
const powerButtonIRQ = 9

// ErrNoButton says that the machine has no power button.
var ErrNoButton = errors.New("machine has no power button")

// PowerButton presses the ACPI power button. What comes of it is the guest's business: it may take long, or do nothing. A machine
// without ACPI tables has none.
func (m *Machine) PowerButton() error {
	if m.cfg.Tables != ACPI {
		return fmt.Errorf("%w: its firmware tables are %v, not %v", ErrNoButton, m.cfg.Tables, ACPI)
	}
	if m.hasEnded() {
		return ErrEnded
	}
	return errors.Join(m.vm.IRQLine(powerButtonIRQ, true), m.vm.IRQLine(powerButtonIRQ, false))
}

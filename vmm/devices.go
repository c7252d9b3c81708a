package vmm

import (
	"fmt"
	"time"

	"github.com/qenex/qenex-kernel/device"
	"github.com/qenex/qenex-kernel/device/pci"
	"github.com/qenex/qenex-kernel/memmap"
)

// addDevices registers the legacy PC devices.
func (m *Machine) addDevices() error {
	line := func(gsi uint32) device.IRQLine {
		return func(level bool) {
			if err := m.vm.IRQLine(gsi, level); err != nil {
				m.end(Outcome{Cause: GuestFault, Detail: "interrupt line", Err: err})
			}
		}
	}
	reset := func(by string) func() {
		return func() { m.reset(by) }
	}
	m.serial = device.NewSerial(&m.console, line(device.SerialIRQ))
	m.i8042 = device.NewI8042(line(device.I8042IRQ), reset("keyboard controller"))
	m.portA = device.NewPortA(reset("port 0x92"))
	m.resetControl = device.NewResetControl(reset("port 0xcf9"))
	low := min(m.cfg.Memory, memmap.HoleStart)
	m.rtc = device.NewRTC(time.Now, low, m.cfg.Memory-low)
	all := [][]device.Registration{
		m.serial.Registrations(device.SerialBase, device.SerialIRQ),
		m.rtc.Registrations(device.RTCIRQ),
		m.i8042.Registrations(device.I8042IRQ),
		m.portA.Registrations(),
		m.resetPorts(),
		device.NewACPIPM(func() { m.end(Outcome{Cause: PowerOff}) }, reset("ACPI")).Registrations(),
		device.NewPVPanic(m.pvpanic).Registrations(),
		device.NewPOST().Registrations(),
		device.NewMilestones(func(code byte) { m.milestone(markName(code)) }).Registrations(),
	}
	for _, regs := range all {
		if err := m.Ports.Register(regs...); err != nil {
			return err
		}
	}
	return nil
}

// resetPorts are those of the reset control register, with PCI's around them if there is PCI.
func (m *Machine) resetPorts() []device.Registration {
	if m.cfg.Transport != PCI {
		return m.resetControl.Registrations()
	}
	m.pci = pci.NewBus(m.resetControl)
	return m.pci.Registrations()
}

// reset ends the machine because the guest asked for a reset. A kernel that has just said on its console
// that it panicked resets to reboot; that is reported as the panic it is.
func (m *Machine) reset(by string) {
	if m.panicSeen.Load() {
		m.end(Outcome{Cause: Panic, Detail: "the kernel said so on its console, then reset through the " + by})
		return
	}
	m.end(Outcome{Cause: Reboot, Detail: "reset through the " + by})
}

func (m *Machine) pvpanic(events byte) {
	if events&device.PVPanicPanicked != 0 {
		m.end(Outcome{Cause: Panic, Detail: "the kernel said so through pvpanic"})
	}
}

// userSpace is the code that QENEX's initramfs writes to the milestone port as its first act.
const userSpace = 1

// markName names a byte that the guest wrote to the milestone port.
func markName(code byte) string {
	if code == userSpace {
		return "user space"
	}
	return fmt.Sprintf("mark %d", code)
}

// Package device is the room of the buses and of the small legacy PC devices that
// every guest expects: the 16550A serial port, the MC146818 clock, the i8042
// keyboard controller, reset and power registers, pvpanic and the debug ports.
//
// A device here is given an interrupt line (a func), a clock, a writer and
// callbacks; it answers byte-wide reads and writes. What may not enter: KVM, file
// descriptors of the hypervisor, guest memory, the life cycle of a machine. The vmm
// room decides what a reset or a power-off means and where an interrupt line leads.
//
// The port map, as the devices of this package register it:
//
//	0x060        i8042 data                     NewI8042
//	0x061        system control port B          NewPortB (only when KVM's PIT does not own it)
//	0x064        i8042 status and command       NewI8042
//	0x070-0x071  RTC and CMOS RAM               NewRTC
//	0x080        POST codes, ignored            NewPOST
//	0x092        system control port A          NewPortA
//	0x0e9        debug console                  NewDebugcon
//	0x3f8-0x3ff  COM1 (irq 4)                   NewSerial
//	0x505        pvpanic                        NewPVPanic
//	0x5f0        boot milestones                NewMilestones
//	0x600-0x602  ACPI sleep and reset registers NewACPIPM
//	0xcf8-0xcfb  reset control (byte at 0xcf9)  NewResetControl; with PCI behind device/pci, which has 0xcf8-0xcff
//
// Any vCPU may call any handler at any time, so every device takes its own lock.
// Callbacks to the outside (reset, power-off, panic, milestone) run on the goroutine
// of the vCPU that made the access, with no device lock held; they must not wait for
// that vCPU. IRQLine is the exception, see there.
package device

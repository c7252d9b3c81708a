package vmm

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/device"
	"github.com/qenex/qenex-kernel/kvm"
)

// Attached is a device on a bus whose doorbells and interrupt never pass the run loop: a guest's write to a doorbell
// signals an eventfd, and a write to another eventfd raises the interrupt.
type Attached struct {
	// Doorbells are eventfds, one for each of the registration's, in its order. The device reads them.
	Doorbells []int
	// IRQ is the eventfd that raises the registration's interrupt line as an edge; -1 without one. The device writes it.
	IRQ int

	m   *Machine
	bus *device.Bus
	reg device.Registration
}

// Attach registers a device on m.Ports or m.MMIO and connects its doorbells by ioeventfd and its interrupt by irqfd. Detach, before the
// machine is closed, takes all of it back.
func (m *Machine) Attach(bus *device.Bus, reg device.Registration) (a *Attached, err error) {
	a = &Attached{IRQ: -1, m: m, bus: bus, reg: reg}
	if err := bus.Register(reg); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("attach %s: %w", reg.Name, errors.Join(err, a.Detach()))
			a = nil
		}
	}()
	for _, bell := range reg.Doorbells {
		fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
		if err != nil {
			return a, err
		}
		if err := a.bell(fd, bell, 0); err != nil {
			return a, errors.Join(err, unix.Close(fd))
		}
		a.Doorbells = append(a.Doorbells, fd)
	}
	if reg.IRQ < 0 {
		return a, nil
	}
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return a, err
	}
	if err := m.vm.IRQFD(fd, uint32(reg.IRQ), 0, 0); err != nil {
		return a, errors.Join(err, unix.Close(fd))
	}
	a.IRQ = fd
	return a, nil
}

// bell connects or, with kvm.IOEventFDDeassign, disconnects one doorbell.
func (a *Attached) bell(fd int, bell device.Doorbell, flags uint32) error {
	var match uint64
	if bell.Match != nil {
		match = *bell.Match
		flags |= kvm.IOEventFDDataMatch
	}
	if a.bus == a.m.Ports {
		flags |= kvm.IOEventFDPIO
	}
	return a.m.vm.IOEventFD(fd, a.reg.Base+bell.Off, uint32(bell.Len), flags, match)
}

// Detach disconnects the device and closes its eventfds.
func (a *Attached) Detach() error {
	var errs []error
	for i, fd := range a.Doorbells {
		errs = append(errs, a.bell(fd, a.reg.Doorbells[i], kvm.IOEventFDDeassign), unix.Close(fd))
	}
	if a.IRQ >= 0 {
		errs = append(errs, a.m.vm.IRQFD(a.IRQ, uint32(a.reg.IRQ), kvm.IRQFDDeassign, 0), unix.Close(a.IRQ))
	}
	a.Doorbells, a.IRQ = nil, -1
	return errors.Join(append(errs, a.bus.Unregister(a.reg.Base))...)
}

package vmm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/device/pci"
	"github.com/qenex/qenex-kernel/virtio"
)

// Transport says how the guest reaches its virtio devices.
type Transport int

// Transports.
const (
	MMIO Transport = iota // virtio-mmio, named by ACPI or, without it, on the command line
	PCI                   // modern virtio-pci with MSI-X
)

var transportNames = [...]string{"mmio", "pci"}

func (t Transport) String() string { return transportNames[t] }

// attached is a virtio device on a bus. Its doorbells and interrupts do not pass the run loop: a guest's write to a doorbell
// signals an eventfd of the instance, and a write to an eventfd of irqs raises an interrupt.
type attached struct {
	m    *Machine
	name string
	dev  virtio.Device
	in   *virtio.Instance
	irqs []int // eventfds; closed after the VM

	mu       sync.Mutex
	failures uint64 // protected by mu
	reason   string // protected by mu; of the last failure
}

func (m *Machine) attach(i int, dev virtio.Device) *attached {
	return &attached{m: m, name: fmt.Sprintf("virtio%d", i), dev: dev}
}

// deviceLines are the interrupt lines that no device of a PC has. The first ones are lines of the PIC too.
var deviceLines = [...]uint32{5, 10, 11, 6, 7, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23}

// deviceBase is where windows of virtio devices are, and deviceSize is how much place they have.
const (
	deviceBase = 0xd0000000
	deviceSize = 0x10000000
)

// addVirtio makes the configured virtio devices.
func (m *Machine) addVirtio() error {
	add, most := m.addMMIO, len(deviceLines)
	if m.cfg.Transport == PCI {
		add, most = m.addPCI, pci.Slots-1
	}
	if n := len(m.cfg.Virtio); n > most {
		return fmt.Errorf("%w: %d virtio devices; this transport takes %d", ErrConfig, n, most)
	}
	for i, dev := range m.cfg.Virtio {
		if err := add(i, dev); err != nil {
			return fmt.Errorf("virtio device %d, of type %d: %w", i, dev.Type(), err)
		}
	}
	return nil
}

// signal raises the interrupt behind an irqfd.
func (m *Machine) signal(fd int) {
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	// The kernel takes the count at once; a full one is as good as signalled.
	if _, err := unix.Write(fd, one[:]); err != nil && !errors.Is(err, unix.EAGAIN) {
		m.end(Outcome{Cause: GuestFault, Detail: "interrupt of a virtio device", Err: err})
	}
}

// failed keeps why a device needs a reset by its driver, and tells those who watch.
func (a *attached) failed(err error) {
	a.mu.Lock()
	a.failures++
	a.reason = err.Error()
	a.mu.Unlock()
	a.tell(fmt.Sprintf("needs a reset: %v", err))
}

// tell publishes an event about a device.
func (a *attached) tell(text string) {
	a.m.events.publish(EventDevice, -1, fmt.Sprintf("%s, of type %d: %s", a.name, a.dev.Type(), text))
}

func (a *attached) report() VirtioReport {
	a.mu.Lock()
	defer a.mu.Unlock()
	return VirtioReport{Name: a.name, Type: a.dev.Type(), Status: a.in.Status(), Failures: a.failures, Reason: a.reason}
}

// stopVirtio stops the devices for good. No vCPU may run any more.
func (m *Machine) stopVirtio() error {
	var errs []error
	for _, a := range m.virtio {
		errs = append(errs, a.in.Close())
	}
	return errors.Join(errs...)
}

// closeVirtio frees what the devices had of the VM, which is closed.
func (m *Machine) closeVirtio() error {
	var errs []error
	for _, a := range m.virtio {
		for _, fd := range a.irqs {
			errs = append(errs, unix.Close(fd))
		}
	}
	m.virtio = nil
	return errors.Join(errs...)
}

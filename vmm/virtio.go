package vmm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/device"
	"github.com/qenex/qenex-kernel/kvm"
	"github.com/qenex/qenex-kernel/virtio"
	"github.com/qenex/qenex-kernel/virtio/mmio"
	"github.com/qenex/qenex-kernel/vmm/acpi"
)

// Transport says how the guest reaches its virtio devices.
type Transport int

// Transports.
const (
	MMIO Transport = iota // virtio-mmio, named by ACPI or, without it, on the command line
)

// attached is a virtio device on a bus. Its doorbells and interrupts do not pass the run loop: a guest's write to a doorbell
// signals an eventfd of the instance, and a write to an eventfd of irqs raises an interrupt.
type attached struct {
	in   *virtio.Instance
	irqs []int // closed after the VM
}

// Where virtio-mmio devices are, and the interrupt lines they may have: those that no device of a PC has. The first ones are lines of
// the PIC too.
const mmioBase = 0xd0000000

var mmioLines = [...]uint32{5, 10, 11, 6, 7, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23}

// addVirtio makes the configured virtio devices.
func (m *Machine) addVirtio() error {
	if n := len(m.cfg.Virtio); n > len(mmioLines) {
		return fmt.Errorf("%w: %d virtio devices; virtio-mmio has interrupts for %d", ErrConfig, n, len(mmioLines))
	}
	for i, dev := range m.cfg.Virtio {
		if err := m.addMMIO(i, dev); err != nil {
			return fmt.Errorf("virtio device %d, of type %d: %w", i, dev.Type(), err)
		}
	}
	return nil
}

// addMMIO puts a device behind virtio-mmio.
func (m *Machine) addMMIO(i int, dev virtio.Device) error {
	irq, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return fmt.Errorf("eventfd: %w", err)
	}
	t, err := mmio.New(dev, m.mem, func() { m.signal(irq) }, m.virtioFailed(i, dev))
	if err != nil {
		return errors.Join(err, unix.Close(irq))
	}
	m.virtio = append(m.virtio, &attached{in: t.Instance(), irqs: []int{irq}})
	if err := m.vm.IRQFD(irq, mmioLines[i], 0, 0); err != nil {
		return err
	}
	base := mmioBase + mmio.Size*uint64(i)
	for q := range t.Instance().NumQueues() {
		if err := m.vm.IOEventFD(t.Instance().Bell(q), base+mmio.QueueNotify, 4, kvm.IOEventFDDataMatch, uint64(q)); err != nil {
			return err
		}
	}
	return m.MMIO.Register(device.Registration{
		Name: fmt.Sprintf("virtio%d", i), Base: base, Size: mmio.Size, IRQ: int(mmioLines[i]), Handler: t,
	})
}

// mmioTables are the devices as ACPI describes them.
func (m *Machine) mmioTables() (list []acpi.Device) {
	for i := range m.cfg.Virtio {
		list = append(list, acpi.Device{
			HID: "LNRO0005", UID: uint64(i), Base: mmioBase + mmio.Size*uint64(i), Size: mmio.Size, IRQ: mmioLines[i],
		})
	}
	return list
}

// mmioWords are the devices as Linux takes them on its command line, each with a space behind it.
func (m *Machine) mmioWords() string {
	var b strings.Builder
	for i := range m.cfg.Virtio {
		fmt.Fprintf(&b, "virtio_mmio.device=4K@%#x:%d ", mmioBase+mmio.Size*i, mmioLines[i])
	}
	return b.String()
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

// virtioFailed tells those who watch that a device needs a reset by its driver.
func (m *Machine) virtioFailed(i int, dev virtio.Device) func(error) {
	return func(err error) {
		m.events.publish(EventDevice, -1, fmt.Sprintf("virtio device %d, of type %d, needs a reset: %v", i, dev.Type(), err))
	}
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

package vmm

import (
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

// addMMIO puts a device behind virtio-mmio.
func (m *Machine) addMMIO(i int, dev virtio.Device) error {
	irq, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return fmt.Errorf("eventfd: %w", err)
	}
	a := m.attach(i, dev)
	t, err := mmio.New(dev, m.mem, func() { m.signal(irq) }, a.failed)
	if err != nil {
		return errors.Join(err, unix.Close(irq))
	}
	a.in, a.irqs = t.Instance(), []int{irq}
	m.virtio = append(m.virtio, a)
	if err := m.vm.IRQFD(irq, deviceLines[i], 0, 0); err != nil {
		return err
	}
	base := deviceBase + mmio.Size*uint64(i)
	for q := range t.Instance().NumQueues() {
		if err := m.vm.IOEventFD(t.Instance().Bell(q), base+mmio.QueueNotify, 4, kvm.IOEventFDDataMatch, uint64(q)); err != nil {
			return err
		}
	}
	return m.MMIO.Register(device.Registration{
		Name: a.name, Base: base, Size: mmio.Size, IRQ: int(deviceLines[i]), Handler: t,
	})
}

// mmioTables are the devices as ACPI describes them.
func (m *Machine) mmioTables() (list []acpi.Device) {
	for i := range m.cfg.Virtio {
		list = append(list, acpi.Device{
			HID: "LNRO0005", UID: uint64(i), Base: deviceBase + mmio.Size*uint64(i), Size: mmio.Size, IRQ: deviceLines[i],
		})
	}
	return list
}

// mmioWords are the devices as Linux takes them on its command line, each with a space behind it.
func (m *Machine) mmioWords() string {
	var b strings.Builder
	for i := range m.cfg.Virtio {
		fmt.Fprintf(&b, "virtio_mmio.device=4K@%#x:%d ", deviceBase+mmio.Size*i, deviceLines[i])
	}
	return b.String()
}

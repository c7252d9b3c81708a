package vmm

import (
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/device"
	"github.com/qenex/qenex-kernel/device/pci"
	"github.com/qenex/qenex-kernel/kvm"
	"github.com/qenex/qenex-kernel/virtio"
	virtiopci "github.com/qenex/qenex-kernel/virtio/pci"
	"github.com/qenex/qenex-kernel/vmm/acpi"
)

// pciDevice is a virtio device on the PCI bus: its window, its messages, its doorbells.
type pciDevice struct {
	*attached
	t *virtiopci.Transport

	vectors map[int]vector // those that have been routed; used with the lock of the function's MSI-X

	// Protected by Machine.routes.
	shown   bool   // the window is on the MMIO bus
	base    uint64 // where it is, or was
	rings   bool   // the doorbells are connected
	ringsAt uint64 // for the window at this base
}

// vector is an MSI-X vector: a write to the eventfd makes KVM send the message that is routed from the GSI.
type vector struct {
	fd  int
	gsi uint32
}

// addPCI puts a device into the next slot.
func (m *Machine) addPCI(i int, dev virtio.Device) error {
	d := &pciDevice{attached: m.attach(i, dev), vectors: map[int]vector{}}
	line := deviceLines[i%len(deviceLines)]
	base := uint32(deviceBase + virtiopci.WindowSize*i)
	t, err := virtiopci.New(dev, m.mem, virtiopci.Surroundings{
		Base: base, Moved: d.moved, Messages: d, IRQ: byte(line),
		Line:   func(level bool) { m.pin(line, level) },
		Failed: d.failed,
	})
	if err != nil {
		return err
	}
	d.t, d.in = t, t.Instance()
	m.virtio = append(m.virtio, d.attached)
	m.routes.devices = append(m.routes.devices, d)
	d.moved(uint64(base), true)
	return m.pci.Add(i+1, t.Function())
}

// pciTables is the bus as ACPI describes it.
func (m *Machine) pciTables() *acpi.PCI {
	p := &acpi.PCI{Base: deviceBase, Size: deviceSize, Lines: []uint32{0}}
	for i := range m.cfg.Virtio {
		p.Lines = append(p.Lines, deviceLines[i%len(deviceLines)])
	}
	return p
}

// moved follows the window. What cannot be had, because the guest put the window where another one or none can be, is not seen by the guest.
// Doorbells stay connected where they were while the window is away, for Linux switches it off and on several times; a ring
// too many does no harm.
func (d *pciDevice) moved(base uint64, on bool) {
	m := d.m
	m.routes.mu.Lock()
	defer m.routes.mu.Unlock()
	if d.shown {
		m.MMIO.Unregister(d.base)
		d.shown = false
	}
	if !on || base < deviceBase || base-deviceBase > deviceSize-virtiopci.WindowSize {
		return
	}
	if m.MMIO.Register(device.Registration{Name: d.name, Base: base, Size: virtiopci.WindowSize, IRQ: -1, Handler: d.t}) != nil {
		return
	}
	d.shown, d.base = true, base
	if d.rings && d.ringsAt == base {
		return
	}
	d.disconnect()
	for _, other := range m.routes.devices {
		if other.rings && other.ringsAt == base {
			other.disconnect()
		}
	}
	d.rings, d.ringsAt = true, base
	for q := range d.in.NumQueues() {
		// Any length: KVM then needs not look at the instruction. Where it fails the bus rings.
		if err := m.vm.IOEventFD(d.in.Bell(q), base+virtiopci.NotifyOffset(q), 0, 0, 0); err != nil {
			d.tell(fmt.Sprintf("the doorbell of queue %d is slow: %v", q, err))
		}
	}
}

// disconnect takes the doorbells back. Machine.routes.mu is held.
func (d *pciDevice) disconnect() {
	if !d.rings {
		return
	}
	d.rings = false
	for q := range d.in.NumQueues() {
		// Those that were not connected fail, and need nothing.
		d.m.vm.IOEventFD(d.in.Bell(q), d.ringsAt+virtiopci.NotifyOffset(q), 0, kvm.IOEventFDDeassign, 0)
	}
}

// Route implements pci.Messages.
func (d *pciDevice) Route(i int, address uint64, data uint32) {
	if err := d.route(i, address, data); err != nil {
		d.tell(fmt.Sprintf("MSI-X vector %d is silent: %v", i, err))
	}
}

func (d *pciDevice) route(i int, address uint64, data uint32) error {
	v, known := d.vectors[i]
	gsi, err := d.m.routes.set(d.m.vm, v.gsi, address, data)
	if err != nil || known {
		return err
	}
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return err
	}
	d.irqs = append(d.irqs, fd)
	d.vectors[i] = vector{fd: fd, gsi: gsi}
	return d.m.vm.IRQFD(fd, gsi, 0, 0)
}

// Signal implements pci.Messages.
func (d *pciDevice) Signal(i int) {
	if v, ok := d.vectors[i]; ok {
		d.m.signal(v.fd)
	}
}

var _ pci.Messages = (*pciDevice)(nil)

// routes is KVM's table of what the GSIs lead to: the pins of the interrupt chips, and behind these a message for each vector in use.
type routes struct {
	mu       sync.Mutex
	devices  []*pciDevice       // protected by mu
	messages []kvm.RoutingEntry // protected by mu
}

const (
	picPins     = 16 // of both
	ioapicPins  = 24
	chipPICPins = 8
)

// set makes a GSI, a new one for 0, lead to a message, and returns it.
func (r *routes) set(vm *kvm.VM, gsi uint32, address uint64, data uint32) (uint32, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := slices.Clone(r.messages)
	if gsi == 0 {
		gsi = uint32(ioapicPins + len(next))
		next = append(next, kvm.RoutingEntry{})
	}
	e := kvm.RoutingEntry{GSI: gsi, Type: kvm.RouteMSI}
	e.U[0], e.U[1], e.U[2] = uint32(address), uint32(address>>32), data
	next[gsi-ioapicPins] = e
	if err := vm.SetGSIRouting(append(chipRoutes(), next...)); err != nil {
		return 0, err
	}
	r.messages = next
	return gsi, nil
}

// chipRoutes are the routes that KVM has by itself: each GSI leads to the pin of the same number.
func chipRoutes() (list []kvm.RoutingEntry) {
	for pin := range uint32(ioapicPins) {
		if pin < picPins {
			e := kvm.RoutingEntry{GSI: pin, Type: kvm.RouteIRQChip}
			e.U[0], e.U[1] = kvm.ChipPICMaster+pin/chipPICPins, pin%chipPICPins
			list = append(list, e)
		}
		e := kvm.RoutingEntry{GSI: pin, Type: kvm.RouteIRQChip}
		e.U[0], e.U[1] = kvm.ChipIOAPIC, pin
		list = append(list, e)
	}
	return list
}

// pins counts the functions that assert each interrupt line, which some share.
type pins struct {
	mu       sync.Mutex
	asserted [ioapicPins]int // protected by mu
}

// pin asserts or releases a line for one function.
func (m *Machine) pin(line uint32, level bool) {
	p := &m.pins
	p.mu.Lock()
	defer p.mu.Unlock()
	before := p.asserted[line] > 0
	if level {
		p.asserted[line]++
	} else {
		p.asserted[line]--
	}
	if now := p.asserted[line] > 0; now != before {
		if err := m.vm.IRQLine(line, now); err != nil {
			m.end(Outcome{Cause: GuestFault, Detail: "interrupt line of a virtio device", Err: err})
		}
	}
}

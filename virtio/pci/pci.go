package pci

import (
	"fmt"
	"sync/atomic"

	"github.com/qenex/qenex-kernel/device/pci"
	"github.com/qenex/qenex-kernel/memmap"
	"github.com/qenex/qenex-kernel/virtio"
)

// Transport is a device as a PCI function. Read and Write, of its window, may be called by several vCPUs at the same time; registers that select
// are the driver's to guard.
type Transport struct {
	in     *virtio.Instance
	fn     *pci.Function
	msix   *pci.MSIX
	failed func(error)

	isr                             atomic.Uint32
	deviceSel, driverSel, queueSelR atomic.Uint32
	configVector                    atomic.Uint32
	queueVector                     []atomic.Uint32
	access                          uint64 // capability that accesses the window
}

// Surroundings is what a function needs of its machine.
type Surroundings struct {
	Base     uint32                     // of its window, which is WindowSize bytes and aligned to them
	Moved    func(base uint64, on bool) // called when the guest moves the window, or switches it
	Messages pci.Messages               // where its MSI-X vectors lead: one for each queue and one for the configuration
	IRQ      byte                       // what its interrupt line register says
	Line     func(level bool)           // its interrupt pin
	Failed   func(err error)            // hears why the device needs a reset; must not block
}

// New makes a device behind a PCI function. Close of its Instance frees it.
func New(dev virtio.Device, mem *memmap.Memory, s Surroundings) (*Transport, error) {
	t := &Transport{failed: s.Failed}
	kind := dev.Type()
	t.fn = pci.NewFunction(pci.Identity{
		Vendor: 0x1af4, Device: 0x1040 + uint16(kind), // virtio 1.2, 4.1.2.1
		SubVendor: 0x1af4, SubDevice: 0x1040 + uint16(kind),
		Class: class(kind), Revision: 1,
	})
	queues := len(dev.Queues())
	if queues > maxQueues-1 {
		return nil, fmt.Errorf("virtio-pci: device of type %d has %d queues; there are doorbells for %d", kind, queues, maxQueues-1)
	}
	t.fn.Window(s.Base, WindowSize, s.Moved)
	t.fn.Line(s.IRQ, s.Line)
	if err := t.addCapabilities(queues, s.Messages); err != nil {
		return nil, err
	}
	t.queueVector = make([]atomic.Uint32, queues)
	t.forget()
	in, err := virtio.NewInstance(dev, mem, host{t})
	if err != nil {
		return nil, err
	}
	t.in = in
	return t, nil
}

func (t *Transport) addCapabilities(queues int, to pci.Messages) (err error) {
	if t.msix, err = pci.NewMSIX(t.fn, queues+1, tableOff, pendingOff, to); err != nil {
		return err
	}
	for _, c := range [][]byte{
		structCap(capCommon, commonOff, commonSize),
		structCap(capNotify, notifyOff, notifySize, le.AppendUint32(nil, NotifyStep)...),
		structCap(capISR, isrOff, isrSize),
		structCap(capDevice, configOff, configSize),
	} {
		if _, err := t.fn.Capability(pci.CapVendor, c, nil, nil, nil); err != nil {
			return err
		}
	}
	window := structCap(capPCI, 0, 0, 0, 0, 0, 0)
	writable := make([]byte, len(window))
	for i := accessBAR - 2; i < accessData-2; i++ {
		if i == accessBAR-2 || i >= accessOff-2 {
			writable[i] = 0xff
		}
	}
	t.access, err = t.fn.Capability(pci.CapVendor, window, writable, t.readAccess, t.writeAccess)
	return err
}

// class says what an operating system may call a device; none depends on it (virtio 1.2, 4.1.2.1).
func class(kind uint32) uint32 {
	switch kind {
	case virtio.TypeNet:
		return 0x020000
	case virtio.TypeBlock:
		return 0x018000
	case virtio.TypeConsole:
		return 0x078000
	case virtio.TypeVsock:
		return 0x028000
	}
	return 0xff0000
}

// Instance returns the device behind the function.
func (t *Transport) Instance() *virtio.Instance { return t.in }

// Function returns the function's configuration space.
func (t *Transport) Function() *pci.Function { return t.fn }

// host is the transport as its instance sees it.
type host struct{ t *Transport }

func (h host) Interrupt(queue int) { h.t.interrupt(isrQueue, h.t.queueVector[queue].Load()) }
func (h host) ConfigInterrupt()    { h.t.interrupt(isrConfig, h.t.configVector.Load()) }
func (h host) Failed(err error)    { h.t.failed(err) }

// interrupt sends a message if the driver enabled MSI-X, and asserts the pin if it did not (virtio 1.2, 4.1.4.5.1).
func (t *Transport) interrupt(bit, vector uint32) {
	if bit == isrConfig {
		t.isr.Or(bit) // with messages too
	}
	if t.msix.Enabled() {
		if vector != noVector {
			t.msix.Raise(int(vector))
		}
		return
	}
	t.isr.Or(bit)
	t.fn.SetLine(true)
}

// forget makes the vectors what they are after a reset.
func (t *Transport) forget() {
	t.configVector.Store(noVector)
	for i := range t.queueVector {
		t.queueVector[i].Store(noVector)
	}
}

// Read answers a load from the window of len(p) bytes.
func (t *Transport) Read(off uint64, p []byte) {
	switch {
	case off < commonOff+commonSize:
		t.readCommon(off, p)
	case off == isrOff:
		clear(p)
		// The pin goes before the status: what comes in between asserts it again.
		t.fn.SetLine(false)
		p[0] = byte(t.isr.Swap(0))
	case off >= configOff && off < configOff+configSize:
		t.in.ReadConfig(off-configOff, p)
	case off >= tableOff && off < tableOff+tableSize:
		t.msix.ReadTable(off-tableOff, p)
	case off >= pendingOff:
		t.msix.ReadPending(off-pendingOff, p)
	default:
		clear(p)
	}
}

// Write takes a store to the window of len(p) bytes.
func (t *Transport) Write(off uint64, p []byte) {
	switch {
	case off < commonOff+commonSize:
		t.writeCommon(off, p)
	case off >= configOff && off < configOff+configSize:
		t.in.WriteConfig(off-configOff, p)
	case off >= notifyOff && off < notifyOff+notifySize:
		// Queues' doorbells do not share an address, so that the place says which it is.
		t.in.Ring(uint32(off-notifyOff) / NotifyStep)
	case off >= tableOff && off < tableOff+tableSize:
		t.msix.WriteTable(off-tableOff, p)
	}
}

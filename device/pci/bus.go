package pci

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"

	"github.com/qenex/qenex-kernel/device"
)

var le = binary.LittleEndian

// Slots is how many functions the bus has place for. Slot 0 is the host bridge's.
const Slots = 32

const (
	portBase  = 0xcf8 // the address register; the data register follows it
	portSize  = 8
	dataStart = 4
)

// Bus is the host bridge and its bus 0. Functions are added before a vCPU runs.
type Bus struct {
	address atomic.Uint32
	slots   [Slots]*Function
	rest    device.Handler
}

// NewBus makes a bus that holds its host bridge only. Accesses to the ports of the address register that are not 4 bytes wide go to
// rest, as the chipset's reset control register lies there.
func NewBus(rest device.Handler) *Bus {
	b := &Bus{rest: rest}
	b.slots[0] = NewFunction(Identity{Vendor: 0x8086, Device: 0x0d57, Class: 0x060000})
	return b
}

// Add puts a function into a free slot.
func (b *Bus) Add(slot int, f *Function) error {
	if slot < 1 || slot >= Slots || b.slots[slot] != nil {
		return fmt.Errorf("pci: slot %d is taken or does not exist; 1 to %d can be had", slot, Slots-1)
	}
	b.slots[slot] = f
	return nil
}

// Registrations returns the bus's ports.
func (b *Bus) Registrations() []device.Registration {
	return []device.Registration{{Name: "pci", Base: portBase, Size: portSize, IRQ: -1, Handler: b}}
}

// Read implements device.Handler.
func (b *Bus) Read(off uint64, p []byte) {
	switch {
	case off == 0 && len(p) == 4:
		le.PutUint32(p, b.address.Load())
	case off < dataStart:
		b.rest.Read(off, p[:min(uint64(len(p)), dataStart-off)])
		if k := dataStart - off; k < uint64(len(p)) {
			b.Read(dataStart, p[k:])
		}
	default:
		if f, reg := b.target(off - dataStart); f != nil {
			f.Read(reg, p)
			return
		}
		for i := range p {
			p[i] = 0xff
		}
	}
}

// Write implements device.Handler.
func (b *Bus) Write(off uint64, p []byte) {
	switch {
	case off == 0 && len(p) == 4:
		b.address.Store(le.Uint32(p) & 0x80fffffc)
	case off < dataStart:
		b.rest.Write(off, p[:min(uint64(len(p)), dataStart-off)])
		if k := dataStart - off; k < uint64(len(p)) {
			b.Write(dataStart, p[k:])
		}
	default:
		if f, reg := b.target(off - dataStart); f != nil {
			f.Write(reg, p)
		}
	}
}

// target returns the function that the address register names, nil if there is none, and the register at byte i of the data.
func (b *Bus) target(i uint64) (*Function, uint64) {
	a := b.address.Load()
	bus, slot, function := a>>16&0xff, a>>11&0x1f, a>>8&7
	if a&(1<<31) == 0 || bus != 0 || function != 0 {
		return nil, 0
	}
	return b.slots[slot], uint64(a&0xfc) + i
}

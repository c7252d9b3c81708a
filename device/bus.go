package device

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"
)

// Errors that Bus.Register and Bus.Unregister wrap.
var (
	ErrOverlap = errors.New("address range is taken")
	ErrRange   = errors.New("bad address range")
	ErrAbsent  = errors.New("no such device")
)

// Handler answers accesses to one registered range. off counts from the range's
// base; off+len(p) never exceeds the range's size and len(p) is at least 1. The
// values are little endian, as the guest stored them. Read must fill all of p. p is
// only valid during the call.
//
// Several vCPUs may be inside one Handler at the same time, and an access that
// began before Bus.Unregister may still be running when Unregister returns.
type Handler interface {
	Read(off uint64, p []byte)
	Write(off uint64, p []byte)
}

// IRQLine drives a level-triggered interrupt line: true asserts it, false releases
// it. A device calls it when its level changes, and once after loading saved state.
// The call is made on the goroutine that caused the change (a vCPU, or the one that
// feeds input) with the device's lock held, which keeps the levels in order: the
// function must be quick, and must not call back into the device. A nil IRQLine is a
// line that leads nowhere.
type IRQLine func(level bool)

// set drives the line if it is connected.
func (l IRQLine) set(level bool) {
	if l != nil {
		l(level)
	}
}

// Registration is a device's place on a bus.
type Registration struct {
	Name    string // for errors and the run report
	Base    uint64 // first address
	Size    uint64 // in bytes, at least 1
	IRQ     int    // interrupt line (GSI) number, -1 for none
	Handler Handler
}

// last is the range's last address.
func (r *Registration) last() uint64 { return r.Base + (r.Size - 1) }

func (r *Registration) String() string {
	return fmt.Sprintf("%q at [%#x, %#x]", r.Name, r.Base, r.last())
}

// Entry is one device as Bus.List reports it.
type Entry struct {
	Registration
	Reads, Writes uint64 // accesses so far; one that crosses devices counts in each
}

// entry is what the lookup slice holds: the registration is immutable.
type entry struct {
	Registration
	reads, writes atomic.Uint64
}

// Bus is an address space on which devices register: x86 port I/O (NewPortBus) or
// MMIO (NewMMIOBus). Read and Write take no lock and allocate nothing; Register and
// Unregister may be called while vCPUs run.
//
// No access fails: a guest may read and write anywhere. What no device claims reads
// as all ones, swallows writes, and is counted.
type Bus struct {
	space string // "port" or "mmio"
	last  uint64 // last address of the space

	unclaimedReads, unclaimedWrites atomic.Uint64

	devs atomic.Pointer[[]*entry] // sorted by Base, disjoint; a published slice is immutable

	mu sync.Mutex // held to replace devs
}

// NewPortBus returns an empty x86 port I/O space of 64 Ki ports.
func NewPortBus() *Bus { return newBus("port", math.MaxUint16) }

// NewMMIOBus returns an empty guest-physical MMIO space of 2^52 bytes, the most that
// x86 page tables can address (Intel SDM vol. 3, 4.1.4).
func NewMMIOBus() *Bus { return newBus("mmio", 1<<52-1) }

func newBus(space string, last uint64) *Bus {
	b := &Bus{space: space, last: last}
	b.devs.Store(new([]*entry))
	return b
}

// Register adds devices, all or none of them. It fails with ErrRange for an empty
// range, one that leaves the address space and a nil handler, and with ErrOverlap if an address is taken.
func (b *Bus) Register(regs ...Registration) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	devs := slices.Clone(*b.devs.Load())
	for _, r := range regs {
		if err := b.check(&r); err != nil {
			return fmt.Errorf("device: %s bus: cannot register %q: %w", b.space, r.Name, err)
		}
		i := search(devs, r.Base)
		if i < len(devs) && devs[i].Base <= r.last() {
			return fmt.Errorf("device: %s bus: cannot register %v: %w by %v; choose another base",
				b.space, &r, ErrOverlap, &devs[i].Registration)
		}
		devs = slices.Insert(devs, i, &entry{Registration: r})
	}
	b.devs.Store(&devs)
	return nil
}

func (b *Bus) check(r *Registration) error {
	switch {
	case r.Size == 0:
		return fmt.Errorf("%w: size is 0", ErrRange)
	case r.Base > b.last || r.Size-1 > b.last-r.Base:
		return fmt.Errorf("%w: base %#x size %#x leaves the space, whose last address is %#x", ErrRange, r.Base, r.Size, b.last)
	case r.Handler == nil:
		return fmt.Errorf("%w: base %#x has no handler", ErrRange, r.Base)
	}
	return nil
}

// Unregister removes the device whose range begins at base; its addresses are
// unclaimed from then on. Accesses that had already found the device may still be
// inside its Handler: pause the vCPUs first if it is to be torn down.
func (b *Bus) Unregister(base uint64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	devs := *b.devs.Load()
	i := search(devs, base)
	if i == len(devs) || devs[i].Base != base {
		return fmt.Errorf("device: %s bus: cannot unregister base %#x: %w", b.space, base, ErrAbsent)
	}
	devs = slices.Delete(slices.Clone(devs), i, i+1)
	b.devs.Store(&devs)
	return nil
}

// List returns the registered devices in address order.
func (b *Bus) List() []Entry {
	devs := *b.devs.Load()
	list := make([]Entry, len(devs))
	for i, e := range devs {
		list[i] = Entry{Registration: e.Registration, Reads: e.reads.Load(), Writes: e.writes.Load()}
	}
	return list
}

// Unclaimed returns how many reads and writes, or parts of them, met no device.
func (b *Bus) Unclaimed() (reads, writes uint64) {
	return b.unclaimedReads.Load(), b.unclaimedWrites.Load()
}

// Read fills p from the devices at addr. An access that runs over the end of a
// device is cut there, and its rest goes to whatever comes next.
func (b *Bus) Read(addr uint64, p []byte) {
	devs := *b.devs.Load()
	for len(p) > 0 {
		e, n := span(devs, addr, len(p))
		if e != nil {
			e.reads.Add(1)
			e.Handler.Read(addr-e.Base, p[:n:n])
		} else {
			b.unclaimedReads.Add(1)
			ones(p[:n])
		}
		addr, p = addr+uint64(n), p[n:]
	}
}

// Write hands p to the devices at addr, cut as in Read.
func (b *Bus) Write(addr uint64, p []byte) {
	devs := *b.devs.Load()
	for len(p) > 0 {
		e, n := span(devs, addr, len(p))
		if e != nil {
			e.writes.Add(1)
			e.Handler.Write(addr-e.Base, p[:n:n])
		} else {
			b.unclaimedWrites.Add(1)
		}
		addr, p = addr+uint64(n), p[n:]
	}
}

// span returns the device at addr, nil if there is none, and how many of the n bytes
// from addr belong to it, or to nobody. No device ends near 2^64, so addresses that
// the callers reach by adding such a count never wrap onto one.
func span(devs []*entry, addr uint64, n int) (*entry, int) {
	i := search(devs, addr)
	if i == len(devs) {
		return nil, n
	}
	e := devs[i]
	if addr < e.Base {
		return nil, int(min(uint64(n), e.Base-addr))
	}
	return e, int(min(uint64(n), e.last()-addr+1))
}

// search returns the index of the first device that ends at or behind addr.
func search(devs []*entry, addr uint64) int {
	lo, hi := 0, len(devs)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if devs[mid].last() < addr {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}

// ones is what a bus without a driver floats to.
func ones(p []byte) {
	for i := range p {
		p[i] = 0xff
	}
}

// Bytes is a Handler for devices of byte-wide registers. A wider access is made one
// byte at a time at rising offsets, as an ISA bus does. A nil In reads all ones, a
// nil Out ignores writes.
type Bytes struct {
	In  func(off uint64) byte
	Out func(off uint64, v byte)
}

// Read implements Handler.
func (h Bytes) Read(off uint64, p []byte) {
	if h.In == nil {
		ones(p)
		return
	}
	for i := range p {
		p[i] = h.In(off + uint64(i))
	}
}

// Write implements Handler.
func (h Bytes) Write(off uint64, p []byte) {
	if h.Out == nil {
		return
	}
	for i, v := range p {
		h.Out(off+uint64(i), v)
	}
}

package pci

import (
	"fmt"
	"sync"
)

// Registers of a type 0 header (PCI 3.0, 6.1).
const (
	regVendor    = 0x00
	regDevice    = 0x02
	regCommand   = 0x04
	regStatus    = 0x06
	regRevision  = 0x08
	regClass     = 0x09
	regBAR       = 0x10
	regSubVendor = 0x2c
	regSubDevice = 0x2e
	regCaps      = 0x34
	regIRQLine   = 0x3c
	regIRQPin    = 0x3d

	headerSize = 0x40
	spaceSize  = 0x100

	commandMemory = 1 << 1
	commandMaster = 1 << 2
	commandNoINTx = 1 << 10

	statusINTx = 1 << 3
	statusCaps = 1 << 4
)

// CapMSIX and CapVendor are capability IDs.
const (
	CapVendor = 0x09
	CapMSIX   = 0x11
)

// Identity is what a function says it is.
type Identity struct {
	Vendor, Device       uint16
	SubVendor, SubDevice uint16
	Class                uint32 // base class, subclass, programming interface: 24 bits
	Revision             byte
}

// Function is a PCI function's configuration space. It may be accessed by several vCPUs at the same time.
type Function struct {
	next     uint64 // where the next capability goes
	last     uint64 // the register that points to it
	barSize  uint32 // a power of two; 0 is no window
	moved    func(base uint64, on bool)
	hooks    []hook
	line     func(level bool)
	sequence sync.Mutex // held around moved and line, taken before mu

	mu       sync.Mutex
	space    [spaceSize]byte // protected by mu
	writable [spaceSize]byte // immutable after the function is on a bus
	wants    bool            // protected by mu; the level that the function wants of its line
	level    bool            // protected by sequence; that of line
	base     uint64          // protected by sequence; of the window
	on       bool            // protected by sequence; the window is to be seen
}

// hook is a part of the configuration space that is more than memory.
type hook struct {
	off, size uint64
	read      func(off uint64, p []byte) // nil: memory
	write     func(off uint64, p []byte) // called after memory was written
}

// NewFunction makes a function without window, interrupt or capabilities.
func NewFunction(id Identity) *Function {
	f := &Function{next: headerSize, last: regCaps}
	le.PutUint16(f.space[regVendor:], id.Vendor)
	le.PutUint16(f.space[regDevice:], id.Device)
	le.PutUint16(f.space[regSubVendor:], id.SubVendor)
	le.PutUint16(f.space[regSubDevice:], id.SubDevice)
	f.space[regRevision] = id.Revision
	f.space[regClass], f.space[regClass+1], f.space[regClass+2] = byte(id.Class), byte(id.Class>>8), byte(id.Class>>16)
	le.PutUint16(f.writable[regCommand:], commandMaster)
	return f
}

// Window gives the function a memory window of size bytes, a power of two from 16, at base, which the guest may move. moved is called when
// the window appears, moves or goes, one call at a time; from now on it is at base.
func (f *Function) Window(base, size uint32, moved func(base uint64, on bool)) {
	f.barSize, f.moved = size, moved
	f.base, f.on = uint64(base), true
	le.PutUint32(f.space[regBAR:], base)
	le.PutUint32(f.writable[regBAR:], ^(size - 1))
	f.space[regCommand] |= commandMemory
	f.writable[regCommand] |= commandMemory
}

// Line gives the function interrupt pin A, whose level line sets, one call at a time. irq is what the interrupt line register says.
func (f *Function) Line(irq byte, line func(level bool)) {
	f.line = line
	f.space[regIRQPin], f.space[regIRQLine], f.writable[regIRQLine] = 1, irq, 0xff
	f.writable[regCommand+1] |= commandNoINTx >> 8
}

// SetLine asserts or releases the function's interrupt pin.
func (f *Function) SetLine(level bool) {
	f.sequence.Lock()
	defer f.sequence.Unlock()
	f.mu.Lock()
	f.wants = level
	f.mu.Unlock()
	f.settle()
}

// settle makes window and line what the configuration space says. f.sequence is held.
func (f *Function) settle() {
	f.mu.Lock()
	command := le.Uint16(f.space[regCommand:])
	base, on := uint64(le.Uint32(f.space[regBAR:])), f.barSize > 0 && command&commandMemory != 0
	level := f.wants && command&commandNoINTx == 0
	f.mu.Unlock()
	if f.moved != nil && (on != f.on || on && base != f.base) {
		f.base, f.on = base, on
		f.moved(base, on)
	}
	if f.line != nil && level != f.level {
		f.level = level
		f.line(level)
	}
}

// Capability appends a capability (PCI 3.0, 6.7), whose content follows its ID and pointer, and returns where it begins. Bits set in
// writable can be written; nil is none. read, if it is not nil, answers reads of the content, and write, if it is not nil, hears
// of writes to it, both with offsets from the capability's begin.
func (f *Function) Capability(id byte, content, writable []byte, read, write func(off uint64, p []byte)) (uint64, error) {
	at := f.next
	size := uint64(2 + len(content))
	if at+size > spaceSize {
		return 0, fmt.Errorf("pci: capability %#x of %d bytes does not fit", id, size)
	}
	f.space[f.last] = byte(at)
	f.last, f.next = at+1, (at+size+3)&^3
	f.space[at] = id
	copy(f.space[at+2:], content)
	copy(f.writable[at+2:at+size], writable)
	f.space[regStatus] |= statusCaps
	if read != nil || write != nil {
		f.hooks = append(f.hooks, hook{off: at, size: size, read: read, write: write})
	}
	return at, nil
}

// Read reads the configuration space.
func (f *Function) Read(off uint64, p []byte) {
	if off >= spaceSize || uint64(len(p)) > spaceSize-off {
		clear(p)
		return
	}
	f.mu.Lock()
	copy(p, f.space[off:])
	for i := range p {
		if off+uint64(i) == regStatus && f.wants {
			p[i] |= statusINTx
		}
	}
	f.mu.Unlock()
	for _, h := range f.hooks {
		if h.read != nil && off >= h.off && off < h.off+h.size {
			h.read(off-h.off, p)
		}
	}
}

// Write writes what can be written of the configuration space.
func (f *Function) Write(off uint64, p []byte) {
	if off >= spaceSize || uint64(len(p)) > spaceSize-off {
		return
	}
	f.sequence.Lock()
	f.mu.Lock()
	for i, v := range p {
		mask := f.writable[off+uint64(i)]
		b := &f.space[off+uint64(i)]
		*b = *b&^mask | v&mask
	}
	f.mu.Unlock()
	f.settle()
	f.sequence.Unlock()
	for _, h := range f.hooks {
		if h.write != nil && off >= h.off && off < h.off+h.size {
			h.write(off-h.off, p)
		}
	}
}

// word reads 4 bytes of the configuration space as they are stored.
func (f *Function) word(off uint64) uint32 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return le.Uint32(f.space[off:])
}

// Word is word for capabilities: 4 bytes at off from the capability that begins at at.
func (f *Function) Word(at, off uint64) uint32 { return f.word(at + off) }

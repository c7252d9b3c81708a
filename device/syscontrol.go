package device

import "sync"

const (
	portBBase  = 0x61
	portABase  = 0x92
	resetBase  = 0xcf8
	resetIndex = 1 // 0xcf9 in resetBase
)

// latch is a byte-wide register that keeps its writable bits.
type latch struct {
	mu sync.Mutex
	v  byte
}

// swap stores v and returns what was there.
func (l *latch) swap(v byte) byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	old := l.v
	l.v = v
	return old
}

// Save returns the register's value for a snapshot.
func (l *latch) Save() byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.v
}

// Load puts a saved value back; no reset comes of it.
func (l *latch) Load(v byte) { l.swap(v) }

// PortB is system control port B (0x61): the gate of PIT channel 2, the speaker, and
// the refresh bit by which old code measures time. KVM's in-kernel PIT answers this
// port itself when it is created with the speaker dummy: register PortB only without.
// Channel 2's output then cannot be known here and reads as high, so that a guest that
// waits for it goes on and finds its measurement useless rather than hanging.
type PortB struct{ latch }

const (
	portBStored  = 0x0f // gate, speaker, parity and channel check disable
	portBRefresh = 0x10 // toggles at every read
	portBOut2    = 0x20
)

// NewPortB returns the port after reset.
func NewPortB() *PortB { return &PortB{} }

// Registrations returns the port.
func (b *PortB) Registrations() []Registration {
	return []Registration{{Name: "port-b", Base: portBBase, Size: 1, IRQ: -1, Handler: Bytes{
		In: func(uint64) byte {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.v ^= portBRefresh
			return b.v&(portBRefresh|portBStored) | portBOut2
		},
		Out: func(_ uint64, v byte) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.v = b.v&portBRefresh | v&portBStored
		},
	}}}
}

// PortA is system control port A (0x92): the A20 gate, kept but without effect since
// KVM never masks A20, and fast reset.
type PortA struct {
	latch
	reset func()
}

const (
	portAReset = 0x01
	portAA20   = 0x02
)

// NewPortA returns the port with A20 on. reset (nil: ignored) is called when the fast
// reset bit rises.
func NewPortA(reset func()) *PortA {
	return &PortA{latch: latch{v: portAA20}, reset: reset}
}

// Registrations returns the port.
func (a *PortA) Registrations() []Registration {
	return []Registration{{Name: "port-a", Base: portABase, Size: 1, IRQ: -1, Handler: Bytes{
		In: func(uint64) byte { return a.Save() },
		Out: func(_ uint64, v byte) {
			if old := a.swap(v); v&^old&portAReset != 0 && a.reset != nil {
				a.reset()
			}
		},
	}}}
}

// ResetControl is the chipset's reset control register, the byte at 0xcf9.
//
// The register lies inside PCI's address register at 0xcf8, from which it differs
// only in the width of the access. ResetControl therefore claims all four bytes and
// ignores whatever is not one byte to 0xcf9: a guest that probes for PCI with a dword
// write must not reset itself. The rest reads all ones; where there is a PCI bus, it claims the ports and passes on what is not its own.
type ResetControl struct {
	latch
	reset func()
}

const (
	resetCPU    = 0x04 // the reset is made when this bit rises
	resetStored = 0x0e // with the kind of reset: hard, full
)

// NewResetControl returns the register; reset (nil: ignored) is called for every kind
// of reset.
func NewResetControl(reset func()) *ResetControl { return &ResetControl{reset: reset} }

// Registrations returns the four ports.
func (r *ResetControl) Registrations() []Registration {
	return []Registration{{Name: "reset-control", Base: resetBase, Size: 4, IRQ: -1, Handler: r}}
}

// Read implements Handler.
func (r *ResetControl) Read(off uint64, p []byte) {
	ones(p)
	if off == resetIndex && len(p) == 1 {
		p[0] = r.Save()
	}
}

// Write implements Handler.
func (r *ResetControl) Write(off uint64, p []byte) {
	if off != resetIndex || len(p) != 1 {
		return
	}
	v := p[0] & resetStored
	if old := r.swap(v); v&^old&resetCPU != 0 && r.reset != nil {
		r.reset()
	}
}

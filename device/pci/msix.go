package pci

import (
	"sync"
)

// Messages are where MSI-X vectors lead. Its methods are called one at a time and must be quick.
type Messages interface {
	// Route makes the message of a vector: a write of data to address. An error is one of the machine's: the vector stays silent.
	Route(vector int, address uint64, data uint32)
	// Signal sends a vector's message. Route was called for it.
	Signal(vector int)
}

const (
	entrySize = 16
	// Bits of the message control register, and of an entry's vector control.
	controlEnable = 1 << 15
	controlMask   = 1 << 14
	entryMask     = 1
)

// MSIX is a function's MSI-X capability, table and pending bits (PCI 3.0, 6.8.2). Vectors that are masked when they are raised are
// sent when they are not any more.
type MSIX struct {
	to Messages

	mu      sync.Mutex
	control uint16      // protected by mu
	table   []msixEntry // protected by mu
}

type msixEntry struct {
	words   [4]uint32 // address low and high, data, vector control
	routed  [3]uint32 // the words that Route was called with
	known   bool      // Route was called
	pending bool
}

// NewMSIX appends the capability to a function, with 1 to 2048 vectors. Its table is at tableOff and its pending bits are at pendingOff of the
// function's window; who owns the window passes accesses on.
func NewMSIX(f *Function, vectors int, tableOff, pendingOff uint32, to Messages) (*MSIX, error) {
	m := &MSIX{to: to, table: make([]msixEntry, vectors)}
	for i := range m.table {
		m.table[i].words[3] = entryMask
	}
	content := make([]byte, 10)
	le.PutUint16(content, uint16(vectors-1))
	le.PutUint32(content[2:], tableOff)
	le.PutUint32(content[6:], pendingOff)
	writable := make([]byte, 10)
	le.PutUint16(writable, controlEnable|controlMask)
	var at uint64
	var err error
	at, err = f.Capability(CapMSIX, content, writable, nil, func(uint64, []byte) { m.setControl(uint16(f.word(at) >> 16)) })
	return m, err
}

// Enabled says whether the driver wants messages rather than the interrupt pin.
func (m *MSIX) Enabled() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.control&controlEnable != 0
}

// Vectors returns how many there are.
func (m *MSIX) Vectors() int { return len(m.table) }

func (m *MSIX) setControl(v uint16) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.control = v & (controlEnable | controlMask)
	for i := range m.table {
		m.settle(i)
	}
}

// Raise sends a vector's message, now or when it is no longer masked. One that does not exist is ignored.
func (m *MSIX) Raise(vector int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if vector < 0 || vector >= len(m.table) {
		return
	}
	m.table[vector].pending = true
	m.settle(vector)
}

// settle routes and sends what is to be. m.mu is held.
func (m *MSIX) settle(i int) {
	e := &m.table[i]
	if m.control&(controlEnable|controlMask) != controlEnable || e.words[3]&entryMask != 0 {
		return
	}
	if route := [3]uint32(e.words[:3]); !e.known || route != e.routed {
		m.to.Route(i, uint64(route[1])<<32|uint64(route[0]), route[2])
		e.routed, e.known = route, true
	}
	if e.pending {
		e.pending = false
		m.to.Signal(i)
	}
}

// ReadTable answers an access to the table, aligned and of 4 or 8 bytes; others read zeroes.
func (m *MSIX) ReadTable(off uint64, p []byte) {
	clear(p)
	m.words(off, len(p), func(i int, e *msixEntry, word int) {
		le.PutUint32(p[i:], e.words[word])
	})
}

// WriteTable takes an access to the table, aligned and of 4 or 8 bytes; others are ignored.
func (m *MSIX) WriteTable(off uint64, p []byte) {
	m.words(off, len(p), func(i int, e *msixEntry, word int) {
		v := le.Uint32(p[i:])
		if word == 3 {
			v &= entryMask
		}
		e.words[word] = v
	})
	m.mu.Lock()
	defer m.mu.Unlock()
	if vector := off / entrySize; vector < uint64(len(m.table)) {
		m.settle(int(vector))
	}
}

// words calls f for each word of a good access, with its place in the access.
func (m *MSIX) words(off uint64, n int, f func(i int, e *msixEntry, word int)) {
	if n != 4 && n != 8 || off%uint64(n) != 0 {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := 0; i < n; i += 4 {
		at := off + uint64(i)
		if at/entrySize < uint64(len(m.table)) {
			f(i, &m.table[at/entrySize], int(at%entrySize/4))
		}
	}
}

// ReadPending answers an access to the pending bits.
func (m *MSIX) ReadPending(off uint64, p []byte) {
	clear(p)
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range p {
		for bit := range 8 {
			at := (off+uint64(i))*8 + uint64(bit)
			if off < 1<<16 && at < uint64(len(m.table)) && m.table[at].pending {
				p[i] |= 1 << bit
			}
		}
	}
}

package memmap

import (
	"sync/atomic"
	"unsafe"
)

// LoadUint16 atomically reads the little-endian word at the start of p, which must be 2-byte aligned memory of a View. Nothing
// that follows it in the program is read before it (acquire).
func LoadUint16(p []byte) uint16 {
	_ = p[1]
	// The aligned doubleword around it lies in the mapping too, for that begins and ends at page boundaries.
	at := unsafe.Pointer(unsafe.SliceData(p))
	shift := uintptr(at) & 2
	return uint16(atomic.LoadUint32((*uint32)(unsafe.Add(at, -int(shift)))) >> (8 * shift))
}

// StoreUint16 atomically writes the little-endian word at the start of p, 2-byte aligned memory of a View. What precedes it in
// the program is visible before it, and nothing that follows is read before it is visible (a full barrier).
func StoreUint16(p []byte, v uint16) {
	_ = p[1]
	swap16(unsafe.SliceData(p), v)
}

// swap16 is XCHG, which locks: an ordinary store would let later loads pass.
//
//go:noescape
func swap16(p *byte, v uint16)

package memmap

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"
	"unsafe"
)

// OrUint64 atomically sets bits in the quadword at gpa, which must be 8-byte aligned: how
// accessed and dirty bits are set in page tables that the guest uses at the same time.
func (m *Memory) OrUint64(gpa, bits uint64) error {
	if gpa%8 != 0 {
		return fmt.Errorf("set bits %#x at gpa %#x: not 8-byte aligned", bits, gpa)
	}
	v, err := m.View(gpa, 8)
	if err != nil {
		return err
	}
	// Alignment holds: regions are mapped at page boundaries.
	atomic.OrUint64((*uint64)(unsafe.Pointer(unsafe.SliceData(v))), bits)
	return nil
}

// cas128 is CMPXCHG16B on 16-byte aligned memory; every 64-bit processor with virtualization has it.
//
//go:noescape
func cas128(p *byte, old, repl [2]uint64) (was [2]uint64, ok bool)

// CompareAndSwap atomically replaces the 8 or 16 bytes at gpa, which must be aligned to that size, by repl
// if they equal old. If they do not, it fills old with what is there.
func (m *Memory) CompareAndSwap(gpa uint64, old, repl []byte) (swapped bool, err error) {
	n := len(old)
	if (n != 8 && n != 16) || len(repl) != n || gpa%uint64(n) != 0 {
		return false, fmt.Errorf("compare and swap %d bytes at gpa %#x: must be 8 or 16 bytes, aligned", n, gpa)
	}
	v, err := m.View(gpa, uint64(n))
	if err != nil {
		return false, err
	}
	p := unsafe.SliceData(v)
	le := binary.LittleEndian
	if n == 16 {
		was, ok := cas128(p, [2]uint64{le.Uint64(old), le.Uint64(old[8:])}, [2]uint64{le.Uint64(repl), le.Uint64(repl[8:])})
		le.PutUint64(old, was[0])
		le.PutUint64(old[8:], was[1])
		return ok, nil
	}
	for {
		want := le.Uint64(old)
		if atomic.CompareAndSwapUint64((*uint64)(unsafe.Pointer(p)), want, le.Uint64(repl)) {
			return true, nil
		}
		// Without the comparison's own loaded value, load it: a change back in between means another try.
		if now := atomic.LoadUint64((*uint64)(unsafe.Pointer(p))); now != want {
			le.PutUint64(old, now)
			return false, nil
		}
	}
}

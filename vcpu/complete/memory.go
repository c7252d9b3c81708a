package complete

import "encoding/binary"

// Memory is the guest's memory by linear address, with the rights of the vCPU's
// CPL (and of RFLAGS.AC under SMAP). Translation is the implementation's.
//
// An access is all or nothing: if any byte of it cannot be accessed no byte is
// written. An error holding an *Fault becomes a fault of the guest's; any
// other error ends Complete. Accesses of up to 8 bytes that are aligned to their
// size should be single copies.
type Memory interface {
	Read(va uint64, p []byte) error
	Write(va uint64, p []byte) error
}

// Swapper is what a Memory also implements to make cmpxchg8b and cmpxchg16b
// atomic against other vCPUs; without it, and for a cmpxchg8b on an unaligned
// operand, the engine reads, then writes.
type Swapper interface {
	// CompareAndSwap replaces the len(old) = len(repl) = 8 or 16 bytes at va
	// by repl if they equal old, in one atomic access. If not, it fills old
	// with what is there. It fails as a write would, whatever the comparison
	// says. va is a multiple of len(old).
	CompareAndSwap(va uint64, old, repl []byte) (swapped bool, err error)
}

// SystemReader is what a Memory also implements to read with supervisor rights
// whatever the CPL is, as the processor reads descriptor tables; without it the
// engine uses Read for them.
type SystemReader interface {
	ReadSystem(va uint64, p []byte) error
}

// readSystem reads a descriptor table.
func (x *exec) readSystem(va uint64, p []byte) error {
	if s, ok := x.mem.(SystemReader); ok {
		return s.ReadSystem(va, p)
	}
	return x.mem.Read(va, p)
}

// load fills p from the memory operand, which need not be aligned.
func (x *exec) load(p []byte) error {
	la, err := x.linear(len(p), false)
	if err != nil {
		return err
	}
	if err := x.alignCheck(la, len(p)); err != nil {
		return err
	}
	return x.mem.Read(la, p)
}

// store writes p to the memory operand, which need not be aligned.
func (x *exec) store(p []byte) error {
	la, err := x.linear(len(p), true)
	if err != nil {
		return err
	}
	if err := x.alignCheck(la, len(p)); err != nil {
		return err
	}
	return x.mem.Write(la, p)
}

// loadUint reads an integer of size 1, 2, 4 or 8 bytes.
func (x *exec) loadUint(size int) (uint64, error) {
	var b [8]byte
	if err := x.load(b[:size]); err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint64(b[:]), nil
}

// storeUint writes an integer of size 1, 2, 4 or 8 bytes.
func (x *exec) storeUint(size int, v uint64) error {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], v)
	return x.store(b[:size])
}

// aligned is the linear address of a memory operand of n bytes that faults with
// #GP(0) unless it is a multiple of align.
func (x *exec) aligned(n int, align uint64, write bool) (uint64, error) {
	la, err := x.linear(n, write)
	if err != nil {
		return 0, err
	}
	if la%align != 0 {
		return 0, exGP
	}
	return la, nil
}

// alignCheck raises #AC where alignment checking is on (SDM vol. 3A, 6.15,
// interrupt 17): an operand of n bytes on a multiple of n, 80-bit reals of 8.
func (x *exec) alignCheck(la uint64, n int) error {
	if x.cpu.CPL != 3 || x.cpu.CR0&cr0AM == 0 || x.cpu.RFLAGS&FlagAC == 0 {
		return nil
	}
	if n == 10 {
		n = 8
	}
	if la&uint64(n-1) != 0 {
		return exAC
	}
	return nil
}

// linear turns the memory operand, n > 0 bytes long, into a linear address.
func (x *exec) linear(n int, write bool) (uint64, error) {
	return x.linearAt(x.segment(), x.effective(), n, write)
}

// linearAt applies segmentation to [ea, ea+n) of segment seg.
func (x *exec) linearAt(seg int, ea uint64, n int, write bool) (uint64, error) {
	exc := exGP
	if seg == SS {
		exc = exSS
	}
	s := &x.cpu.Seg[seg]
	if x.cpu.Long {
		la := ea
		if seg == FS || seg == GS {
			la += s.Base
		}
		last := la + uint64(n-1)
		if last < la || !x.cpu.canonical(la) || !x.cpu.canonical(last) {
			return 0, exc
		}
		return la, nil
	}
	if !x.segmentAllows(s, ea, n, write) {
		return 0, exc
	}
	la := (s.Base + ea) & 0xffff_ffff
	if la+uint64(n-1) > 0xffff_ffff {
		return 0, ErrUnknown // wraps round at 4 GiB
	}
	return la, nil
}

// segmentAllows checks type and limit of a segment outside 64-bit code
// (SDM vol. 3A, 5.3 and 5.5).
func (x *exec) segmentAllows(s *Segment, ea uint64, n int, write bool) bool {
	last := ea + uint64(n-1)
	const code, expandDown, writable = 8, 4, 2
	if !x.cpu.protected() {
		return last <= uint64(s.Limit)
	}
	isCode, bit1 := s.Type&code != 0, s.Type&writable != 0 // of code, bit 1 means readable
	if s.Unusable || write && (isCode || !bit1) || !write && isCode && !bit1 {
		return false
	}
	if !isCode && s.Type&expandDown != 0 {
		// The upper bound is 4 GiB - 1 or 64 KiB - 1 by the segment's B flag,
		// which Segment does not hold: the larger is allowed.
		return ea > uint64(s.Limit) && last <= 0xffff_ffff
	}
	return last <= uint64(s.Limit)
}

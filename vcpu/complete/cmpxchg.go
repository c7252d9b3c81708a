package complete

import "encoding/binary"

// cmpxchgPair is CMPXCHG8B and CMPXCHG16B: RDX:RAX is compared with the operand,
// which becomes RCX:RBX if equal and is loaded into RDX:RAX if not. The operand
// is written in either case.
func cmpxchgPair(x *exec) error {
	half := 4
	x.name = "cmpxchg8b"
	if x.rex&rexW != 0 {
		half = 8
		x.name = "cmpxchg16b"
	}
	size := 2 * half
	la, err := x.linear(size, true)
	if err != nil {
		return err
	}
	if half == 8 {
		if la%16 != 0 {
			return exGP
		}
	} else if err := x.alignCheck(la, size); err != nil {
		return err
	}
	var old, repl [16]byte
	putPair(old[:size], x.cpu.GPR[RAX], x.cpu.GPR[RDX])
	putPair(repl[:size], x.cpu.GPR[RBX], x.cpu.GPR[RCX])
	swapped, err := x.compareAndSwap(la, old[:size], repl[:size])
	if err != nil {
		return err
	}
	x.setFlags(FlagZF, flagIf(swapped, FlagZF))
	if !swapped {
		lo, hi := pair(old[:size])
		x.setGPR(RAX, half, lo)
		x.setGPR(RDX, half, hi)
	}
	return nil
}

// compareAndSwap leaves to the Memory what it can do atomically.
func (x *exec) compareAndSwap(la uint64, old, repl []byte) (bool, error) {
	if s, ok := x.mem.(Swapper); ok && la%uint64(len(old)) == 0 {
		return s.CompareAndSwap(la, old, repl)
	}
	var buf [16]byte
	found := buf[:len(old)]
	if err := x.mem.Read(la, found); err != nil {
		return false, err
	}
	equal := string(found) == string(old)
	if !equal {
		repl = found
	}
	if err := x.mem.Write(la, repl); err != nil {
		return false, err
	}
	copy(old, found)
	return equal, nil
}

// putPair stores the low halves of lo and hi, len(p)/2 bytes each.
func putPair(p []byte, lo, hi uint64) {
	if len(p) == 16 {
		binary.LittleEndian.PutUint64(p, lo)
		binary.LittleEndian.PutUint64(p[8:], hi)
		return
	}
	binary.LittleEndian.PutUint32(p, uint32(lo))
	binary.LittleEndian.PutUint32(p[4:], uint32(hi))
}

// pair is the reverse of putPair.
func pair(p []byte) (lo, hi uint64) {
	if len(p) == 16 {
		return binary.LittleEndian.Uint64(p), binary.LittleEndian.Uint64(p[8:])
	}
	return uint64(binary.LittleEndian.Uint32(p)), uint64(binary.LittleEndian.Uint32(p[4:]))
}

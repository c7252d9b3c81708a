package virtiotest

import "math/rand/v2"

// Registers is a window of registers, as a bus sees it.
type Registers interface {
	Read(off uint64, p []byte)
	Write(off uint64, p []byte)
}

// Hammer makes n accesses by chance to the first size bytes of a window, most of them to the first focus bytes, most of
// them aligned.
func Hammer(r *rand.Rand, regs Registers, size, focus uint64, n int) {
	for range n {
		hammer(r, regs, size, focus)
	}
}

// HammerScript makes the accesses that data stands for, for fuzzers, and returns how many.
func HammerScript(data []byte, regs Registers, size, focus uint64) (n int) {
	s := &script{data: data}
	for r := rand.New(s); len(s.data) > 0; n++ {
		hammer(r, regs, size, focus)
	}
	return n
}

func hammer(r *rand.Rand, regs Registers, size, focus uint64) {
	var b [8]byte
	p := b[:1<<r.IntN(4)]
	if r.IntN(64) == 0 {
		p = b[:1+r.IntN(8)]
	}
	limit := focus
	if r.IntN(8) == 0 {
		limit = size
	}
	off := r.Uint64N(limit)
	if r.IntN(64) != 0 {
		off &^= uint64(len(p)) - 1
	}
	off = min(off, size-uint64(len(p)))
	if r.IntN(4) == 0 {
		regs.Read(off, p)
		return
	}
	switch r.IntN(4) {
	case 0:
		le.PutUint64(b[:], r.Uint64())
	case 1:
		le.PutUint64(b[:], r.Uint64N(16))
	case 2:
		le.PutUint64(b[:], r.Uint64N(16)<<r.IntN(20))
	case 3:
		le.PutUint64(b[:], 1<<r.IntN(64))
	}
	regs.Write(off, p)
}

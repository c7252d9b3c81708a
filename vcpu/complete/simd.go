package complete

import "encoding/binary"

// lanewise is an operation on 64 bits that treats the two halves of an XMM
// register alike.
type lanewise func(dst, src uint64) uint64

func and(dst, src uint64) uint64    { return dst & src }
func andNot(dst, src uint64) uint64 { return ^dst & src }
func or(dst, src uint64) uint64     { return dst | src }
func xor(dst, src uint64) uint64    { return dst ^ src }

// lanes applies f to lanes of n bytes.
func lanes(n int, f func(a, b uint64) uint64) lanewise {
	return func(dst, src uint64) uint64 {
		var r uint64
		for i := 0; i < 64; i += 8 * n {
			r |= truncate(f(dst>>i, src>>i), n) << i
		}
		return r
	}
}

func add(n int) lanewise { return lanes(n, func(a, b uint64) uint64 { return a + b }) }
func sub(n int) lanewise { return lanes(n, func(a, b uint64) uint64 { return a - b }) }

func equal(n int) lanewise {
	return lanes(n, func(a, b uint64) uint64 {
		if truncate(a, n) == truncate(b, n) {
			return ^uint64(0)
		}
		return 0
	})
}

// simdFloat serves the PS and PD (66) forms of a logical instruction.
func simdFloat(f lanewise) func(*exec) error {
	return func(x *exec) error {
		if x.rep != 0 {
			return x.unserved()
		}
		if x.opSize {
			x.name = x.name[:len(x.name)-2] + "pd"
		}
		return x.combine(f)
	}
}

// simdInteger serves the XMM (66) and MMX forms of an integer instruction.
func simdInteger(f lanewise) func(*exec) error {
	return func(x *exec) error {
		switch {
		case x.rep != 0:
			return x.unserved()
		case x.opSize:
			return x.combine(f)
		}
		if err := x.mmxStart(); err != nil {
			return err
		}
		v, err := x.mmSource()
		x.setMM(x.reg, f(x.mm(x.reg), v))
		return err
	}
}

// combine applies f to the halves of the XMM operands.
func (x *exec) combine(f lanewise) error {
	v, err := x.simdSource()
	for i := range 2 {
		dst := half(x.xmm(), i)
		binary.LittleEndian.PutUint64(dst, f(binary.LittleEndian.Uint64(dst), binary.LittleEndian.Uint64(half(&v, i))))
	}
	return err
}

// simdSource reads the second operand of a computing XMM instruction.
func (x *exec) simdSource() ([16]byte, error) {
	if err := x.sseAvailable(); err != nil {
		return [16]byte{}, err
	}
	if x.cpu.FPU.MXCSR&mxcsrMM != 0 {
		return x.xmmSource(16)
	}
	return x.xmmAligned()
}

// pshufd picks four doublewords by the immediate.
func pshufd(x *exec) error {
	if x.mandatory() != 0x66 {
		return x.unserved()
	}
	v, err := x.simdSource()
	for i := range 4 {
		from := 4 * int(x.imm>>(2*i)&3)
		copy(x.xmm()[4*i:4*i+4], v[from:])
	}
	return err
}

// shiftBytes is PSRLDQ and PSLLDQ.
func shiftBytes(x *exec) error {
	if x.mandatory() != 0x66 || x.isMem || x.digit() != 3 && x.digit() != 7 {
		return x.unserved()
	}
	if x.digit() == 7 {
		x.name = "pslldq"
	}
	if err := x.sseAvailable(); err != nil {
		return err
	}
	n := min(int(x.imm), 16)
	var v [16]byte
	reg := &x.cpu.FPU.XMM[x.rm]
	if x.digit() == 7 {
		copy(v[n:], reg[:])
	} else {
		copy(v[:], reg[n:])
	}
	*reg = v
	return nil
}

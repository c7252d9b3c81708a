package complete

import "encoding/binary"

// movMask is MOVMSKPS and MOVMSKPD (66).
func movMask(x *exec) error {
	if x.rep != 0 || x.isMem {
		return x.unserved()
	}
	name, lane := "movmskps", 4
	if x.opSize {
		name, lane = "movmskpd", 8
	}
	if err := x.sseStart(name); err != nil {
		return err
	}
	x.cpu.GPR[x.reg] = signs(x.cpu.FPU.XMM[x.rm][:], lane)
	return nil
}

func pmovmskb(x *exec) error {
	if x.rep != 0 || x.isMem {
		return x.unserved()
	}
	if x.opSize {
		if err := x.sseAvailable(); err != nil {
			return err
		}
		x.cpu.GPR[x.reg] = signs(x.cpu.FPU.XMM[x.rm][:], 1)
		return nil
	}
	if err := x.mmxStart(); err != nil {
		return err
	}
	x.cpu.GPR[x.reg] = signs(x.cpu.FPU.ST[x.rm&7][:8], 1)
	return nil
}

// signs collects the sign bits of lanes of n bytes.
func signs(p []byte, n int) uint64 {
	var r uint64
	for i := range len(p) / n {
		r |= uint64(p[i*n+n-1]>>7) << i
	}
	return r
}

// gprSize is 4 or, with REX.W, 8, and the name of the move of that size.
func (x *exec) gprSize() (int, string) {
	if x.rex&rexW != 0 {
		return 8, "movq"
	}
	return 4, "movd"
}

// movFromGPR is MOVD and MOVQ to an XMM (66) or MMX register.
func movFromGPR(x *exec) error {
	size, name := x.gprSize()
	if x.rep != 0 {
		return x.unserved()
	}
	x.name = name
	if !x.opSize {
		if err := x.mmxStart(); err != nil {
			return err
		}
		v, err := x.rmUint(size)
		x.setMM(x.reg, v)
		return err
	}
	if err := x.sseAvailable(); err != nil {
		return err
	}
	v, err := x.rmUint(size)
	*x.xmm() = [16]byte{}
	binary.LittleEndian.PutUint64(half(x.xmm(), 0), v)
	return err
}

// movToGPR is MOVD and MOVQ from an XMM (66) or MMX register, and MOVQ between
// XMM registers or from memory (F3).
func movToGPR(x *exec) error {
	size, name := x.gprSize()
	x.name = name
	switch x.mandatory() {
	case 0xf2:
		return x.unserved()
	case 0xf3:
		if err := x.sseStart("movq"); err != nil {
			return err
		}
		v, err := x.xmmSource(8)
		clear(half(&v, 1))
		*x.xmm() = v
		return err
	case 0x66:
		if err := x.sseAvailable(); err != nil {
			return err
		}
		return x.setRM(size, binary.LittleEndian.Uint64(half(x.xmm(), 0)))
	}
	if err := x.mmxStart(); err != nil {
		return err
	}
	return x.setRM(size, x.mm(x.reg))
}

// movQuad is 0F D6: MOVQ to XMM or memory (66), MOVQ2DQ (F3) and MOVDQ2Q (F2).
func movQuad(x *exec) error {
	switch m := x.mandatory(); {
	case m == 0x66:
		if err := x.sseStart("movq"); err != nil {
			return err
		}
		low := half(x.xmm(), 0)
		if x.isMem {
			return x.store(low)
		}
		var v [16]byte
		copy(v[:], low)
		x.cpu.FPU.XMM[x.rm] = v
		return nil
	case m == 0 || x.isMem:
		return x.unserved()
	case m == 0xf3:
		if err := x.sseStart("movq2dq"); err != nil {
			return err
		}
		if err := x.mmxStart(); err != nil {
			return err
		}
		*x.xmm() = [16]byte{}
		binary.LittleEndian.PutUint64(half(x.xmm(), 0), x.mm(x.rm))
		return nil
	}
	if err := x.sseStart("movdq2q"); err != nil {
		return err
	}
	if err := x.mmxStart(); err != nil {
		return err
	}
	x.setMM(x.reg, binary.LittleEndian.Uint64(half(&x.cpu.FPU.XMM[x.rm], 0)))
	return nil
}

func movnti(x *exec) error {
	if x.mandatory() != 0 || !x.isMem {
		return x.unserved()
	}
	size := 4
	if x.rex&rexW != 0 {
		size = 8
	}
	return x.storeUint(size, x.gpr(x.reg, size))
}

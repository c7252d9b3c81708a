package complete

// effective is the effective address of the memory operand.
func (x *exec) effective() uint64 {
	ea := x.disp
	if x.ripRel {
		ea += x.cpu.RIP + uint64(x.pos)
	}
	if x.base != noReg {
		ea += x.cpu.GPR[x.base]
	}
	if x.index != noReg {
		ea += x.cpu.GPR[x.index] << x.scale
	}
	return truncate(ea, x.addrBytes())
}

// segment is the segment register of the memory operand.
func (x *exec) segment() int {
	switch {
	case x.override != noReg:
		return x.override
	case x.base == RSP || x.base == RBP:
		return SS
	}
	return DS
}

// truncate keeps the low size bytes of v.
func truncate(v uint64, size int) uint64 {
	if size >= 8 {
		return v
	}
	return v & (1<<(8*size) - 1)
}

// gpr reads the low size bytes of general register n. One-byte operands follow
// the REX rule: without a REX prefix 4..7 are AH, CH, DH and BH.
func (x *exec) gpr(n, size int) uint64 {
	if size == 1 && x.rex == 0 && n >= 4 && n <= 7 {
		return x.cpu.GPR[n-4] >> 8 & 0xff
	}
	return truncate(x.cpu.GPR[n], size)
}

// setGPR writes size = 2, 4 or 8 bytes of general register n; a 4-byte write
// clears the upper half.
func (x *exec) setGPR(n, size int, v uint64) {
	if size == 2 {
		x.cpu.GPR[n] = x.cpu.GPR[n]&^0xffff | v&0xffff
		return
	}
	x.cpu.GPR[n] = truncate(v, size)
}

// rmUint reads the register or memory operand.
func (x *exec) rmUint(size int) (uint64, error) {
	if x.isMem {
		return x.loadUint(size)
	}
	return x.gpr(x.rm, size), nil
}

// setRM writes the register or memory operand, of 2, 4 or 8 bytes.
func (x *exec) setRM(size int, v uint64) error {
	if x.isMem {
		return x.storeUint(size, v)
	}
	x.setGPR(x.rm, size, v)
	return nil
}

// setFlags replaces the flags in mask by those of set.
func (x *exec) setFlags(mask, set uint64) {
	x.cpu.RFLAGS = x.cpu.RFLAGS&^mask | set&mask
}

// signZero are SF and ZF of a result of size bytes.
func signZero(v uint64, size int) uint64 {
	var f uint64
	if truncate(v, size) == 0 {
		f |= FlagZF
	}
	if v>>(8*size-1)&1 != 0 {
		f |= FlagSF
	}
	return f
}

// flagIf is flag if cond holds.
func flagIf(cond bool, flag uint64) uint64 {
	if cond {
		return flag
	}
	return 0
}

package complete

import "math/bits"

// bmiOps are BMI1 and BMI2: VEX encodings on general registers, which need no
// enabling in XCR0.
var bmiOps = map[opcode]entry{
	vexed | map0F38 | 0xf2: {name: "andn", run: bmi(andn), modrm: true},
	vexed | map0F38 | 0xf3: {name: "blsr", run: bmi(blsGroup), modrm: true},
	vexed | map0F38 | 0xf5: {name: "bzhi", run: bmi(bzhiPextPdep), modrm: true},
	vexed | map0F38 | 0xf6: {name: "mulx", run: bmi(mulx), modrm: true},
	vexed | map0F38 | 0xf7: {name: "bextr", run: bmi(bextrShift), modrm: true},
	vexed | map0F3A | 0xf0: {name: "rorx", run: bmi(rorx), modrm: true, imm8: true},
}

// bmi wraps what the family has in common: VEX.L must be 0, protected mode, an
// operand size of 4 or 8, a source from register or memory.
func bmi(f func(x *exec, size int, src uint64) error) func(*exec) error {
	return func(x *exec) error {
		if x.vexL || !x.cpu.protected() {
			return exUD
		}
		size := 4
		if x.rex&rexW != 0 {
			size = 8
		}
		src, err := x.rmUint(size)
		if err != nil {
			return err
		}
		return f(x, size, src)
	}
}

func andn(x *exec, size int, src uint64) error {
	if x.mandatory() != 0 {
		return exUD
	}
	v := ^x.gpr(x.vexReg, size) & src
	x.setGPR(x.reg, size, v)
	x.setFlags(arithFlags&^(FlagAF|FlagPF), signZero(v, size))
	return nil
}

// blsGroup is BLSR, BLSMSK and BLSI by ModRM.reg.
func blsGroup(x *exec, size int, src uint64) error {
	if x.mandatory() != 0 {
		return exUD
	}
	var v uint64
	carry := src == 0
	switch x.digit() {
	case 1:
		v = src & (src - 1)
	case 2:
		x.name = "blsmsk"
		v = src ^ (src - 1)
	case 3:
		x.name = "blsi"
		v = src & -src
		carry = src != 0
	default:
		return exUD
	}
	x.setGPR(x.vexReg, size, v)
	x.setFlags(arithFlags&^(FlagAF|FlagPF), signZero(v, size)|flagIf(carry, FlagCF))
	return nil
}

// bzhiPextPdep is BZHI, PEXT (F3) and PDEP (F2).
func bzhiPextPdep(x *exec, size int, src uint64) error {
	switch x.mandatory() {
	case 0xf3:
		x.name = "pext"
		x.setGPR(x.reg, size, gather(x.gpr(x.vexReg, size), src))
		return nil
	case 0xf2:
		x.name = "pdep"
		x.setGPR(x.reg, size, scatter(x.gpr(x.vexReg, size), src))
		return nil
	case 0x66:
		return exUD
	}
	n := x.cpu.GPR[x.vexReg] & 0xff
	width := uint64(8 * size)
	v := src
	if n < width {
		v &= 1<<n - 1
	}
	x.setGPR(x.reg, size, v)
	x.setFlags(arithFlags&^(FlagAF|FlagPF), signZero(v, size)|flagIf(n >= width, FlagCF))
	return nil
}

// gather moves the bits of v under mask to the low end.
func gather(v, mask uint64) uint64 {
	var r uint64
	for k := 0; mask != 0; k++ {
		r |= v >> bits.TrailingZeros64(mask) & 1 << k
		mask &= mask - 1
	}
	return r
}

// scatter moves the low bits of v to the places in mask.
func scatter(v, mask uint64) uint64 {
	var r uint64
	for k := 0; mask != 0; k++ {
		r |= v >> k & 1 << bits.TrailingZeros64(mask)
		mask &= mask - 1
	}
	return r
}

// mulx multiplies by RDX without flags; the high half wins if both
// destinations are one register.
func mulx(x *exec, size int, src uint64) error {
	if x.mandatory() != 0xf2 {
		return exUD
	}
	hi, lo := bits.Mul64(x.gpr(RDX, size), src)
	if size == 4 {
		hi = lo >> 32
	}
	x.setGPR(x.vexReg, size, lo)
	x.setGPR(x.reg, size, hi)
	return nil
}

// bextrShift is BEXTR, SHLX (66), SARX (F3) and SHRX (F2).
func bextrShift(x *exec, size int, src uint64) error {
	control := x.cpu.GPR[x.vexReg]
	count := control & uint64(8*size-1)
	switch x.mandatory() {
	case 0x66:
		x.name = "shlx"
		x.setGPR(x.reg, size, src<<count)
	case 0xf3:
		x.name = "sarx"
		shift := 64 - 8*size
		x.setGPR(x.reg, size, uint64(int64(src<<shift)>>shift>>count))
	case 0xf2:
		x.name = "shrx"
		x.setGPR(x.reg, size, src>>count)
	default:
		start, n := control&0xff, control>>8&0xff
		v := src >> start
		if n < 64 {
			v &= 1<<n - 1
		}
		x.setGPR(x.reg, size, v)
		x.setFlags(FlagZF|FlagCF|FlagOF, signZero(v, size)&FlagZF)
	}
	return nil
}

// rorx rotates without flags.
func rorx(x *exec, size int, src uint64) error {
	if x.mandatory() != 0xf2 || x.vexReg != 0 {
		return exUD
	}
	width := 8 * size
	n := int(x.imm) & (width - 1)
	x.setGPR(x.reg, size, src>>n|src<<(width-n))
	return nil
}

package complete

// mxcsrMM lets computing instructions take misaligned operands (AMD APM vol. 1,
// 4.2.2).
const mxcsrMM = 1 << 17

// sseOps are the moves between XMM or MMX registers, general registers and
// memory, and the logical and integer instructions in simd.go.
var sseOps = map[opcode]entry{
	map0F | 0x10: {name: "movups", run: movUnaligned, modrm: true},
	map0F | 0x11: {name: "movups", run: movUnaligned, modrm: true},
	map0F | 0x12: {name: "movlps", run: movHalf, modrm: true},
	map0F | 0x13: {name: "movlps", run: movHalf, modrm: true},
	map0F | 0x16: {name: "movhps", run: movHalf, modrm: true},
	map0F | 0x17: {name: "movhps", run: movHalf, modrm: true},
	map0F | 0x28: {name: "movaps", run: movAligned, modrm: true},
	map0F | 0x29: {name: "movaps", run: movAligned, modrm: true},
	map0F | 0x2b: {name: "movntps", run: movNonTemporal, modrm: true},
	map0F | 0x50: {name: "movmskps", run: movMask, modrm: true},
	map0F | 0x54: {name: "andps", run: simdFloat(and), modrm: true},
	map0F | 0x55: {name: "andnps", run: simdFloat(andNot), modrm: true},
	map0F | 0x56: {name: "orps", run: simdFloat(or), modrm: true},
	map0F | 0x57: {name: "xorps", run: simdFloat(xor), modrm: true},
	map0F | 0x6e: {name: "movd", run: movFromGPR, modrm: true},
	map0F | 0x6f: {name: "movdqa", run: movInteger, modrm: true},
	map0F | 0x70: {name: "pshufd", run: pshufd, modrm: true, imm8: true},
	map0F | 0x73: {name: "psrldq", run: shiftBytes, modrm: true, imm8: true},
	map0F | 0x74: {name: "pcmpeqb", run: simdInteger(equal(1)), modrm: true},
	map0F | 0x75: {name: "pcmpeqw", run: simdInteger(equal(2)), modrm: true},
	map0F | 0x76: {name: "pcmpeqd", run: simdInteger(equal(4)), modrm: true},
	map0F | 0x7e: {name: "movd", run: movToGPR, modrm: true},
	map0F | 0x7f: {name: "movdqa", run: movInteger, modrm: true},
	map0F | 0xc3: {name: "movnti", run: movnti, modrm: true},
	map0F | 0xd4: {name: "paddq", run: simdInteger(add(8)), modrm: true},
	map0F | 0xd6: {name: "movq", run: movQuad, modrm: true},
	map0F | 0xd7: {name: "pmovmskb", run: pmovmskb, modrm: true},
	map0F | 0xdb: {name: "pand", run: simdInteger(and), modrm: true},
	map0F | 0xdf: {name: "pandn", run: simdInteger(andNot), modrm: true},
	map0F | 0xe7: {name: "movntdq", run: movNonTemporal, modrm: true},
	map0F | 0xeb: {name: "por", run: simdInteger(or), modrm: true},
	map0F | 0xef: {name: "pxor", run: simdInteger(xor), modrm: true},
	map0F | 0xf0: {name: "lddqu", run: lddqu, modrm: true},
	map0F | 0xf8: {name: "psubb", run: simdInteger(sub(1)), modrm: true},
	map0F | 0xf9: {name: "psubw", run: simdInteger(sub(2)), modrm: true},
	map0F | 0xfa: {name: "psubd", run: simdInteger(sub(4)), modrm: true},
	map0F | 0xfb: {name: "psubq", run: simdInteger(sub(8)), modrm: true},
	map0F | 0xfc: {name: "paddb", run: simdInteger(add(1)), modrm: true},
	map0F | 0xfd: {name: "paddw", run: simdInteger(add(2)), modrm: true},
	map0F | 0xfe: {name: "paddd", run: simdInteger(add(4)), modrm: true},
}

// sseAvailable checks what every SSE instruction checks.
func (x *exec) sseAvailable() error {
	switch {
	case x.cpu.CR0&cr0EM != 0 || x.cpu.CR4&cr4OSFXSR == 0:
		return exUD
	case x.cpu.CR0&cr0TS != 0:
		return exNM
	}
	return nil
}

// sseStart is sseAvailable for an instruction whose name the handler knows.
func (x *exec) sseStart(name string) error {
	x.name = name
	return x.sseAvailable()
}

// xmm is the XMM register of ModRM.reg.
func (x *exec) xmm() *[16]byte { return &x.cpu.FPU.XMM[x.reg] }

// half is the low (0) or high (1) quadword of a register.
func half(v *[16]byte, i int) []byte { return v[8*i : 8*i+8] }

// xmmSource reads the register operand or an n-byte memory operand into the low
// end of 16 bytes.
func (x *exec) xmmSource(n int) (v [16]byte, err error) {
	if !x.isMem {
		return x.cpu.FPU.XMM[x.rm], nil
	}
	err = x.load(v[:n])
	return v, err
}

// xmmAligned is xmmSource for 16 bytes that must be aligned.
func (x *exec) xmmAligned() (v [16]byte, err error) {
	if !x.isMem {
		return x.cpu.FPU.XMM[x.rm], nil
	}
	la, err := x.aligned(16, 16, false)
	if err != nil {
		return v, err
	}
	err = x.mem.Read(la, v[:])
	return v, err
}

// storeAligned writes the register operand or 16 bytes that must be aligned.
func (x *exec) storeAligned(v *[16]byte) error {
	if !x.isMem {
		x.cpu.FPU.XMM[x.rm] = *v
		return nil
	}
	la, err := x.aligned(16, 16, true)
	if err != nil {
		return err
	}
	return x.mem.Write(la, v[:])
}

// movUnaligned is MOVUPS, MOVUPD (66), MOVSS (F3) and MOVSD (F2), 0F 11 being the
// stores.
func movUnaligned(x *exec) error {
	name, n := "movups", 16
	switch x.mandatory() {
	case 0x66:
		name = "movupd"
	case 0xf3:
		name, n = "movss", 4
	case 0xf2:
		name, n = "movsd", 8
	}
	if err := x.sseStart(name); err != nil {
		return err
	}
	if x.opcode == map0F|0x11 {
		if x.isMem {
			return x.store(x.xmm()[:n])
		}
		copy(x.cpu.FPU.XMM[x.rm][:n], x.xmm()[:n])
		return nil
	}
	v, err := x.xmmSource(n)
	if err != nil {
		return err
	}
	if x.isMem {
		*x.xmm() = v // a scalar load clears the rest
	} else {
		copy(x.xmm()[:n], v[:n])
	}
	return nil
}

// movAligned is MOVAPS and MOVAPD (66), 0F 29 being the stores.
func movAligned(x *exec) error {
	name := "movaps"
	if x.rep != 0 {
		return x.unserved()
	}
	if x.opSize {
		name = "movapd"
	}
	if err := x.sseStart(name); err != nil {
		return err
	}
	if x.opcode == map0F|0x29 {
		return x.storeAligned(x.xmm())
	}
	v, err := x.xmmAligned()
	*x.xmm() = v
	return err
}

// movHalf is MOVLPS and MOVHPS with their PD forms (66), 0F 13 and 17 being the
// stores, and between registers MOVHLPS and MOVLHPS.
func movHalf(x *exec) error {
	i, name := 0, "movlps"
	if x.opcode&4 != 0 {
		i, name = 1, "movhps"
	}
	isStore := x.opcode&1 != 0
	if x.rep != 0 || !x.isMem && (isStore || x.opSize) {
		return x.unserved()
	}
	switch {
	case x.opSize:
		name = name[:4] + "pd"
	case !x.isMem:
		name = [2]string{"movhlps", "movlhps"}[i]
	}
	if err := x.sseStart(name); err != nil {
		return err
	}
	switch {
	case isStore:
		return x.store(half(x.xmm(), i))
	case x.isMem:
		return x.load(half(x.xmm(), i))
	}
	copy(half(x.xmm(), i), half(&x.cpu.FPU.XMM[x.rm], 1-i))
	return nil
}

// movNonTemporal is MOVNTPS, MOVNTPD, MOVNTDQ and, without 66, MOVNTQ.
func movNonTemporal(x *exec) error {
	isFloat := x.opcode == map0F|0x2b
	if x.rep != 0 || !x.isMem {
		return x.unserved()
	}
	if !isFloat && !x.opSize {
		x.name = "movntq"
		if err := x.mmxStart(); err != nil {
			return err
		}
		return x.storeUint(8, x.mm(x.reg))
	}
	name := "movntdq"
	if isFloat {
		name = "movntps"
		if x.opSize {
			name = "movntpd"
		}
	}
	if err := x.sseStart(name); err != nil {
		return err
	}
	return x.storeAligned(x.xmm())
}

// movInteger is MOVDQA (66), MOVDQU (F3) and MOVQ of MMX, 0F 7F being the stores.
func movInteger(x *exec) error {
	isStore := x.opcode == map0F|0x7f
	switch x.mandatory() {
	case 0xf2:
		return x.unserved()
	case 0:
		return movMMX(x, isStore)
	case 0x66:
		if err := x.sseStart("movdqa"); err != nil {
			return err
		}
		if isStore {
			return x.storeAligned(x.xmm())
		}
		v, err := x.xmmAligned()
		*x.xmm() = v
		return err
	}
	if err := x.sseStart("movdqu"); err != nil {
		return err
	}
	if isStore {
		if x.isMem {
			return x.store(x.xmm()[:])
		}
		x.cpu.FPU.XMM[x.rm] = *x.xmm()
		return nil
	}
	v, err := x.xmmSource(16)
	*x.xmm() = v
	return err
}

func lddqu(x *exec) error {
	if x.mandatory() != 0xf2 || !x.isMem {
		return x.unserved()
	}
	if err := x.sseAvailable(); err != nil {
		return err
	}
	v, err := x.xmmSource(16)
	*x.xmm() = v
	return err
}

//go:build linux && amd64

package complete

import (
	"encoding/binary"
	"slices"
)

// bmi1Flags are the flags that BMI1 leaves undefined.
const bmi1Flags = FlagAF | FlagPF

var templates = slices.Concat(
	integerTemplates(), x87Templates(), sseTemplates(), saveTemplates(), systemTemplates(),
)

func integerTemplates() []template {
	pairRegs := []int{RAX, RDX}
	equalHalf := func(g *generator) { // makes the comparison succeed half the time
		if g.IntN(2) == 0 {
			return
		}
		size := 8
		if g.wide {
			size = 16
		}
		p := make([]byte, size)
		if err := g.mem.Read(g.target, p); err != nil {
			panic(err)
		}
		g.cpu.GPR[RAX], g.cpu.GPR[RDX] = pair(p)
	}
	count := FlagOF | FlagSF | FlagAF | FlagPF
	return []template{
		{name: "cmpxchg8b", opcode: map0F | 0xc7, digit: 1, mem: true, bytes: 8, fixed: pairRegs, prepare: equalHalf},
		{name: "cmpxchg16b", cpuid: hasCX16, opcode: map0F | 0xc7, digit: 1, mem: true, sizes: "q", bytes: 16, align: 16, fixed: pairRegs, prepare: equalHalf},
		{name: "popcnt", cpuid: hasPOPCNT, prefix: 0xf3, opcode: map0F | 0xb8, digit: slashR, sizes: "wlq", reg: true, mem: true},
		{name: "tzcnt", cpuid: hasBMI1, prefix: 0xf3, opcode: map0F | 0xbc, digit: slashR, sizes: "wlq", reg: true, mem: true, undefined: count},
		{name: "lzcnt", cpuid: hasABM, prefix: 0xf3, opcode: map0F | 0xbd, digit: slashR, sizes: "wlq", reg: true, mem: true, undefined: count},
		{name: "movbe", cpuid: hasMOVBE, opcode: map0F38 | 0xf0, digit: slashR, sizes: "wlq", mem: true},
		{name: "movbe", cpuid: hasMOVBE, opcode: map0F38 | 0xf1, digit: slashR, sizes: "wlq", mem: true},
		{name: "crc32", cpuid: hasSSE42, prefix: 0xf2, opcode: map0F38 | 0xf0, digit: slashR, sizes: "lq", reg: true, mem: true, bytes: 1},
		{name: "crc32", cpuid: hasSSE42, prefix: 0xf2, opcode: map0F38 | 0xf1, digit: slashR, sizes: "wlq", reg: true, mem: true},
		{name: "adcx", cpuid: hasADX, prefix: 0x66, opcode: map0F38 | 0xf6, digit: slashR, sizes: "lq", reg: true, mem: true},
		{name: "adox", cpuid: hasADX, prefix: 0xf3, opcode: map0F38 | 0xf6, digit: slashR, sizes: "lq", reg: true, mem: true},
		{name: "movnti", opcode: map0F | 0xc3, digit: slashR, sizes: "lq", mem: true},

		{name: "andn", cpuid: hasBMI1, opcode: vexed | map0F38 | 0xf2, digit: slashR, sizes: "lq", reg: true, mem: true, undefined: bmi1Flags},
		{name: "blsr", cpuid: hasBMI1, opcode: vexed | map0F38 | 0xf3, digit: 1, sizes: "lq", reg: true, mem: true, undefined: bmi1Flags},
		{name: "blsmsk", cpuid: hasBMI1, opcode: vexed | map0F38 | 0xf3, digit: 2, sizes: "lq", reg: true, mem: true, undefined: bmi1Flags},
		{name: "blsi", cpuid: hasBMI1, opcode: vexed | map0F38 | 0xf3, digit: 3, sizes: "lq", reg: true, mem: true, undefined: bmi1Flags},
		{name: "bextr", cpuid: hasBMI1, opcode: vexed | map0F38 | 0xf7, digit: slashR, sizes: "lq", reg: true, mem: true, undefined: bmi1Flags | FlagSF},
		{name: "bzhi", cpuid: hasBMI2, opcode: vexed | map0F38 | 0xf5, digit: slashR, sizes: "lq", reg: true, mem: true, undefined: bmi1Flags},
		{name: "pext", cpuid: hasBMI2, prefix: 0xf3, opcode: vexed | map0F38 | 0xf5, digit: slashR, sizes: "lq", reg: true, mem: true},
		{name: "pdep", cpuid: hasBMI2, prefix: 0xf2, opcode: vexed | map0F38 | 0xf5, digit: slashR, sizes: "lq", reg: true, mem: true},
		{name: "mulx", cpuid: hasBMI2, prefix: 0xf2, opcode: vexed | map0F38 | 0xf6, digit: slashR, sizes: "lq", reg: true, mem: true},
		{name: "shlx", cpuid: hasBMI2, prefix: 0x66, opcode: vexed | map0F38 | 0xf7, digit: slashR, sizes: "lq", reg: true, mem: true},
		{name: "sarx", cpuid: hasBMI2, prefix: 0xf3, opcode: vexed | map0F38 | 0xf7, digit: slashR, sizes: "lq", reg: true, mem: true},
		{name: "shrx", cpuid: hasBMI2, prefix: 0xf2, opcode: vexed | map0F38 | 0xf7, digit: slashR, sizes: "lq", reg: true, mem: true},
		{name: "rorx", cpuid: hasBMI2, prefix: 0xf2, opcode: vexed | map0F3A | 0xf0, digit: slashR, sizes: "lq", reg: true, mem: true, imm: true},
	}
}

func x87Templates() []template {
	memory := func(name string, op opcode, digit, bytes int) template {
		return template{name: name, opcode: op, digit: digit, mem: true, bytes: bytes, xmmReg: true}
	}
	// register makes one template for each ST(i).
	register := func(name string, op opcode, modrm byte, n int) (ts []template) {
		for i := range n {
			ts = append(ts, template{name: name, opcode: op, modrm: modrm + byte(i)})
		}
		return ts
	}
	noWait := func(t template) template {
		t.noWait = true
		return t
	}
	anyC1 := func(ts []template) []template {
		for i := range ts {
			ts[i].x87Maybe = fswC1
		}
		return ts
	}
	// maskDE avoids what Intel and AMD do differently.
	maskDE := func(t template) template {
		t.prepare = func(g *generator) {
			g.cpu.FPU.FCW |= fswDE
			g.cpu.FPU.summarize()
		}
		return t
	}
	word := memory("fldcw", 0xd9, 5, 2)
	fld80 := memory("fld", 0xdb, 5, 10)
	fld80.prepare = func(g *generator) {
		v := g.extended()
		if err := g.mem.Write(g.target, v[:10]); err != nil {
			panic(err)
		}
	}
	return slices.Concat([]template{
		maskDE(memory("fld", 0xd9, 0, 4)), memory("fst", 0xd9, 2, 4), memory("fstp", 0xd9, 3, 4),
		maskDE(memory("fld", 0xdd, 0, 8)), memory("fst", 0xdd, 2, 8), memory("fstp", 0xdd, 3, 8),
		fld80, memory("fstp", 0xdb, 7, 10),
		memory("fild", 0xdf, 0, 2), memory("fild", 0xdb, 0, 4), memory("fild", 0xdf, 5, 8),
		memory("fisttp", 0xdf, 1, 2), memory("fisttp", 0xdb, 1, 4), memory("fisttp", 0xdd, 1, 8),
		memory("fist", 0xdf, 2, 2), memory("fist", 0xdb, 2, 4),
		memory("fistp", 0xdf, 3, 2), memory("fistp", 0xdb, 3, 4), memory("fistp", 0xdf, 7, 8),
		word, noWait(memory("fnstcw", 0xd9, 7, 2)), noWait(memory("fnstsw", 0xdd, 7, 2)),
		noWait(template{name: "fnstsw", opcode: 0xdf, modrm: 0xe0}),
		noWait(template{name: "fnclex", opcode: 0xdb, modrm: 0xe2}),
		noWait(template{name: "fninit", opcode: 0xdb, modrm: 0xe3}),
		{name: "fnop", opcode: 0xd9, modrm: 0xd0, x87Maybe: fswC1},
		{name: "fchs", opcode: 0xd9, modrm: 0xe0},
		{name: "fabs", opcode: 0xd9, modrm: 0xe1},
		{name: "fxam", opcode: 0xd9, modrm: 0xe5},
		{name: "fld1", opcode: 0xd9, modrm: 0xe8},
		{name: "fldl2t", opcode: 0xd9, modrm: 0xe9},
		{name: "fldl2e", opcode: 0xd9, modrm: 0xea},
		{name: "fldpi", opcode: 0xd9, modrm: 0xeb},
		{name: "fldlg2", opcode: 0xd9, modrm: 0xec},
		{name: "fldln2", opcode: 0xd9, modrm: 0xed},
		{name: "fldz", opcode: 0xd9, modrm: 0xee},
		{name: "fdecstp", opcode: 0xd9, modrm: 0xf6},
		{name: "fincstp", opcode: 0xd9, modrm: 0xf7},
		{name: "fwait", opcode: 0x9b, bare: true},
		{name: "emms", opcode: map0F | 0x77, bare: true},
	},
		register("fld", 0xd9, 0xc0, 8), register("fxch", 0xd9, 0xc8, 8), anyC1(register("ffree", 0xdd, 0xc0, 8)),
		register("fst", 0xdd, 0xd0, 8), register("fstp", 0xdd, 0xd8, 8),
	)
}

func sseTemplates() []template {
	// xmm makes the template of an instruction on XMM registers and memory.
	xmm := func(name string, prefix byte, op byte, bytes int) template {
		return template{name: name, prefix: prefix, opcode: map0F | opcode(op), digit: slashR, reg: true, mem: true, bytes: bytes, xmmReg: true, xmmRM: true}
	}
	aligned := func(t template) template { t.align = 16; return t }
	memOnly := func(t template) template { t.reg = false; return t }
	regOnly := func(t template) template { t.mem = false; return t }
	gprRM := func(t template, sizes string) template { t.xmmRM, t.sizes = false, sizes; return t }
	gprReg := func(t template) template { t.xmmReg = false; return t }
	imm := func(t template) template { t.imm = true; return t }
	digit := func(t template, d int) template { t.digit = d; return t }
	cpuid := func(t template, f feature) template { t.cpuid = f; return t }
	ts := []template{
		xmm("movups", 0, 0x10, 16), xmm("movups", 0, 0x11, 16), xmm("movupd", 0x66, 0x10, 16), xmm("movupd", 0x66, 0x11, 16),
		xmm("movss", 0xf3, 0x10, 4), xmm("movss", 0xf3, 0x11, 4), xmm("movsd", 0xf2, 0x10, 8), xmm("movsd", 0xf2, 0x11, 8),
		memOnly(xmm("movlps", 0, 0x12, 8)), memOnly(xmm("movlpd", 0x66, 0x12, 8)), regOnly(xmm("movhlps", 0, 0x12, 0)),
		memOnly(xmm("movlps", 0, 0x13, 8)), memOnly(xmm("movlpd", 0x66, 0x13, 8)),
		memOnly(xmm("movhps", 0, 0x16, 8)), memOnly(xmm("movhpd", 0x66, 0x16, 8)), regOnly(xmm("movlhps", 0, 0x16, 0)),
		memOnly(xmm("movhps", 0, 0x17, 8)), memOnly(xmm("movhpd", 0x66, 0x17, 8)),
		aligned(xmm("movaps", 0, 0x28, 16)), aligned(xmm("movaps", 0, 0x29, 16)),
		aligned(xmm("movapd", 0x66, 0x28, 16)), aligned(xmm("movapd", 0x66, 0x29, 16)),
		memOnly(aligned(xmm("movntps", 0, 0x2b, 16))), memOnly(aligned(xmm("movntpd", 0x66, 0x2b, 16))),
		memOnly(aligned(xmm("movntdq", 0x66, 0xe7, 16))), memOnly(xmm("movntq", 0, 0xe7, 8)),
		gprReg(regOnly(xmm("movmskps", 0, 0x50, 0))), gprReg(regOnly(xmm("movmskpd", 0x66, 0x50, 0))),
		gprReg(regOnly(xmm("pmovmskb", 0, 0xd7, 0))), gprReg(regOnly(xmm("pmovmskb", 0x66, 0xd7, 0))),
		gprRM(xmm("movd", 0x66, 0x6e, 4), "l"), gprRM(xmm("movq", 0x66, 0x6e, 8), "q"),
		gprRM(xmm("movd", 0x66, 0x7e, 4), "l"), gprRM(xmm("movq", 0x66, 0x7e, 8), "q"),
		gprRM(xmm("movd", 0, 0x6e, 4), "l"), gprRM(xmm("movq", 0, 0x6e, 8), "q"),
		gprRM(xmm("movd", 0, 0x7e, 4), "l"), gprRM(xmm("movq", 0, 0x7e, 8), "q"),
		aligned(xmm("movdqa", 0x66, 0x6f, 16)), aligned(xmm("movdqa", 0x66, 0x7f, 16)),
		xmm("movdqu", 0xf3, 0x6f, 16), xmm("movdqu", 0xf3, 0x7f, 16),
		xmm("movq", 0, 0x6f, 8), xmm("movq", 0, 0x7f, 8), xmm("movq", 0xf3, 0x7e, 8), xmm("movq", 0x66, 0xd6, 8),
		regOnly(xmm("movq2dq", 0xf3, 0xd6, 0)), regOnly(xmm("movdq2q", 0xf2, 0xd6, 0)),
		cpuid(memOnly(xmm("lddqu", 0xf2, 0xf0, 16)), hasSSE3),
		imm(aligned(xmm("pshufd", 0x66, 0x70, 16))),
		imm(digit(regOnly(xmm("psrldq", 0x66, 0x73, 0)), 3)), imm(digit(regOnly(xmm("pslldq", 0x66, 0x73, 0)), 7)),
	}
	for i, name := range []string{"and", "andn", "or", "xor"} {
		ts = append(ts, aligned(xmm(name+"ps", 0, byte(0x54+i), 16)), aligned(xmm(name+"pd", 0x66, byte(0x54+i), 16)))
	}
	for op, name := range map[byte]string{
		0x74: "pcmpeqb", 0x75: "pcmpeqw", 0x76: "pcmpeqd", 0xd4: "paddq", 0xdb: "pand", 0xdf: "pandn", 0xeb: "por", 0xef: "pxor",
		0xf8: "psubb", 0xf9: "psubw", 0xfa: "psubd", 0xfb: "psubq", 0xfc: "paddb", 0xfd: "paddw", 0xfe: "paddd",
	} {
		ts = append(ts, aligned(xmm(name, 0x66, op, 16)), xmm(name, 0, op, 8))
	}
	return ts
}

// featureMask puts a mask of x87 and SSE components into EDX:EAX.
func featureMask(g *generator) {
	g.cpu.GPR[RAX] = g.Uint64()&^0xffff_ffff | g.Uint64N(4)
	g.cpu.GPR[RDX] = g.Uint64() &^ 0xffff_ffff
}

func saveTemplates() []template {
	mask := []int{RAX, RDX}
	area := func(name string, op opcode, digit, bytes, align int) template {
		return template{name: name, opcode: map0F | op, digit: digit, sizes: "lq", mem: true, bytes: bytes, align: align, xmmReg: true, noWait: true}
	}
	xarea := func(name string, op opcode, digit int, f feature) template {
		t := area(name, op, digit, xsHdrEnd, 64)
		t.cpuid, t.fixed, t.prepare = f, mask, featureMask
		return t
	}
	fxrstor := area("fxrstor", 0xae, 1, fxSize, 16)
	fxrstor.prepare = savedState
	xrstor := xarea("xrstor", 0xae, 5, hasOSXSAVE)
	xrstor.prepare = func(g *generator) {
		featureMask(g)
		savedState(g)
		savedHeader(g)
	}
	ldmxcsr := area("ldmxcsr", 0xae, 2, 4, 0)
	ldmxcsr.prepare = func(g *generator) {
		if err := g.mem.Write(g.target, binary.LittleEndian.AppendUint32(nil, g.Uint32()&0xffff|mxcsrInit)); err != nil {
			panic(err)
		}
	}
	return []template{
		area("fxsave", 0xae, 0, fxSize, 16), fxrstor, ldmxcsr, area("stmxcsr", 0xae, 3, 4, 0),
		xarea("xsave", 0xae, 4, hasOSXSAVE), xarea("xsaveopt", 0xae, 6, hasXSAVEOPT), xarea("xsavec", 0xc7, 4, hasXSAVEC), xrstor,
	}
}

// savedState fills the operand with an FXSAVE area.
func savedState(g *generator) {
	src := exec{cpu: CPU{FPU: g.cpu.FPU, Long: true}, eng: &Engine{}}
	src.cpu.FPU.FSW, src.cpu.FPU.FCW, src.cpu.FPU.FTW = uint16(g.Uint32()), uint16(g.Uint32()), uint8(g.Uint32())
	src.cpu.FPU.MXCSR = g.Uint32()&0xe07f | mxcsrInit
	for i := range src.cpu.FPU.ST {
		src.cpu.FPU.ST[i] = g.extended()
		src.cpu.FPU.XMM[2*i][g.IntN(16)]++
	}
	var area [fxEnd]byte
	src.saveX87(area[:])
	src.saveMXCSR(area[:])
	src.saveXMM(area[:])
	for i := range src.cpu.FPU.ST {
		binary.LittleEndian.PutUint32(area[fxST+16*i+10:], g.Uint32()) // padding
	}
	if err := g.mem.Write(g.target, area[:]); err != nil {
		panic(err)
	}
}

// savedHeader fills in the XSAVE header behind it, compacted at times.
func savedHeader(g *generator) {
	var hdr [64]byte
	bv := g.Uint64N(4)
	binary.LittleEndian.PutUint64(hdr[:], bv)
	if hasXSAVEC.present() && g.IntN(2) == 0 {
		binary.LittleEndian.PutUint64(hdr[8:], xCompacted|bv|g.Uint64N(4))
	}
	if err := g.mem.Write(g.target+fxSize, hdr[:]); err != nil {
		panic(err)
	}
}

func systemTemplates() []template {
	fenced := func(name string, modrm byte) template {
		return template{name: name, opcode: map0F | 0xae, modrm: modrm}
	}
	line := func(name string, prefix byte, digit int, f feature) template {
		return template{name: name, cpuid: f, prefix: prefix, opcode: map0F | 0xae, digit: digit, mem: true, bytes: 1, xmmReg: true}
	}
	base := func(name string, digit int) template {
		return template{name: name, cpuid: hasFSGSBASE, prefix: 0xf3, opcode: map0F | 0xae, digit: digit, sizes: "lq", reg: true, xmmReg: true}
	}
	ecx := func(v uint64) func(g *generator) {
		return func(g *generator) { g.cpu.GPR[RCX] = g.Uint64()<<32 | v }
	}
	return []template{
		fenced("lfence", 0xe8), fenced("mfence", 0xf0), fenced("sfence", 0xf8),
		line("clflush", 0, 7, feature{}), line("clflushopt", 0x66, 7, hasCLFLUSHOPT), line("clwb", 0x66, 6, hasCLWB),
		base("rdfsbase", 0), base("rdgsbase", 1),
		{name: "xgetbv", cpuid: hasOSXSAVE, opcode: map0F | 0x01, modrm: 0xd0, prepare: ecx(0)},
		{name: "rdpid", cpuid: hasRDPID, prefix: 0xf3, opcode: map0F | 0xc7, digit: 7, reg: true, xmmReg: true},
		{name: "rdtscp", cpuid: hasRDTSCP, opcode: map0F | 0x01, modrm: 0xf9, result: func(g *generator, c *CPU) {
			c.GPR[RAX], c.GPR[RDX] = g.cpu.GPR[RAX], g.cpu.GPR[RDX]
		}},
		{name: "clzero", cpuid: hasCLZERO, opcode: map0F | 0x01, modrm: 0xfc, prepare: func(g *generator) {
			g.cpu.GPR[RAX] = g.mem.base + g.Uint64N(uint64(len(g.mem.b)))
		}},
		{name: "verr", opcode: map0F, digit: 4, reg: true, xmmReg: true, prepare: selectors},
		{name: "verw", opcode: map0F, digit: 5, reg: true, xmmReg: true, prepare: selectors},
		{name: "lar", opcode: map0F | 0x02, digit: slashR, sizes: "wlq", reg: true, prepare: selectors},
		{name: "lsl", opcode: map0F | 0x03, digit: slashR, sizes: "wlq", reg: true, prepare: selectors},
	}
}

// selectors puts segment selectors that Linux has at CPL 3 into all registers.
func selectors(g *generator) {
	for i := range g.cpu.GPR {
		g.cpu.GPR[i] = g.Uint64()&^0xffff | []uint64{0, 3, 0x23, 0x2b, 0x33, 0x30, 0x13, 0x3c}[g.IntN(8)]
	}
}

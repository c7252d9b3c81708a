//go:build linux && amd64

package complete

import (
	"encoding/binary"
	"math/rand/v2"
)

// template describes one instruction well enough to encode it with random
// operands that cannot fault.
type template struct {
	name   string // the mnemonic Complete must report
	cpuid  feature
	prefix byte // mandatory prefix
	opcode opcode
	digit  int  // ModRM.reg, or slashR
	modrm  byte // whole ModRM byte of a fixed encoding, if not 0
	bare   bool // no ModRM byte

	sizes  string // operand sizes: w 16, l 32, q 64 bits; "" as l without REX.W
	reg    bool   // register form allowed
	mem    bool   // memory form allowed
	bytes  int    // of the memory operand; 0 is the operand size
	align  int    // of the memory operand; 0 is none
	xmmReg bool   // ModRM.reg is no general register
	xmmRM  bool   // ModRM.rm is no general register
	imm    bool

	undefined uint64 // flags the architecture leaves open
	noWait    bool   // may run with x87 exceptions pending
	x87Maybe  uint16 // status bits the architecture leaves open
	fixed     []int  // registers that prepare needs
	prepare   func(g *generator)
	// result looks at what native execution left where a plain comparison is
	// wrong; it may make both sides equal.
	result func(g *generator, c *CPU)
}

const slashR = -1

// generator makes one program: state, memory and instruction bytes.
type generator struct {
	*rand.Rand
	t      *template
	cpu    CPU
	mem    *flat
	code   []byte
	stray  bool   // add prefixes without effect
	target uint64 // of the memory operand, 0 if none
	wide   bool   // REX.W
	size   int
}

// value is a number of an interesting shape.
func (g *generator) value() uint64 {
	v := g.Uint64()
	switch g.IntN(8) {
	case 0:
		return 0
	case 1:
		return ^uint64(0)
	case 2:
		return 1 << g.IntN(64)
	case 3:
		return v >> g.IntN(64)
	case 4:
		return uint64(int64(v) >> g.IntN(64))
	case 5: // single precision
		return v&^(0xff<<23) | g.exponent(8)<<23
	case 6: // double precision
		return v&^(0x7ff<<52) | g.exponent(11)<<52
	}
	return v
}

// exponent is an IEEE exponent of n bits that likes the ends of the range.
func (g *generator) exponent(n int) uint64 {
	switch g.IntN(4) {
	case 0:
		return 0
	case 1:
		return 1<<n - 1
	case 2:
		return 1<<(n-1) - 1 + g.Uint64N(66)
	}
	return g.Uint64N(1 << n)
}

// extended is an 80-bit real, at times an unsupported one.
func (g *generator) extended() [16]byte {
	v := real80{mant: g.value() | intBit}
	switch g.IntN(11) {
	case 0:
	case 10: // rounds up to a power of two, perhaps the least normal one
		v.mant = -(uint64(1) << g.IntN(64))
		v.exp = uint16(bias80 + []int{-1022, -1023, -126, -127, 0, 127, 1023}[g.IntN(7)])
		return v.signed(g.IntN(2))
	case 1:
		v.exp = expMask
	case 2:
		v.exp, v.mant = expMask, intBit
	case 3:
		v.mant = 0
	case 4:
		v.exp = uint16(g.Uint64N(1 << 15))
	case 5:
		v.mant, v.exp = g.Uint64(), uint16(g.Uint64N(1<<15))
	case 6: // about the single-precision limits
		v.exp = uint16(bias80 - 127 - 26 + g.IntN(30) + g.IntN(2)*250)
	case 7: // about the double-precision limits
		v.exp = uint16(bias80 - 1023 - 55 + g.IntN(60) + g.IntN(2)*2045)
	default:
		v.exp = uint16(bias80 - 2 + g.IntN(68))
	}
	if g.IntN(3) == 0 {
		v.mant &^= 1<<g.IntN(64) - 1
	}
	if v.exp != 0 && v.mant == 0 && g.IntN(2) == 0 {
		v.exp = 0
	}
	return v.signed(g.IntN(2))
}

// signed is v with the sign given.
func (v real80) signed(sign int) [16]byte {
	v.exp |= uint16(sign) << 15
	return v.bytes()
}

// state fills the registers.
func (g *generator) state() {
	for i := range g.cpu.GPR {
		g.cpu.GPR[i] = g.value()
	}
	g.cpu.RFLAGS = 0x202 | g.Uint64()&(arithFlags|FlagDF)
	f := &g.cpu.FPU
	f.FCW = uint16(g.Uint32())&0xf00 | 0x7f
	f.FSW = uint16(g.Uint32()) & 0x7f7f
	if g.t.noWait || g.IntN(4) == 0 {
		f.FCW = uint16(g.Uint32())&fcwKept | fcwAlways1
		if !g.t.noWait {
			f.FSW &^= ^f.FCW & fswFlags
		}
	}
	f.summarize()
	f.FTW = uint8(g.Uint32())
	if g.IntN(3) == 0 {
		f.FTW = 0xff >> g.IntN(8)
	}
	for i := range f.ST {
		f.ST[i] = g.extended()
	}
	for i := range f.XMM {
		binary.LittleEndian.PutUint64(f.XMM[i][:], g.value())
		binary.LittleEndian.PutUint64(f.XMM[i][8:], g.value())
	}
	f.MXCSR = g.Uint32()&0xe07f | mxcsrInit
}

// instruction chooses operands and encodes. fs and gs are the segment bases,
// codeAddr the address of the code.
func (g *generator) instruction(codeAddr uint64) {
	t := g.t
	var prefixes, body []byte
	var rex byte
	g.size = 4
	if t.sizes != "" {
		switch t.sizes[g.IntN(len(t.sizes))] {
		case 'w':
			g.size = 2
			prefixes = append(prefixes, 0x66)
		case 'q':
			g.size, g.wide = 8, true
			rex |= rexW
		}
	}
	if t.prefix != 0 && t.opcode&vexed == 0 {
		prefixes = append(prefixes, t.prefix)
	}
	reg := g.register(t.xmmReg)
	if t.digit != slashR {
		reg = t.digit
	}
	rip := -1
	switch {
	case t.bare:
	case t.modrm != 0:
		body = []byte{t.modrm}
	case t.mem && (!t.reg || g.IntN(3) > 0):
		var segment []byte
		body, segment, rex, rip = g.memory(reg, rex, codeAddr)
		prefixes = append(segment, prefixes...)
	default:
		rm := g.register(t.xmmRM)
		body = []byte{0xc0 | byte(reg&7)<<3 | byte(rm&7)}
		rex |= byte(rm >> 3 & 1)
	}
	if t.digit == slashR && t.modrm == 0 && reg >= 8 {
		rex |= rexR
	}
	if t.imm {
		body = append(body, byte(g.Uint32()))
	}
	if t.prepare != nil {
		t.prepare(g)
	}
	if g.stray && len(prefixes) > 0 && g.IntN(4) == 0 {
		prefixes = g.addStray(prefixes)
	}
	g.code = append(prefixes, g.head(rex)...)
	if rip >= 0 {
		rip += len(g.code)
	}
	g.code = append(g.code, body...)
	if rip >= 0 {
		next := codeAddr + uint64(len(g.code))
		binary.LittleEndian.PutUint32(g.code[rip:], uint32(g.target-next))
	}
}

// addStray adds what must not matter: a REX prefix that is not the last one, or
// an override of a segment that 64-bit code does not have.
func (g *generator) addStray(prefixes []byte) []byte {
	if g.t.opcode&vexed == 0 && g.IntN(2) == 0 {
		return append([]byte{0x40 | byte(g.IntN(16))}, prefixes...)
	}
	return append(prefixes, []byte{0x26, 0x2e, 0x36, 0x3e}[g.IntN(4)])
}

// head encodes REX or VEX and the opcode.
func (g *generator) head(rex byte) []byte {
	op, m := byte(g.t.opcode), byte(g.t.opcode>>8&3)
	if g.t.opcode&vexed == 0 {
		var p []byte
		if rex != 0 || g.IntN(4) == 0 && !g.t.xmmReg {
			p = append(p, 0x40|rex)
		}
		return append(append(p, [][]byte{nil, {0x0f}, {0x0f, 0x38}, {0x0f, 0x3a}}[m]...), op)
	}
	pp := map[byte]byte{0: 0, 0x66: 1, 0xf3: 2, 0xf2: 3}[g.t.prefix]
	v := g.register(false)
	if g.t.imm {
		v = 0
	}
	if g.wide {
		pp |= 0x80
	}
	return []byte{0xc4, ^rex<<5 | m, pp | byte(^v&15)<<3, op}
}

// register is any register but RSP, or any vector register.
func (g *generator) register(vector bool) int {
	for {
		if r := g.IntN(16); vector || r != RSP {
			return r
		}
	}
}

// address is a register that may hold part of an address.
func (g *generator) address(not int) int {
	for {
		r := g.register(false)
		free := r != not
		for _, f := range g.t.fixed {
			free = free && r != f
		}
		if free {
			return r
		}
	}
}

// memory chooses a place in memory and a form that addresses it. rip is the
// place of a RIP-relative displacement in body, or -1.
func (g *generator) memory(reg int, rex byte, codeAddr uint64) (body, prefixes []byte, rexOut byte, rip int) {
	const room = 1024
	g.target = g.mem.base + 64*g.Uint64N(uint64(len(g.mem.b)-room)/64)
	if g.t.align == 0 && g.IntN(2) == 0 {
		g.target += g.Uint64N(64)
	}
	rexOut, rip = rex, -1
	place := g.target
	switch g.IntN(8) {
	case 0:
		prefixes = append(prefixes, 0x64)
		place -= g.cpu.Seg[FS].Base
	case 1:
		prefixes = append(prefixes, 0x65)
		place -= g.cpu.Seg[GS].Base
	case 2:
		prefixes = append(prefixes, []byte{0x26, 0x2e, 0x36, 0x3e}[g.IntN(4)])
	}
	short := len(prefixes) == 0 && g.IntN(6) == 0
	if short {
		prefixes = append(prefixes, 0x67)
	}
	upper := func(v uint64) uint64 {
		if short {
			return v&0xffff_ffff | g.Uint64()<<32
		}
		return v
	}
	field := byte(reg&7) << 3
	mod, disp := byte(g.IntN(3)), uint64(0)
	dispBytes := []int{0, 1, 4}[mod]
	if dispBytes > 0 {
		disp = uint64(int64(g.Uint64()) >> (64 - 8*dispBytes))
	}
	var d [8]byte
	binary.LittleEndian.PutUint64(d[:], disp)
	form := g.IntN(5)
	if len(prefixes) > 0 && prefixes[0] != 0x67 && form > 1 {
		form -= 2 // displacement forms cannot reach past a segment base
	}
	switch form {
	case 0: // [base+disp]
		base := g.address(-1)
		if mod == 0 && base&7 == 5 {
			mod, dispBytes = 1, 1
		}
		g.cpu.GPR[base] = upper(place - disp)
		body = []byte{mod<<6 | field | byte(base&7)}
		if base&7 == 4 {
			body = append(body, 0x24)
		}
		rexOut |= byte(base >> 3)
		body = append(body, d[:dispBytes]...)
	case 1, 2: // [base+index*scale+disp]
		base := g.address(-1)
		index, scale := g.address(base), g.IntN(4)
		if mod == 0 && base&7 == 5 {
			mod, dispBytes = 2, 4
		}
		g.cpu.GPR[base] = upper(place - disp - g.cpu.GPR[index]<<scale)
		body = []byte{mod<<6 | field | 4, byte(scale<<6 | index&7<<3 | base&7)}
		rexOut |= byte(base>>3) | byte(index>>3)<<1
		body = append(body, d[:dispBytes]...)
	case 3: // [index*scale+disp32] or [disp32]
		index, scale := RSP, g.IntN(4)
		if g.IntN(2) == 0 {
			index = g.address(-1)
			g.cpu.GPR[index] = upper(g.Uint64N(1 << 20))
			place -= g.cpu.GPR[index] << scale
		}
		body = []byte{field | 4, byte(scale<<6 | index&7<<3 | 5)}
		rexOut |= byte(index>>3) << 1
		body = binary.LittleEndian.AppendUint32(body, uint32(place))
	case 4: // [rip+disp32]
		body = append([]byte{field | 5}, 0, 0, 0, 0)
		rip = 1
	}
	return body, prefixes, rexOut, rip
}

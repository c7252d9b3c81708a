package complete

// opcode identifies a table entry: the opcode byte, the opcode map in bits 8..9
// (0 one-byte, 1 0F, 2 0F 38, 3 0F 3A) and vexed for a VEX encoding.
type opcode uint16

const (
	map0F   opcode = 1 << 8
	map0F38 opcode = 2 << 8
	map0F3A opcode = 3 << 8
	vexed   opcode = 1 << 10
)

// entry is what the decoder must know of an opcode, and its handler.
type entry struct {
	// name is the mnemonic; a handler that serves several refines it.
	name string
	run  func(*exec) error
	// modrm says that a ModRM byte follows.
	modrm bool
	// imm8 says that an immediate byte follows.
	imm8 bool
	// lock says that the handler itself judges a LOCK prefix; others raise #UD.
	lock bool
}

// noReg stands for an absent base or index register, or segment override.
const noReg = -1

// insn is a decoded instruction.
type insn struct {
	code []byte // the bytes to decode, at most MaxLen
	pos  int    // bytes decoded so far; the length in the end
	long bool   // 64-bit code
	big  bool   // 32-bit code

	lock     bool
	opSize   bool // 66 prefix
	addrSize bool // 67 prefix
	rep      byte // last of F2 and F3, 0 if none
	override int  // segment override or noReg
	rex      byte // REX byte, 0 if none; for VEX the equivalent
	vex      bool
	vexL     bool // 256-bit
	vexReg   int  // vvvv

	opcode opcode

	modrm  byte
	reg    int // ModRM.reg with REX.R
	rm     int // ModRM.rm with REX.B, a register if mod is 3
	isMem  bool
	base   int
	index  int
	scale  uint
	disp   uint64 // sign-extended
	ripRel bool   // relative to the next instruction

	imm byte
}

// Bits of a REX prefix.
const (
	rexB = 1 << iota
	rexX
	rexR
	rexW
)

func newInsn(code []byte, c *CPU) insn {
	return insn{
		code: code[:min(len(code), MaxLen)],
		long: c.Long, big: c.Big, override: noReg, base: noReg, index: noReg,
	}
}

// next consumes a byte.
func (x *insn) next() (byte, error) {
	if x.pos >= MaxLen {
		return 0, ErrTooLong
	}
	if x.pos >= len(x.code) {
		return 0, ErrTruncated
	}
	b := x.code[x.pos]
	x.pos++
	return b, nil
}

// nextSigned consumes a little-endian integer of n bytes and sign-extends it.
func (x *insn) nextSigned(n int) (uint64, error) {
	var v uint64
	for i := range n {
		b, err := x.next()
		if err != nil {
			return 0, err
		}
		v |= uint64(b) << (8 * i)
	}
	shift := 64 - 8*n
	return uint64(int64(v<<shift) >> shift), nil
}

// decodeOpcode consumes prefixes and opcode. A REX prefix counts only right
// before the opcode.
func (x *insn) decodeOpcode() error {
	for {
		b, err := x.next()
		if err != nil {
			return err
		}
		if x.long && b&0xf0 == 0x40 {
			x.rex = b
			continue
		}
		if x.prefix(b) {
			x.rex = 0
			continue
		}
		switch {
		case b == 0x0f:
			return x.decodeEscape()
		case b == 0xc4 || b == 0xc5:
			isVEX, err := x.startsVEX()
			if err != nil {
				return err
			}
			if isVEX {
				return x.decodeVEX(b)
			}
		}
		x.opcode = opcode(b)
		return nil
	}
}

// prefix notes a legacy prefix; it says whether b is one.
func (x *insn) prefix(b byte) bool {
	switch b {
	case 0xf0:
		x.lock = true
	case 0x66:
		x.opSize = true
	case 0x67:
		x.addrSize = true
	case 0xf2, 0xf3:
		x.rep = b
	case 0x26, 0x2e, 0x36, 0x3e:
		if !x.long { // no effect in 64-bit code
			x.override = int(b-0x26) / 8
		}
	case 0x64:
		x.override = FS
	case 0x65:
		x.override = GS
	default:
		return false
	}
	return true
}

// decodeEscape consumes what follows 0F.
func (x *insn) decodeEscape() error {
	b, err := x.next()
	if err != nil {
		return err
	}
	m := map0F
	switch b {
	case 0x38:
		m = map0F38
	case 0x3a:
		m = map0F3A
	default:
		x.opcode = m | opcode(b)
		return nil
	}
	b, err = x.next()
	x.opcode = m | opcode(b)
	return err
}

// startsVEX tells a VEX prefix from LES and LDS, which need a memory operand.
func (x *insn) startsVEX() (bool, error) {
	if x.long {
		return true, nil
	}
	b, err := x.next()
	if err != nil {
		return false, err
	}
	x.pos--
	return b >= 0xc0, nil
}

// decodeVEX consumes the rest of a VEX prefix and the opcode. The prefix holds
// inverted REX bits, a vector register, and codes for 66/F3/F2 and the map
// (SDM vol. 2A, 2.3.5).
func (x *insn) decodeVEX(first byte) error {
	if x.lock || x.opSize || x.rep != 0 || x.rex != 0 {
		return exUD
	}
	b, err := x.next()
	if err != nil {
		return err
	}
	x.vex = true
	m := map0F
	if b&0x80 == 0 {
		x.rex |= rexR
	}
	if first == 0xc4 {
		if b&0x40 == 0 {
			x.rex |= rexX
		}
		if b&0x20 == 0 {
			x.rex |= rexB
		}
		m = opcode(b&0x1f) << 8
		if m < map0F || m > map0F3A {
			return exUD
		}
		if b, err = x.next(); err != nil {
			return err
		}
		if b&0x80 != 0 {
			x.rex |= rexW
		}
	}
	x.vexL = b&4 != 0
	x.vexReg = int(^b>>3) & 0xf
	switch b & 3 {
	case 1:
		x.opSize = true
	case 2:
		x.rep = 0xf3
	case 3:
		x.rep = 0xf2
	}
	if !x.long {
		x.rex = 0
		x.vexReg &= 7
	}
	b, err = x.next()
	x.opcode = vexed | m | opcode(b)
	return err
}

// decodeOperands consumes ModRM, SIB, displacement and immediate.
func (x *insn) decodeOperands(e entry) (err error) {
	if e.modrm {
		if x.modrm, err = x.next(); err != nil {
			return err
		}
		x.reg = int(x.modrm>>3) & 7
		x.rm = int(x.modrm) & 7
		if x.rex&rexR != 0 {
			x.reg |= 8
		}
		x.isMem = x.modrm < 0xc0
		switch {
		case !x.isMem:
			if x.rex&rexB != 0 {
				x.rm |= 8
			}
		case x.addrBytes() == 2:
			err = x.decodeMem16()
		default:
			err = x.decodeMem()
		}
		if err != nil {
			return err
		}
	}
	if e.imm8 {
		if x.imm, err = x.next(); err != nil {
			return err
		}
	}
	return nil
}

// decodeMem consumes SIB and displacement of a 32- or 64-bit address.
func (x *insn) decodeMem() (err error) {
	mod, rm := x.modrm>>6, x.rm
	x.base = rm
	if rm == 4 {
		sib, err := x.next()
		if err != nil {
			return err
		}
		x.scale = uint(sib >> 6)
		x.index = int(sib>>3) & 7
		if x.rex&rexX != 0 {
			x.index |= 8
		}
		if x.index == RSP {
			x.index = noReg
		}
		rm = int(sib) & 7
		x.base = rm
	}
	switch {
	case mod == 0 && rm == 5:
		x.ripRel = x.long && x.rm == 5
		x.base = noReg
		x.disp, err = x.nextSigned(4)
		return err
	case mod == 1:
		x.disp, err = x.nextSigned(1)
	case mod == 2:
		x.disp, err = x.nextSigned(4)
	}
	if x.rex&rexB != 0 {
		x.base |= 8
	}
	return err
}

// decodeMem16 consumes the displacement of a 16-bit address.
func (x *insn) decodeMem16() (err error) {
	pairs := [8][2]int{{RBX, RSI}, {RBX, RDI}, {RBP, RSI}, {RBP, RDI}, {RSI, noReg}, {RDI, noReg}, {RBP, noReg}, {RBX, noReg}}
	x.base, x.index = pairs[x.rm][0], pairs[x.rm][1]
	switch mod := x.modrm >> 6; {
	case mod == 0 && x.rm == 6:
		x.base = noReg
		x.disp, err = x.nextSigned(2)
	case mod == 1:
		x.disp, err = x.nextSigned(1)
	case mod == 2:
		x.disp, err = x.nextSigned(2)
	}
	return err
}

// addrBytes is the address size: 2, 4 or 8.
func (x *insn) addrBytes() int {
	switch {
	case x.long && x.addrSize:
		return 4
	case x.long:
		return 8
	case x.big != x.addrSize:
		return 4
	}
	return 2
}

// opBytes is the operand size: 2, 4 or 8.
func (x *insn) opBytes() int {
	switch {
	case x.rex&rexW != 0 && x.long:
		return 8
	case (x.long || x.big) != x.opSize:
		return 4
	}
	return 2
}

// digit is ModRM.reg as an opcode extension.
func (x *insn) digit() int { return int(x.modrm>>3) & 7 }

// mandatory is the prefix that selects among instructions of one opcode: F3 or
// F2 before 66, 0 for none.
func (x *insn) mandatory() byte {
	switch {
	case x.rep != 0:
		return x.rep
	case x.opSize:
		return 0x66
	}
	return 0
}

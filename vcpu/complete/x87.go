package complete

// Bits of the x87 status and control words (SDM vol. 1, 8.1.3 and 8.1.5). The
// exception flags IE..PE of the status word have their masks at the same place
// in the control word.
const (
	fswIE      uint16 = 1 << 0
	fswDE      uint16 = 1 << 1
	fswOE      uint16 = 1 << 3
	fswUE      uint16 = 1 << 4
	fswPE      uint16 = 1 << 5
	fswSF      uint16 = 1 << 6
	fswES      uint16 = 1 << 7
	fswC0      uint16 = 1 << 8
	fswC1      uint16 = 1 << 9
	fswC2      uint16 = 1 << 10
	fswC3      uint16 = 1 << 14
	fswB       uint16 = 1 << 15
	fswFlags   uint16 = 0x3f
	fswTop            = 11
	fcwInit    uint16 = 0x37f
	fcwRound          = 10
	fcwKept    uint16 = 0x1f7f // bits that can be set by software
	fcwAlways1 uint16 = 0x40
)

// Rounding modes, as the control word has them.
const (
	roundNearest = iota
	roundDown
	roundUp
	roundZero
)

// x87Ops are the escape opcodes, WAIT and EMMS.
var x87Ops = map[opcode]entry{
	0x9b:         {name: "fwait", run: fwait},
	0xd9:         {name: "x87", run: x87D9, modrm: true},
	0xdb:         {name: "x87", run: x87DB, modrm: true},
	0xdd:         {name: "x87", run: x87DD, modrm: true},
	0xdf:         {name: "x87", run: x87DF, modrm: true},
	map0F | 0x77: {name: "emms", run: emms},
}

// x87Available raises #NM where CR0 denies x87 instructions.
func (x *exec) x87Available() error {
	if x.cpu.CR0&(cr0EM|cr0TS) != 0 {
		return exNM
	}
	return nil
}

// x87Pending raises #MF for an unmasked exception that an earlier instruction
// left behind. Without CR0.NE it is an external interrupt instead.
func (x *exec) x87Pending() error {
	switch {
	case x.cpu.FPU.FSW&fswES == 0:
		return nil
	case x.cpu.CR0&cr0NE == 0:
		return ErrUnknown
	}
	return exMF
}

// x87Start checks what every waiting x87 instruction checks, names it, and
// notes it as the last one.
func (x *exec) x87Start(name string) error {
	x.name = name
	if err := x.x87Available(); err != nil {
		return err
	}
	if err := x.x87Pending(); err != nil {
		return err
	}
	f := &x.cpu.FPU
	f.FOP = uint16(x.opcode&7)<<8 | uint16(x.modrm)
	f.FIP = x.cpu.RIP
	if x.isMem {
		f.FDP = x.effective()
	}
	return nil
}

func fwait(x *exec) error {
	if x.cpu.CR0&(cr0MP|cr0TS) == cr0MP|cr0TS {
		return exNM
	}
	return x.x87Pending()
}

// emms marks all registers as empty and makes TOP 0 (SDM vol. 3A, table 13-2).
func emms(x *exec) error {
	if x.mandatory() != 0 {
		return x.unserved()
	}
	if err := x.mmxAvailable(); err != nil {
		return err
	}
	x.cpu.FPU.setTop(0)
	x.cpu.FPU.FTW = 0
	return nil
}

// top is the number of the physical register that is ST(0).
func (f *FPU) top() int { return int(f.FSW >> fswTop & 7) }

// setTop changes which physical register is ST(0); contents stay.
func (f *FPU) setTop(top int) {
	old, shift := f.ST, top-f.top()
	for i := range f.ST {
		f.ST[i] = old[(i+shift)&7]
	}
	f.FSW = f.FSW&^(7<<fswTop) | uint16(top&7)<<fswTop
}

// inUse says whether ST(i) holds a value.
func (f *FPU) inUse(i int) bool { return f.FTW>>((f.top()+i)&7)&1 != 0 }

// setUse marks ST(i) as holding a value or empty.
func (f *FPU) setUse(i int, use bool) {
	bit := uint8(1) << ((f.top() + i) & 7)
	f.FTW &^= bit
	if use {
		f.FTW |= bit
	}
}

// raise sets exception flags. It says whether all of them are masked, so that
// the instruction goes on with the default result.
func (f *FPU) raise(flags uint16) bool {
	f.FSW |= flags
	f.summarize()
	return flags&fswFlags&^f.FCW == 0
}

// summarize derives ES and B from flags and masks.
func (f *FPU) summarize() {
	f.FSW &^= fswES | fswB
	if f.FSW&fswFlags&^f.FCW != 0 {
		f.FSW |= fswES | fswB
	}
}

// setC1 sets or clears C1: rounded up, or overflow rather than underflow of the stack.
func (f *FPU) setC1(on bool) {
	f.FSW &^= fswC1
	if on {
		f.FSW |= fswC1
	}
}

// rounding is the rounding mode of the control word.
func (f *FPU) rounding() int { return int(f.FCW >> fcwRound & 3) }

// push loads v as the new ST(0), raising flags from its conversion. A full
// stack or an unmasked flag makes it the default NaN or nothing.
func (f *FPU) push(v real80, flags uint16) {
	f.setC1(false)
	if f.inUse(-1) {
		f.setC1(true)
		flags, v = fswIE|fswSF, indefinite
	}
	if flags != 0 && !f.raise(flags) {
		return
	}
	f.setTop(f.top() - 1)
	f.ST[0] = v.bytes()
	f.setUse(0, true)
}

// pop drops ST(0).
func (f *FPU) pop() {
	f.setUse(0, false)
	f.setTop(f.top() + 1)
}

// underflow answers a read of the empty ST(0): it says whether the default
// result is to be used.
func (f *FPU) underflow() bool {
	f.setC1(false)
	return f.raise(fswIE | fswSF)
}

// initialize is FNINIT; register contents stay.
func (f *FPU) initialize() {
	f.setTop(0)
	f.FCW, f.FSW, f.FTW, f.FOP, f.FIP, f.FDP = fcwInit, 0, 0, 0, 0, 0
}

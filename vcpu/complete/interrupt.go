package complete

// interruptOps are the instructions that raise a software interrupt.
var interruptOps = map[opcode]entry{
	0xcc: {name: "int3", run: int3},
	0xcd: {name: "int", run: intN, imm8: true},
	0xce: {name: "into", run: into},
	0xf1: {name: "int1", run: int1},
}

func int3(x *exec) error {
	return x.software(VectorBP, KindTrap)
}

// intN is INT n, which virtual-8086 mode allows at IOPL 3 only.
func intN(x *exec) error {
	if x.cpu.RFLAGS&FlagVM != 0 && x.cpu.RFLAGS&iopl != iopl {
		return exGP
	}
	return x.software(x.imm, KindSoftInterrupt)
}

func into(x *exec) error {
	if x.cpu.Long {
		return exUD
	}
	if x.cpu.RFLAGS&FlagOF == 0 {
		return nil
	}
	return x.software(VectorOF, KindTrap)
}

// int1 raises #DB whatever the gate's privilege level, as hardware does.
func int1(x *exec) error {
	x.out.Inject = &Exception{Vector: VectorDB, Kind: KindTrap}
	return nil
}

// software raises a software interrupt, which needs a gate that the CPL may use
// (SDM vol. 3A, 6.12.1.1): #GP(vector*8+2) if not.
func (x *exec) software(vector uint8, kind Kind) error {
	if x.cpu.CPL > 0 && x.cpu.protected() {
		size, denied := uint32(8), &Exception{Vector: VectorGP, HasCode: true, Code: uint32(vector)*8 + 2}
		if x.cpu.EFER&eferLMA != 0 {
			size = 16
		}
		offset := uint32(vector) * size
		if offset+size-1 > x.cpu.IDT.Limit {
			return denied
		}
		var gate [8]byte
		if err := x.readSystem(x.cpu.IDT.Base+uint64(offset), gate[:]); err != nil {
			return err
		}
		if dpl := gate[5] >> 5 & 3; dpl < x.cpu.CPL {
			return denied
		}
	}
	x.out.Inject = &Exception{Vector: vector, Kind: kind}
	return nil
}

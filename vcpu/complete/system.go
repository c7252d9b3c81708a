package complete

import "encoding/binary"

// systemOps are the opcode groups of system instructions and of those that
// share an opcode with one.
var systemOps = map[opcode]entry{
	map0F:          {name: "verr", run: group6, modrm: true},
	map0F | 0x01:   {name: "group 7", run: group7, modrm: true},
	map0F | 0x02:   {name: "lar", run: lar, modrm: true},
	map0F | 0x03:   {name: "lsl", run: lsl, modrm: true},
	map0F | 0xae:   {name: "group 15", run: group15, modrm: true},
	map0F | 0xc7:   {name: "group 9", run: group9, modrm: true, lock: true},
	map0F38 | 0x82: {name: "invpcid", run: invpcid, modrm: true},
}

// table is all that the engine serves.
var table = merged(interruptOps, bitOps, bmiOps, x87Ops, sseOps, systemOps)

func merged(families ...map[opcode]entry) map[opcode]entry {
	all := map[opcode]entry{}
	for _, family := range families {
		for op, e := range family {
			all[op] = e
		}
	}
	return all
}

// group6 is 0F 00: VERR and VERW.
func group6(x *exec) error {
	switch x.digit() {
	case 4:
		return verify(x, false)
	case 5:
		return verify(x, true)
	}
	return x.unserved()
}

// group7 is 0F 01: the instructions encoded as register forms.
func group7(x *exec) error {
	if x.mandatory() != 0 {
		return x.unserved()
	}
	switch x.modrm {
	case 0xc8:
		return monitor(x)
	case 0xc9:
		return mwait(x)
	case 0xca:
		return setAC(x, "clac", 0)
	case 0xcb:
		return setAC(x, "stac", FlagAC)
	case 0xd0:
		return xgetbv(x)
	case 0xd1:
		return xsetbv(x)
	case 0xf9:
		return rdtscp(x)
	case 0xfc:
		return clzero(x)
	}
	return x.unserved()
}

// group9 is 0F C7: CMPXCHG8B and CMPXCHG16B, XSAVEC, XSAVES, XRSTORS and RDPID.
// Only the first two may be locked.
func group9(x *exec) error {
	if x.isMem && x.digit() == 1 {
		return cmpxchgPair(x)
	}
	if x.lock {
		return exUD
	}
	switch {
	case x.isMem && x.mandatory() == 0 && x.digit() == 3:
		return xrstor(x, true)
	case x.isMem && x.mandatory() == 0 && x.digit() == 4:
		return xsave(x, formXSAVEC)
	case x.isMem && x.mandatory() == 0 && x.digit() == 5:
		return xsave(x, formXSAVES)
	case !x.isMem && x.rep == 0xf3 && x.digit() == 7:
		return rdpid(x)
	}
	return x.unserved()
}

// group15 is 0F AE: saving and restoring state, cache lines and fences.
func group15(x *exec) error {
	switch {
	case !x.isMem && x.mandatory() == 0:
		return fence(x)
	case !x.isMem && x.rep == 0xf3 && x.digit() < 4:
		return segmentBase(x)
	case !x.isMem:
		return x.unserved()
	case x.mandatory() == 0x66 && x.digit() == 6:
		return cacheLine(x, "clwb")
	case x.mandatory() == 0x66 && x.digit() == 7:
		return cacheLine(x, "clflushopt")
	case x.mandatory() != 0:
		return x.unserved()
	}
	switch x.digit() {
	case 0:
		return fxsave(x)
	case 1:
		return fxrstor(x)
	case 2:
		return ldmxcsr(x)
	case 3:
		return stmxcsr(x)
	case 4:
		return xsave(x, formXSAVE)
	case 5:
		return xrstor(x, false)
	case 6:
		return xsave(x, formXSAVEOPT)
	}
	return cacheLine(x, "clflush")
}

// fence is LFENCE, MFENCE and SFENCE: leaving the guest orders more than they do.
func fence(x *exec) error {
	switch x.digit() {
	case 5:
		x.name = "lfence"
	case 6:
		x.name = "mfence"
	case 7:
		x.name = "sfence"
	default:
		return x.unserved()
	}
	return nil
}

// segmentBase is RDFSBASE, RDGSBASE, WRFSBASE and WRGSBASE.
func segmentBase(x *exec) error {
	x.name = [4]string{"rdfsbase", "rdgsbase", "wrfsbase", "wrgsbase"}[x.digit()]
	if !x.cpu.Long || x.cpu.CR4&cr4FSGSBASE == 0 {
		return exUD
	}
	size := 4
	if x.rex&rexW != 0 {
		size = 8
	}
	base := &x.cpu.Seg[FS+x.digit()&1].Base
	if x.digit() < 2 {
		x.setGPR(x.rm, size, *base)
		return nil
	}
	v := x.gpr(x.rm, size)
	if !x.cpu.canonical(v) {
		return exGP
	}
	*base = v
	return nil
}

// cacheLine is CLFLUSH, CLFLUSHOPT and CLWB: caches are coherent, so only the
// faults of a byte load remain.
func cacheLine(x *exec, name string) error {
	x.name = name
	return x.load(make([]byte, 1))
}

// clzero clears the 64-byte line that RAX points into (AMD APM vol. 3).
func clzero(x *exec) error {
	x.name = "clzero"
	seg := DS
	if x.override != noReg {
		seg = x.override
	}
	la, err := x.linearAt(seg, truncate(x.cpu.GPR[RAX], x.addrBytes()), 1, true)
	if err != nil {
		return err
	}
	return x.mem.Write(la&^63, make([]byte, 64))
}

// setAC is CLAC and STAC.
func setAC(x *exec, name string, ac uint64) error {
	x.name = name
	if x.cpu.CPL != 0 {
		return exUD
	}
	x.setFlags(FlagAC, ac)
	return nil
}

// monitor only checks its operands: mwait never waits.
func monitor(x *exec) error {
	x.name = "monitor"
	if x.cpu.CPL != 0 {
		return exUD
	}
	if x.gpr(RCX, 4) != 0 {
		return exGP
	}
	seg := DS
	if x.override != noReg {
		seg = x.override
	}
	la, err := x.linearAt(seg, truncate(x.cpu.GPR[RAX], x.addrBytes()), 1, false)
	if err != nil {
		return err
	}
	return x.mem.Read(la, make([]byte, 1))
}

// mwait wakes at once, which the architecture allows. ECX bit 0, "interrupts
// break even if masked", is the only known extension.
func mwait(x *exec) error {
	x.name = "mwait"
	if x.cpu.CPL != 0 {
		return exUD
	}
	if x.gpr(RCX, 4)&^1 != 0 {
		return exGP
	}
	return nil
}

func rdtscp(x *exec) error {
	x.name = "rdtscp"
	if x.cpu.CR4&cr4TSD != 0 && x.cpu.CPL != 0 {
		return exGP
	}
	if x.cpu.TSC == nil {
		return ErrUnknown
	}
	t := x.cpu.TSC()
	x.setGPR(RAX, 4, t)
	x.setGPR(RDX, 4, t>>32)
	x.setGPR(RCX, 4, uint64(x.cpu.TSCAux))
	return nil
}

func rdpid(x *exec) error {
	x.name = "rdpid"
	x.cpu.GPR[x.rm] = uint64(x.cpu.TSCAux)
	return nil
}

// invpcid checks its descriptor and asks for a flush (SDM vol. 2A, INVPCID).
func invpcid(x *exec) error {
	if x.mandatory() != 0x66 || !x.isMem {
		return x.unserved()
	}
	if x.cpu.CPL != 0 {
		return exGP
	}
	size := 4
	if x.cpu.Long {
		size = 8
	}
	kind := x.gpr(x.reg, size)
	if kind > 3 {
		return exGP
	}
	la, err := x.linear(16, false)
	if err != nil {
		return err
	}
	var desc [16]byte
	if err := x.mem.Read(la, desc[:]); err != nil {
		return err
	}
	pcid := binary.LittleEndian.Uint64(desc[:])
	switch {
	case pcid > 0xfff,
		kind <= 1 && pcid != 0 && x.cpu.CR4&cr4PCIDE == 0,
		kind == 0 && !x.cpu.canonical(binary.LittleEndian.Uint64(desc[8:])):
		return exGP
	}
	x.out.FlushTLB = true
	return nil
}

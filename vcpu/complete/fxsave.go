package complete

import "encoding/binary"

// Places in the FXSAVE area (SDM vol. 1, table 10-2).
const (
	fxFCW       = 0
	fxFSW       = 2
	fxFTW       = 4
	fxFOP       = 6
	fxFIP       = 8
	fxFDP       = 16
	fxMXCSR     = 24
	fxMXCSRMask = 28
	fxST        = 32
	fxXMM       = 160
	fxEnd       = 416 // of the last XMM register
	fxSize      = 512
)

const (
	mxcsrInit        uint32 = 0x1f80
	mxcsrMaskDefault uint32 = 0xffff
)

// mxcsrMask is the set of MXCSR bits that exist.
func (e *Engine) mxcsrMask() uint32 {
	if e.MXCSR == 0 {
		return mxcsrMaskDefault
	}
	return e.MXCSR
}

// xmmCount is the number of XMM registers that the code can name.
func (x *exec) xmmCount() int {
	if x.cpu.Long {
		return 16
	}
	return 8
}

// saveX87 writes the x87 part of an FXSAVE area. Without REX.W the pointers are
// 32 bits wide; the segment selectors beside them are always 0, as processors
// with "deprecated CS and DS" (CPUID.7.EBX[13]) have it.
func (x *exec) saveX87(area []byte) {
	f := &x.cpu.FPU
	binary.LittleEndian.PutUint16(area[fxFCW:], f.FCW)
	binary.LittleEndian.PutUint16(area[fxFSW:], f.FSW)
	area[fxFTW], area[fxFTW+1] = f.FTW, 0
	binary.LittleEndian.PutUint16(area[fxFOP:], f.FOP)
	width := 4
	if x.rex&rexW != 0 {
		width = 8
	}
	binary.LittleEndian.PutUint64(area[fxFIP:], truncate(f.FIP, width))
	binary.LittleEndian.PutUint64(area[fxFDP:], truncate(f.FDP, width))
	for i, st := range f.ST {
		clear(st[10:])
		copy(area[fxST+16*i:], st[:])
	}
}

// loadX87 is the reverse of saveX87.
func (x *exec) loadX87(area []byte) {
	f := &x.cpu.FPU
	f.FCW = binary.LittleEndian.Uint16(area[fxFCW:])&fcwKept | fcwAlways1
	f.FSW = binary.LittleEndian.Uint16(area[fxFSW:])
	f.FTW = area[fxFTW]
	f.FOP = binary.LittleEndian.Uint16(area[fxFOP:]) & 0x7ff
	width := 4
	if x.rex&rexW != 0 {
		width = 8
	}
	f.FIP = truncate(binary.LittleEndian.Uint64(area[fxFIP:]), width)
	f.FDP = truncate(binary.LittleEndian.Uint64(area[fxFDP:]), width)
	for i := range f.ST {
		copy(f.ST[i][:10], area[fxST+16*i:])
	}
	f.summarize()
}

// initX87 is the initial configuration of the x87 state component.
func (f *FPU) initX87() {
	f.initialize()
	f.ST = [8][16]byte{}
}

// saveMXCSR writes MXCSR and its mask.
func (x *exec) saveMXCSR(area []byte) {
	binary.LittleEndian.PutUint32(area[fxMXCSR:], x.cpu.FPU.MXCSR)
	binary.LittleEndian.PutUint32(area[fxMXCSRMask:], x.eng.mxcsrMask())
}

// loadMXCSR raises #GP(0) for a reserved bit.
func (x *exec) loadMXCSR(area []byte) error {
	v := binary.LittleEndian.Uint32(area[fxMXCSR:])
	if v&^x.eng.mxcsrMask() != 0 {
		return exGP
	}
	x.cpu.FPU.MXCSR = v
	return nil
}

func (x *exec) saveXMM(area []byte) {
	for i := range x.xmmCount() {
		copy(area[fxXMM+16*i:], x.cpu.FPU.XMM[i][:])
	}
}

func (x *exec) loadXMM(area []byte) {
	for i := range x.xmmCount() {
		copy(x.cpu.FPU.XMM[i][:], area[fxXMM+16*i:])
	}
}

// fxWithXMM says whether FXSAVE and FXRSTOR move MXCSR and the XMM registers, and
// the latter alone: CR4.OSFXSR enables both, EFER.FFXSR leaves the registers out
// in 64-bit code at CPL 0 (AMD APM vol. 2, 11.4.4).
func (x *exec) fxWithXMM() (mxcsr, xmm bool) {
	mxcsr = x.cpu.CR4&cr4OSFXSR != 0
	fast := x.cpu.EFER&eferFFXSR != 0 && x.cpu.Long && x.cpu.CPL == 0
	return mxcsr, mxcsr && !fast
}

func fxsave(x *exec) error {
	x.name = "fxsave"
	if err := x.x87Available(); err != nil {
		return err
	}
	la, err := x.aligned(fxSize, 16, true)
	if err != nil {
		return err
	}
	var area [fxEnd]byte
	if err := x.mem.Read(la, area[:]); err != nil {
		return err
	}
	mxcsr, xmm := x.fxWithXMM()
	x.saveX87(area[:])
	if mxcsr {
		x.saveMXCSR(area[:])
	}
	if xmm {
		x.saveXMM(area[:])
	}
	return x.mem.Write(la, area[:])
}

func fxrstor(x *exec) error {
	x.name = "fxrstor"
	if err := x.x87Available(); err != nil {
		return err
	}
	la, err := x.aligned(fxSize, 16, false)
	if err != nil {
		return err
	}
	var area [fxEnd]byte
	if err := x.mem.Read(la, area[:]); err != nil {
		return err
	}
	mxcsr, xmm := x.fxWithXMM()
	x.loadX87(area[:])
	if mxcsr {
		if err := x.loadMXCSR(area[:]); err != nil {
			return err
		}
	}
	if xmm {
		x.loadXMM(area[:])
	}
	return nil
}

func ldmxcsr(x *exec) error {
	x.name = "ldmxcsr"
	if err := x.sseAvailable(); err != nil {
		return err
	}
	var b [fxMXCSR + 4]byte
	if err := x.load(b[fxMXCSR:]); err != nil {
		return err
	}
	return x.loadMXCSR(b[:])
}

func stmxcsr(x *exec) error {
	x.name = "stmxcsr"
	if err := x.sseAvailable(); err != nil {
		return err
	}
	return x.storeUint(4, uint64(x.cpu.FPU.MXCSR))
}

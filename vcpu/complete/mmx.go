package complete

import "encoding/binary"

// mmxAvailable checks what every MMX instruction checks.
func (x *exec) mmxAvailable() error {
	switch {
	case x.cpu.CR0&cr0EM != 0:
		return exUD
	case x.cpu.CR0&cr0TS != 0:
		return exNM
	}
	return x.x87Pending()
}

// mmxStart makes the x87 registers MMX registers: TOP becomes 0 and all are in
// use (SDM vol. 1, 9.5.1).
func (x *exec) mmxStart() error {
	if err := x.mmxAvailable(); err != nil {
		return err
	}
	x.cpu.FPU.setTop(0)
	x.cpu.FPU.FTW = 0xff
	return nil
}

// mm reads MMX register n, after mmxStart.
func (x *exec) mm(n int) uint64 {
	return binary.LittleEndian.Uint64(x.cpu.FPU.ST[n&7][:8])
}

// setMM writes MMX register n, after mmxStart; the exponent field becomes all ones.
func (x *exec) setMM(n int, v uint64) {
	st := &x.cpu.FPU.ST[n&7]
	binary.LittleEndian.PutUint64(st[:8], v)
	st[8], st[9] = 0xff, 0xff
}

// movMMX is MOVQ between MMX registers and memory.
func movMMX(x *exec, isStore bool) error {
	x.name = "movq"
	if err := x.mmxStart(); err != nil {
		return err
	}
	switch {
	case isStore && x.isMem:
		return x.storeUint(8, x.mm(x.reg))
	case isStore:
		x.setMM(x.rm, x.mm(x.reg))
		return nil
	}
	v, err := x.mmSource()
	x.setMM(x.reg, v)
	return err
}

// mmSource reads the MMX register or memory operand.
func (x *exec) mmSource() (uint64, error) {
	if x.isMem {
		return x.loadUint(8)
	}
	return x.mm(x.rm), nil
}

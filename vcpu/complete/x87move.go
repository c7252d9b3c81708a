package complete

func fldReg(x *exec, i int) error {
	if err := x.x87Start("fld"); err != nil {
		return err
	}
	f := &x.cpu.FPU
	if !f.inUse(i) {
		if !f.underflow() {
			return nil
		}
		f.push(indefinite, 0)
		f.setC1(false) // underflow comes before overflow
		return nil
	}
	f.push(real80From(f.ST[i]), 0)
	return nil
}

func fldConstant(x *exec, k x87Constant) error {
	if err := x.x87Start(k.name); err != nil {
		return err
	}
	f := &x.cpu.FPU
	v := real80{k.mant, k.exp}
	if mode := f.rounding(); k.inexact && (mode == roundUp || mode == roundNearest && k.above) {
		v.mant++
	}
	f.push(v, 0)
	return nil
}

// fldFloat is FLD of m32 and m64. An unmasked denormal operand leaves the stack
// as it is (SDM vol. 1, 8.5.2); AMD processors load it all the same.
func fldFloat(x *exec, size int) error {
	if err := x.x87Start("fld"); err != nil {
		return err
	}
	bits, err := x.loadUint(size)
	if err != nil {
		return err
	}
	v, flags := real80FromFloat(bits, doubleF, doubleExp)
	if size == 4 {
		v, flags = real80FromFloat(bits, singleF, singleExp)
	}
	x.cpu.FPU.push(v, flags)
	return nil
}

func fldExtended(x *exec) error {
	if err := x.x87Start("fld"); err != nil {
		return err
	}
	var b [16]byte
	if err := x.load(b[:10]); err != nil {
		return err
	}
	x.cpu.FPU.push(real80From(b), 0)
	return nil
}

func fild(x *exec, size int) error {
	if err := x.x87Start("fild"); err != nil {
		return err
	}
	v, err := x.loadUint(size)
	if err != nil {
		return err
	}
	shift := 64 - 8*size
	x.cpu.FPU.push(real80FromInt(int64(v<<shift)>>shift), 0)
	return nil
}

// fstReg is FST and FSTP to ST(i).
func fstReg(x *exec, i int) error {
	pop := x.digit() == 3
	if err := x.x87Start(popName("fst", pop)); err != nil {
		return err
	}
	f := &x.cpu.FPU
	v := f.ST[0]
	f.setC1(false)
	if !f.inUse(0) {
		if !f.underflow() {
			return nil
		}
		v = indefinite.bytes()
	}
	f.ST[i] = v
	f.setUse(i, true)
	if pop {
		f.pop()
	}
	return nil
}

// fstFloat is FST and FSTP to m32 and m64.
func fstFloat(x *exec, size int) error {
	pop := x.digit() == 3
	if err := x.x87Start(popName("fst", pop)); err != nil {
		return err
	}
	f := &x.cpu.FPU
	fbits, ebits := doubleF, doubleExp
	if size == 4 {
		fbits, ebits = singleF, singleExp
	}
	v, full := real80From(f.ST[0]), f.inUse(0)
	f.setC1(false)
	if !full {
		if !f.underflow() {
			return nil
		}
		v = indefinite
	}
	out, flags, tiny, up := v.float(fbits, ebits, f.rounding())
	if tiny && f.FCW&fswUE == 0 {
		flags |= fswUE
	}
	if flags&(fswOE|fswUE)&^f.FCW != 0 {
		flags &^= fswPE // nothing is rounded
	}
	masked := f.raise(flags)
	if !masked && flags&^f.FCW&fswFlags != fswPE {
		return nil
	}
	f.setC1(up)
	if err := x.storeUint(size, out); err != nil {
		return err
	}
	if pop {
		f.pop()
	}
	return nil
}

func fstpExtended(x *exec) error {
	if err := x.x87Start("fstp"); err != nil {
		return err
	}
	f := &x.cpu.FPU
	v := f.ST[0]
	f.setC1(false)
	if !f.inUse(0) {
		if !f.underflow() {
			return nil
		}
		v = indefinite.bytes()
	}
	if err := x.store(v[:10]); err != nil {
		return err
	}
	f.pop()
	return nil
}

// fist is FISTTP (/1), FIST (/2) and FISTP (/3 and, for m64, /7).
func fist(x *exec, size int) error {
	pop, truncating := x.digit() != 2, x.digit() == 1
	name := popName("fist", pop)
	if truncating {
		name = "fisttp"
	}
	if err := x.x87Start(name); err != nil {
		return err
	}
	f := &x.cpu.FPU
	mode := f.rounding()
	if truncating {
		mode = roundZero
	}
	f.setC1(false)
	v, flags := uint64(1)<<(8*size-1), fswIE
	if !f.inUse(0) {
		flags |= fswSF
	} else if i, inexact, up, ok := real80From(f.ST[0]).integer(size, mode); ok {
		v, flags = uint64(i), 0
		if inexact {
			flags = fswPE
		}
		f.setC1(up)
	}
	if !f.raise(flags) && flags != fswPE {
		return nil
	}
	if err := x.storeUint(size, v); err != nil {
		return err
	}
	if pop {
		f.pop()
	}
	return nil
}

func popName(name string, pop bool) string {
	if pop {
		return name + "p"
	}
	return name
}

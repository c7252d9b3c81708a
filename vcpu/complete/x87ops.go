package complete

// x87Constant is a constant as the instruction loads it: the mantissa cut off
// after 64 bits, and whether the rest is above one half.
type x87Constant struct {
	name    string
	mant    uint64
	exp     uint16
	inexact bool
	above   bool
}

// x87Constants are D9 E8..EE.
var x87Constants = [7]x87Constant{
	{"fld1", 0x8000000000000000, 0x3fff, false, false},
	{"fldl2t", 0xd49a784bcd1b8afe, 0x4000, true, false},
	{"fldl2e", 0xb8aa3b295c17f0bb, 0x3fff, true, true},
	{"fldpi", 0xc90fdaa22168c234, 0x4000, true, true},
	{"fldlg2", 0x9a209a84fbcff798, 0x3ffd, true, true},
	{"fldln2", 0xb17217f7d1cf79ab, 0x3ffe, true, true},
	{"fldz", 0, 0, false, false},
}

// x87D9 is D9: m32 operands, the control word, and constants.
func x87D9(x *exec) error {
	if x.isMem {
		switch x.digit() {
		case 0:
			return fldFloat(x, 4)
		case 2, 3:
			return fstFloat(x, 4)
		case 5:
			return fldcw(x)
		case 7:
			return fnstcw(x)
		}
		return x.unserved()
	}
	i := x.rm & 7
	switch m := x.modrm; {
	case m < 0xc8:
		return fldReg(x, i)
	case m < 0xd0:
		return fxch(x, i)
	case m == 0xd0:
		return x.x87Start("fnop")
	case m == 0xe0, m == 0xe1:
		return changeSign(x, m == 0xe1)
	case m == 0xe5:
		return fxam(x)
	case m >= 0xe8 && m <= 0xee:
		return fldConstant(x, x87Constants[m-0xe8])
	case m == 0xf6, m == 0xf7:
		return rotateStack(x, m == 0xf7)
	}
	return x.unserved()
}

// x87DB is DB: m32int and m80 operands, FNCLEX and FNINIT.
func x87DB(x *exec) error {
	if x.isMem {
		switch x.digit() {
		case 0:
			return fild(x, 4)
		case 1, 2, 3:
			return fist(x, 4)
		case 5:
			return fldExtended(x)
		case 7:
			return fstpExtended(x)
		}
		return x.unserved()
	}
	switch x.modrm {
	case 0xe2:
		return fnclex(x)
	case 0xe3:
		return fninit(x)
	}
	return x.unserved()
}

// x87DD is DD: m64 operands, the status word, FFREE and register stores.
func x87DD(x *exec) error {
	if x.isMem {
		switch x.digit() {
		case 0:
			return fldFloat(x, 8)
		case 1:
			return fist(x, 8)
		case 2, 3:
			return fstFloat(x, 8)
		case 7:
			return fnstsw(x)
		}
		return x.unserved()
	}
	switch x.digit() {
	case 0:
		if err := x.x87Start("ffree"); err != nil {
			return err
		}
		x.cpu.FPU.setUse(x.rm&7, false)
		return nil
	case 2, 3:
		return fstReg(x, x.rm&7)
	}
	return x.unserved()
}

// x87DF is DF: m16int and m64int operands, FNSTSW AX.
func x87DF(x *exec) error {
	if x.isMem {
		switch x.digit() {
		case 0:
			return fild(x, 2)
		case 1, 2, 3:
			return fist(x, 2)
		case 5:
			return fild(x, 8)
		case 7:
			return fist(x, 8)
		}
		return x.unserved()
	}
	if x.modrm == 0xe0 {
		return fnstsw(x)
	}
	return x.unserved()
}

// fxch exchanges ST(0) and ST(i); masked, an empty one becomes the default NaN.
func fxch(x *exec, i int) error {
	if err := x.x87Start("fxch"); err != nil {
		return err
	}
	f := &x.cpu.FPU
	f.setC1(false)
	if !f.inUse(0) || !f.inUse(i) {
		if !f.underflow() {
			return nil
		}
		for _, n := range [2]int{0, i} {
			if !f.inUse(n) {
				f.ST[n] = indefinite.bytes()
				f.setUse(n, true)
			}
		}
	}
	f.ST[0], f.ST[i] = f.ST[i], f.ST[0]
	return nil
}

// changeSign is FCHS and FABS.
func changeSign(x *exec, abs bool) error {
	name := "fchs"
	if abs {
		name = "fabs"
	}
	if err := x.x87Start(name); err != nil {
		return err
	}
	f := &x.cpu.FPU
	f.setC1(false)
	if !f.inUse(0) {
		if f.underflow() {
			f.ST[0] = indefinite.bytes()
			f.setUse(0, true)
		}
		return nil
	}
	f.ST[0][9] ^= signBit >> 8
	if abs {
		f.ST[0][9] &^= signBit >> 8
	}
	return nil
}

// fxam classifies ST(0) in C3, C2 and C0, with its sign in C1.
func fxam(x *exec) error {
	if err := x.x87Start("fxam"); err != nil {
		return err
	}
	f := &x.cpu.FPU
	v := real80From(f.ST[0])
	var class uint16
	switch {
	case !f.inUse(0):
		class = fswC3 | fswC0
	case v.unsupported():
	case v.isNaN():
		class = fswC0
	case v.exp&expMask == expMask:
		class = fswC2 | fswC0
	case v.mant == 0:
		class = fswC3
	case v.exp&expMask == 0:
		class = fswC3 | fswC2
	default:
		class = fswC2
	}
	f.FSW = f.FSW&^(fswC3|fswC2|fswC0) | class
	f.setC1(v.negative())
	return nil
}

// rotateStack is FDECSTP and FINCSTP.
func rotateStack(x *exec, up bool) error {
	name, step := "fdecstp", -1
	if up {
		name, step = "fincstp", 1
	}
	if err := x.x87Start(name); err != nil {
		return err
	}
	f := &x.cpu.FPU
	f.setC1(false)
	f.setTop(f.top() + step)
	return nil
}

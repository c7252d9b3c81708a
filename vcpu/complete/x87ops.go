package complete

import "encoding/binary"

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

// The control instructions below do not wait for pending exceptions, FLDCW
// excepted.

func fnclex(x *exec) error {
	x.name = "fnclex"
	if err := x.x87Available(); err != nil {
		return err
	}
	x.cpu.FPU.FSW &^= fswFlags | fswSF | fswES | fswB
	return nil
}

func fninit(x *exec) error {
	x.name = "fninit"
	if err := x.x87Available(); err != nil {
		return err
	}
	x.cpu.FPU.initialize()
	return nil
}

func fldcw(x *exec) error {
	x.name = "fldcw"
	if err := x.x87Available(); err != nil {
		return err
	}
	if err := x.x87Pending(); err != nil {
		return err
	}
	var b [2]byte
	if err := x.load(b[:]); err != nil {
		return err
	}
	x.cpu.FPU.FCW = binary.LittleEndian.Uint16(b[:])&fcwKept | fcwAlways1
	x.cpu.FPU.summarize()
	return nil
}

func fnstcw(x *exec) error {
	x.name = "fnstcw"
	if err := x.x87Available(); err != nil {
		return err
	}
	return x.storeUint(2, uint64(x.cpu.FPU.FCW))
}

func fnstsw(x *exec) error {
	x.name = "fnstsw"
	if err := x.x87Available(); err != nil {
		return err
	}
	if x.isMem {
		return x.storeUint(2, uint64(x.cpu.FPU.FSW))
	}
	x.setGPR(RAX, 2, uint64(x.cpu.FPU.FSW))
	return nil
}

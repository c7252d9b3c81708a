package complete

import "encoding/binary"

// State components (SDM vol. 1, 13.1). The engine has the first two.
const (
	xX87 uint64 = 1 << 0
	xSSE uint64 = 1 << 1
	xAVX uint64 = 1 << 2

	xServed    = xX87 | xSSE
	xCompacted = uint64(1) << 63
)

// Places in the XSAVE header, which follows the FXSAVE area.
const (
	xsBV     = fxSize
	xsComp   = fxSize + 8
	xsHdrEnd = fxSize + 64
)

// xsaveStart checks what all of the family checks and gives the requested
// features: EDX:EAX under XCR0 (and XSS for the supervisor forms).
func (x *exec) xsaveStart(supervisor bool) (rfbm uint64, err error) {
	switch {
	case x.cpu.CR4&cr4OSXSAVE == 0:
		return 0, exUD
	case supervisor && x.cpu.CPL != 0:
		return 0, exGP
	case x.cpu.CR0&cr0TS != 0:
		return 0, exNM
	}
	enabled := x.cpu.XCR0
	if supervisor {
		enabled |= x.cpu.XSS
	}
	rfbm = enabled & (x.gpr(RDX, 4)<<32 | x.gpr(RAX, 4))
	if rfbm&^xServed != 0 {
		return 0, ErrUnknown // state that CPU does not hold
	}
	return rfbm, nil
}

// xinuse is the set of components not in their initial configuration.
func (x *exec) xinuse() uint64 {
	f := &x.cpu.FPU
	initial := FPU{FCW: fcwInit}
	initial.XMM, initial.MXCSR = f.XMM, f.MXCSR
	use := xX87
	if *f == initial {
		use = 0
	}
	if f.XMM != [16][16]byte{} {
		use |= xSSE
	}
	return use
}

// xsaveForm distinguishes the members of the XSAVE family.
type xsaveForm struct {
	name       string
	supervisor bool
	compact    bool // writes the compacted format
	optimize   bool // leaves out components in their initial configuration
}

var (
	formXSAVE    = xsaveForm{name: "xsave"}
	formXSAVEOPT = xsaveForm{name: "xsaveopt", optimize: true}
	formXSAVEC   = xsaveForm{name: "xsavec", compact: true, optimize: true}
	formXSAVES   = xsaveForm{name: "xsaves", compact: true, optimize: true, supervisor: true}
)

// xsave is XSAVE, XSAVEOPT, XSAVEC and XSAVES (SDM vol. 1, 13.7 to 13.11). The
// SSE component counts as in use too while MXCSR has not its initial value.
// Optimizing for unmodified state is not done; the architecture leaves it open.
func xsave(x *exec, form xsaveForm) error {
	x.name = form.name
	rfbm, err := x.xsaveStart(form.supervisor)
	if err != nil {
		return err
	}
	la, err := x.aligned(xsHdrEnd, 64, true)
	if err != nil {
		return err
	}
	var area [xsHdrEnd]byte
	if err := x.mem.Read(la, area[:]); err != nil {
		return err
	}
	inuse := x.xinuse()
	if x.cpu.FPU.MXCSR != mxcsrInit {
		inuse |= xSSE
	}
	save := rfbm
	if form.optimize {
		save &= inuse
	}
	if save&xX87 != 0 {
		x.saveX87(area[:])
	}
	if save&xSSE != 0 {
		x.saveXMM(area[:])
	}
	if save&xSSE != 0 || !form.compact && rfbm&xSSE != 0 {
		x.saveMXCSR(area[:])
	}
	bv := rfbm & inuse
	if form.compact {
		binary.LittleEndian.PutUint64(area[xsComp:], rfbm|xCompacted)
	} else {
		bv |= binary.LittleEndian.Uint64(area[xsBV:]) &^ rfbm
	}
	binary.LittleEndian.PutUint64(area[xsBV:], bv)
	return x.mem.Write(la, area[:])
}

// xrstor is XRSTOR and, as supervisor form, XRSTORS (SDM vol. 1, 13.8 and 13.12).
func xrstor(x *exec, supervisor bool) error {
	x.name = "xrstor"
	enabled := x.cpu.XCR0
	if supervisor {
		x.name = "xrstors"
		enabled |= x.cpu.XSS
	}
	rfbm, err := x.xsaveStart(supervisor)
	if err != nil {
		return err
	}
	la, err := x.aligned(xsHdrEnd, 64, false)
	if err != nil {
		return err
	}
	var area [xsHdrEnd]byte
	if err := x.mem.Read(la, area[:]); err != nil {
		return err
	}
	bv := binary.LittleEndian.Uint64(area[xsBV:])
	comp := binary.LittleEndian.Uint64(area[xsComp:])
	compacted := comp&xCompacted != 0
	if !xsaveHeaderValid(area[xsBV:], enabled, supervisor) {
		return exGP
	}
	if rfbm&xX87 != 0 {
		if bv&xX87 != 0 {
			x.loadX87(area[:])
		} else {
			x.cpu.FPU.initX87()
		}
	}
	if rfbm&xSSE == 0 {
		return nil
	}
	if bv&xSSE != 0 || !compacted {
		if err := x.loadMXCSR(area[:]); err != nil {
			return err
		}
	} else {
		x.cpu.FPU.MXCSR = mxcsrInit
	}
	if bv&xSSE == 0 {
		clear(area[fxXMM:fxEnd])
	}
	x.loadXMM(area[:])
	return nil
}

// xsaveHeaderValid judges an XSAVE header. XRSTORS takes the compacted format
// only.
func xsaveHeaderValid(hdr []byte, enabled uint64, supervisor bool) bool {
	bv := binary.LittleEndian.Uint64(hdr)
	comp := binary.LittleEndian.Uint64(hdr[8:])
	reserved := hdr[16:24]
	allowed := enabled
	if comp&xCompacted != 0 {
		if comp&^xCompacted&^enabled != 0 {
			return false
		}
		allowed, reserved = comp&^xCompacted, hdr[16:64]
	} else if comp != 0 || supervisor {
		return false
	}
	for _, b := range reserved {
		if b != 0 {
			return false
		}
	}
	return bv&^allowed == 0
}

// xgetbv reads XCR0 or, with ECX = 1, the components of it in use.
func xgetbv(x *exec) error {
	x.name = "xgetbv"
	if x.cpu.CR4&cr4OSXSAVE == 0 {
		return exUD
	}
	v := x.cpu.XCR0
	switch x.gpr(RCX, 4) {
	case 0:
	case 1:
		if v&^xServed != 0 {
			return ErrUnknown // whether other state is in use is not known here
		}
		v &= x.xinuse()
	default:
		return exGP
	}
	x.setGPR(RAX, 4, v)
	x.setGPR(RDX, 4, v>>32)
	return nil
}

// xsetbv writes XCR0 after the checks of SDM vol. 2D, XSETBV and vol. 1, 13.3.
func xsetbv(x *exec) error {
	x.name = "xsetbv"
	if x.cpu.CR4&cr4OSXSAVE == 0 {
		return exUD
	}
	v := x.gpr(RDX, 4)<<32 | x.gpr(RAX, 4)
	if x.cpu.CPL != 0 || x.gpr(RCX, 4) != 0 || !x.eng.validXCR0(v) {
		return exGP
	}
	x.cpu.XCR0 = v
	return nil
}

// validXCR0 says whether XCR0 may hold v: x87 always, AVX only with SSE, and the
// parts of MPX, AVX-512 and AMX only together.
func (e *Engine) validXCR0(v uint64) bool {
	supported := e.XCR0
	if supported == 0 {
		supported = xServed
	}
	const mpx, avx512, amx = 3 << 3, 7 << 5, 3 << 17
	whole := func(group uint64) bool { return v&group == 0 || v&group == group }
	return v&^supported == 0 && v&xX87 != 0 &&
		(v&xAVX == 0 || v&xSSE != 0) &&
		(v&avx512 == 0 || v&xAVX != 0) &&
		whole(mpx) && whole(avx512) && whole(amx)
}

package complete

import "encoding/binary"

// The control instructions do not wait for pending exceptions, FLDCW excepted.

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

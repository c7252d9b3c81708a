package platform

import (
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/hostarch"

	"github.com/qenex/qenex-kernel/guestkernel"
	"github.com/qenex/qenex-kernel/guestkernel/ring0"
)

// Signal codes that abi/linux does not name (asm-generic/siginfo.h).
const (
	fpeIntDiv  = 1
	fpeFltDiv  = 3
	fpeFltOvf  = 4
	fpeFltUnd  = 5
	fpeFltRes  = 6
	fpeFltInv  = 7
	illIllOpn  = 2
	trapBrkpt  = 1
	trapTrace  = 2
	busAdrAln  = 1
	busAdrErr  = 2
	segvMapErr = 1
	segvAccErr = 2
)

func signalAt(sig linux.Signal, code int32, addr uint64) *linux.SignalInfo {
	info := &linux.SignalInfo{Signo: int32(sig), Code: code}
	info.SetAddr(addr)
	return info
}

// signal translates an exception as Linux does (arch/x86/kernel/traps.c). For page faults it says what access it was.
func (c *context) signal(t *guestkernel.Trap, r *ring0.Regs) (*linux.SignalInfo, hostarch.AccessType) {
	switch t.Vector {
	case guestkernel.VectorPF:
		at := hostarch.Read
		if t.Code&guestkernel.FaultWrite != 0 {
			at = hostarch.Write
		}
		if t.Code&guestkernel.FaultExecute != 0 {
			at = hostarch.Execute
		}
		code := int32(segvMapErr)
		if t.Code&guestkernel.FaultPresent != 0 && t.Addr < 1<<47 {
			code = segvAccErr
		}
		return signalAt(linux.SIGSEGV, code, t.Addr), at
	case guestkernel.VectorDE:
		return signalAt(linux.SIGFPE, fpeIntDiv, r.RIP), hostarch.NoAccess
	case guestkernel.VectorDB:
		code := int32(trapBrkpt)
		if t.Code&guestkernel.FaultStep != 0 {
			code = trapTrace
		}
		return signalAt(linux.SIGTRAP, code, r.RIP), hostarch.NoAccess
	case guestkernel.VectorBP:
		return signalAt(linux.SIGTRAP, linux.SI_KERNEL, 0), hostarch.NoAccess
	case guestkernel.VectorUD:
		return signalAt(linux.SIGILL, illIllOpn, r.RIP), hostarch.NoAccess
	case guestkernel.VectorMF, guestkernel.VectorXM:
		return signalAt(linux.SIGFPE, c.fpeCode(t.Vector), r.RIP), hostarch.NoAccess
	case guestkernel.VectorAC:
		return signalAt(linux.SIGBUS, busAdrAln, 0), hostarch.NoAccess
	case guestkernel.VectorSS, guestkernel.VectorNP:
		return signalAt(linux.SIGBUS, linux.SI_KERNEL, 0), hostarch.NoAccess
	}
	return signalAt(linux.SIGSEGV, linux.SI_KERNEL, 0), hostarch.NoAccess
}

// fpeCode finds out which unmasked floating-point exception stands.
func (c *context) fpeCode(vector uint8) int32 {
	var fp [32]byte // the beginning of an XSAVE area (SDM vol. 1, table 10-2)
	if err := c.inner.FP(fp[:]); err != nil {
		return 0
	}
	var e uint32
	if vector == guestkernel.VectorMF {
		control, status := binary.LittleEndian.Uint16(fp[0:]), binary.LittleEndian.Uint16(fp[2:])
		e = uint32(status &^ control)
	} else {
		mxcsr := binary.LittleEndian.Uint32(fp[24:])
		e = mxcsr &^ (mxcsr >> 7)
	}
	switch {
	case e&0x01 != 0:
		return fpeFltInv
	case e&0x04 != 0:
		return fpeFltDiv
	case e&0x08 != 0:
		return fpeFltOvf
	case e&0x12 != 0:
		return fpeFltUnd
	case e&0x20 != 0:
		return fpeFltRes
	}
	return 0
}

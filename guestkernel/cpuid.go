package guestkernel

import (
	"fmt"

	"github.com/qenex/qenex-kernel/kvm"
)

// State components (XCR0) that fit the 4096 bytes of KVM_GET_XSAVE: x87, SSE, AVX and AVX-512.
const xcr0Known = 0x7 | 0xE0

// programCPUID takes from the list what programs cannot have here (protection keys, AMX: their state does not fit), and returns
// the XCR0 for the rest. It does not look at the bits for XSAVE and FSGSBASE: a software KVM may have both and not say so. Loading
// CR4 and XCR0 tells.
func programCPUID(list []kvm.CPUIDEntry) (xcr0 uint64, err error) {
	const (
		pku = 1<<3 | 1<<4           // 7:ECX
		amx = 1<<22 | 1<<24 | 1<<25 // 7:EDX
	)
	for i := range list {
		e := &list[i]
		switch {
		case e.Function == 7 && e.Index == 0:
			e.Ecx &^= pku
			e.Edx &^= amx
		case e.Function == 0xD && e.Index == 0:
			xcr0 = (uint64(e.Edx)<<32 | uint64(e.Eax)) & xcr0Known
			e.Eax, e.Edx = uint32(xcr0), 0
		}
	}
	if xcr0&3 != 3 {
		return 0, fmt.Errorf("%w: no XSAVE (XCR0 %#x); CPUs since 2012 have it", ErrUnsupported, xcr0)
	}
	return xcr0, nil
}

//go:build linux && amd64

package complete

import "github.com/qenex/qenex-kernel/vcpu/complete/internal/native"

// feature is a CPUID bit; the zero value is what every x86-64 has.
type feature struct {
	leaf, subleaf uint32
	reg           int // 0 EAX .. 3 EDX
	bit           int
}

var (
	hasCX16       = feature{1, 0, 2, 13}
	hasMOVBE      = feature{1, 0, 2, 22}
	hasPOPCNT     = feature{1, 0, 2, 23}
	hasSSE42      = feature{1, 0, 2, 20}
	hasSSE3       = feature{1, 0, 2, 0}
	hasOSXSAVE    = feature{1, 0, 2, 27}
	hasBMI1       = feature{7, 0, 1, 3}
	hasBMI2       = feature{7, 0, 1, 8}
	hasADX        = feature{7, 0, 1, 19}
	hasCLFLUSHOPT = feature{7, 0, 1, 23}
	hasCLWB       = feature{7, 0, 1, 24}
	hasFSGSBASE   = feature{7, 0, 1, 0}
	hasRDPID      = feature{7, 0, 2, 22}
	hasXSAVEOPT   = feature{13, 1, 0, 0}
	hasXSAVEC     = feature{13, 1, 0, 1}
	hasABM        = feature{0x80000001, 0, 2, 5}
	hasRDTSCP     = feature{0x80000001, 0, 3, 27}
	hasCLZERO     = feature{0x80000008, 0, 1, 0}
)

// present asks this processor.
func (f feature) present() bool {
	if f.leaf == 0 {
		return true
	}
	if top, _, _, _ := native.CPUID(f.leaf&0x80000000, 0); top < f.leaf {
		return false
	}
	a, b, c, d := native.CPUID(f.leaf, f.subleaf)
	return [4]uint32{a, b, c, d}[f.reg]>>f.bit&1 != 0
}
